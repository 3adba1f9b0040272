//! Traffic to and from what is neither host nor peer.

use std::net::{Ipv4Addr, SocketAddrV4};

use xnat_tests::capture::Capture;
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{IPV4, SYN};
use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE, Reference, SUBNET1, SUBNET2};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};

use crate::alone;

#[test]
fn a_subnet_without_peers_is_masqueraded() {
    let reference = Reference::new();
    let _xnat = alone(&reference);
    let wire = Capture::on(reference.node1.host.wire());
    let n1 = reference.n1().ns();
    for target in [OUTSIDE, ANYWHERE] {
        ping(n1, "-c 3", target).expect_answered_by(target);
        let web = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
        assert_eq!(tcp::whoami(n1, 40000, (target, web.port())), SocketAddrV4::new(NODE1, 40000));
        let echo = udp::Server::echo(reference.outside.ns(), 5300);
        let socket = udp::socket(n1, 0);
        // A server with two addresses answers from the one that its route has.
        if target == OUTSIDE {
            udp::expect_echo(&socket, (target, echo.port()), 4, 1000);
        }
    }
    let syn = wire.expect("a SYN", |p| p.has_flags(SYN));
    assert!(syn.goes(NODE1, OUTSIDE) && syn.ttl == 63 && syn.options.is_empty(), "{syn:?}");
    wire.expect_none("a container's address", |p| p.eth_type == IPV4 && (p.src == N1 || p.dst == N1));
}

#[test]
fn nobody_outside_reaches_a_container_uninvited() {
    let reference = Reference::new();
    let _xnat = alone(&reference);
    let server = tcp::Server::start(reference.n1().ns(), 80, Service::Whoami);
    let inside = Capture::filtered(reference.n1().inside(), "icmp or tcp or udp");
    // By the host's address, the port that the container listens on belongs to the host, which refuses.
    let error = tcp::connect(reference.outside.ns(), 0, (NODE1, 80)).expect_err("the host has no listener");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // With a tag of its own: it is nobody's peer.
    Raw::udp((OUTSIDE, 700), (NODE1, 80), b"let me in").tagged(0, N1).send(reference.outside.ns());
    ping(reference.outside.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    inside.expect_none("something from outside", |p| p.src == OUTSIDE);
    assert_eq!(server.clients(), []);
}

#[test]
fn a_tag_that_a_container_makes_itself_is_dropped_and_counted() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let wire = Capture::on(reference.node1.host.wire());
    assert_eq!(one.counter("inside_tag"), 0);
    let forged = Ipv4Addr::new(192, 168, 220, 1);
    Raw::udp((N1, 700), (NODE2, 5300), b"forged").tagged(0, forged).send(reference.n1().ns());
    wait::until_true("the drop is counted", SOON, || one.counter("inside_tag") == 1);
    ping(reference.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    wire.expect_none("the forged tag", |p| p.tag().is_some_and(|tag| tag.address == forged) || p.payload == b"forged");
}

#[test]
fn other_protocols_are_translated_by_address_alone() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let at_outside = Capture::on(reference.outside.wire());
    let (at_n1, at_n2) = (Capture::on(reference.n1().inside()), Capture::on(reference.n2().inside()));
    let send = |src, dst, ns: &Namespace| Raw::new(src, dst, 253, b"experiment").send(ns);
    send(N1, OUTSIDE, reference.n1().ns());
    let seen = at_outside.expect("protocol 253", |p| p.proto == 253);
    assert!(seen.goes(NODE1, OUTSIDE) && seen.payload == b"experiment" && seen.ttl == 63, "{seen:?}");
    send(OUTSIDE, NODE1, reference.outside.ns());
    let back = at_n1.expect("the answer", |p| p.proto == 253 && p.dst == N1);
    assert!(back.src == OUTSIDE && back.ttl == 63, "{back:?}");
    send(N1, N2, reference.n1().ns());
    let seen = at_n2.expect("protocol 253", |p| p.proto == 253 && p.dst == N2);
    assert!(seen.src == NODE1 && seen.options.is_empty() && seen.payload == b"experiment", "{seen:?}");
}

#[test]
fn several_subnets_are_served() {
    let reference = Reference::new();
    let host = &reference.node1.host;
    host.bridge("br1", "192.168.111.1/24");
    let second = host.container("br1", "n1b", "192.168.111.11/24");
    let subnets = format!("--subnet {SUBNET1} --subnet 192.168.111.0/24");
    let one = Xnat::start(host.ns(), &format!("--peer {NODE2} {subnets}"));
    let two = Xnat::start(reference.node2.host.ns(), &format!("--peer {NODE1} --subnet {SUBNET2}"));
    one.expect_peer(NODE2);
    let mut learnt = two.expect_peer(NODE1).subnets;
    learnt.sort_unstable();
    assert_eq!(learnt, [SUBNET1, "192.168.111.0/24"]);
    for container in [reference.n1(), &second] {
        ping(container.ns(), "-c 2", N2).expect_answered_by(N2);
        ping(container.ns(), "-c 2", ANYWHERE).expect_answered_by(ANYWHERE);
        ping(reference.n2().ns(), "-c 2", container.address()).expect_answered_by(container.address());
    }
}

#[test]
fn a_plain_veth_without_a_bridge_is_served() {
    let reference = Reference::new();
    let host = &reference.node1.host;
    let machine = host.plain("in0", "10.7.0.1/24", "machine", "10.7.0.2/24");
    let one = Xnat::start(host.ns(), &format!("--peer {NODE2} --subnet 10.7.0.0/24"));
    let two = Xnat::start(reference.node2.host.ns(), &format!("--peer {NODE1} --subnet {SUBNET2}"));
    one.expect_peer(NODE2);
    two.expect_peer(NODE1);
    ping(machine.ns(), "-c 2", ANYWHERE).expect_answered_by(ANYWHERE);
    ping(machine.ns(), "-c 2", N2).expect_answered_by(N2);
    ping(reference.n2().ns(), "-c 2", machine.address()).expect_answered_by(machine.address());
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    machine.ns().within(|| tcp::visit(40000, (N2, 80), 5, 100_000)).expect("an echo");
    assert_eq!(server.clients(), [SocketAddrV4::new(NODE1, 40000)]);
}
