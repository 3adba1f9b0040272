//! RFC 4787 §4.1, RFC 5382 §4, RFC 5508 §3.1: which port a container's socket has on the wire.

use std::net::{SocketAddrV4, UdpSocket};

use xnat_tests::program::ping;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, NODE1, OUTSIDE, Reference};
use xnat_tests::wait::{self, SOON};

use crate::{SERVERS, alone, pass, udp_at, with_two_servers};

/// Two containers with the same source port, and where two servers, each with two ports, see them.
fn seen_from(reference: &Reference) -> Vec<Vec<SocketAddrV4>> {
    with_two_servers(reference);
    let places = SERVERS.iter().flat_map(|&server| [(server, 5300), (server, 5301)]);
    let servers: Vec<UdpSocket> = places.map(|(address, port)| udp_at(reference.outside.ns(), address, port)).collect();
    let see = |container: usize| {
        let container = &reference.node1.containers[container];
        let socket = udp_at(container.ns(), container.address(), 40000);
        servers.iter().map(|server| pass(&socket, crate::local(server), server, b"who am I?")).collect()
    };
    (0..2).map(see).collect()
}

#[test]
fn one_socket_has_one_port_toward_everybody() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "");
    let seen = seen_from(&reference);
    assert_eq!(seen[0], [SocketAddrV4::new(NODE1, 40000); 4], "its own while that is free");
    let other = seen[1][0];
    assert!(other.port() != 40000 && other.port() >= 1024 && *other.ip() == NODE1, "{other}");
    assert_eq!(seen[1], [other; 4], "the second container's is another, and the same toward everybody");
}

#[test]
fn address_dependent_mapping_has_one_port_for_each_address() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "--mapping address-dependent");
    let seen = seen_from(&reference);
    assert_eq!(seen[0], [SocketAddrV4::new(NODE1, 40000); 4]);
    let second = &seen[1];
    assert!(second[0] == second[1] && second[2] == second[3], "{second:?}");
    assert!(second.iter().all(|it| it.port() != 40000), "taken toward both: {second:?}");
    assert_ne!(second[0], second[2], "chosen at random for each");
}

#[test]
fn address_and_port_dependent_mapping_shares_ports_toward_different_ends() {
    let reference = Reference::with_containers(2);
    with_two_servers(&reference);
    let _xnat = alone(&reference, "--mapping udp=address-and-port-dependent");
    let servers = SERVERS.map(|address| udp_at(reference.outside.ns(), address, 5300));
    for (container, server) in reference.node1.containers.iter().zip(&servers) {
        let socket = udp_at(container.ns(), container.address(), 40000);
        let seen = pass(&socket, crate::local(server), server, b"who am I?");
        assert_eq!(seen, SocketAddrV4::new(NODE1, 40000), "nobody else has it toward this server");
    }
}

#[test]
fn tcp_connections_of_one_port_have_one_port_on_the_wire() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "");
    let ports = [80, 81, 82];
    let _servers = ports.map(|port| tcp::Server::start(reference.outside.ns(), port, Service::Whoami));
    for (container, own) in reference.node1.containers.iter().zip([true, false]) {
        let seen = ports.map(|port| tcp::whoami(container.ns(), 40000, (ANYWHERE, port)));
        assert_eq!(seen, [seen[0]; 3], "one port toward every server");
        assert_eq!(seen[0].port() == 40000, own, "{seen:?}");
    }
}

#[test]
fn ports_are_taken_from_the_range_that_was_asked_for() {
    let reference = Reference::new();
    let _xnat = alone(&reference, "--ports 20000-20099");
    let server = udp_at(reference.outside.ns(), ANYWHERE, 5300);
    let n1 = reference.n1();
    for (port, kept) in [(20007, true), (40000, false), (500, false)] {
        let seen = pass(&udp_at(n1.ns(), n1.address(), port), crate::local(&server), &server, b"who am I?");
        assert!((20000..=20099).contains(&seen.port()), "{seen}");
        assert_eq!(seen.port() == port, kept, "{port} became {seen}");
    }
}

#[test]
fn a_container_gets_no_more_ports_than_its_quota() {
    let reference = Reference::with_containers(2);
    let xnat = alone(&reference, "--max-ports-per-container 3 --udp-unreplied 1");
    let server = udp_at(reference.outside.ns(), ANYWHERE, 5300);
    let to = crate::local(&server);
    let [first, second] = [0, 1].map(|n| &reference.node1.containers[n]);
    let sockets = [0, 1, 2].map(|_| udp_at(first.ns(), first.address(), 0));
    for socket in &sockets {
        pass(socket, to, &server, b"within the quota");
    }
    let refused = udp_at(first.ns(), first.address(), 0);
    refused.connect(to).expect("a connected socket");
    refused.send(b"one too many").expect("nothing has come back yet");
    let error = refused.recv(&mut [0; 16]).expect_err("an error comes back");
    assert_eq!(error.raw_os_error(), Some(113), "EHOSTUNREACH, as for communication prohibited: {error}");
    assert_eq!((xnat.counter("quota_exceeded"), xnat.counter("refusals")), (1, 1));
    pass(&sockets[0], SocketAddrV4::new(OUTSIDE, 5300), &udp_at(reference.outside.ns(), OUTSIDE, 5300), b"no new port");
    pass(&udp_at(second.ns(), second.address(), 0), to, &server, b"another container's quota");
    // Ports come back when their flows end.
    wait::until_true("the flows expire", SOON, || xnat.count("--src 192.168.110.11") == 0);
    pass(&udp_at(first.ns(), first.address(), 0), to, &server, b"free again");
}

#[test]
fn pings_of_containers_with_the_same_identifier_are_told_apart() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "");
    for target in [OUTSIDE, ANYWHERE] {
        for container in &reference.node1.containers {
            ping(container.ns(), "-e 77 -c 2", target).expect_answered_by(target);
        }
    }
}

#[test]
fn flows_end_with_the_address_that_they_have_on_the_wire() {
    let reference = Reference::new();
    let xnat = alone(&reference, "");
    let server = udp_at(reference.outside.ns(), OUTSIDE, 5300);
    let n1 = reference.n1();
    let socket = udp_at(n1.ns(), n1.address(), 40000);
    assert_eq!(*pass(&socket, crate::local(&server), &server, b"before").ip(), NODE1);
    let host = reference.node1.host.ns();
    host.ip("address add 172.29.0.5/24 dev eth0");
    host.ip(&format!("address del {NODE1}/24 dev eth0"));
    host.ip("address replace 172.29.0.5/24 dev eth0");
    host.ip(&format!("route replace default via {OUTSIDE}"));
    wait::until_true("the daemon has seen it", SOON, || xnat.output().contains("has the address 172.29.0.5 now"));
    wait::until_true("the old flow has ended", SOON, || xnat.count("--proto udp") == 0);
    let now = pass(&socket, crate::local(&server), &server, b"after");
    assert_eq!(now, SocketAddrV4::new(std::net::Ipv4Addr::new(172, 29, 0, 5), 40000));
    assert_eq!(pass(&server, now, &socket, b"and back"), crate::local(&server));
}
