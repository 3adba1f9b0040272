//! RFC 4787 §5: whom a mapping lets in.

use std::net::SocketAddrV4;

use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, NODE1, OUTSIDE, Reference};

use crate::{SERVERS, alone, expect_dropped, local, pass, udp_at, with_two_servers};

/// Opens a mapping toward the first server, and sends to it from that server's port, from another of its ports, and from
/// another server. The answers say which of these arrive.
fn let_in(flags: &str, admitted: [bool; 3]) {
    let reference = Reference::new();
    with_two_servers(&reference);
    let xnat = alone(&reference, flags);
    let outside = reference.outside.ns();
    let asked = udp_at(outside, SERVERS[0], 5300);
    let socket = udp_at(reference.n1().ns(), reference.n1().address(), 40000);
    let mapped = pass(&socket, local(&asked), &asked, b"hello");
    let senders = [asked, udp_at(outside, SERVERS[0], 5301), udp_at(outside, SERVERS[1], 5300)];
    for (sender, admitted) in senders.iter().zip(admitted) {
        if admitted {
            let seen = pass(sender, mapped, &socket, b"a word from outside");
            assert_eq!(seen, local(sender), "the container sees who it is");
            // And its answer comes from the same port on the wire.
            assert_eq!(pass(&socket, seen, sender, b"thank you"), mapped);
        } else {
            expect_dropped(&xnat, "filtered", sender, mapped);
        }
    }
}

#[test]
fn by_default_the_addresses_that_were_asked() {
    let_in("", [true, true, false]);
}

#[test]
fn everybody_with_endpoint_independent_filtering() {
    let_in("--filtering endpoint-independent", [true, true, true]);
}

#[test]
fn only_what_was_asked_with_address_and_port_dependent_filtering() {
    let_in("--filtering udp=address-and-port-dependent", [true, false, false]);
}

#[test]
fn every_address_that_was_asked_is_let_in() {
    let reference = Reference::new();
    with_two_servers(&reference);
    let _xnat = alone(&reference, "");
    let outside = reference.outside.ns();
    let socket = udp_at(reference.n1().ns(), reference.n1().address(), 40000);
    for address in [OUTSIDE, SERVERS[0], SERVERS[1]] {
        let asked = udp_at(outside, address, 5300);
        let mapped = pass(&socket, local(&asked), &asked, b"hello");
        assert_eq!(mapped, SocketAddrV4::new(NODE1, 40000));
        pass(&udp_at(outside, address, 5301), mapped, &socket, b"from another port");
    }
}

#[test]
fn a_connection_from_an_address_that_was_asked_is_let_in() {
    let reference = Reference::new();
    with_two_servers(&reference);
    let xnat = alone(&reference, "");
    let outside = reference.outside.ns();
    let _asked = tcp::Server::at(outside, SocketAddrV4::new(ANYWHERE, 80), Service::Whoami);
    assert_eq!(tcp::whoami(reference.n1().ns(), 40000, (ANYWHERE, 80)), SocketAddrV4::new(NODE1, 40000));
    // The container listens on the port from which it has connected, as peer-to-peer programs do.
    let _listener = tcp::Server::start(reference.n1().ns(), 40000, Service::Echo);
    let from = |source| {
        move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddrV4::new(source, 0).into())?;
            socket.connect_timeout(&SocketAddrV4::new(NODE1, 40000).into(), std::time::Duration::from_secs(2))
        }
    };
    outside.within(from(ANYWHERE)).expect("let in");
    // A SYN from elsewhere gets no answer at all (RFC 5382 REQ-4).
    let error = outside.within(from(SERVERS[1])).expect_err("filtered");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(xnat.counter("filtered") >= 1);
}

#[test]
fn an_outsider_alone_does_not_keep_a_mapping() {
    let reference = Reference::new();
    let xnat = alone(&reference, "--filtering endpoint-independent --udp-unreplied 2 --udp 2");
    let asked = udp_at(reference.outside.ns(), ANYWHERE, 5300);
    let socket = udp_at(reference.n1().ns(), reference.n1().address(), 40000);
    let mapped = pass(&socket, local(&asked), &asked, b"hello");
    let stranger = udp_at(reference.outside.ns(), OUTSIDE, 6000);
    pass(&stranger, mapped, &socket, b"let in");
    // However often the stranger sends, the mapping ends with the container's own flow.
    xnat_tests::wait::until_true("the port is the host's again", xnat_tests::wait::SOON * 2, || {
        stranger.send_to(b"still here?", mapped).expect("sent");
        xnat.count("") == 0
    });
}
