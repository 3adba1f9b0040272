//! Running flows while the way of their packets changes: what was remembered of it must not outlive it.
//!
//! Whoever changes its MAC address tells the neighbours (`arp_notify`), as virtual machines that move and routers that
//! take over do. Packets may be lost on the way; that the traffic goes on is what counts.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use xnat_tests::host::Container;
use xnat_tests::netns::Namespace;
use xnat_tests::tcp::{self, Service};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};

mod containers;
mod daemon;
mod epoch;
mod ports;
mod routers;
mod routes;
mod virtual_machine;
mod vm;

/// The port at which servers answer.
const PORT: u16 = 5300;
/// How many exchanges make sure that the next hops are remembered.
const SEVERAL: u64 = 5;

/// A UDP flow and a TCP connection that are kept going.
struct Talk {
    to: (Ipv4Addr, u16),
    udp: UdpSocket,
    tcp: TcpStream,
    said: u64,
    server: udp::Server,
    _listener: tcp::Server,
}

impl Talk {
    /// Begins to talk to `address`, which is in `there`.
    #[track_caller]
    fn begin(from: &Namespace, there: &Namespace, address: Ipv4Addr) -> Self {
        Self::begin_at(from, 41000, there, address)
    }

    /// Begins to talk from this port.
    #[track_caller]
    fn begin_at(from: &Namespace, port: u16, there: &Namespace, address: Ipv4Addr) -> Self {
        let to = (address, PORT);
        let server = udp::Server::echo_at(there, to);
        let listener = tcp::Server::start(there, PORT, Service::Echo);
        let udp = udp::socket(from, port);
        udp.set_read_timeout(Some(Duration::from_millis(100))).expect("a valid timeout");
        let tcp = tcp::expect_connect(from, port, to);
        let mut talk = Self { to, udp, tcp, said: 0, server, _listener: listener };
        talk.expect_to_go_on();
        talk
    }

    /// Says something by both, and awaits the answers.
    #[track_caller]
    fn expect_to_go_on(&mut self) {
        for _ in 0..SEVERAL {
            wait::until_true("datagrams are echoed", SOON, || self.is_echoed());
            self.said += 1;
            tcp::expect_echo(&mut self.tcp, self.said, 2000);
        }
    }

    /// Whether a datagram is echoed. Those of earlier attempts do not count.
    fn is_echoed(&mut self) -> bool {
        self.said += 1;
        let text = self.said.to_be_bytes();
        if self.udp.send_to(&text, self.to).is_err() {
            // An ICMP error of a moment ago.
            return false;
        }
        let mut buffer = [0; 64];
        while let Ok((length, from)) = self.udp.recv_from(&mut buffer) {
            if from == SocketAddr::from(self.to) && buffer[..length] == text {
                return true;
            }
        }
        false
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
