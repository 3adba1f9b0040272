//! Many short connections over few ports.

use std::net::Ipv4Addr;

use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, OUTSIDE, Reference};

use super::{alone, expect, udp_at};

/// Others run out of ports with the table far from full, because what has closed keeps its port for minutes.
#[test]
fn short_lived_connections_always_find_a_mapping() {
    let reference = Reference::with_containers(2);
    let xnat = alone(&reference, "--ports 40000-40031");
    let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    for ns in [reference.n1().ns(), reference.node1.containers[1].ns()] {
        ns.within(|| {
            for n in 0..300 {
                tcp::visit(0, (OUTSIDE, server.port()), n, 100)
                    .unwrap_or_else(|error| panic!("connection {n}: {error}"));
            }
        });
    }
    assert_eq!(xnat.counter("ports_exhausted"), 0);
    assert!(xnat.counter("ports_reclaimed") > 0, "600 connections went over 32 ports");
}

/// A resolver asks from a new port each time; what nobody uses any more makes way, or the port is shared.
#[test]
fn short_lived_questions_to_many_servers_always_find_a_mapping() {
    let reference = Reference::new();
    let xnat = alone(&reference, "--ports 40000-40031");
    let outside = reference.outside.ns();
    outside.ip("route add local 203.0.113.0/24 dev lo");
    let servers: Vec<_> = (1..=40).map(|n| udp_at(outside, (Ipv4Addr::new(203, 0, 113, n), 53))).collect();
    for n in 0..400_usize {
        let socket = udp_at(reference.n1().ns(), (N1, 0));
        let server = &servers[n % servers.len()];
        let question = format!("question {n}");
        socket.send_to(question.as_bytes(), server.local_addr().expect("bound")).expect("a route");
        let from = expect(server, question.as_bytes());
        server.send_to(question.as_bytes(), from).expect("a route");
        expect(&socket, question.as_bytes());
    }
    assert_eq!(xnat.counter("ports_exhausted"), 0);
    assert!(xnat.counter("ports_shared") > 0, "400 sockets went over 32 ports");
}
