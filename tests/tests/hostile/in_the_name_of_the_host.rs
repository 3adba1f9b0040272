//! In the name of the host.

use super::*;

/// A message of the peer link that node1 has never sent.
fn forged(goodbye: bool, subnets: &[(Ipv4Addr, u8)]) -> Vec<u8> {
    let mut bytes = b"xnat".to_vec();
    bytes.extend([1, u8::from(goodbye), u8::try_from(subnets.len()).expect("few"), 0]);
    bytes.extend(0x6666_6666_6666_6666_u64.to_be_bytes());
    bytes.extend(0_u64.to_be_bytes());
    for (address, length) in subnets {
        bytes.extend(address.octets());
        bytes.extend([*length, 0, 0, 0]);
    }
    bytes
}

fn is_forged(p: &Packet) -> bool {
    p.proto == UDP && p.payload.get(8..16) == Some(&[0x66; 8])
}

/// Messages from a container to node2's daemon, from its own port and from others: node2 believes none.
fn speaks_to_node2s_daemon(reference: &Reference, speaker: &Container, one: &Xnat, two: &Xnat) {
    two.expect_peer(NODE1);
    let wire = Capture::filtered(reference.node1.host.wire(), "udp");
    let echo = udp::Server::echo(reference.node2.host.ns(), 5300);
    for port in [LINK, LINK + 1, 700, 40000] {
        let socket = udp::socket(speaker.ns(), port);
        for message in [
            forged(false, &[(Ipv4Addr::new(10, 66, 0, 0), 16)]),
            forged(false, &[]),
            forged(true, &[(Ipv4Addr::new(192, 168, 110, 0), 24)]),
        ] {
            socket.send_to(&message, (NODE2, LINK)).expect("a route");
        }
        udp::expect_echo(&socket, (NODE2, echo.port()), port.into(), 100);
    }
    let from_daemon = |p: &Packet| p.goes(NODE1, NODE2) && p.dport == LINK && !is_forged(p);
    let heard = wire.matching(from_daemon).len();
    // Two of node1's own messages come after all that was forged; node2 is asked all the time until then.
    wait::until_true("node1 has spoken for itself", SOON, || {
        let peers = two.status().peers;
        let as_ever = |it: &&xnat::Peer| it.alive && it.speaks_xnat && it.subnets == [SUBNET1];
        assert_eq!(peers.iter().filter(as_ever).count(), 1, "node2 was talked into something: {peers:?}");
        wire.matching(from_daemon).len() >= heard + 2
    });
    let said = two.output();
    for word in ["goodbye", "empty flow table", "10.66.0.0", "cannot be used"] {
        assert!(!said.contains(word), "node2 has heard the container, {word}:\n{said}");
    }
    wire.expect_none("a container as the daemon", |p| is_forged(p) && p.src == NODE1 && p.sport == LINK);
    assert!(one.status().peers.iter().all(|peer| peer.alive), "{:?}", one.status());
    ping(reference.n2().ns(), "-c 1", N1).expect_answered_by(N1);
}

#[test]
fn a_container_cannot_say_goodbye() {
    let reference = Reference::new();
    let (one, two) = xnat::start_both(&reference);
    speaks_to_node2s_daemon(&reference, reference.n1(), &one, &two);
}

#[test]
fn a_container_of_another_network_cannot_say_goodbye() {
    let reference = Reference::new();
    let foreigner = another_network(&reference);
    let (one, two) = xnat::start_both(&reference);
    speaks_to_node2s_daemon(&reference, &foreigner, &one, &two);
}

#[test]
fn a_container_of_another_network_cannot_tag() {
    let reference = Reference::new();
    let foreigner = another_network(&reference);
    let (one, two) = xnat::start_both(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Whoami);
    let wire = Capture::filtered(reference.node1.host.wire(), "udp or tcp or icmp");
    let at_n2 = Capture::filtered(reference.n2().inside(), "udp or tcp or icmp");
    assert_eq!(one.counter("inside_tag"), 0);
    let attempts = [
        Raw::tcp((FOREIGNER, 700), (NODE2, 80), SYN, 1, 0).tagged(0, N2),
        Raw::udp((FOREIGNER, 701), (NODE2, 5300), b"open").tagged(0, N2),
        Raw::echo_request(FOREIGNER, NODE2, 702).tagged(0, N2),
        Raw::udp((FOREIGNER, 703), (NODE2, 5300), b"").tagged(1, N2),
        Raw::udp((FOREIGNER, 704), (NODE2, 5300), b"").tagged(2, N2),
        Raw::udp((FOREIGNER, 705), (NODE2, 5300), b"").tagged(3, N2),
    ];
    for attempt in &attempts {
        attempt.send(foreigner.ns());
    }
    ping(foreigner.ns(), "-c 1", NODE2).expect_answered_by(NODE2);
    wire.expect_none("a tag of a container's", |p| p.tag().is_some());
    at_n2.expect_none("anything", |p| p.eth_type == IPV4);
    wait::until_true("all are counted", SOON, || one.counter("inside_tag") == attempts.len() as u64);
    assert_eq!((two.counter("tags_received"), two.counter("announces_received"), two.count("")), (0, 0, 0));
    assert_eq!(server.clients(), []);
}
