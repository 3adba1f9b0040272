//! Ports of this host's that are a container's.

use std::net::{Ipv4Addr, SocketAddrV4};

use xnat_tests::capture::Capture;
use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, OUTSIDE, Reference, SUBNET1, SUBNET2};
use xnat_tests::udp;
use xnat_tests::xnat::Xnat;

use crate::{alone, local, pass, udp_at};

const FORWARDS: &str = "--forward tcp:8080=192.168.110.11:80 --forward udp:5353=192.168.110.11:5300";

#[test]
fn lead_from_outside_to_the_container() {
    let reference = Reference::new();
    let xnat = alone(&reference, FORWARDS);
    let web = tcp::Server::start(reference.n1().ns(), 80, Service::Echo);
    let names = udp::Server::echo(reference.n1().ns(), 5300);
    for visitor in [reference.outside.ns(), reference.node2.host.ns()] {
        visitor.within(|| tcp::visit(0, (NODE1, 8080), 9, 100_000)).expect("the forward");
        udp::expect_echo(&udp::socket(visitor, 0), (NODE1, 5353), 7, 1200);
    }
    tcp::expect_visits(reference.outside.ns(), (NODE1, 8080), 200);
    // The container sees who came.
    assert!(web.clients().iter().any(|client| *client.ip() == OUTSIDE), "{:?}", web.clients());
    assert!(names.received().iter().any(|(from, _)| *from.ip() == NODE2), "{:?}", names.received());
    let flow = xnat.expect_flow("the forward's", |flow| flow.kind == "forward" && flow.proto == "udp");
    assert_eq!((flow.original.dport, flow.reply.src, flow.reply.sport), (Some(5353), N1, Some(5300)));
}

#[test]
fn lead_from_containers_and_from_the_host() {
    let reference = Reference::with_containers(2);
    // A bridge has the lowest of its ports' MAC addresses unless it is given another: then no frame for it is for a port.
    reference.node1.host.ns().ip("link set br0 address 02:00:00:00:00:01");
    let _xnat = alone(&reference, FORWARDS);
    let web = tcp::Server::start(reference.n1().ns(), 80, Service::Echo);
    let names = udp::Server::echo(reference.n1().ns(), 5300);
    let host = reference.node1.host.ns();
    for visitor in [reference.node1.containers[1].ns(), reference.n1().ns(), host] {
        visitor.within(|| tcp::visit(0, (NODE1, 8080), 9, 200_000)).expect("the forward");
        udp::expect_echo(&udp::socket(visitor, 0), (NODE1, 5353), 7, 1200);
    }
    assert!(web.clients().iter().all(|client| *client.ip() == NODE1), "{:?}", web.clients());
    assert!(names.received().iter().all(|(from, _)| *from.ip() == NODE1), "{:?}", names.received());
    tcp::expect_visits(host, (NODE1, 8080), 50);
}

#[test]
fn match_the_destination_address_and_the_interface() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    host.ip("address add 172.29.0.5/24 dev eth0");
    let _xnat = alone(&reference, &format!("--address {NODE1} {FORWARDS}"));
    let _in_container = tcp::Server::start(reference.n1().ns(), 80, Service::Whoami);
    let _in_host = tcp::Server::start(host, 8081, Service::Whoami);
    let refused = |ns: &xnat_tests::netns::Namespace, address| {
        let error = tcp::connect(ns, 0, (address, 8080)).expect_err("nobody listens there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    };
    refused(reference.outside.ns(), Ipv4Addr::new(172, 29, 0, 5));
    // By the host's address inside, and by its loopback address.
    refused(reference.n1().ns(), Ipv4Addr::new(192, 168, 110, 1));
    refused(host, Ipv4Addr::LOCALHOST);
}

#[test]
fn leave_their_port_to_the_container_that_they_lead_to() {
    let reference = Reference::new();
    let _xnat = alone(&reference, "--forward udp:5060=192.168.110.11:5060");
    // As telephones do: both ends use one port for what they ask and what they are asked.
    let phone = udp_at(reference.n1().ns(), N1, 5060);
    let exchange = udp_at(reference.outside.ns(), OUTSIDE, 5060);
    let seen = pass(&phone, local(&exchange), &exchange, b"REGISTER");
    assert_eq!(seen, SocketAddrV4::new(NODE1, 5060));
    assert_eq!(pass(&exchange, seen, &phone, b"INVITE"), local(&exchange));
    let stranger = udp_at(reference.outside.ns(), OUTSIDE, 6000);
    assert_eq!(pass(&stranger, seen, &phone, b"INVITE"), local(&stranger));
}

#[test]
fn open_nothing_in_the_name_of_a_peers_container() {
    let reference = Reference::new();
    let one = Xnat::start(
        reference.node1.host.ns(),
        &format!("--peer {NODE2}={SUBNET2} --subnet {SUBNET1} --forward udp:5353=192.168.110.11:5300"),
    );
    let names = udp::Server::echo(reference.n1().ns(), 5300);
    let wire = Capture::filtered(reference.node1.host.wire(), "udp and dst net 192.168.220.0/24");
    // An outsider forges the source; the answer would leave for an address that is not on the wire.
    Raw::udp((N2, 4000), (NODE1, 5353), b"forged").send(reference.outside.ns());
    udp::expect_echo(&udp::socket(reference.outside.ns(), 0), (NODE1, 5353), 7, 100);
    assert!(names.received().iter().all(|(from, _)| *from.ip() == OUTSIDE), "{:?}", names.received());
    assert_eq!(one.count(&format!("--src {N2}")), 0);
    wire.expect_none("an answer to it", |_| true);
}

#[test]
fn ranges_are_forwarded_one_to_one() {
    let reference = Reference::new();
    let _xnat = alone(&reference, "--forward udp:5000-5002=192.168.110.11:6000-6002");
    let servers = [6000, 6001, 6002]
        .map(|port| udp::Server::answering(reference.n1().ns(), port, move |_| Some(port.to_be_bytes().to_vec())));
    for (offset, server) in (0_u16..).zip(&servers) {
        let socket = udp::socket(reference.outside.ns(), 0);
        socket.send_to(b"which?", (NODE1, 5000 + offset)).expect("sent");
        let mut answer = [0; 8];
        let (length, from) = socket.recv_from(&mut answer).expect("an answer");
        assert_eq!(from, SocketAddrV4::new(NODE1, 5000 + offset).into());
        assert_eq!(answer[..length], server.port().to_be_bytes());
    }
}

#[test]
fn come_and_go_while_connections_live_on() {
    let reference = Reference::new();
    let xnat = alone(&reference, "");
    let _web = tcp::Server::start(reference.n1().ns(), 80, Service::Echo);
    let refused = || tcp::connect(reference.outside.ns(), 0, (NODE1, 8080)).expect_err("no forward").kind();
    assert_eq!(refused(), std::io::ErrorKind::ConnectionRefused);
    xnat.run("forward add tcp:8080=192.168.110.11:80");
    let mut stream = tcp::expect_connect(reference.outside.ns(), 0, (NODE1, 8080));
    tcp::expect_echo(&mut stream, 3, 10_000);
    reference.node1.host.ns().within(|| tcp::visit(0, (NODE1, 8080), 4, 10_000)).expect("from the host as well");
    xnat.run("forward remove tcp:8080");
    tcp::expect_echo(&mut stream, 5, 10_000);
    assert_eq!(refused(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_default_container_gets_what_a_peer_without_xnat_sends() {
    let reference = Reference::new();
    let one = Xnat::start(
        reference.node1.host.ns(),
        &format!("--peer {NODE2}={SUBNET2} --subnet {SUBNET1} --default-inbound {N1}"),
    );
    // node2 has the document's four rules and nothing else.
    reference.node2.host.ns().shell(&format!(
        "iptables -t nat -A POSTROUTING -s {SUBNET2} ! -o br0 -j MASQUERADE
         iptables -t nat -A PREROUTING -d {SUBNET1} -j DNAT --to-destination {NODE1}
         sysctl -q net.ipv4.ip_forward=1"
    ));
    let web = tcp::Server::start(reference.n1().ns(), 80, Service::Whoami);
    let _host = tcp::Server::start(reference.node1.host.ns(), 22, Service::Whoami);
    ping(reference.n2().ns(), "-c 2", N1).expect_answered_by(N1);
    assert_eq!(*tcp::whoami(reference.n2().ns(), 0, (N1, 80)).ip(), NODE2);
    assert_eq!(web.clients().len(), 1, "the container itself was reached");
    // A socket of the host's keeps what is its own.
    tcp::whoami(reference.n2().ns(), 0, (N1, 22));
    assert_eq!(web.clients().len(), 1);
    // And nobody else gets there.
    let error = tcp::connect(reference.outside.ns(), 0, (NODE1, 80)).expect_err("no peer");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    one.expect_flow("the default's", |flow| flow.kind == "forward" && flow.reply.src == N1);
}
