//! Mappings, filtering, forwards and hairpins, as the hosts at both ends see them.

mod exhaustion;
mod filtering;
mod forwards;
mod hairpin;
mod mapping;
mod the_host_itself;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use xnat_tests::netns::Namespace;
use xnat_tests::topology::{ANYWHERE, Reference, SUBNET1};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

/// xnat on node1, masquerading alone, with more flags.
fn alone(reference: &Reference, flags: &str) -> Xnat {
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1} {flags}"))
}

/// Two servers' addresses on the outside machine, from which it answers as whom it was asked.
const SERVERS: [Ipv4Addr; 2] = [ANYWHERE, Ipv4Addr::new(198, 51, 100, 8)];

/// Gives the outside machine the second of [`SERVERS`].
fn with_two_servers(reference: &Reference) {
    reference.outside.ns().ip(&format!("address add {}/32 dev lo", SERVERS[1]));
}

/// A UDP socket of a machine, at an address of its own.
#[track_caller]
fn udp_at(ns: &Namespace, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = ns.within(|| UdpSocket::bind((address, port))).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
    socket
}

/// Receives one datagram, and says from where.
#[track_caller]
fn expect_datagram(socket: &UdpSocket, what: &[u8]) -> SocketAddrV4 {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{what:?}: {error}"));
    assert_eq!(&buffer[..length], what);
    match from {
        SocketAddr::V4(from) => from,
        SocketAddr::V6(from) => panic!("IPv6: {from}"),
    }
}

/// Sends a datagram, which must arrive; returns from where it came.
#[track_caller]
fn pass(from: &UdpSocket, to: SocketAddrV4, at: &UdpSocket, what: &[u8]) -> SocketAddrV4 {
    from.send_to(what, to).unwrap_or_else(|error| panic!("to {to}: {error}"));
    expect_datagram(at, what)
}

/// Sends a datagram that is dropped under a counter's name.
#[track_caller]
fn expect_dropped(xnat: &Xnat, counter: &str, from: &UdpSocket, to: SocketAddrV4) {
    let before = xnat.counter(counter);
    from.send_to(b"unwanted", to).unwrap_or_else(|error| panic!("to {to}: {error}"));
    wait::until_true(&format!("{counter} counts what went to {to}"), SOON, || xnat.counter(counter) == before + 1);
}

/// The address that a socket is bound to.
fn local(socket: &UdpSocket) -> SocketAddrV4 {
    match socket.local_addr() {
        Ok(SocketAddr::V4(address)) => address,
        other => panic!("{other:?}"),
    }
}
