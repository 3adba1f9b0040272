//! What containers, neighbours and other networks of the host may try, and what must not break while they do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use xnat_common::{FlowKey, Ticks};

use xnat_tests::capture::Capture;
use xnat_tests::host::{Container, Host};
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{ACK, ICMP, IPV4, Packet, SYN, TCP, UDP};
use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE, Reference, SUBNET1, SUBNET2};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};

mod a_bridge_made_anew;
mod between_the_hosts_themselves;
mod in_the_name_of_the_host;
mod next_door;
mod on_the_wire;
mod the_same_port_for_another_network;
mod what_it_cannot_be;

/// The port of the peer link.
const LINK: u16 = 9628;
/// A container of [`another_network`].
const FOREIGNER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);

/// xnat on node1 alone, without any peer.
fn alone(reference: &Reference) -> Xnat {
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"))
}

/// Lets a host take packets whatever their source, as hosts with several uplinks do.
fn believe_every_source(host: &Namespace, interface: &str) {
    for scope in ["all", interface] {
        host.set_sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0");
    }
}

/// A machine on the wire that takes node1 for its router toward `destinations`.
fn neighbour(reference: &Reference, destinations: &[&str]) -> Host {
    let neighbour = Host::new(&reference.lan, "neighbour", "172.29.0.66/24");
    for destination in destinations {
        neighbour.ns().ip(&format!("route add {destination} via {NODE1}"));
    }
    // Who is where is known: nothing is flooded to where a test looks.
    ping(neighbour.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    neighbour
}

/// A network of node1's that is none of xnat's business, masqueraded by the kernel as Docker does it, and its container.
fn another_network(reference: &Reference) -> Container {
    let host = &reference.node1.host;
    host.bridge("br9", "10.9.0.1/24");
    host.ns().shell("iptables -t nat -A POSTROUTING -s 10.9.0.0/24 ! -o br9 -j MASQUERADE");
    host.container("br9", "foreigner", &format!("{FOREIGNER}/24"))
}

/// Sends a datagram and awaits its echo, whatever else comes; a flow may need a moment and another attempt.
#[track_caller]
fn expect_echo_among_others(socket: &UdpSocket, to: (Ipv4Addr, u16), text: &[u8]) {
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a valid timeout");
    wait::until_true("the echo comes back", SOON, || {
        socket.send_to(text, to).expect("a route");
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if from == SocketAddr::from(to) && &buffer[..length] == text {
                return true;
            }
        }
        false
    });
}
