//! On the wire.

use super::*;

#[test]
fn a_neighbour_does_not_reach_a_peers_containers_through_this_host() {
    let reference = Reference::new();
    let (one, two) = xnat::start_both(&reference);
    let neighbour = neighbour(&reference, &[SUBNET2]);
    let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Whoami);
    let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp or icmp");
    let at_node2 = Capture::filtered(reference.node2.host.wire(), "udp or tcp or icmp");
    let at_n2 = Capture::filtered(reference.n2().inside(), "udp or tcp or icmp");
    let me = neighbour.address();
    Raw::udp((me, 700), (N2, 5300), b"astray").send(neighbour.ns());
    Raw::echo_request(me, N2, 700).send(neighbour.ns());
    Raw::tcp((me, 700), (N2, 80), SYN, 1, 0).send(neighbour.ns());
    at_node1.expect("the last of them at node1", |p| p.goes(me, N2) && p.has_flags(SYN));
    ping(neighbour.ns(), "-c 1 -e 4711", NODE1).expect_answered_by(NODE1);
    ping(reference.n1().ns(), "-c 1 -e 4712", N2).expect_answered_by(N2);
    let astray = |p: &Packet| {
        p.ports(700, 5300) || p.ports(700, 80) || p.ports(700, 700) || p.payload == b"astray" || p.src == me
    };
    at_node2.expect_none("a packet of the neighbour's", astray);
    at_n2.expect_none("a packet of the neighbour's", |p| astray(p) || p.proto != ICMP);
    for xnat in [&one, &two] {
        let flows = xnat.flows("");
        assert!(flows.iter().all(|flow| flow.original.id == Some(4712)), "only the container's ping: {flows:#?}");
    }
}

#[test]
fn a_neighbour_is_not_masqueraded_when_it_borrows_a_containers_address() {
    let reference = Reference::new();
    believe_every_source(reference.node1.host.ns(), "eth0");
    let one = alone(&reference);
    let neighbour = neighbour(&reference, &["172.29.0.100/32", "198.51.100.7/32"]);
    let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp or icmp");
    let at_outside = Capture::filtered(reference.outside.wire(), "udp or tcp or icmp");
    for target in [OUTSIDE, ANYWHERE] {
        Raw::udp((N1, 700), (target, 5300), b"borrowed").send(neighbour.ns());
        Raw::echo_request(N1, target, 700).send(neighbour.ns());
        Raw::tcp((N1, 700), (target, 80), SYN, 1, 0).send(neighbour.ns());
        at_node1.expect("the last of them at node1", |p| p.goes(N1, target) && p.has_flags(SYN));
    }
    ping(neighbour.ns(), "-c 1 -e 4711", NODE1).expect_answered_by(NODE1);
    ping(reference.node1.host.ns(), "-c 1 -e 4712", OUTSIDE).expect_answered_by(OUTSIDE);
    at_outside.expect_none("a packet of the neighbour's", |p| p.sport == 700 || p.dport == 700 || p.src == N1);
    at_node1.expect_none("a packet sent on", |p| (p.sport == 700 || p.dport == 700) && p.ttl != 64);
    assert_eq!(one.flows(""), [], "nothing was opened");
}

#[test]
fn a_neighbour_that_borrows_a_containers_address_does_not_reach_a_peers_containers() {
    let reference = Reference::new();
    believe_every_source(reference.node1.host.ns(), "eth0");
    let (one, two) = xnat::start_both(&reference);
    let neighbour = neighbour(&reference, &[SUBNET2]);
    let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp");
    let at_node2 = Capture::filtered(reference.node2.host.wire(), "udp or tcp");
    let at_n2 = Capture::filtered(reference.n2().inside(), "udp or tcp");
    Raw::udp((N1, 700), (N2, 5300), b"borrowed").send(neighbour.ns());
    Raw::tcp((N1, 700), (N2, 80), SYN, 1, 0).send(neighbour.ns());
    at_node1.expect("the last of them at node1", |p| p.goes(N1, N2) && p.has_flags(SYN));
    ping(neighbour.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    ping(reference.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    at_node2.expect_none("a packet of the neighbour's", |p| p.sport == 700 || p.dport == 700);
    at_n2.expect_none("anything but pings", |p| p.eth_type == IPV4);
    for filter in ["--proto udp", "--proto tcp"] {
        assert_eq!((one.count(filter), two.count(filter)), (0, 0), "nothing was opened");
    }
}
