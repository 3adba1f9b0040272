//! The host's own traffic, its neighbours and its published ports.

use std::net::SocketAddrV4;

use xnat_tests::capture::Capture;
use xnat_tests::packet::IPV4;
use xnat_tests::program::ping;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, OUTSIDE, Reference, SUBNET1};
use xnat_tests::udp;
use xnat_tests::xnat;

use crate::GATEWAY1;

#[test]
fn reaches_containers_of_a_peer() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let host = reference.node1.host.ns();
    let wire = Capture::on(reference.node1.host.wire());
    ping(host, "-c 3", N2).expect_answered_by(N2);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    host.within(|| tcp::visit(0, (N2, 80), 5, 100_000)).expect("an echo");
    assert!(server.clients().iter().all(|client| *client.ip() == NODE1), "{:?}", server.clients());
    let echo = udp::Server::echo(reference.n2().ns(), 5300);
    udp::expect_echo(&udp::socket(host, 0), (N2, echo.port()), 3, 1000);
    wire.expect_none("a container's address", |p| p.eth_type == IPV4 && p.dst == N2);
}

#[test]
fn speaks_to_its_peers_host_as_ever() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    ping(reference.node1.host.ns(), "-c 2", NODE2).expect_answered_by(NODE2);
    let server = tcp::Server::start(reference.node2.host.ns(), 22, Service::Whoami);
    let seen = tcp::whoami(reference.node1.host.ns(), 43000, (NODE2, server.port()));
    assert_eq!(seen, SocketAddrV4::new(NODE1, 43000));
    // And a container reaches the peer's host by the host's own address.
    assert_eq!(*tcp::whoami(reference.n1().ns(), 0, (NODE2, server.port())).ip(), NODE1);
}

#[test]
fn and_neighbours_in_the_subnet_are_reached_untouched() {
    let reference = Reference::with_containers(2);
    let _xnat = xnat::start_both(&reference);
    let (n1, neighbour) = (reference.n1(), &reference.node1.containers[1]);
    let direct = ping(n1.ns(), "-c 2", neighbour.address());
    assert!(direct.replies.iter().all(|(_, ttl)| *ttl == 64), "{}", direct.output);
    let in_neighbour = tcp::Server::start(neighbour.ns(), 80, Service::Whoami);
    let in_host = tcp::Server::start(reference.node1.host.ns(), 81, Service::Whoami);
    assert_eq!(tcp::whoami(n1.ns(), 40000, (neighbour.address(), in_neighbour.port())), SocketAddrV4::new(N1, 40000));
    for address in [GATEWAY1, NODE1] {
        assert_eq!(tcp::whoami(n1.ns(), 40001, (address, in_host.port())), SocketAddrV4::new(N1, 40001));
        ping(n1.ns(), "-c 1", address).expect_answered_by(address);
    }
    // The host into its own subnet.
    assert_eq!(*tcp::whoami(reference.node1.host.ns(), 0, (neighbour.address(), 80)).ip(), GATEWAY1);
}

#[test]
fn keeps_publishing_ports_through_the_kernels_nat() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    // As docker run -p 8080:80 -p 5353:5300/udp writes them.
    host.shell(&format!(
        "iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 8080 -j DNAT --to {N1}:80
         iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p udp --dport 5353 -j DNAT --to {N1}:5300
         iptables -t nat -A POSTROUTING -s {SUBNET1} ! -o br0 -j MASQUERADE"
    ));
    let _web = tcp::Server::start(reference.n1().ns(), 80, Service::Echo);
    let names = udp::Server::echo(reference.n1().ns(), 5300);
    let _xnat = xnat::start_both(&reference);
    for visitor in [reference.outside.ns(), reference.node2.host.ns(), reference.n2().ns()] {
        visitor.within(|| tcp::visit(0, (NODE1, 8080), 9, 50_000)).expect("the published port");
        udp::expect_echo(&udp::socket(visitor, 0), (NODE1, 5353), 7, 800);
    }
    tcp::expect_visits(reference.outside.ns(), (NODE1, 8080), 200);
    // The container sees who came.
    assert!(names.received().iter().any(|(from, _)| *from.ip() == OUTSIDE), "{:?}", names.received());
}
