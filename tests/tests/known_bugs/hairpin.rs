//! Containers that reach each other, or themselves, by the external address (RFC 4787 REQ-9, RFC 5382 REQ-8).

use std::net::Ipv4Addr;

use xnat_tests::capture::Capture;
use xnat_tests::packet::IPV4;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, NODE1, OUTSIDE, Reference};

use super::{alone, expect, udp_at};

const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 12);

#[test]
fn a_hairpinned_datagram_comes_from_the_external_address_and_port() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "--filtering endpoint-independent");
    let server = udp_at(reference.outside.ns(), (OUTSIDE, 5300));
    let one = udp_at(reference.n1().ns(), (N1, 40000));
    let two = udp_at(reference.node1.containers[1].ns(), (SECOND, 40000));
    for socket in [&one, &two] {
        socket.send_to(b"who am I", (OUTSIDE, 5300)).expect("a route");
    }
    let places = [expect(&server, b"who am I"), expect(&server, b"who am I")];
    assert_eq!(places[0], (NODE1, 40000).into());
    assert_ne!(places[0], places[1]);
    one.send_to(b"hello", places[1]).expect("a route");
    assert_eq!(expect(&two, b"hello"), places[0], "the external address and port, not the container's");
    two.send_to(b"hello yourself", places[0]).expect("a route");
    assert_eq!(expect(&one, b"hello yourself"), places[1]);
}

#[test]
fn a_hairpinned_connection_goes_through_a_forward() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "--forward tcp:8080=192.168.110.12:80");
    let server = tcp::Server::start(reference.node1.containers[1].ns(), 80, Service::Whoami);
    let seen = tcp::whoami(reference.n1().ns(), 40000, (NODE1, 8080));
    assert_eq!(*seen.ip(), NODE1, "the receiver sees the external address");
    // A container that reaches itself.
    let seen = tcp::whoami(reference.node1.containers[1].ns(), 40001, (NODE1, 8080));
    assert_eq!(*seen.ip(), NODE1);
    assert_eq!(server.clients().len(), 2);
}

#[test]
fn a_hairpinned_packet_does_not_go_round() {
    let reference = Reference::with_containers(2);
    let xnat = alone(&reference, "--filtering endpoint-independent");
    let server = udp_at(reference.outside.ns(), (OUTSIDE, 5300));
    let wire = Capture::filtered(reference.node1.host.wire(), "udp");
    let port = Capture::filtered(reference.n1().port(), "udp");
    let one = udp_at(reference.n1().ns(), (N1, 40000));
    one.send_to(b"who am I", (OUTSIDE, 5300)).expect("a route");
    let me = expect(&server, b"who am I");
    // To itself, by its own mapping.
    one.send_to(b"round", me).expect("a route");
    one.send_to(b"last", (OUTSIDE, 5300)).expect("a route");
    expect(&server, b"last");
    wire.expect_none("the hairpin", |p| p.payload == b"round");
    let seen = port.matching(|p| p.eth_type == IPV4 && p.payload == b"round");
    assert!(seen.len() <= 2, "once out and at most once back: {seen:?}");
    assert!(xnat.flows("--proto udp").len() <= 2);
}
