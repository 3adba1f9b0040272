//! TTL, MTU and resets: what a router on the path does.

use xnat_tests::capture::Capture;
use xnat_tests::packet::{ACK, ICMP, Packet, RST};
use xnat_tests::program::{self, ping};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, Reference};
use xnat_tests::xnat;

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

#[test]
fn a_narrow_link_behind_the_peer_is_reported_through_both_translations() {
    let reference = Reference::new();
    reference.node2.host.ns().ip("link set br0 mtu 1300");
    reference.n2().set_mtu(1300);
    let _xnat = xnat::start_both(&reference);
    let at_n1 = Capture::on(reference.n1().inside());
    ping(reference.n1().ns(), "-c 1 -M do -s 1400", N2).expect_silence();
    let error = at_n1.expect("fragmentation needed", |p| p.proto == ICMP && p.icmp_type == 3 && p.icmp_code == 4);
    let inner = error.embedded().expect("the request");
    assert_eq!(error.icmp_rest & 0xffff, 1300, "{error:?}");
    assert!(inner.goes(N1, N2) && error.dst == N1 && error.checksums_right(), "{error:?} {inner:?}");
    let sink = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    tcp::expect_transfer(reference.n1().ns(), (N2, sink.port()), 5_000_000);
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
