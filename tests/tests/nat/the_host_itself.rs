//! The host's own connections through the same uplink.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use nix::sys::signal::Signal;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, NODE1, OUTSIDE, Reference};
use xnat_tests::wait::{self, SOON};

use crate::{alone, local, pass, udp_at};

#[test]
fn a_later_connection_that_would_collide_is_itself_translated() {
    let reference = Reference::new();
    let xnat = alone(&reference, "");
    let host = reference.node1.host.ns();
    let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    let mut containers = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
    tcp::expect_echo(&mut containers, 1, 5000);
    // The same port, to the same end, from the host.
    let mut hosts = tcp::expect_connect(host, 40000, (OUTSIDE, 80));
    tcp::expect_echo(&mut hosts, 2, 50_000);
    tcp::expect_echo(&mut containers, 3, 50_000);
    let clients = server.clients();
    assert_eq!(clients[0], SocketAddrV4::new(NODE1, 40000));
    assert!(*clients[1].ip() == NODE1 && clients[1].port() != 40000, "{clients:?}");
    assert_eq!(xnat.counter("host_translated"), 1);
    // Elsewhere it keeps its port, and xnat has nothing to do with it.
    let _other = tcp::Server::start(reference.outside.ns(), 81, Service::Whoami);
    assert_eq!(tcp::whoami(host, 41000, (OUTSIDE, 81)), SocketAddrV4::new(NODE1, 41000));
    assert_eq!(xnat.counter("host_translated"), 1);
}

#[test]
fn datagrams_of_the_host_that_would_collide_are_translated_too() {
    let reference = Reference::new();
    let _xnat = alone(&reference, "");
    let server = udp_at(reference.outside.ns(), OUTSIDE, 5300);
    let containers = udp_at(reference.n1().ns(), reference.n1().address(), 40000);
    let at_container = pass(&containers, local(&server), &server, b"from the container");
    let hosts = udp_at(reference.node1.host.ns(), NODE1, 40000);
    let at_host = pass(&hosts, local(&server), &server, b"from the host");
    assert_ne!(at_container, at_host);
    assert_eq!(pass(&server, at_host, &hosts, b"to the host"), local(&server));
    assert_eq!(pass(&server, at_container, &containers, b"to the container"), local(&server));
}

#[test]
fn a_client_port_equal_to_a_listening_port_of_the_host_does_not_hijack_it() {
    let reference = Reference::new();
    let _xnat = alone(&reference, "--filtering endpoint-independent");
    let host = reference.node1.host.ns();
    let _listener = tcp::Server::start(host, 8443, Service::Whoami);
    let service = udp_at(host, NODE1, 5060);
    let _web = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
    let seen = tcp::whoami(reference.n1().ns(), 8443, (ANYWHERE, 80));
    assert_ne!(seen.port(), 8443, "the host listens there");
    let server = udp_at(reference.outside.ns(), OUTSIDE, 5300);
    let socket = udp_at(reference.n1().ns(), reference.n1().address(), 5060);
    assert_ne!(pass(&socket, local(&server), &server, b"hello").port(), 5060, "the host has it");
    // The host is reached as before, by everybody.
    tcp::whoami(reference.outside.ns(), 0, (NODE1, 8443));
    pass(&server, local(&service), &service, b"for the host");
}

/// Binds a socket of the host, for UDP or TCP, at a moment, and has a container use the same port in the next. Whether it
/// got another one.
fn gives_way(reference: &Reference, bound: IpAddr, port: u16) -> [bool; 2] {
    let host = reference.node1.host.ns();
    let server = udp_at(reference.outside.ns(), OUTSIDE, 0);
    let _web = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
    let client = udp_at(reference.n1().ns(), reference.n1().address(), port);
    let _socket = host.within(|| UdpSocket::bind((bound, port))).expect("a socket");
    let udp = pass(&client, local(&server), &server, b"hello").port() != port;
    let _listener = host.within(|| TcpListener::bind((bound, port))).expect("a listener");
    [udp, tcp::whoami(reference.n1().ns(), port, (OUTSIDE, 80)).port() != port]
}

#[test]
fn a_port_is_the_hosts_as_soon_as_a_socket_is_bound_to_it() {
    let reference = Reference::new();
    let mut xnat = alone(&reference, "");
    // The host of most people has it.
    reference.node1.host.ns().set_sysctl("net/ipv6/conf/lo/disable_ipv6", "0");
    for (port, bound, is_the_hosts) in [
        (41001, "0.0.0.0", true),
        (41002, "172.29.0.4", true),
        (41003, "::", true),
        (41004, "::ffff:172.29.0.4", true),
        (41005, "127.0.0.1", false),
        (41006, "::1", false),
    ] {
        let gave_way = gives_way(&reference, bound.parse().expect("an address"), port);
        assert_eq!(gave_way, [is_the_hosts; 2], "{bound}");
    }
    // Another machine's are its own affair, though the kernel is the same.
    let _elsewhere = udp_at(reference.outside.ns(), OUTSIDE, 41007);
    let server = udp_at(reference.outside.ns(), OUTSIDE, 5300);
    let client = udp_at(reference.n1().ns(), reference.n1().address(), 41007);
    assert_eq!(pass(&client, local(&server), &server, b"hello").port(), 41007);
    // With the dataplane alone.
    xnat.stop(Signal::SIGKILL);
    assert_eq!(gives_way(&reference, NODE1.into(), 41008), [true; 2]);
}

#[test]
fn sockets_at_an_address_that_comes_later_keep_their_ports() {
    let reference = Reference::new();
    let xnat = alone(&reference, "");
    let host = reference.node1.host.ns();
    host.ip("address add 172.29.0.5/32 dev eth0");
    let later = Ipv4Addr::new(172, 29, 0, 5);
    // Not on the wire yet.
    let socket = udp_at(host, later, 41000);
    host.ip(&format!("address del {NODE1}/24 dev eth0"));
    host.ip("route add 172.29.0.0/24 dev eth0 src 172.29.0.5");
    host.ip(&format!("route replace default via {OUTSIDE} src 172.29.0.5"));
    wait::until_true("the daemon has seen it", SOON, || xnat.output().contains("has the address 172.29.0.5 now"));
    let server = udp_at(reference.outside.ns(), OUTSIDE, 5300);
    let client = udp_at(reference.n1().ns(), reference.n1().address(), 41000);
    let seen = pass(&client, local(&server), &server, b"hello");
    assert!(*seen.ip() == later && seen.port() != 41000, "{seen}: the host has that");
    assert_eq!(pass(&server, local(&socket), &socket, b"for the host"), local(&server));
}

#[test]
fn a_service_that_the_host_starts_on_a_mapped_port_is_reached() {
    let reference = Reference::new();
    let xnat = alone(&reference, "--filtering endpoint-independent");
    let server = udp_at(reference.outside.ns(), OUTSIDE, 5300);
    let socket = udp_at(reference.n1().ns(), reference.n1().address(), 40000);
    let mapped = pass(&socket, local(&server), &server, b"hello");
    assert_eq!(mapped, SocketAddrV4::new(NODE1, 40000));
    let service = udp_at(reference.node1.host.ns(), NODE1, 40000);
    let stranger = udp_at(reference.outside.ns(), ANYWHERE, 6000);
    assert_eq!(pass(&stranger, mapped, &service, b"unsolicited"), local(&stranger));
    // The container's own conversation goes on.
    pass(&server, mapped, &socket, b"for the container");
    assert_eq!(xnat.count("--proto udp"), 1, "what is the host's made no state");
}

#[test]
fn unsolicited_packets_change_no_mapping() {
    let reference = Reference::new();
    let xnat = alone(&reference, "");
    let asked = udp_at(reference.outside.ns(), ANYWHERE, 3478);
    let socket = udp_at(reference.n1().ns(), reference.n1().address(), 40000);
    let mapped = pass(&socket, local(&asked), &asked, b"binding request");
    let before = xnat.counter("mappings_opened");
    for port in 6000..6020 {
        let stranger = udp_at(reference.outside.ns(), OUTSIDE, port);
        stranger.send_to(b"binding response", mapped).expect("sent");
        stranger.send_to(b"to a port that nobody has", (NODE1, 41000)).expect("sent");
    }
    wait::until_true("all were filtered", SOON, || xnat.counter("filtered") == 20);
    assert_eq!(pass(&asked, mapped, &socket, b"binding response"), local(&asked));
    assert_eq!(pass(&socket, local(&asked), &asked, b"again"), mapped);
    assert_eq!((xnat.counter("mappings_opened"), xnat.count("--proto udp")), (before, 1));
}
