//! UDP servers and sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::netns::Namespace;
use crate::{payload, tcp, wait};

/// Who sent it, and what.
pub type Datagram = (SocketAddrV4, Vec<u8>);

/// A server that records what it gets and may answer.
#[derive(Debug)]
pub struct Server {
    socket: UdpSocket,
    received: Arc<Mutex<Vec<Datagram>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// An echo server on all addresses of a namespace; port 0 picks one.
    #[track_caller]
    pub fn echo(ns: &Namespace, port: u16) -> Self {
        Self::answering(ns, port, |question| Some(question.to_vec()))
    }

    /// An echo server on one address of a namespace, from which it answers whatever the routes say.
    #[track_caller]
    pub fn echo_at(ns: &Namespace, address: (Ipv4Addr, u16)) -> Self {
        Self::on(bound(ns, address), |question| Some(question.to_vec()))
    }

    /// A server that never answers.
    #[track_caller]
    pub fn silent(ns: &Namespace, port: u16) -> Self {
        Self::answering(ns, port, |_| None)
    }

    /// A server that answers each datagram as the closure says.
    #[track_caller]
    pub fn answering(ns: &Namespace, port: u16, answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Self {
        Self::on(socket(ns, port), answer)
    }

    fn on(socket: UdpSocket, answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let receiving = socket.try_clone().expect("a second descriptor");
        receiving.set_read_timeout(Some(Duration::from_millis(100))).expect("a valid timeout");
        let received = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !stopped.load(Ordering::Relaxed) {
                // Time-outs and the ICMP errors of earlier answers are not the end.
                let Ok((length, SocketAddr::V4(from))) = receiving.recv_from(&mut buffer) else { continue };
                log.lock().expect("no panic while held").push((from, buffer[..length].to_vec()));
                if let Some(answer) = answer(&buffer[..length]) {
                    let _ = receiving.send_to(&answer, from);
                }
            }
        });
        Self { socket, received, stop, thread: Some(thread) }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().expect("a bound socket").port()
    }

    /// What came, and from where.
    pub fn received(&self) -> Vec<Datagram> {
        self.received.lock().expect("no panic while held").clone()
    }

    /// Sends from the server's port.
    #[track_caller]
    pub fn send(&self, to: (Ipv4Addr, u16), payload: &[u8]) {
        self.socket.send_to(payload, to).unwrap_or_else(|error| panic!("to {}:{}: {error}", to.0, to.1));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket bound inside a namespace, which waits for an answer as long as TCP clients here do.
#[track_caller]
pub fn socket(ns: &Namespace, port: u16) -> UdpSocket {
    bound(ns, (Ipv4Addr::UNSPECIFIED, port))
}

#[track_caller]
fn bound(ns: &Namespace, address: (Ipv4Addr, u16)) -> UdpSocket {
    let socket = wait::bound(|| ns.within(|| UdpSocket::bind(address)));
    let socket = socket.unwrap_or_else(|error| panic!("UDP {}:{} in {}: {error}", address.0, address.1, ns.name()));
    socket.set_read_timeout(Some(tcp::PATIENCE)).expect("a valid timeout");
    socket
}

/// Sends octets to an echo server and compares what comes back and from where.
#[track_caller]
pub fn expect_echo(socket: &UdpSocket, to: (Ipv4Addr, u16), seed: u64, length: usize) {
    if let Err(error) = round_trip(socket, to, seed, length) {
        panic!("echo of {length} octets by {}:{}: {error}", to.0, to.1);
    }
}

/// Sends octets to an echo server and compares what comes back and from where.
pub fn round_trip(socket: &UdpSocket, to: (Ipv4Addr, u16), seed: u64, length: usize) -> io::Result<()> {
    let sent = payload::pattern(seed, length);
    socket.send_to(&sent, to)?;
    let mut back = vec![0; 65536];
    let (received, from) = socket.recv_from(&mut back)?;
    if from != SocketAddr::from(to) {
        return Err(io::Error::other(format!("answered by {from}")));
    }
    if back[..received] != sent {
        return Err(io::Error::other("came back changed"));
    }
    Ok(())
}
