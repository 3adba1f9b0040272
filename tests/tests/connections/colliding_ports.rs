//! What happens to a port that somebody else has already.

use std::net::SocketAddrV4;

use xnat_tests::program::ping;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N2, NODE1, OUTSIDE, Reference};
use xnat_tests::udp;
use xnat_tests::xnat;

use crate::alone;

#[test]
fn one_source_port_to_two_containers_behind_one_peer() {
    let reference = Reference::with_containers(2);
    let _xnat = xnat::start_both(&reference);
    let second = reference.node2.containers[1].clone();
    let one = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let two = tcp::Server::start(second.ns(), 80, Service::Echo);
    // To the container these are two destinations; on the wire they are one.
    let mut to_one = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    let mut to_two = tcp::expect_connect(reference.n1().ns(), 40000, (second.address(), 80));
    for round in 0..5 {
        tcp::expect_echo(&mut to_one, round, 3000);
        tcp::expect_echo(&mut to_two, round + 50, 3000);
    }
    assert_eq!(one.clients(), [SocketAddrV4::new(NODE1, 40000)]);
    let [other] = two.clients()[..] else { panic!("{:?}", two.clients()) };
    assert!(*other.ip() == NODE1 && other.port() != 40000, "a wire tuple of its own: {other}");
}

#[test]
fn one_source_port_of_two_containers_to_one_place() {
    let reference = Reference::with_containers(2);
    let _xnat = xnat::start_both(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let second = reference.node1.containers[1].ns().clone();
    let mut one = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    let mut two = tcp::expect_connect(&second, 40000, (N2, 80));
    for round in 0..5 {
        tcp::expect_echo(&mut one, round, 3000);
        tcp::expect_echo(&mut two, round + 50, 3000);
    }
    let clients = server.clients();
    assert_eq!(clients[0], SocketAddrV4::new(NODE1, 40000));
    assert!(*clients[1].ip() == NODE1 && clients[1].port() != 40000, "{clients:?}");
}

#[test]
fn udp_and_ping_collide_no_more_than_tcp() {
    let reference = Reference::with_containers(2);
    let _xnat = xnat::start_both(&reference);
    let server = udp::Server::echo(reference.n2().ns(), 5300);
    let second = reference.node1.containers[1].ns().clone();
    let sockets = [udp::socket(reference.n1().ns(), 41000), udp::socket(&second, 41000)];
    for (seed, socket) in (1..).zip(&sockets) {
        udp::expect_echo(socket, (N2, 5300), seed, 500);
    }
    let froms: Vec<u16> = server.received().iter().map(|(from, _)| from.port()).collect();
    assert!(froms[0] == 41000 && froms[1] != 41000, "{froms:?}");
    std::thread::scope(|scope| {
        for ns in [reference.n1().ns(), &second] {
            scope.spawn(|| ping(ns, "-c 10 -e 4242", N2).expect_answered_by(N2).received);
        }
    });
}

#[test]
fn a_port_to_the_outside_is_kept_when_free_and_changed_when_not() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference);
    let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    let second = reference.node1.containers[1].ns().clone();
    let mut one = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
    let mut two = tcp::expect_connect(&second, 40000, (OUTSIDE, 80));
    tcp::expect_echo(&mut one, 1, 5000);
    tcp::expect_echo(&mut two, 2, 5000);
    let clients = server.clients();
    assert_eq!(clients[0], SocketAddrV4::new(NODE1, 40000));
    assert!(*clients[1].ip() == NODE1 && clients[1].port() != 40000, "{clients:?}");
}

#[test]
fn a_port_that_a_socket_of_the_host_uses_is_never_taken() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let server = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
    // One was there before xnat, one comes later, one is a connection and one is UDP.
    let before = tcp::Server::start(host, 45000, Service::Whoami);
    let _xnat = alone(&reference);
    let later = tcp::Server::start(host, 45001, Service::Whoami);
    let _echo = tcp::Server::start(reference.outside.ns(), 81, Service::Echo);
    let mut connection = tcp::expect_connect(host, 45002, (OUTSIDE, 81));
    tcp::expect_echo(&mut connection, 1, 100);
    for port in [before.port(), later.port(), 45002] {
        let seen = tcp::whoami(reference.n1().ns(), port, (OUTSIDE, server.port()));
        assert!(*seen.ip() == NODE1 && seen.port() != port, "{port} is the host's, yet {seen}");
    }
    let of_host = udp::Server::echo(host, 45003);
    let outside = udp::Server::echo(reference.outside.ns(), 5300);
    udp::expect_echo(&udp::socket(reference.n1().ns(), 45003), (OUTSIDE, 5300), 1, 100);
    assert_ne!(outside.received()[0].0.port(), 45003);
    // And the host's own are as reachable as ever.
    tcp::expect_echo(&mut connection, 2, 100);
    assert_eq!(*tcp::whoami(reference.outside.ns(), 0, (NODE1, 45000)).ip(), OUTSIDE);
    udp::expect_echo(&udp::socket(reference.outside.ns(), 0), (NODE1, 45003), 1, 100);
    assert_eq!(of_host.received().len(), 1);
}
