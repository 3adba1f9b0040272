//! Running flows while the way of their packets changes: what was remembered of it must not outlive it.
//!
//! Whoever changes its MAC address tells the neighbours (`arp_notify`), as virtual machines that move and routers that
//! take over do. Packets may be lost on the way; that the traffic goes on, and how soon, is what counts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv4RecvErr;
use socket2::SockRef;
use xnat_tests::host::Container;
use xnat_tests::netns::Namespace;
use xnat_tests::tcp::{self, Service};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};

mod containers;
mod daemon;
mod epoch;
mod fork;
mod pins;
mod ports;
mod routers;
mod routes;
mod virtual_machine;
mod vm;

/// The port at which servers answer.
const PORT: u16 = 5300;
/// How many exchanges by TCP show that a connection goes on.
const SEVERAL: u64 = 5;
/// How soon a change has to be followed. Well below the ten seconds after which the daemon looks at everything without a
/// reason (`CHECK` in xnat/src/daemon/serve.rs, which is to be kept above): what is followed this soon was noticed by itself.
const AT_ONCE: Duration = Duration::from_secs(6);
/// How many datagrams in a row have to take the right way. Where the wrong one is remembered still, a single one gets
/// through each second, by the kernel's own neighbour (`Hop::ASKING`), but never two that follow each other at once.
const RUN: usize = 10;
/// For how long an echo is awaited before the datagram counts as lost: less than `Hop::ASKING`, and long for a busy machine.
const ECHO: Duration = Duration::from_millis(400);
/// For how long a flow is kept going before it surely remembers its next hops: in the tick in which it was opened
/// (2^24 ns) it learns nothing.
const LEARNING: Duration = Duration::from_millis(200);
/// Longer than `Hop::ASKING`, so that a packet that goes by the kernel's own neighbour is among those of this time, and
/// longer than nothing is learnt after a question in vain (`Remembered::nothing`).
const A_SECOND_AND_MORE: Duration = Duration::from_millis(1300);

/// Does the same time and again for at least so long, about thirty times in a second and more.
fn keep_on(time: Duration, mut exchange: impl FnMut()) {
    let begun = Instant::now();
    wait::until_true("the time is over", time + SOON, || {
        exchange();
        begun.elapsed() >= time
    });
}

/// A UDP flow to an echo server.
struct Datagrams {
    to: (Ipv4Addr, u16),
    socket: UdpSocket,
    said: u64,
    server: udp::Server,
}

impl Datagrams {
    /// From this port to `address`, which is in `there`.
    #[track_caller]
    fn new(from: &Namespace, port: u16, there: &Namespace, address: Ipv4Addr) -> Self {
        let to = (address, PORT);
        let server = udp::Server::echo_at(there, to);
        let socket = udp::socket(from, port);
        socket.set_read_timeout(Some(ECHO)).expect("a valid timeout");
        Self { to, socket, said: 0, server }
    }

    /// Sends the next one.
    fn send(&mut self) {
        self.said += 1;
        // What fails is an ICMP error of a moment ago, and the datagram is lost.
        let _ = self.socket.send_to(&self.last(), self.to);
    }

    /// What the last one says.
    fn last(&self) -> [u8; 8] {
        self.said.to_be_bytes()
    }

    /// Whether the next one is echoed. Echoes of earlier ones do not count.
    fn is_echoed(&mut self) -> bool {
        self.send();
        let mut buffer = [0; 64];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            if from == SocketAddr::from(self.to) && buffer[..length] == self.last() {
                return true;
            }
        }
        false
    }

    /// Whether a server has got the last one.
    fn has_reached(&self, server: &udp::Server) -> bool {
        server.received().iter().rev().any(|(_, text)| *text == self.last())
    }

    /// Awaits a run of datagrams without a loss.
    #[track_caller]
    fn expect_run(&mut self, limit: Duration) {
        wait::until_true("a run of datagrams is echoed", limit, || (0..RUN).all(|_| self.is_echoed()));
    }

    /// What the kernel tells the sender of those before, from now on (`IP_RECVERR`).
    fn error(&self) -> Option<io::Error> {
        setsockopt(&self.socket, Ipv4RecvErr, &true).expect("a socket of IPv4");
        self.socket.take_error().expect("a socket")
    }

    /// Sets the type of service of those that follow.
    fn set_tos(&self, tos: u8) {
        SockRef::from(&self.socket).set_tos_v4(tos.into()).expect("a valid type of service");
    }
}

/// A UDP flow and a TCP connection that are kept going.
struct Talk {
    udp: Datagrams,
    tcp: TcpStream,
    said: u64,
    _listener: tcp::Server,
}

impl Talk {
    /// Begins to talk to `address`, which is in `there`.
    #[track_caller]
    fn begin(from: &Namespace, there: &Namespace, address: Ipv4Addr) -> Self {
        Self::begin_at(from, 41000, there, address)
    }

    /// Begins to talk from this port, and goes on until the next hops are remembered.
    #[track_caller]
    fn begin_at(from: &Namespace, port: u16, there: &Namespace, address: Ipv4Addr) -> Self {
        let listener = tcp::Server::start(there, PORT, Service::Echo);
        let udp = Datagrams::new(from, port, there, address);
        let tcp = tcp::expect_connect(from, port, udp.to);
        let mut talk = Self { udp, tcp, said: 0, _listener: listener };
        talk.udp.expect_run(SOON);
        talk.keep_on(LEARNING);
        talk
    }

    /// Keeps both going for so long.
    #[track_caller]
    fn keep_on(&mut self, time: Duration) {
        keep_on(time, || {
            self.udp.is_echoed();
            self.expect_exchange();
        });
    }

    /// Expects both to go on, at once.
    #[track_caller]
    fn expect_to_go_on(&mut self) {
        self.expect_to_go_on_within(AT_ONCE);
    }

    #[track_caller]
    fn expect_to_go_on_within(&mut self, limit: Duration) {
        self.udp.expect_run(limit);
        self.expect_connection();
    }

    /// Expects the connection to go on. When a segment of it is sent again is up to TCP.
    #[track_caller]
    fn expect_connection(&mut self) {
        (0..SEVERAL).for_each(|_| self.expect_exchange());
    }

    #[track_caller]
    fn expect_exchange(&mut self) {
        self.said += 1;
        tcp::expect_echo(&mut self.tcp, self.said, 2000);
    }
}

/// Has a namespace tell its neighbours when a MAC address of its changes.
fn tell_neighbours(ns: &Namespace) {
    ns.set_sysctl("net/ipv4/conf/all/arp_notify", "1");
}

/// Gives an interface another MAC address and tells the neighbours.
fn change_mac(ns: &Namespace, interface: &str, mac: &str) {
    tell_neighbours(ns);
    ns.ip(&format!("link set {interface} address {mac}"));
}

/// Awaits that the kernel of `ns` knows this MAC address for a neighbour.
#[track_caller]
fn expect_neighbour(ns: &Namespace, address: Ipv4Addr, mac: &str) {
    wait::until_true("the kernel has learnt the new MAC address", SOON, || {
        ns.ip(&format!("neighbour show to {address}")).contains(mac)
    });
}

/// The MAC address of an interface.
fn mac_of(ns: &Namespace, interface: &str) -> String {
    let line = ns.ip(&format!("-o link show dev {interface}"));
    let mac = line.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
    mac.unwrap_or_else(|| panic!("no MAC address: {line}")).to_owned()
}

/// Awaits that a bridge forwards through a port.
#[track_caller]
fn expect_forwarding(host: &Namespace, port: &str) {
    wait::until_true("the bridge port forwards", SOON, || {
        host.ip(&format!("-d link show dev {port}")).contains("state forwarding")
    });
}

/// Gives a container an `eth0` again: the other end is `port` of the host's `br0`.
fn join(host: &Namespace, container: &Container, port: &str, mac: &str, gateway: Ipv4Addr) {
    let ns = container.ns();
    ns.ip(&format!("link add eth0 address {mac} type veth peer name {port} netns {}", host.name()));
    ns.ip("link set eth0 up");
    host.ip(&format!("link set {port} up"));
    host.ip(&format!("link set {port} master br0"));
    expect_forwarding(host, port);
    ns.ip(&format!("address add {}/24 dev eth0", container.address()));
    ns.ip(&format!("route add default via {gateway}"));
}
