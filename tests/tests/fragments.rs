//! Fragments through whole hosts, in every order, as containers, the outside and peers see them.

use std::net::Ipv4Addr;

use xnat_tests::capture::Capture;
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{ACK, Checksum, ICMP, Packet, SYN, TCP, UDP};
use xnat_tests::program::ping;
use xnat_tests::raw::{Ear, Raw, send_all};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, OUTSIDE, Reference, SUBNET1};
use xnat_tests::xnat::{self, Xnat};
use xnat_tests::{payload, udp, wait};

/// The second container of node1.
const N1_SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 12);
/// What a fragment carries on Ethernet.
const PART: usize = 1480;

/// One host with xnat, and the outside.
fn start_one(reference: &Reference) -> Xnat {
    start_one_with(reference, "")
}

/// As [`start_one`], with further words.
fn start_one_with(reference: &Reference, words: &str) -> Xnat {
    // Nobody there answers segments that no socket knows.
    reference.outside.ns().shell("iptables -A OUTPUT -p tcp ! -f --tcp-flags RST RST -j DROP");
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1} --uplink eth0 {words}"))
}

/// A packet of each protocol with `length` octets of payload, on a port or with an identifier.
fn packet(proto: u8, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), kind: u8, seed: u64, length: usize) -> Raw {
    let data = payload::pattern(seed, length);
    let raw = match proto {
        UDP => Raw::udp(src, dst, &data),
        TCP => {
            let mut raw = Raw::tcp(src, dst, kind, 1000, 2000);
            raw.body.extend(&data);
            raw
        }
        _ => {
            // An identifier is the port of the end that asks.
            let id = src.1.max(dst.1).to_be_bytes();
            let mut raw = Raw::new(src.0, dst.0, ICMP, &[kind, 0, 0, 0, id[0], id[1], 0, 1]);
            raw.body.extend(&data);
            raw
        }
    };
    raw.summed()
}

/// The same pieces in order, reversed, and in three orders of chance.
fn orders<T: Clone>(pieces: &[T]) -> Vec<Vec<T>> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut shuffled = || {
        let mut pieces = pieces.to_vec();
        for last in (1..pieces.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pieces.swap(last, (state % (last as u64 + 1)) as usize);
        }
        pieces
    };
    let reversed = pieces.iter().rev().cloned().collect();
    vec![pieces.to_vec(), reversed, shuffled(), shuffled(), shuffled()]
}

/// Whether a packet has come whole, with this payload.
fn is_whole(packet: &Packet, seed: u64, length: usize) -> bool {
    packet.l4_checksum == Checksum::Valid && packet.payload == payload::pattern(seed, length)
}

#[track_caller]
fn expect_whole(ear: &Ear, what: &str, src: Ipv4Addr, seed: u64, length: usize) -> Packet {
    ear.expect(what, |p| p.src == src && is_whole(p, seed, length))
}

/// Has a namespace take fragments of a test's length at all: the kernel's own reassembly is not what is tested.
fn quiet(ns: &Namespace) {
    ns.set_sysctl("net/ipv4/icmp_echo_ignore_all", "1");
}

#[test]
fn fragments_reach_the_outside_in_any_order() {
    let reference = Reference::new();
    let xnat = start_one(&reference);
    quiet(reference.outside.ns());
    let wire = Capture::on(reference.node1.host.wire());
    let mut seed = 0;
    for (proto, kind) in [(UDP, 0), (TCP, SYN), (ICMP, 8)] {
        let ear = Ear::new(reference.outside.ns(), proto);
        for nth in 0..5 {
            seed += 1;
            let dport = if proto == ICMP { 0 } else { 5300 };
            let whole = packet(proto, (N1, 41_000 + nth), (ANYWHERE, dport), kind, seed, 6000);
            let order = orders(&whole.parts(seed as u16, PART)).swap_remove(nth.into());
            send_all(reference.n1().ns(), &order);
            let heard = expect_whole(&ear, &format!("protocol {proto}, order {nth}"), NODE1, seed, 6000);
            assert_eq!((heard.sport, heard.ttl), (41_000 + nth, 63), "{heard:?}");
        }
    }
    let sent = wire.matching(|p| p.is_fragment() && p.src == NODE1);
    for (nth, first) in sent.iter().enumerate().filter(|(_, p)| p.fragment_offset == 0) {
        let others = sent[..nth].iter().filter(|p| p.id == first.id && p.proto == first.proto).count();
        assert_eq!(others, 0, "the first fragment is the first on the wire");
    }
    wire.expect_none("a container's address", |p| p.src == N1 || p.dst == N1);
    assert!(xnat.counter("fragments_held") > 0);
    assert_eq!((xnat.counter("fragment_overlap"), xnat.counter("fragment_unknown")), (0, 0));
}

#[test]
fn fragments_reach_the_container_in_any_order() {
    let reference = Reference::new();
    let xnat = start_one(&reference);
    quiet(reference.outside.ns());
    let mut seed = 100;
    for (proto, ask, answer) in [(UDP, 0, 0), (TCP, SYN, SYN | ACK), (ICMP, 8, 0)] {
        let server = (ANYWHERE, if proto == ICMP { 0 } else { 5301 });
        let there = Ear::new(reference.outside.ns(), proto);
        let here = Ear::new(reference.n1().ns(), proto);
        for nth in 0..5 {
            seed += 1;
            let port = 42_000 + nth;
            packet(proto, (N1, port), server, ask, seed, 100).send(reference.n1().ns());
            expect_whole(&there, "the question", NODE1, seed, 100);
            let whole = packet(proto, server, (NODE1, port), answer, seed, 7000);
            let order = orders(&whole.parts(seed as u16, PART)).swap_remove(nth.into());
            send_all(reference.outside.ns(), &order);
            let heard = expect_whole(&here, &format!("protocol {proto}, order {nth}"), ANYWHERE, seed, 7000);
            assert_eq!((heard.dst, heard.dport), (N1, port), "{heard:?}");
        }
    }
    assert!(xnat.counter("fragments_held") > 0);
    assert_eq!((xnat.counter("fragment_overlap"), xnat.counter("fragment_unknown")), (0, 0));
}

#[test]
fn fragments_come_in_any_order_at_hooks_of_older_kernels() {
    let reference = Reference::new();
    let xnat = start_one_with(&reference, "--hooks clsact");
    let (there, here) = (Ear::new(reference.outside.ns(), UDP), Ear::new(reference.n1().ns(), UDP));
    for nth in 0..5_u16 {
        let (seed, port) = (400 + u64::from(nth), 52_000 + nth);
        let question = packet(UDP, (N1, port), (ANYWHERE, 5311), 0, seed, 5000).parts(800 + nth, PART);
        send_all(reference.n1().ns(), &orders(&question).swap_remove(nth.into()));
        expect_whole(&there, "the question", NODE1, seed, 5000);
        let answer = packet(UDP, (ANYWHERE, 5311), (NODE1, port), 0, seed, 6000).parts(800 + nth, PART);
        send_all(reference.outside.ns(), &orders(&answer).swap_remove(nth.into()));
        expect_whole(&here, "the answer", ANYWHERE, seed, 6000);
    }
    assert!(xnat.counter("fragments_held") > 0);
}

#[test]
fn fragments_of_many_datagrams_at_once_are_kept_apart() {
    let reference = Reference::new();
    let _xnat = start_one(&reference);
    let ear = Ear::new(reference.outside.ns(), UDP);
    let datagrams = 1..=8_u16;
    let whole = |nth: u16| packet(UDP, (N1, 43_000 + nth), (ANYWHERE, 5302), 0, nth.into(), 4000);
    let pieces: Vec<Raw> = datagrams.clone().flat_map(|nth| whole(nth).parts(500 + nth, PART)).collect();
    for order in orders(&pieces) {
        send_all(reference.n1().ns(), &order);
        let mut missing: Vec<u16> = datagrams.clone().collect();
        while !missing.is_empty() {
            let whole = |p: &Packet, nth: u16| p.sport == 43_000 + nth && is_whole(p, nth.into(), 4000);
            let heard = ear.expect("a datagram", |p| missing.iter().any(|nth| whole(p, *nth)));
            missing.retain(|nth| !whole(&heard, *nth));
        }
    }
}

#[test]
fn fragments_that_come_on_two_processors_at_once_find_each_other() {
    let reference = Reference::new();
    let xnat = start_one(&reference);
    // However far apart they are, the receiver puts them together.
    reference.outside.ns().set_sysctl("net/ipv4/ipfrag_max_dist", "0");
    // A burst to neighbours whose MAC addresses are not known yet would lose packets on its own.
    ping(reference.n1().ns(), "-c 1", ANYWHERE).expect_answered_by(ANYWHERE);
    let ear = Ear::new(reference.outside.ns(), UDP);
    let datagrams = 1..=24_u16;
    let parts =
        |nth: u16| packet(UDP, (N1, 51_000 + nth), (ANYWHERE, 5310), 0, nth.into(), 6000).parts(900 + nth, PART);
    let (mut firsts, mut others) = (Vec::new(), Vec::new());
    for nth in datagrams.clone() {
        let mut all = parts(nth);
        firsts.push(all.remove(0));
        others.extend(all);
    }
    for round in 0..6 {
        let n1 = reference.n1().ns();
        let (one, other) = if round % 2 == 0 { (&firsts, &others) } else { (&others, &firsts) };
        std::thread::scope(|scope| {
            scope.spawn(|| send_all(n1, one));
            scope.spawn(|| send_all(n1, other));
        });
        let mut missing: Vec<u16> = datagrams.clone().collect();
        while !missing.is_empty() {
            let whole = |p: &Packet, nth: u16| p.sport == 51_000 + nth && is_whole(p, nth.into(), 6000);
            let heard = ear.expect("a datagram", |p| missing.iter().any(|nth| whole(p, *nth)));
            missing.retain(|nth| !whole(&heard, *nth));
        }
    }
    assert_eq!((xnat.counter("fragment_overlap"), xnat.counter("fragment_quota")), (0, 0));
}

#[test]
fn fragments_between_containers_of_peers_come_in_any_order() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    quiet(reference.n2().ns());
    let mut seed = 200;
    for (proto, kind) in [(UDP, 0), (TCP, SYN), (ICMP, 8)] {
        let ear = Ear::new(reference.n2().ns(), proto);
        for nth in 0..5 {
            seed += 1;
            let dport = if proto == ICMP { 0 } else { 5303 };
            let whole = packet(proto, (N1, 44_000 + nth), (N2, dport), kind, seed, 5000);
            let order = orders(&whole.parts(seed as u16, PART)).swap_remove(nth.into());
            send_all(reference.n1().ns(), &order);
            let heard = expect_whole(&ear, &format!("protocol {proto}, order {nth}"), NODE1, seed, 5000);
            assert_eq!((heard.dst, heard.sport), (N2, 44_000 + nth), "{heard:?}");
        }
    }
    // The opening fragments were announced by headers of their own.
    assert!(one.counter("announces_sent") > 0 && one.counter("fragments_held") > 0);
}

#[test]
fn fragments_for_the_host_itself_come_in_any_order() {
    let reference = Reference::new();
    let xnat = start_one(&reference);
    for (ns, from, host) in
        [(reference.outside.ns(), OUTSIDE, NODE1), (reference.n1().ns(), N1, Ipv4Addr::new(192, 168, 110, 1))]
    {
        let server = udp::Server::silent(reference.node1.host.ns(), 5304);
        let ear = Ear::new(reference.node1.host.ns(), UDP);
        for nth in 0..5_u16 {
            let seed = 300 + u64::from(nth);
            let whole = packet(UDP, (from, 45_000 + nth), (host, 5304), 0, seed, 5000);
            send_all(ns, &orders(&whole.parts(600 + nth, PART)).swap_remove(nth.into()));
            let heard = expect_whole(&ear, &format!("order {nth} from {from}"), from, seed, 5000);
            assert_eq!((heard.sport, heard.ttl), (45_000 + nth, 64));
        }
        wait::until_true("the server has all", wait::SOON, || server.received().len() == 5);
    }
    assert!(xnat.counter("fragments_held") > 0);
    assert_eq!(xnat.flows("").len(), 0, "what is the host's opens nothing");
}

#[test]
fn fragmented_ping_and_udp_are_not_dropped() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    for target in [N2, ANYWHERE] {
        ping(reference.n1().ns(), "-c 3 -s 60000", target).expect_answered_by(target);
    }
    for (ns, target) in [(reference.outside.ns(), OUTSIDE), (reference.n2().ns(), N2)] {
        let _server = udp::Server::echo(ns, 5305);
        let socket = udp::socket(reference.n1().ns(), 46_000);
        for (seed, length) in [(1, 1473), (2, 9000), (3, 60_000)] {
            udp::expect_echo(&socket, (target, 5305), seed, length);
        }
    }
    // The same ping, from its last fragment to its first.
    let ear = Ear::new(reference.n1().ns(), ICMP);
    for (seed, target) in [(4, N2), (5, ANYWHERE)] {
        let whole = packet(ICMP, (N1, 777), (target, 0), 8, seed, 60_000);
        let mut parts = whole.parts(700 + seed as u16, PART);
        parts.reverse();
        assert_eq!(parts.len(), 41);
        send_all(reference.n1().ns(), &parts);
        let answer = expect_whole(&ear, "the answer", target, seed, 60_000);
        assert_eq!((answer.icmp_type, answer.dst, answer.sport), (0, N1, 777));
    }
    assert_eq!((one.counter("fragment_unknown"), one.counter("fragment_quota")), (0, 0));
}

#[test]
fn two_containers_with_the_same_ip_id_are_not_mixed_up() {
    let reference = Reference::with_containers(2);
    let _xnat = start_one(&reference);
    let wire = Capture::on(reference.node1.host.wire());
    let ear = Ear::new(reference.outside.ns(), UDP);
    let of = |container, seed| packet(UDP, (container, 47_000), (ANYWHERE, 5306), 0, seed, 4000).parts(0x4242, PART);
    let (ones, seconds) = (of(N1, 1), of(N1_SECOND, 2));
    // One fragment of this, one of that.
    for (one, second) in ones.iter().zip(&seconds) {
        one.send(reference.node1.containers[0].ns());
        second.send(reference.node1.containers[1].ns());
    }
    for seed in [1, 2] {
        expect_whole(&ear, "a datagram", NODE1, seed, 4000);
    }
    let sent = wire.expect_count("a fragment", 6, |p| p.is_fragment() && p.goes(NODE1, ANYWHERE));
    let mut ids: Vec<u16> = sent.iter().map(|p| p.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() == 2 && ids.contains(&0x4242), "{ids:x?}");
}

#[test]
fn teardrop_fragments_are_dropped_and_counted() {
    let reference = Reference::new();
    let xnat = start_one(&reference);
    let ear = Ear::new(reference.outside.ns(), UDP);
    let wire = Capture::on(reference.node1.host.wire());
    let whole = packet(UDP, (N1, 48_000), (ANYWHERE, 5307), 0, 1, 4000);
    let attacks = [
        // The second begins within the first, in either order.
        vec![whole.part(1, 0, 1480), whole.part(1, 1472, 1480)],
        vec![whole.part(2, 1472, 1480), whole.part(2, 0, 1480)],
        // The end lies before what has come.
        vec![whole.part(3, 0, 800), whole.part(3, 2400, 800), Raw { fragment: 100, ..whole.part(3, 800, 100) }],
        // Further than any datagram.
        vec![Raw { fragment: 8191, ..whole.part(4, 0, 1000) }],
    ];
    for attack in &attacks {
        send_all(reference.n1().ns(), attack);
        // What is left of the datagram does not follow either.
        send_all(reference.n1().ns(), &[whole.part(attack[0].id, 3200, 800)]);
    }
    send_all(reference.n1().ns(), &whole.parts(9, PART));
    let heard = expect_whole(&ear, "an honest datagram", NODE1, 1, 4000);
    assert_eq!(heard.sport, 48_000);
    wire.expect_none("an end", |p| p.src == NODE1 && p.id != 9 && p.fragment_offset >= 3200);
    assert!(xnat.counter("fragment_overlap") >= 6, "{:?}", xnat.status().counters);
}

#[test]
fn fragments_that_come_twice_are_delivered_once() {
    let reference = Reference::new();
    let xnat = start_one(&reference);
    let ear = Ear::new(reference.outside.ns(), UDP);
    let whole = packet(UDP, (N1, 49_000), (ANYWHERE, 5308), 0, 1, 4000);
    let parts = whole.parts(77, PART);
    for order in orders(&parts) {
        // All but the last one come twice: with that one the datagram is complete, and a copy would begin another.
        let (last, most) = order.split_last().expect("fragments");
        let twice: Vec<Raw> = most.iter().flat_map(|part| [part.clone(), part.clone()]).chain([last.clone()]).collect();
        send_all(reference.n1().ns(), &twice);
        expect_whole(&ear, "the datagram", NODE1, 1, 4000);
    }
    assert_eq!(xnat.counter("fragment_overlap"), 10);
}

#[test]
fn a_flood_of_fragments_does_not_hurt_the_rest() {
    let reference = Reference::with_containers(2);
    let xnat = start_one(&reference);
    let later = |src, dst, id: u16| packet(UDP, (src, 50_000), (dst, 5309), 0, id.into(), 3000).part(id, PART, PART);
    let flood = |src, dst| (1..=3000).map(|nth| later(src, dst, nth)).collect::<Vec<_>>();
    let (inside, wire) = (flood(N1, ANYWHERE), flood(OUTSIDE, NODE1));
    let victim = reference.node1.containers[1].ns();
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(reference.n1().ns(), &inside));
        scope.spawn(|| send_all(reference.outside.ns(), &wire));
        ping(victim, "-c 20 -s 6000", ANYWHERE).expect_answered_by(ANYWHERE);
    });
    // The quota of the floods is used up still, and nobody else's.
    let ear = Ear::new(reference.outside.ns(), UDP);
    let mut parts = packet(UDP, (N1_SECOND, 50_001), (ANYWHERE, 5309), 0, 1, 6000).parts(1, PART);
    parts.reverse();
    send_all(victim, &parts);
    expect_whole(&ear, "a datagram from its last fragment to its first", NODE1, 1, 6000);
    assert!(xnat.counter("fragment_quota") > 4000, "{:?}", xnat.status().counters);
}
