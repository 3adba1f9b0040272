//! What xnat does not own passes as if it were not there.

use xnat_tests::capture::Capture;
use xnat_tests::host::Host;
use xnat_tests::packet::{ICMP, UDP};
use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, Node, OUTSIDE, Reference, SUBNET1, SUBNET2};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};

#[test]
fn ipv6_passes_untouched() {
    let reference = Reference::new();
    let six = |node: &Node, subnet: &str, uplink: &str, other: &str, via: &str| {
        let (host, container) = (node.host.ns(), node.containers[0].ns());
        host.set_sysctl("net/ipv6/conf/all/forwarding", "1");
        host.ip(&format!("address add {subnet}::1/64 dev br0 nodad"));
        host.ip(&format!("address add {uplink}/64 dev eth0 nodad"));
        host.ip(&format!("route add {other}::/64 via {via}"));
        container.ip(&format!("address add {subnet}::11/64 dev eth0 nodad"));
        container.ip(&format!("route add default via {subnet}::1"));
    };
    six(&reference.node1, "fd00:110", "fd00:29::4", "fd00:220", "fd00:29::17");
    six(&reference.node2, "fd00:220", "fd00:29::17", "fd00:110", "fd00:29::4");
    let reached = || reference.n1().ns().attempt(&["ping", "-6", "-n", "-c", "2", "-W", "2", "fd00:220::11"]);
    wait::until_true("IPv6 is configured", SOON, || reached().success());
    let _xnat = xnat::start_both(&reference);
    let output = reached().expect_success();
    assert!(output.contains("ttl=62") && output.contains("2 received"), "{output}");
}

#[test]
fn arp_passes_untouched() {
    let reference = Reference::with_containers(2);
    let _xnat = xnat::start_both(&reference);
    let (n1, neighbour) = (reference.n1(), &reference.node1.containers[1]);
    let at_neighbour = Capture::filtered(neighbour.inside(), "arp");
    for ns in [n1.ns(), reference.node1.host.ns(), reference.node2.host.ns()] {
        ns.ip("neighbour flush all");
    }
    ping(n1.ns(), "-c 1", neighbour.address()).expect_answered_by(neighbour.address());
    at_neighbour.expect("the request", |p| p.eth_type == 0x0806);
    ping(n1.ns(), "-c 1", N2).expect_answered_by(N2);
}

#[test]
fn a_peer_with_only_iptables_behaves_as_the_document_does() {
    let reference = Reference::new();
    // node2 has the reference document's two rules and no xnat: its host answers in n2's name.
    reference.node2.host.ns().shell(&format!(
        "iptables -t nat -A POSTROUTING -s {SUBNET2} ! -o docker0 -j MASQUERADE
         iptables -t nat -A PREROUTING -d {SUBNET1} -j DNAT --to-destination {NODE1}"
    ));
    let xnat = Xnat::start(reference.node1.host.ns(), &format!("--peer {NODE2}={SUBNET2} --subnet {SUBNET1}"));
    let wire = Capture::on(reference.node1.host.wire());
    let answered = ping(reference.n1().ns(), "-c 3", N2);
    answered.expect_answered_by(N2);
    assert!(answered.replies.iter().all(|(_, ttl)| *ttl == 63), "by the host: {}", answered.output);
    let request = wire.expect("a request", |p| p.proto == ICMP && p.icmp_type == 8);
    assert!(request.goes(NODE1, NODE2) && request.options.is_empty(), "no tag for who cannot read it: {request:?}");
    let server = tcp::Server::start(reference.node2.host.ns(), 80, Service::Whoami);
    assert_eq!(*tcp::whoami(reference.n1().ns(), 0, (N2, server.port())).ip(), NODE1);
    assert!(!xnat.status().peers[0].speaks_xnat);
    wire.expect_none("a tag", |p| p.tag().is_some());
}

#[test]
fn a_stranger_on_the_wire_is_not_forwarded() {
    let reference = Reference::new();
    // node2 is a peer of node1's, but no xnat there keeps it from sending what it likes.
    let one = Xnat::start(reference.node1.host.ns(), &format!("--peer {NODE2} --subnet {SUBNET1}"));
    let stranger = Host::new(&reference.lan, "stranger", "172.29.0.66/24");
    let at_n1 = Capture::filtered(reference.n1().inside(), "udp");
    let at_outside = Capture::filtered(reference.outside.wire(), "udp");
    // A tag from an address that is no peer.
    Raw::udp((stranger.address(), 700), (NODE1, 5300), b"stranger").tagged(0, N1).send(stranger.ns());
    // A peer's address in the source is not enough when the tag names a place that is not ours.
    Raw::udp((NODE2, 700), (NODE1, 5300), b"elsewhere").tagged(0, OUTSIDE).send(reference.node2.host.ns());
    wait::until_true("both are counted", SOON, || one.counter("tag_stranger") == 1 && one.counter("tag_subnet") == 1);
    ping(stranger.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    at_n1.expect_none("a stranger's packet", |p| p.proto == UDP && p.payload == b"stranger");
    at_outside.expect_none("a packet between outsiders", |p| p.payload == b"elsewhere");
}
