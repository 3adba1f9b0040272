//! What other NATs are known to do wrong, and this one must not. Those that are tested with the feature that they belong to are
//! named with it in `docs/rfc-compliance.md`.

mod churn;
mod expiry;
mod host_ports;
mod mapping;
mod restarts;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use xnat_tests::netns::Namespace;
use xnat_tests::topology::{Reference, SUBNET1};
use xnat_tests::wait::SOON;
use xnat_tests::xnat::Xnat;

/// xnat on node1 alone, with further words.
fn alone(reference: &Reference, words: &str) -> Xnat {
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1} {words}"))
}

/// A UDP socket of the outside machine's, or of a container's, whose silence is waited for.
fn udp_at(ns: &Namespace, place: (Ipv4Addr, u16)) -> UdpSocket {
    let socket = ns.within(|| UdpSocket::bind(place)).unwrap_or_else(|error| panic!("{place:?}: {error}"));
    socket.set_read_timeout(Some(SOON)).expect("a valid time-out");
    socket
}

/// Awaits a datagram that says this, past whatever else comes, and returns who sent it.
#[track_caller]
fn expect(socket: &UdpSocket, wanted: &[u8]) -> SocketAddr {
    let mut buffer = [0; 256];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == *wanted => return from,
            Ok(_) => {}
            // An ICMP error about something that was sent before.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => panic!("{:?} did not come: {error}", String::from_utf8_lossy(wanted)),
        }
    }
}
