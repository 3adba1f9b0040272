//! Ports that belong to somebody else: Linux's SNAT looks at none of them.

use std::net::SocketAddrV4;

use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, NODE1, OUTSIDE, Reference};

use super::{alone, expect, udp_at};

#[test]
fn a_clients_port_that_the_host_listens_on_does_not_take_the_listener_away() {
    let reference = Reference::new();
    let _xnat = alone(&reference, "");
    let web = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
    let host = tcp::Server::start(reference.node1.host.ns(), 40000, Service::Echo);
    let seen = tcp::whoami(reference.n1().ns(), 40000, (OUTSIDE, web.port()));
    assert_eq!(*seen.ip(), NODE1);
    assert_ne!(seen.port(), 40000, "the port is the host's");
    // From the very machine that the container talks with.
    let mut stream = tcp::expect_connect(reference.outside.ns(), 5000, (NODE1, host.port()));
    tcp::expect_echo(&mut stream, 3, 1000);
    assert_eq!(host.clients(), [SocketAddrV4::new(OUTSIDE, 5000)]);
}

#[test]
fn a_forwarded_port_is_never_chosen_for_a_container() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "--forward both:40000=192.168.110.12:80 --ports 39999-40001");
    let web = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
    let service = tcp::Server::start(reference.node1.containers[1].ns(), 80, Service::Echo);
    for source in [40000, 40001, 40002] {
        let seen = tcp::whoami(reference.n1().ns(), source, (OUTSIDE, web.port()));
        assert!([39999, 40001].contains(&seen.port()), "{source} became {seen}");
    }
    let mut stream = tcp::expect_connect(reference.outside.ns(), 0, (NODE1, 40000));
    tcp::expect_echo(&mut stream, 3, 1000);
    assert_eq!(service.clients().len(), 1);
}

#[test]
fn a_udp_port_of_the_hosts_keeps_its_answers_when_a_container_uses_the_number() {
    let reference = Reference::new();
    let _xnat = alone(&reference, "");
    let server = udp_at(reference.outside.ns(), (OUTSIDE, 5300));
    let host = udp_at(reference.node1.host.ns(), (NODE1, 40000));
    let container = udp_at(reference.n1().ns(), (N1, 40000));
    container.send_to(b"from the container", (OUTSIDE, 5300)).expect("a route");
    let of_container = expect(&server, b"from the container");
    host.send_to(b"from the host", (OUTSIDE, 5300)).expect("a route");
    let of_host = expect(&server, b"from the host");
    assert_ne!(of_container, of_host);
    assert_eq!(of_host.port(), 40000, "the host's own port is not touched");
    server.send_to(b"to the host", of_host).expect("a route");
    server.send_to(b"to the container", of_container).expect("a route");
    expect(&host, b"to the host");
    expect(&container, b"to the container");
}
