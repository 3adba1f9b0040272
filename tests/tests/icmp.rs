//! ICMP errors on a path with routers: every hop is seen, from both ends, and every MTU is found.
//!
//! The way is n1, node1, near router, far router, node2, n2; a server is at the far end as well. Between the routers the
//! wire may be narrower than everywhere else.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use xnat_tests::capture::Capture;
use xnat_tests::host::{Host, Lan};
use xnat_tests::packet::{ICMP, Packet, TCP, UDP};
use xnat_tests::program::{self, ping};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, Node, SUBNET1, SUBNET2};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};
use xnat_tests::{payload, udp};

/// node1's address on its bridge.
const GATEWAY1: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 1);
/// node2's address on its bridge.
const GATEWAY2: Ipv4Addr = Ipv4Addr::new(192, 168, 220, 1);
/// The near router, toward node1; `topology` has it as the hosts' default router.
const NEAR: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 100);
/// The near router, toward the far one.
const NEAR_FAR: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The far router, toward the near one.
const FAR_NEAR: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// The far router, toward node2.
const FAR: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 100);
/// node2, which is not on node1's wire here.
const NODE2: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 17);
/// The server.
const SERVER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 50);

/// Two nodes, two routers between them, and a server.
struct Path {
    node1: Node,
    node2: Node,
    near: Host,
    far: Host,
    server: Host,
    /// The wire between the routers, which is there as long as somebody holds it.
    _middle: Lan,
}

impl Path {
    fn new() -> Self {
        let [near_lan, middle_lan, far_lan] = [Lan::new(), Lan::new(), Lan::new()];
        let node1 = Node::new(&near_lan, "node1", NODE1, "192.168.110", 1);
        let near = Host::new(&near_lan, "near", &format!("{NEAR}/24"));
        let far = Host::new(&far_lan, "far", &format!("{FAR}/24"));
        for (router, address, beyond, next) in
            [(&near, NEAR_FAR, "172.31.0.0/24", FAR_NEAR), (&far, FAR_NEAR, "172.29.0.0/24", NEAR_FAR)]
        {
            middle_lan.plug(router.ns(), "eth1");
            router.ns().ip(&format!("address add {address}/24 dev eth1"));
            router.ns().ip(&format!("route add {beyond} via {next}"));
            // A router tells of every packet.
            router.ns().set_sysctl("net/ipv4/icmp_ratelimit", "0");
        }
        let at_far_end = |label: &str, address: Ipv4Addr| {
            let host = Host::new(&far_lan, label, &format!("{address}/24"));
            host.ns().ip(&format!("route add default via {FAR}"));
            host
        };
        let host = at_far_end("node2", NODE2);
        host.bridge("br0", &format!("{GATEWAY2}/24"));
        let containers = vec![host.container("br0", "node2c0", &format!("{N2}/24"))];
        let server = at_far_end("server", SERVER);
        Self { node1, node2: Node { host, containers }, near, far, server, _middle: middle_lan }
    }

    /// With xnat on both nodes.
    fn with_xnat() -> (Self, Vec<Xnat>) {
        let path = Self::new();
        for node in [&path.node1, &path.node2] {
            node.host.ns().set_sysctl("net/ipv4/icmp_ratelimit", "0");
        }
        let xnats = xnat::start_mesh(&[(&path.node1, NODE1, SUBNET1), (&path.node2, NODE2, SUBNET2)]);
        (path, xnats)
    }

    /// Makes the wire between the routers narrow.
    fn make_narrow(&self, mtu: u32) {
        for router in [&self.near, &self.far] {
            router.ns().ip(&format!("link set eth1 mtu {mtu}"));
        }
    }

    fn n1(&self) -> &xnat_tests::host::Container {
        &self.node1.containers[0]
    }

    fn n2(&self) -> &xnat_tests::host::Container {
        &self.node2.containers[0]
    }
}

fn fragmentation_needed(p: &Packet) -> bool {
    p.proto == ICMP && p.icmp_type == 3 && p.icmp_code == 4
}

/// What traceroute shows, however it asks.
#[track_caller]
fn expect_hops(from: &xnat_tests::host::Container, to: Ipv4Addr, hops: &[Ipv4Addr]) {
    let expected: Vec<Option<Ipv4Addr>> = hops.iter().copied().map(Some).collect();
    for words in ["-I", "-U -p 33000", "-T -p 80"] {
        assert_eq!(program::traceroute(from.ns(), words, to), expected, "traceroute {words} to {to}");
    }
    let output = program::tracepath(from.ns(), "-m 8", to);
    // `2:  172.29.0.100   0.123ms`; the first line of all is the MTU of the interface.
    let mut seen: BTreeMap<u32, Ipv4Addr> = BTreeMap::new();
    for line in output.lines() {
        let mut words = line.split_whitespace();
        let number = words.next().and_then(|word| word.trim_end_matches([':', '?']).parse().ok());
        let hop = words.next().and_then(|word| word.parse().ok());
        if let (Some(number), Some(hop)) = (number, hop) {
            seen.insert(number, hop);
        }
    }
    assert_eq!(seen.into_values().collect::<Vec<_>>(), hops, "tracepath to {to}:\n{output}");
    assert!(output.contains("reached"), "{output}");
}

#[test]
fn every_hop_to_the_outside_is_seen() {
    let (path, _xnats) = Path::with_xnat();
    let _server = tcp::Server::start(path.server.ns(), 80, Service::Echo);
    let at_n1 = Capture::filtered(path.n1().inside(), "icmp");
    let wire = Capture::filtered(path.node1.host.wire(), "ip");
    expect_hops(path.n1(), SERVER, &[GATEWAY1, NEAR, FAR_NEAR, SERVER]);
    // From the other container the same path is seen from its end.
    expect_hops(path.n2(), NODE1, &[GATEWAY2, FAR, NEAR_FAR, NODE1]);
    for proto in [UDP, TCP, ICMP] {
        let error = at_n1.expect("time exceeded by the far router", |p| {
            p.src == FAR_NEAR && p.icmp_type == 11 && p.embedded().is_some_and(|inner| inner.proto == proto)
        });
        let inner = error.embedded().expect("a probe");
        assert!(error.dst == N1 && inner.goes(N1, SERVER) && error.checksums_right(), "{error:?} {inner:?}");
        assert!(inner.checksums_right(), "{inner:?}");
    }
    wire.expect_none("a container's address", |p| p.src == N1 || p.dst == N1);
}

#[test]
fn every_hop_to_a_peers_container_is_seen() {
    let (path, _xnats) = Path::with_xnat();
    let _in_n2 = tcp::Server::start(path.n2().ns(), 80, Service::Echo);
    let _in_n1 = tcp::Server::start(path.n1().ns(), 80, Service::Echo);
    let at_n1 = Capture::filtered(path.n1().inside(), "icmp");
    expect_hops(path.n1(), N2, &[GATEWAY1, NEAR, FAR_NEAR, NODE2, N2]);
    expect_hops(path.n2(), N1, &[GATEWAY2, FAR, NEAR_FAR, NODE1, N1]);
    for router in [NEAR, FAR_NEAR, NODE2] {
        let error = at_n1.expect("time exceeded", |p| p.src == router && p.icmp_type == 11);
        let inner = error.embedded().expect("a probe");
        assert!(error.dst == N1 && inner.goes(N1, N2) && error.checksums_right(), "{error:?} {inner:?}");
        assert!(inner.checksums_right(), "{inner:?}");
    }
}

#[test]
fn tracepath_finds_a_narrow_wire_behind_a_router_from_both_ends() {
    let (path, _xnats) = Path::with_xnat();
    path.make_narrow(1380);
    for (from, to) in [(path.n1(), SERVER), (path.n1(), N2), (path.n2(), N1)] {
        let output = program::tracepath(from.ns(), "-m 8", to);
        assert!(output.contains("pmtu 1380") && output.contains("reached"), "to {to}:\n{output}");
    }
}

#[test]
fn fragmentation_needed_is_translated_on_the_dnat_path() {
    let (path, _xnats) = Path::with_xnat();
    path.make_narrow(1380);
    let at_n1 = Capture::filtered(path.n1().inside(), "icmp");
    let at_n2 = Capture::filtered(path.n2().inside(), "icmp");
    // n1 opens; both send full segments, so n2 does behind the translation that its host has made for the peer.
    let server = tcp::Server::start(path.n2().ns(), 0, Service::Echo);
    let mut stream = tcp::expect_connect(path.n1().ns(), 40000, (N2, server.port()));
    tcp::expect_echo(&mut stream, 1, 1_000_000);
    for (place, router, container, other) in [(&at_n1, NEAR, N1, N2), (&at_n2, FAR, N2, NODE1)] {
        let error = place.expect("fragmentation needed", fragmentation_needed);
        let inner = error.embedded().expect("a segment");
        assert!(error.goes(router, container) && error.icmp_rest == 1380 && error.checksums_right(), "{error:?}");
        assert!(inner.goes(container, other) && inner.proto == TCP && inner.checksums_right(), "{inner:?}");
    }
    // And toward the outside.
    let sink = tcp::Server::start(path.server.ns(), 0, Service::Sink);
    tcp::expect_transfer(path.n1().ns(), (SERVER, sink.port()), 1_000_000);
}

#[test]
fn dont_fragment_is_respected() {
    let (path, _xnats) = Path::with_xnat();
    path.make_narrow(1380);
    for (at, to) in [(path.server.wire(), SERVER), (path.node2.host.wire(), N2)] {
        let far_end = Capture::filtered(at, "icmp");
        let at_n1 = Capture::filtered(path.n1().inside(), "icmp");
        ping(path.n1().ns(), "-c 1 -M do -s 1472", to).expect_silence();
        let error = at_n1.expect("fragmentation needed", fragmentation_needed);
        let inner = error.embedded().expect("the request");
        assert!(error.src == NEAR && error.icmp_rest == 1380 && inner.goes(N1, to), "{error:?} {inner:?}");
        ping(path.n1().ns(), "-c 1 -M do -s 1352", to).expect_answered_by(to);
        far_end.expect("the one that fits", |p| p.icmp_type == 8 && p.len == 1380);
        far_end.expect_none("a piece", |p| p.is_fragment() || p.len > 1380);
    }
}

#[test]
fn datagrams_that_may_be_fragmented_are_and_in_order() {
    let (path, _xnats) = Path::with_xnat();
    // The uplinks are the narrow part: the hosts fragment what their containers send.
    path.node1.host.set_uplink_mtu(1380);
    path.node2.host.set_uplink_mtu(1380);
    for container in [path.n1(), path.n2()] {
        container.ns().set_sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    }
    let node1_wire = Capture::filtered(path.node1.host.wire(), "udp");
    let node2_wire = Capture::filtered(path.node2.host.wire(), "udp");
    let sizes = [1472, 1353, 4000, 9000];
    for (from, to, ns, wire, seen_as) in [
        (path.n1(), SERVER, path.server.ns(), &node1_wire, SERVER),
        (path.n1(), N2, path.n2().ns(), &node1_wire, NODE2),
        (path.n2(), N1, path.n1().ns(), &node2_wire, NODE1),
    ] {
        let server = udp::Server::silent(ns, 5300);
        let socket = udp::socket(from.ns(), 41000);
        for (number, size) in sizes.into_iter().enumerate() {
            let sent = payload::pattern(number as u64, size);
            socket.send_to(&sent, (to, 5300)).expect("a route");
            wait::until_true("the datagram arrives", SOON, || server.received().len() > number);
            assert_eq!(server.received()[number].1, sent, "{size} octets to {to}");
        }
        let of_these = |p: &Packet| p.dst == seen_as && p.is_fragment();
        wire.expect_count("a last piece", sizes.len(), |p| of_these(p) && !p.more_fragments);
        let mut ends: BTreeMap<u16, u16> = BTreeMap::new();
        for piece in wire.matching(of_these) {
            let end = ends.entry(piece.id).or_default();
            assert_eq!(piece.fragment_offset, *end, "in order: {}", wire.transcript());
            assert!(piece.len <= 1380 && !piece.dont_fragment && piece.options.is_empty(), "{piece:?}");
            *end = piece.fragment_offset + piece.len - 20;
        }
        assert_eq!(ends.len(), sizes.len(), "datagrams: {}", wire.transcript());
    }
}

#[test]
fn an_unreachable_port_is_reported_to_the_container_that_asked() {
    let (path, _xnats) = Path::with_xnat();
    for to in [SERVER, N2] {
        let socket = udp::socket(path.n1().ns(), 0);
        socket.connect((to, 5399)).expect("a route");
        socket.send(b"is anybody there").expect("a route");
        let refused = socket.recv(&mut [0; 16]).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}
