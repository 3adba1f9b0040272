//! TTL, MTU and resets: what a router on the path does.

use std::net::SocketAddrV4;

use xnat_tests::capture::Capture;
use xnat_tests::packet::{ACK, ICMP, Packet, RST, TCP, UDP};
use xnat_tests::program::{self, ping};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, Node, Reference};
use xnat_tests::{udp, xnat};

use crate::{GATEWAY1, GATEWAY2};

#[test]
fn an_expired_ttl_is_answered_with_time_exceeded() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let at_n1 = Capture::on(reference.n1().inside());
    let wire = Capture::on(reference.node1.host.wire());
    let exceeded = |p: &Packet| p.proto == ICMP && p.icmp_type == 11;
    ping(reference.n1().ns(), "-c 1 -t 1 -e 900", N2).expect_silence();
    let first = at_n1.expect("time exceeded by its own host", exceeded);
    let inner = first.embedded().expect("the request");
    assert!(first.goes(GATEWAY1, N1) && inner.goes(N1, N2) && inner.sport == 900, "{first:?} {inner:?}");
    wire.expect_none("the request", |p| p.proto == ICMP && p.icmp_type == 8);
    ping(reference.n1().ns(), "-c 1 -t 2 -e 901", N2).expect_silence();
    let second = at_n1.expect("time exceeded by the peer", |p| exceeded(p) && p.src != GATEWAY1);
    let inner = second.embedded().expect("the request");
    assert!([NODE2, GATEWAY2].contains(&second.src) && second.dst == N1, "{second:?}");
    assert!(inner.goes(N1, N2) && inner.sport == 901 && second.checksums_right(), "{inner:?}");
}

#[test]
fn traceroute_shows_both_hosts_and_the_container() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    for words in ["-I", "-U -p 33000", "-T -p 80"] {
        let hops = program::traceroute(reference.n1().ns(), words, N2);
        assert_eq!(hops.len(), 3, "{words}: {hops:?}");
        assert_eq!((hops[0], hops[2]), (Some(GATEWAY1), Some(N2)), "{words}: {hops:?}");
        assert!(hops[1].is_some_and(|hop| hop == NODE2 || hop == N2), "{words}: {hops:?}");
    }
    let hops = program::traceroute(reference.n1().ns(), "-I", ANYWHERE);
    assert_eq!(hops, [Some(GATEWAY1), Some(ANYWHERE)]);
}

#[test]
fn a_packet_over_the_uplinks_mtu_gets_fragmentation_needed() {
    let reference = Reference::new();
    reference.node1.host.set_uplink_mtu(1400);
    let _xnat = xnat::start_both(&reference);
    for target in [N2, ANYWHERE] {
        let at_n1 = Capture::on(reference.n1().inside());
        ping(reference.n1().ns(), "-c 1 -M do -s 1472", target).expect_silence();
        let error = at_n1.expect("fragmentation needed", |p| p.proto == ICMP && p.icmp_type == 3 && p.icmp_code == 4);
        let inner = error.embedded().expect("the request");
        assert_eq!(error.icmp_rest & 0xffff, 1400, "the next hop's MTU: {error:?}");
        assert!(error.goes(GATEWAY1, N1) && inner.goes(N1, target) && error.checksums_right(), "{error:?} {inner:?}");
        ping(reference.n1().ns(), "-c 1 -M do -s 1372", target).expect_answered_by(target);
    }
    let sink = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    tcp::expect_transfer(reference.n1().ns(), (N2, sink.port()), 5_000_000);
    assert!(program::tracepath(reference.n1().ns(), "-m 6", N2).contains("pmtu 1400"));
}

/// Makes the container network of a node narrow: its bridge and the containers' veth.
fn make_narrow(node: &Node, mtu: u32) {
    node.host.ns().ip(&format!("link set br0 mtu {mtu}"));
    node.containers[0].set_mtu(mtu);
}

#[test]
fn a_narrow_network_behind_the_peer_is_reported_through_both_translations() {
    let reference = Reference::new();
    make_narrow(&reference.node2, 1400);
    let (_one, two) = xnat::start_both(&reference);
    let at_n1 = Capture::on(reference.n1().inside());
    let wire = Capture::on(reference.node1.host.wire());
    let fragmentation_needed = |p: &Packet| p.proto == ICMP && p.icmp_type == 3 && p.icmp_code == 4;
    ping(reference.n1().ns(), "-c 1 -e 911 -M do -s 1472", N2).expect_silence();
    for (place, container, inner_src, inner_dst) in [(&at_n1, N1, N1, N2), (&wire, NODE1, NODE1, NODE2)] {
        let error = place.expect("fragmentation needed", fragmentation_needed);
        let inner = error.embedded().expect("the request");
        assert_eq!(error.icmp_rest, 1400, "the next hop's MTU: {error:?}");
        assert!(error.goes(NODE2, container) && error.checksums_right(), "{error:?}");
        assert!(inner.goes(inner_src, inner_dst) && inner.checksums_right(), "{inner:?}");
        assert_eq!((inner.sport, inner.icmp_type, inner.len), (911, 8, 1500), "{inner:?}");
    }
    ping(reference.n1().ns(), "-c 2 -M do -s 1372", N2).expect_answered_by(N2);
    let in_n2 = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    let in_n1 = tcp::Server::start(reference.n1().ns(), 0, Service::Sink);
    tcp::expect_transfer(reference.n1().ns(), (N2, in_n2.port()), 5_000_000);
    tcp::expect_transfer(reference.n2().ns(), (N1, in_n1.port()), 5_000_000);
    assert!(program::tracepath(reference.n1().ns(), "-m 6", N2).contains("pmtu 1400"));
    assert!(two.counter("to_kernel_mtu") >= 1);
}

#[test]
fn tcp_that_is_too_big_for_the_network_behind_the_peer_discovers_its_mtu() {
    let reference = Reference::new();
    // Only the host's side is narrow: n2 promises to take more than its host can deliver.
    reference.node2.host.ns().ip("link set br0 mtu 1400");
    let _xnat = xnat::start_both(&reference);
    let at_n1 = Capture::filtered(reference.n1().inside(), "icmp");
    let sink = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    tcp::expect_transfer(reference.n1().ns(), (N2, sink.port()), 5_000_000);
    let error = at_n1.expect("fragmentation needed", |p| p.proto == ICMP && p.icmp_type == 3 && p.icmp_code == 4);
    let inner = error.embedded().expect("the segment");
    assert!(error.icmp_rest == 1400 && error.goes(NODE2, N1) && error.checksums_right(), "{error:?}");
    assert!(inner.goes(N1, N2) && inner.proto == TCP && inner.dport == sink.port(), "{inner:?}");
}

#[test]
fn what_may_be_fragmented_is_and_arrives() {
    let reference = Reference::new();
    make_narrow(&reference.node2, 1400);
    let (_one, two) = xnat::start_both(&reference);
    let at_n2 = Capture::on(reference.n2().inside());
    // Its datagrams do not say "don't fragment".
    reference.n1().ns().set_sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    let server = udp::Server::echo(reference.n2().ns(), 5300);
    let socket = udp::socket(reference.n1().ns(), 41000);
    for (seed, length) in [(1, 1472), (2, 100), (3, 1450), (4, 1372), (5, 4000)] {
        udp::expect_echo(&socket, (N2, 5300), seed, length);
    }
    let fragment = at_n2.expect("a fragment", |p| p.proto == UDP && p.is_fragment());
    assert!(fragment.goes(NODE1, N2) && fragment.ttl == 62 && fragment.len <= 1400, "{fragment:?}");
    at_n2.expect_none("an option", |p| p.goes(NODE1, N2) && !p.options.is_empty());
    assert!(server.received().iter().all(|(from, _)| *from == SocketAddrV4::new(NODE1, 41000)));
    assert!(two.counter("to_kernel_mtu") >= 2);
    ping(reference.n1().ns(), "-c 3 -M dont -s 1472", N2).expect_answered_by(N2);
}

#[test]
fn uplinks_that_are_narrower_than_the_containers_networks_carry_everything() {
    let reference = Reference::new();
    for host in [&reference.node1.host, &reference.node2.host, &reference.outside] {
        host.set_uplink_mtu(1400);
    }
    let (one, _two) = xnat::start_both(&reference);
    let wire = Capture::filtered(reference.node1.host.wire(), "ip");
    for node in [&reference.node1, &reference.node2] {
        node.containers[0].ns().set_sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    }
    for (from, to) in [(reference.n1(), reference.n2()), (reference.n2(), reference.n1())] {
        let _server = udp::Server::echo(to.ns(), 5300);
        let socket = udp::socket(from.ns(), 41000);
        for (seed, length) in [(1, 1472), (2, 1400), (3, 1372), (4, 1360), (5, 6000)] {
            udp::expect_echo(&socket, (to.address(), 5300), seed, length);
        }
        ping(from.ns(), "-c 3 -M dont -s 1472", to.address()).expect_answered_by(to.address());
        ping(from.ns(), "-c 2 -M dont -s 1472", ANYWHERE).expect_answered_by(ANYWHERE);
    }
    for node in [&reference.node1, &reference.node2] {
        node.containers[0].ns().set_sysctl("net/ipv4/ip_no_pmtu_disc", "0");
    }
    let in_n1 = tcp::Server::start(reference.n1().ns(), 0, Service::Sink);
    let in_n2 = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    tcp::expect_transfer(reference.n1().ns(), (N2, in_n2.port()), 5_000_000);
    tcp::expect_transfer(reference.n2().ns(), (N1, in_n1.port()), 5_000_000);
    assert!(one.counter("to_kernel_mtu") >= 1);
    wire.expect("a fragment", |p| p.goes(NODE1, NODE2) && p.is_fragment());
    wire.expect_none("a container's address", |p| p.src == N1 || p.dst == N1 || p.src == N2 || p.dst == N2);
}

#[test]
fn full_size_and_oversized_pings_are_answered() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    for (words, target) in [("-M do -s 1472", N2), ("-s 1473", N2), ("-s 3000", N2), ("-s 3000", ANYWHERE)] {
        ping(reference.n1().ns(), &format!("-c 2 {words}"), target).expect_answered_by(target);
    }
}

#[test]
fn a_reset_closes_at_both_ends() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let at_n2 = Capture::filtered(reference.n2().inside(), "tcp");
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    tcp::expect_echo(&mut stream, 1, 1000);
    // Linger of zero: closing sends RST.
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(std::time::Duration::ZERO)).expect("a TCP socket");
    drop(socket);
    let reset = at_n2.expect("the RST", |p| p.flags & RST != 0);
    assert!(reset.goes(NODE1, N2) && reset.has_flags(RST | ACK) && server.clients().len() == 1, "{reset:?}");
    // The port may be used again at once.
    reference.n1().ns().within(|| tcp::visit(40000, (N2, 80), 2, 1000)).expect("an echo");
}
