//! TCP servers and clients that verify every octet.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::netns::Namespace;
use crate::payload::{Digest, pattern};
use crate::wait;

/// How long a read, a write or a connect may take.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What the server does with a connection.
#[derive(Debug, Clone, Copy)]
pub enum Service {
    /// Sends back what it gets.
    Echo,
    /// Reads to the end, then reports how much it was and a checksum over it (see [`Digest`]).
    Sink,
    /// Sends the address that it was reached from and closes: `172.29.0.4:40000`.
    Whoami,
}

/// A listener; it stops when dropped, connections that are open live on until their client leaves.
#[derive(Debug)]
pub struct Server {
    address: SocketAddrV4,
    listener: TcpListener,
    clients: Arc<Mutex<Vec<SocketAddrV4>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens inside a namespace on all its addresses; port 0 picks one.
    #[track_caller]
    pub fn start(ns: &Namespace, port: u16, service: Service) -> Self {
        Self::at(ns, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port), service)
    }

    /// Listens inside a namespace on one address.
    #[track_caller]
    pub fn at(ns: &Namespace, address: SocketAddrV4, service: Service) -> Self {
        let listen = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::V4(address).into())?;
            socket.listen(1024)?;
            io::Result::Ok(TcpListener::from(socket))
        };
        let listener = wait::bound(|| ns.within(listen));
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
        let address = v4(listener.local_addr().expect("a bound socket"));
        let clients = Arc::new(Mutex::new(Vec::new()));
        let accepting = listener.try_clone().expect("a second descriptor");
        let seen = Arc::clone(&clients);
        let acceptor = std::thread::spawn(move || {
            while let Ok((stream, client)) = accepting.accept() {
                seen.lock().expect("no panic while held").push(v4(client));
                std::thread::spawn(move || serve(stream, service));
            }
        });
        Self { address, listener, clients, acceptor: Some(acceptor) }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where connections came from, in the order in which they were accepted.
    pub fn clients(&self) -> Vec<SocketAddrV4> {
        self.clients.lock().expect("no panic while held").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On Linux this ends an accept() that is waiting.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(mut stream: TcpStream, service: Service) {
    let _ = stream.set_nodelay(true);
    // A client that went away is the client's test's business.
    let _ = match service {
        Service::Echo => echo(&mut stream),
        Service::Sink => sink(&mut stream),
        Service::Whoami => stream.peer_addr().and_then(|address| write!(stream, "{address}")),
    };
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn sink(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut digest = Digest::default();
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => digest.add(&buffer[..length]),
        }
    }
    stream.write_all(digest.report().as_bytes())
}

/// Connects from inside a namespace; a source port of 0 lets the kernel choose.
pub fn connect(ns: &Namespace, source_port: u16, to: (Ipv4Addr, u16)) -> io::Result<TcpStream> {
    ns.within(|| connect_here(source_port, to))
}

/// Connects from the namespace that this thread is in.
pub fn connect_here(source_port: u16, to: (Ipv4Addr, u16)) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if source_port != 0 {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, source_port)).into())?;
    }
    socket.connect_timeout(&SocketAddr::from(to).into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects and panics with the places when that fails.
#[track_caller]
pub fn expect_connect(ns: &Namespace, source_port: u16, to: (Ipv4Addr, u16)) -> TcpStream {
    connect(ns, source_port, to)
        .unwrap_or_else(|error| panic!("{} port {source_port} to {}:{}: {error}", ns.name(), to.0, to.1))
}

/// Sends octets through an echo server and compares what comes back.
#[track_caller]
pub fn expect_echo(stream: &mut TcpStream, seed: u64, length: usize) {
    if let Err(error) = round_trip(stream, seed, length) {
        panic!("echo of {length} octets: {error}");
    }
}

/// Sends octets through an echo server and compares what comes back.
pub fn round_trip(stream: &mut TcpStream, seed: u64, length: usize) -> io::Result<()> {
    let sent = pattern(seed, length);
    // In pieces, so that both directions never block on full buffers.
    for piece in sent.chunks(32 * 1024) {
        stream.write_all(piece)?;
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back)?;
        if back != piece {
            return Err(io::Error::other("came back changed"));
        }
    }
    Ok(())
}

/// Opens, verifies an echo of `length` octets and closes from this side, which awaits the server's FIN.
pub fn visit(source_port: u16, to: (Ipv4Addr, u16), seed: u64, length: usize) -> io::Result<()> {
    let mut stream = connect_here(source_port, to)?;
    round_trip(&mut stream, seed, length)?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more came back than was sent")),
    }
}

/// Many connections at the same time, each verifying an echo of `length` octets; all are open at once.
#[track_caller]
pub fn expect_crowd(ns: &Namespace, to: (Ipv4Addr, u16), count: usize, length: usize) {
    let everyone_is_connected = Barrier::new(count);
    let failures: Vec<String> = ns.within(|| {
        std::thread::scope(|scope| {
            let member = |seed: usize| {
                let stream = connect_here(0, to);
                everyone_is_connected.wait();
                round_trip(&mut stream?, seed as u64, length)
            };
            // A thread is in the namespace of the thread that started it.
            let members: Vec<_> = (0..count).map(|seed| scope.spawn(move || member(seed))).collect();
            members
                .into_iter()
                .filter_map(|member| member.join().expect("no panic").err())
                .map(|e| e.to_string())
                .collect()
        })
    });
    assert!(
        failures.is_empty(),
        "{} of {count} connections failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
}

/// Many short connections, a few at a time, without one failure.
#[track_caller]
pub fn expect_visits(ns: &Namespace, to: (Ipv4Addr, u16), count: usize) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    ns.within(|| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            break;
                        }
                        if let Err(error) = visit(0, to, number as u64, 600) {
                            failures.lock().expect("no panic while held").push(format!("number {number}: {error}"));
                        }
                    }
                });
            }
        });
    });
    let failures = failures.into_inner().expect("no panic while held");
    assert!(failures.is_empty(), "{} of {count} failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
}

/// Sends `length` octets to a [`Service::Sink`] and compares length and sum.
#[track_caller]
pub fn expect_transfer(ns: &Namespace, to: (Ipv4Addr, u16), length: usize) {
    let mut stream = expect_connect(ns, 0, to);
    // A block of odd length repeated: no piece of it looks like a neighbour at a packet's distance.
    let block = pattern(length as u64, 999_983);
    let mut digest = Digest::default();
    let mut left = length;
    while left > 0 {
        let piece = &block[..left.min(block.len())];
        stream.write_all(piece).unwrap_or_else(|error| panic!("{left} of {length} octets unsent: {error}"));
        digest.add(piece);
        left -= piece.len();
    }
    stream.shutdown(Shutdown::Write).expect("a connected socket");
    let mut report = String::new();
    stream.read_to_string(&mut report).unwrap_or_else(|error| panic!("no report of the sink: {error}"));
    assert_eq!(report, digest.report(), "what arrived is not what was sent");
}

/// What a [`Service::Whoami`] server says about a connection from inside a namespace.
#[track_caller]
pub fn whoami(ns: &Namespace, source_port: u16, to: (Ipv4Addr, u16)) -> SocketAddrV4 {
    let mut stream = expect_connect(ns, source_port, to);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("whoami: {error}"));
    answer.parse().unwrap_or_else(|_| panic!("not an address: {answer:?}"))
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("IPv6 where only IPv4 was asked for: {address}"),
    }
}
