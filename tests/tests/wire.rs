//! DESIGN §2: what must be seen where. Five captures between the two containers, and every packet in them judged.
//!
//! It is the same whatever way the packets go, so every test here runs in every mode.

use std::net::Ipv4Addr;

use xnat_tests::capture::Capture;
use xnat_tests::packet::{ACK, FIN, ICMP, IPV4, Packet, RST, SYN, TCP, UDP};
use xnat_tests::program::ping;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, Node, Reference};
use xnat_tests::{udp, xnat};

/// The port of the link between daemons.
const LINK: u16 = 9628;

/// Makes a test of each function in each mode: with TCX, with filters of a clsact qdisc, and with the kernel forwarding
/// and only the uplink's hooks translating.
macro_rules! in_every_mode {
    ($($test:ident)*) => {
        mod with_tcx {
            $(#[test] fn $test() { super::$test("--hooks tcx"); })*
        }
        mod with_clsact {
            $(#[test] fn $test() { super::$test("--hooks clsact"); })*
        }
        mod on_the_kernels_path {
            $(#[test] fn $test() { super::$test("--kernel-path"); })*
        }
    };
}

in_every_mode! {
    the_kernel_forwards_only_what_it_is_to
    tcp_is_seen_as_the_table_says
    udp_is_seen_as_the_table_says
    ping_is_seen_as_the_table_says
    udp_is_tagged_until_the_first_reply_and_not_after
    a_one_way_flow_is_tagged_on_its_first_sixteen_packets
    a_ping_that_leaves_no_room_for_the_tag_is_announced
    a_fragmented_ping_arrives
    a_fragmented_datagram_arrives_whole
    an_address_without_a_container_does_not_answer
    a_stopped_container_does_not_answer_and_a_started_one_does
    a_closed_port_is_refused_by_the_container_itself
    a_closed_udp_port_is_reported_with_the_containers_addresses
    mirrored_tuples_of_different_containers_are_kept_apart
}

type Tuple = (Ipv4Addr, u16, Ipv4Addr, u16);

/// The way between the containers of two nodes, seen from the one that opens.
struct Way<'a> {
    opener: &'a Node,
    answerer: &'a Node,
    places: Vec<Capture>,
}

/// The names of the places, from the container that opens to the one that answers.
const PLACES: [&str; 5] =
    ["the opener's container", "its host's bridge", "the wire", "the peer's bridge", "the peer's container"];
/// The place that is the wire.
const WIRE: usize = 2;

impl<'a> Way<'a> {
    fn watch(opener: &'a Node, answerer: &'a Node) -> Self {
        let (from, to) = (&opener.containers[0], &answerer.containers[0]);
        let places = [from.inside(), from.port(), opener.host.wire(), to.port(), to.inside()];
        Self { opener, answerer, places: places.map(Capture::on).into() }
    }

    fn both(reference: &'a Reference) -> [(&'a Node, &'a Node); 2] {
        [(&reference.node1, &reference.node2), (&reference.node2, &reference.node1)]
    }

    /// What the original direction looks like at each place; `port` is the opener's port on the wire.
    fn originals(&self, proto: u8, sport: u16, port: u16, dport: u16) -> [Tuple; PLACES.len()] {
        let (c1, c2) = (self.opener.containers[0].address(), self.answerer.containers[0].address());
        let (h1, h2) = (self.opener.host.address(), self.answerer.host.address());
        // An echo request has one identifier in place of two ports.
        let echo = proto == ICMP;
        let inside = (c1, sport, c2, if echo { sport } else { dport });
        let wire = (h1, port, h2, if echo { port } else { dport });
        let delivered = (h1, port, c2, if echo { port } else { dport });
        [inside, inside, wire, delivered, delivered]
    }

    /// Judges every packet of one flow at every place, after `last` was seen at all of them.
    #[track_caller]
    fn judge(&self, proto: u8, sport: u16, dport: u16, opening: impl Fn(&Packet) -> bool) {
        let container = self.answerer.containers[0].address();
        let of_flow = |p: &Packet| p.proto == proto && p.dport != LINK && p.sport != LINK;
        let first = self.places[WIRE].expect("the opening packet", |p| of_flow(p));
        assert_eq!(first.sport, sport, "the original port is free and must be kept: {first:?}");
        let originals = self.originals(proto, sport, first.sport, dport);
        for (place, (capture, original)) in self.places.iter().zip(originals).enumerate() {
            let name = PLACES[place];
            let reply = (original.2, original.3, original.0, original.1);
            let mut replied = false;
            let mut seen = 0;
            for packet in capture.matching(|p| of_flow(p)) {
                seen += 1;
                let context = || format!("at {name}: {packet:?}\n{}", capture.transcript());
                let tuple = (packet.src, packet.sport, packet.dst, packet.dport);
                assert!(tuple == original || tuple == reply, "neither {original:?} nor {reply:?} {}", context());
                let forth = tuple == original;
                replied |= !forth;
                // Each host takes one off, exactly once.
                let hosts_behind = if forth { [0, 0, 1, 2, 2][place] } else { [2, 2, 1, 0, 0][place] };
                assert_eq!(packet.ttl, 64 - hosts_behind, "TTL {}", context());
                assert!(packet.checksums_right(), "checksum {}", context());
                if place == WIRE && forth && !replied && opening(&packet) {
                    let tag = packet.tag().unwrap_or_else(|| panic!("an opening packet without a tag {}", context()));
                    assert_eq!((tag.kind, tag.length, tag.address), (0, 8, container), "{}", context());
                    assert_eq!(packet.options.len(), 8, "nothing but the tag {}", context());
                } else {
                    assert!(packet.options.is_empty(), "an option that does not belong there {}", context());
                }
            }
            assert!(seen > 0 && replied, "both directions at {name}\n{}", capture.transcript());
        }
        self.expect_no_private_address();
    }

    #[track_caller]
    fn expect_no_private_address(&self) {
        let private = |p: &Packet| [p.src, p.dst].iter().any(|address| address.octets()[0] == 192);
        let leaks = |p: &Packet| p.eth_type == IPV4 && (private(p) || p.embedded().as_ref().is_some_and(private));
        self.places[WIRE].expect_none("a container's address", leaks);
    }
}

fn the_kernel_forwards_only_what_it_is_to(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let host = reference.node1.host.ns();
    host.shell("iptables -A FORWARD -i br0 -o eth0");
    ping(reference.n1().ns(), "-c 3", N2).expect_answered_by(N2);
    let rules = host.shell("iptables -L FORWARD -v -x -n");
    let count = rules.lines().nth(2).and_then(|rule| rule.split_whitespace().next());
    assert_eq!(count, Some(if mode == "--kernel-path" { "3" } else { "0" }), "{rules}");
}

fn tcp_is_seen_as_the_table_says(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let mut sport = 40000;
    for offload in [true, false] {
        reference.node1.set_offload(offload);
        reference.node2.set_offload(offload);
        for (opener, answerer) in Way::both(&reference) {
            let server = tcp::Server::start(answerer.containers[0].ns(), 80, Service::Echo);
            let way = Way::watch(opener, answerer);
            let to = (answerer.containers[0].address(), 80);
            sport += 1;
            opener.containers[0].ns().within(|| tcp::visit(sport, to, u64::from(sport), 200_000)).expect("an echo");
            for capture in &way.places {
                capture.expect_count("the last ACK after both FIN", 2, |p| p.proto == TCP && p.flags & FIN != 0);
            }
            way.judge(TCP, sport, 80, |p| p.has_flags(SYN));
            // The handshake's own options pass untouched.
            let syns: Vec<Packet> = way.places.iter().map(|at| at.expect("the SYN", |p| p.has_flags(SYN))).collect();
            assert!(
                syns.iter().all(|syn| syn.tcp_options == syns[0].tcp_options && syn.seq == syns[0].seq),
                "{syns:#?}"
            );
            // What the server saw is what the table promises.
            assert_eq!(server.clients(), [std::net::SocketAddrV4::new(opener.host.address(), sport)]);
        }
    }
}

fn udp_is_seen_as_the_table_says(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let mut sport = 41000;
    for offload in [true, false] {
        reference.node1.set_offload(offload);
        reference.node2.set_offload(offload);
        for (opener, answerer) in Way::both(&reference) {
            let _server = udp::Server::echo(answerer.containers[0].ns(), 5300);
            let way = Way::watch(opener, answerer);
            sport += 1;
            let socket = udp::socket(opener.containers[0].ns(), sport);
            for length in [20, 900, 1400] {
                udp::expect_echo(&socket, (answerer.containers[0].address(), 5300), u64::from(sport), length);
            }
            for capture in &way.places {
                capture.expect_count("an answer", 3, |p| p.proto == UDP && p.dport == sport);
            }
            way.judge(UDP, sport, 5300, |_| true);
        }
    }
}

fn ping_is_seen_as_the_table_says(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    for offload in [true, false] {
        reference.node1.set_offload(offload);
        reference.node2.set_offload(offload);
        for (id, (opener, answerer)) in (700..).zip(Way::both(&reference)) {
            let id = id + u16::from(offload) * 10;
            let way = Way::watch(opener, answerer);
            let target = answerer.containers[0].address();
            let result = ping(opener.containers[0].ns(), &format!("-c 3 -e {id}"), target);
            result.expect_answered_by(target);
            assert!(result.replies.iter().all(|(_, ttl)| *ttl == 62), "two hosts away: {}", result.output);
            for capture in &way.places {
                capture.expect_count("a reply", 3, |p| p.proto == ICMP && p.icmp_type == 0);
            }
            way.judge(ICMP, id, 0, |_| true);
        }
    }
}

fn udp_is_tagged_until_the_first_reply_and_not_after(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let server = udp::Server::silent(reference.n2().ns(), 5301);
    let wire = Capture::on(reference.node1.host.wire());
    let at_n2 = Capture::on(reference.n2().inside());
    let socket = udp::socket(reference.n1().ns(), 41500);
    let sent = |p: &Packet| p.proto == UDP && p.sport == 41500;
    for number in 1..=3 {
        socket.send_to(b"unanswered", (N2, 5301)).expect("a route");
        let packets = wire.expect_count("a datagram", number, sent);
        assert!(packets.iter().all(|p| p.tag().is_some_and(|tag| tag.address == N2)), "{}", wire.transcript());
    }
    at_n2.expect_count("a datagram", 3, |p| sent(p) && p.options.is_empty());
    server.send((NODE1, 41500), b"answer");
    socket.recv_from(&mut [0; 64]).expect("the answer");
    socket.send_to(b"confirmed", (N2, 5301)).expect("a route");
    let packets = wire.expect_count("a datagram", 4, sent);
    assert!(packets[3].options.is_empty(), "a confirmed flow carries nothing: {:?}", packets[3]);
}

fn a_one_way_flow_is_tagged_on_its_first_sixteen_packets(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let server = udp::Server::silent(reference.n2().ns(), 5302);
    let wire = Capture::on(reference.node1.host.wire());
    let socket = udp::socket(reference.n1().ns(), 41600);
    for number in 1..=24 {
        socket.send_to(b"one way", (N2, 5302)).expect("a route");
        wire.expect_count("a datagram", number, |p| p.proto == UDP && p.sport == 41600);
    }
    let tagged: Vec<bool> =
        wire.matching(|p| p.proto == UDP && p.sport == 41600).iter().map(|p| p.tag().is_some()).collect();
    assert!(tagged[..16].iter().all(|tagged| *tagged), "{tagged:?}");
    assert!(tagged[16..].iter().filter(|tagged| **tagged).count() <= 2, "once in five seconds: {tagged:?}");
    xnat_tests::wait::until_true("all are delivered", xnat_tests::wait::SOON, || server.received().len() == 24);
}

fn a_ping_that_leaves_no_room_for_the_tag_is_announced(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let wire = Capture::on(reference.node1.host.wire());
    let at_n2 = Capture::on(reference.n2().inside());
    for (size, words) in [(1472, "-M do"), (1472, ""), (1466, "-M do")] {
        ping(reference.n1().ns(), &format!("-c 2 -s {size} {words}"), N2).expect_answered_by(N2);
    }
    let announce = wire.expect("an announcement", |p| p.tag().is_some_and(|tag| tag.kind == 1));
    let tag = announce.tag().expect("a tag");
    assert_eq!((tag.address, tag.length), (N2, 8));
    assert!(announce.len <= 28 + 8, "headers only: {announce:?}");
    assert!(announce.goes(NODE1, NODE2) && announce.ip_checksum != xnat_tests::packet::Checksum::Wrong);
    wire.expect_none("a fragment", Packet::is_fragment);
    // The announcement is consumed: n2 sees six requests and no option.
    let requests = at_n2.expect_count("a request", 6, |p| p.proto == ICMP && p.icmp_type == 8);
    assert_eq!(requests.len(), 6);
    let from_n1 = |p: &Packet| p.goes(NODE1, N2);
    at_n2.expect_none("an option or a bare header", |p| from_n1(p) && (!p.options.is_empty() || p.len < 1400));
}

fn a_fragmented_ping_arrives(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let wire = Capture::on(reference.node1.host.wire());
    ping(reference.n1().ns(), "-c 3 -s 3000", N2).expect_answered_by(N2);
    ping(reference.n2().ns(), "-c 3 -s 8000", N1).expect_answered_by(N1);
    wire.expect_none("a container's address", |p| {
        p.eth_type == IPV4 && (p.src.octets()[0] == 192 || p.dst.octets()[0] == 192)
    });
}

fn a_fragmented_datagram_arrives_whole(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let server = udp::Server::echo(reference.n2().ns(), 5303);
    let socket = udp::socket(reference.n1().ns(), 41700);
    for (seed, length) in [(1, 100), (2, 4000), (3, 20_000)] {
        udp::expect_echo(&socket, (N2, 5303), seed, length);
    }
    // And as the very first of a flow.
    udp::expect_echo(&udp::socket(reference.n1().ns(), 41701), (N2, 5303), 4, 5000);
    assert!(server.received().iter().all(|(from, _)| *from.ip() == NODE1));
}

fn an_address_without_a_container_does_not_answer(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let nobody = Ipv4Addr::new(192, 168, 220, 99);
    ping(reference.n1().ns(), "-c 2", nobody).expect_silence();
    ping(reference.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    // Neither for TCP, although node2 itself would have had an answer.
    let host = tcp::Server::start(reference.node2.host.ns(), 9090, Service::Whoami);
    let failed = reference.n1().ns().attempt(&["curl", "--silent", "--max-time", "2", "telnet://192.168.220.99:9090"]);
    assert!(!failed.success(), "{failed}");
    assert_eq!(host.clients(), []);
}

fn a_stopped_container_does_not_answer_and_a_started_one_does(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let mut n2 = reference.n2().clone();
    ping(reference.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    n2.stop();
    ping(reference.n1().ns(), "-c 2", N2).expect_silence();
    // It comes back with another veth and another MAC address, as after `docker restart`.
    n2.start();
    let answered = |words: &str| ping(reference.n1().ns(), words, N2).received > 0;
    xnat_tests::wait::until_true("the new container answers", xnat_tests::wait::SOON, || answered("-c 1 -W 1"));
    ping(reference.n1().ns(), "-c 3", N2).expect_answered_by(N2);
    ping(n2.ns(), "-c 1", N1).expect_answered_by(N1);
}

fn a_closed_port_is_refused_by_the_container_itself(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    // A listener on the host only must not answer in the container's name.
    let host = tcp::Server::start(reference.node2.host.ns(), 9090, Service::Whoami);
    let at_n1 = Capture::on(reference.n1().inside());
    let at_n2 = Capture::on(reference.n2().inside());
    let error = tcp::connect(reference.n1().ns(), 42000, (N2, 9090)).expect_err("nobody listens in n2");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let reset = at_n2.expect("the RST", |p| p.has_flags(RST | ACK));
    assert!(reset.goes(N2, NODE1) && reset.ports(9090, 42000), "{reset:?}");
    let reset = at_n1.expect("the RST", |p| p.has_flags(RST | ACK));
    assert!(reset.goes(N2, N1) && reset.ports(9090, 42000) && reset.ttl == 62, "{reset:?}");
    assert_eq!(host.clients(), []);
}

fn a_closed_udp_port_is_reported_with_the_containers_addresses(mode: &str) {
    let reference = Reference::new();
    let _xnat = xnat::start_both_with(&reference, mode);
    let at_n1 = Capture::on(reference.n1().inside());
    let wire = Capture::on(reference.node1.host.wire());
    let socket = udp::socket(reference.n1().ns(), 42100);
    socket.send_to(b"anybody?", (N2, 9)).expect("a route");
    let unreachable = |p: &Packet| p.proto == ICMP && p.icmp_type == 3 && p.icmp_code == 3;
    let outer = at_n1.expect("port unreachable", unreachable);
    let inner = outer.embedded().expect("the datagram");
    assert!(outer.goes(N2, N1) && outer.checksums_right(), "{outer:?}");
    assert!(inner.goes(N1, N2) && inner.ports(42100, 9) && inner.checksums_right(), "{inner:?}");
    let outer = wire.expect("port unreachable", unreachable);
    let inner = outer.embedded().expect("the datagram");
    assert!(outer.goes(NODE2, NODE1) && inner.goes(NODE1, NODE2), "{outer:?} {inner:?}");
    assert!(outer.checksums_right() && inner.checksums_right(), "{outer:?} {inner:?}");
}

fn mirrored_tuples_of_different_containers_are_kept_apart(mode: &str) {
    let reference = Reference::with_containers(2);
    let _xnat = xnat::start_both_with(&reference, mode);
    let second = |node: &Node| node.containers[1].clone();
    let (n1b, n2b) = (second(&reference.node1), second(&reference.node2));
    let in_n2 = tcp::Server::start(reference.n2().ns(), 50000, Service::Echo);
    let in_n1b = tcp::Server::start(n1b.ns(), 40000, Service::Echo);
    // On the wire both would be 172.29.0.4:40000 and 172.29.0.17:50000, one in each direction.
    let mut forth = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 50000));
    let mut back = tcp::expect_connect(n2b.ns(), 50000, (n1b.address(), 40000));
    for round in 0..5 {
        tcp::expect_echo(&mut forth, round, 5000);
        tcp::expect_echo(&mut back, round + 100, 5000);
    }
    assert_eq!((in_n2.clients().len(), in_n1b.clients().len()), (1, 1));
}
