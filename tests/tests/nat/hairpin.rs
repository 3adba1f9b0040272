//! Containers that reach each other by this host's address (RFC 4787 REQ-9, RFC 5382 REQ-8, RFC 5508 REQ-7).

use std::net::SocketAddrV4;

use xnat_tests::capture::Capture;
use xnat_tests::topology::{ANYWHERE, NODE1, Reference};

use crate::{alone, expect_dropped, local, pass, udp_at};

/// Sockets of two containers, each mapped toward a server, and their addresses on the wire.
fn two(reference: &Reference) -> [(std::net::UdpSocket, SocketAddrV4); 2] {
    let server = udp_at(reference.outside.ns(), ANYWHERE, 5300);
    [0, 1].map(|n| {
        let container = &reference.node1.containers[n];
        let socket = udp_at(container.ns(), container.address(), 40000);
        let mapped = pass(&socket, local(&server), &server, b"hello");
        (socket, mapped)
    })
}

#[test]
fn the_receiver_sees_the_external_address() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "--filtering endpoint-independent");
    let wire = Capture::filtered(reference.node1.host.wire(), "udp and not port 5300");
    let [(first, at_first), (second, at_second)] = two(&reference);
    assert_eq!(pass(&first, at_second, &second, b"ping"), at_first, "its mapping, as anybody else sees it");
    assert_eq!(pass(&second, at_first, &first, b"pong"), at_second);
    wire.expect_none("a hairpin on the wire", |_| true);
}

#[test]
fn both_have_to_ask_where_filtering_depends_on_the_address() {
    let reference = Reference::with_containers(2);
    let xnat = alone(&reference, "");
    let [(first, at_first), (second, at_second)] = two(&reference);
    expect_dropped(&xnat, "filtered", &first, at_second);
    // The first has asked by now, so the second is let in, and then the first as well.
    assert_eq!(pass(&second, at_first, &first, b"ping"), at_second);
    assert_eq!(pass(&first, at_second, &second, b"pong"), at_first);
}

#[test]
fn to_oneself_does_not_loop() {
    let reference = Reference::with_containers(2);
    let xnat = alone(&reference, "--filtering endpoint-independent");
    let [(first, at_first), _] = two(&reference);
    assert_eq!(at_first, SocketAddrV4::new(NODE1, 40000));
    let seen = pass(&first, at_first, &first, b"is that me?");
    assert_eq!(*seen.ip(), NODE1);
    let flow = xnat.expect_flow("one hairpin", |flow| flow.kind == "hairpin");
    assert!(flow.original.packets + flow.reply.packets <= 2, "{flow:?}");
}

#[test]
fn a_hairpinned_error_comes_back() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "--filtering endpoint-independent");
    let [(first, at_first), (second, at_second)] = two(&reference);
    pass(&first, at_second, &second, b"while it listens");
    drop(second);
    first.connect(at_second).expect("a connected socket");
    first.send(b"does it still?").expect("nothing has come back yet");
    let error = first.recv(&mut [0; 16]).expect_err("port unreachable");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}; from {at_first}");
}
