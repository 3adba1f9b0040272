//! Requests and answers of one octet each: connection by connection, in one connection, and in datagrams.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::candidate::Setup;
use crate::processor;
use crate::programs::addresses;

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connect, request, answer, close: netperf's `TCP_CRR`.
    Connect,
    /// Request and answer in one connection: `TCP_RR`.
    Tcp,
    /// In datagrams: `UDP_RR`.
    Udp,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Tcp, Self::Udp];

    /// In ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "tcp-crr",
            Self::Tcp => "tcp-rr",
            Self::Udp => "udp-rr",
        }
    }

    /// In titles.
    pub fn title(self) -> &'static str {
        match self {
            Self::Connect => "TCP connect, request, answer, close",
            Self::Tcp => "TCP request and answer",
            Self::Udp => "UDP request and answer",
        }
    }
}

/// How long each took.
#[derive(Debug)]
pub struct Trips {
    /// In order of length.
    nanoseconds: Vec<u32>,
    time: Duration,
    /// How many there were before the clock started.
    before: usize,
}

impl Trips {
    /// None yet.
    pub const fn none() -> Self {
        Self { nanoseconds: Vec::new(), time: Duration::ZERO, before: 0 }
    }

    /// These and those of another run.
    pub fn and(mut self, other: Self) -> Self {
        self.nanoseconds.extend(other.nanoseconds);
        self.nanoseconds.sort_unstable();
        Self { nanoseconds: self.nanoseconds, time: self.time + other.time, before: self.before + other.before }
    }

    /// How many, with those before the clock started.
    pub fn all(&self) -> usize {
        self.before + self.nanoseconds.len()
    }

    /// How many a second.
    pub fn rate(&self) -> f64 {
        self.nanoseconds.len() as f64 / self.time.as_secs_f64()
    }

    /// The time in microseconds within which so many of a hundred were done.
    pub fn percentile(&self, percent: usize) -> f64 {
        let index = (self.nanoseconds.len() * percent / 100).min(self.nanoseconds.len().saturating_sub(1));
        self.nanoseconds.get(index).map_or(f64::NAN, |&nanoseconds| f64::from(nanoseconds) / 1e3)
    }
}

/// Before the clock starts.
const WARM_UP: Duration = Duration::from_millis(50);
/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_secs(1);
/// The server's port. Not the same for all kinds: old connections are no business of new ones.
const PORT: u16 = 7000;
/// What the client sends when it has done: a request is anything else.
const END: u8 = 0xff;

/// Runs server and client, each in a thread of its own in its namespace, and both on the one processor.
pub fn measure(setup: &Setup, kind: Kind, time: Duration) -> Result<Trips, String> {
    let (to, at) = addresses(setup.candidate, PORT + kind as u16);
    let (ready, listening) = mpsc::channel();
    let server = setup.rig.wire.spawn(move || serve(kind, at, &ready));
    if listening.recv().is_err() {
        return Err(format!("the server: {:?}", server.join()));
    }
    let outcome = setup.rig.container.within(|| request(kind, to, time));
    if let Err(error) = &outcome {
        // The server waits for the end, which the client may have been unable to tell it.
        setup.rig.wire.within(|| end(kind, at));
        let _ = server.join();
        return Err(error.to_string());
    }
    match server.join() {
        Ok(Ok(())) => outcome.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(format!("the server: {error}")),
        Err(_) => Err("the server panicked".to_owned()),
    }
}

fn serve(kind: Kind, at: SocketAddr, ready: &mpsc::Sender<()>) -> io::Result<()> {
    processor::pin(0)?;
    let mut octet = [0];
    if kind == Kind::Udp {
        let socket = UdpSocket::bind(at)?;
        let _ = ready.send(());
        loop {
            let (_, from) = socket.recv_from(&mut octet)?;
            if octet[0] == END {
                return Ok(());
            }
            socket.send_to(&octet, from)?;
        }
    }
    let socket = TcpListener::bind(at)?;
    let _ = ready.send(());
    loop {
        let (mut stream, _) = socket.accept()?;
        stream.set_nodelay(true)?;
        // One request of a connection, or as many as come; who answers the last one closes.
        while stream.read(&mut octet)? == 1 {
            if octet[0] == END {
                return Ok(());
            }
            stream.write_all(&octet)?;
            if kind == Kind::Connect {
                break;
            }
        }
    }
}

/// Tells a server that it is over, from its own namespace.
fn end(kind: Kind, at: SocketAddr) {
    if kind == Kind::Udp {
        let _ = UdpSocket::bind((at.ip(), 0)).and_then(|socket| socket.send_to(&[END], at));
    } else {
        let _ = TcpStream::connect_timeout(&at, LOST).and_then(|mut stream| stream.write_all(&[END]));
    }
}

fn request(kind: Kind, to: SocketAddr, time: Duration) -> io::Result<Trips> {
    processor::pin(0)?;
    match kind {
        Kind::Connect => {
            let trips = repeat(time, || {
                let mut stream = TcpStream::connect_timeout(&to, LOST)?;
                trip(&mut stream)?;
                // The server closes first, so that it has the ports in TIME_WAIT.
                stream.read(&mut [0]).map(drop)
            })?;
            TcpStream::connect_timeout(&to, LOST)?.write_all(&[END])?;
            Ok(trips)
        }
        Kind::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, LOST)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOST))?;
            let trips = repeat(time, || trip(&mut stream))?;
            stream.write_all(&[END])?;
            Ok(trips)
        }
        Kind::Udp => {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(LOST))?;
            let trips = repeat(time, || {
                socket.send(&[1])?;
                socket.recv(&mut [0]).map(drop)
            })?;
            socket.send(&[END])?;
            Ok(trips)
        }
    }
}

/// Sends an octet and awaits one.
fn trip(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}

fn repeat(time: Duration, mut what: impl FnMut() -> io::Result<()>) -> io::Result<Trips> {
    let start = Instant::now();
    let mut before_the_clock = 0;
    while start.elapsed() < WARM_UP {
        what()?;
        before_the_clock += 1;
    }
    let mut nanoseconds = Vec::with_capacity(50_000);
    let start = Instant::now();
    let mut before = start;
    while before - start < time {
        what()?;
        let now = Instant::now();
        nanoseconds.push(u32::try_from((now - before).as_nanos()).unwrap_or(u32::MAX));
        before = now;
    }
    nanoseconds.sort_unstable();
    Ok(Trips { nanoseconds, time: before - start, before: before_the_clock })
}
