//! Routes that lead elsewhere from now on.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};

use xnat_tests::netns::Namespace;
use xnat_tests::topology::{ANYWHERE, NODE1, OUTSIDE, Reference, SUBNET1};
use xnat_tests::wait::{self, SOON};
use xnat_tests::{udp, xnat};

use super::fork::{self, Fork, OTHER, Router};
use super::{A_SECOND_AND_MORE, AT_ONCE, Datagrams, PORT, RUN, Talk, keep_on};

/// Asks for low delay (RFC 1349), which is another DSCP than none.
const LOW_DELAY: u8 = 0x10;

/// Makes a running flow take another router by what `change` does on node1, which `back` undoes.
fn goes_by_another_router(prepare: impl Fn(&Namespace), change: impl Fn(&Namespace), back: impl Fn(&Namespace)) {
    let mut fork = Fork::begin(prepare);
    for _ in 0..2 {
        change(fork.host());
        fork.expect_by(Router::Other);
        back(fork.host());
        fork.expect_by(Router::First);
        fork.talk.expect_to_go_on();
    }
}

/// As [`goes_by_another_router`], by a rule that picks a table where the other router is the default.
fn goes_by_a_rule(rule: &str) {
    goes_by_another_router(
        |host| _ = host.ip(&format!("route add default via {OTHER} table 100")),
        |host| _ = host.ip(&format!("rule add {rule} lookup 100")),
        |host| _ = host.ip(&format!("rule delete {rule} lookup 100")),
    );
}

#[test]
fn by_a_route_of_its_own() {
    goes_by_another_router(
        |_| {},
        |host| _ = host.ip(&format!("route add {ANYWHERE}/32 via {OTHER}")),
        |host| _ = host.ip(&format!("route delete {ANYWHERE}/32 via {OTHER}")),
    );
}

#[test]
fn by_another_default_route() {
    goes_by_another_router(
        |_| {},
        |host| _ = host.ip(&format!("route replace default via {OTHER}")),
        |host| _ = host.ip(&format!("route replace default via {OUTSIDE}")),
    );
}

#[test]
fn by_a_rule() {
    goes_by_a_rule(&format!("to {ANYWHERE}"));
}

/// The source is the translated one, as whoever made the rule sees packets leave.
#[test]
fn by_a_rule_that_looks_at_the_source() {
    goes_by_a_rule(&format!("from {NODE1}"));
}

#[test]
fn by_a_rule_that_looks_at_the_type_of_service() {
    let mut fork = Fork::begin(|host| _ = host.ip(&format!("route add default via {OTHER} table 100")));
    let rule = format!("to {ANYWHERE} tos {LOW_DELAY:#x} lookup 100");
    for _ in 0..2 {
        fork.host().ip(&format!("rule add {rule}"));
        fork.expect_always("those with low delay go by the other router", |fork, patience| {
            [(0, Router::First), (LOW_DELAY, Router::Other)].into_iter().all(|(tos, router)| {
                fork.talk.udp.set_tos(tos);
                fork.taken(patience) == Some(router)
            })
        });
        fork.host().ip(&format!("rule delete {rule}"));
        fork.expect_by(Router::First);
        fork.talk.expect_to_go_on();
    }
}

#[test]
fn by_another_next_hop_of_the_same_route() {
    goes_by_another_router(
        |host| {
            host.ip(&format!("nexthop add id 7 via {OUTSIDE} dev eth0"));
            host.ip(&format!("route add {ANYWHERE}/32 nhid 7"));
        },
        |host| _ = host.ip(&format!("nexthop replace id 7 via {OTHER} dev eth0")),
        |host| _ = host.ip(&format!("nexthop replace id 7 via {OUTSIDE} dev eth0")),
    );
}

/// Of a route that is asked for by the interface the kernel takes the first next hop there (`fib_select_path`), for remembered
/// packets and for others.
#[test]
fn the_first_of_two_next_hops_has_everything() {
    let reference = Reference::new();
    let addresses: Vec<Ipv4Addr> = (10..14).map(|host| Ipv4Addr::new(198, 51, 100, host)).collect();
    let outside = reference.outside.ns();
    for address in &addresses {
        outside.ip(&format!("address add {address}/32 dev lo"));
    }
    let other = fork::other_router(&reference, &addresses);
    let nexthops = format!("nexthop via {OUTSIDE} nexthop via {OTHER}");
    reference.node1.host.ns().ip(&format!("route add 198.51.100.0/24 {nexthops}"));
    let _xnat = xnat::start_both(&reference);
    let flow = |(address, port): (&Ipv4Addr, u16)| {
        let there = udp::Server::echo_at(other.ns(), (*address, PORT));
        (Datagrams::new(reference.n1().ns(), port, outside, *address), there)
    };
    let mut flows: Vec<_> = addresses.iter().zip(41000..).map(flow).collect();
    keep_on(A_SECOND_AND_MORE, || {
        for (flow, there) in &mut flows {
            assert_eq!(fork::taken(flow, there, SOON), Some(Router::First), "to {}", flow.to.0);
        }
    });
}

/// Such a rule does not know the packet as it leaves. Where nothing else leads out the kernel takes it, of running flows and of
/// new ones, and what it sends is translated.
#[test]
fn by_a_rule_that_looks_at_the_container() {
    let mut fork = Fork::begin(|host| _ = host.ip(&format!("route add default via {OTHER} table 100")));
    // Who asks on the wire instead gets no answer there.
    for router in [fork.reference.outside.ns(), fork.other.ns()] {
        router.set_sysctl("net/ipv4/conf/all/arp_ignore", "1");
    }
    fork.host().ip(&format!("rule add from {SUBNET1} lookup 100"));
    fork.host().ip("route delete default");
    fork.expect_by(Router::Other);
    // The datagrams of a new one, all at once: not only what opens it is to go there.
    let before = fork.there().received().len();
    let another = udp::socket(fork.reference.n1().ns(), 41002);
    (0..RUN).for_each(|_| _ = another.send_to(b"again", (ANYWHERE, PORT)).expect("to be sent"));
    wait::until_true("the other router has them all", SOON, || fork.there().received().len() == before + RUN);
    for (source, _) in fork.there().received() {
        assert_eq!(*source.ip(), NODE1);
    }
}

/// Whether the next datagram of `flow` arrives. What is sent after it by another flow, to the same machine, does, and then
/// the server has had its turn when it has answered its neighbour.
fn arrives(flow: &mut Datagrams, other: &mut Datagrams, neighbour: &UdpSocket) -> bool {
    flow.send();
    wait::until_true("the other flow goes on", SOON, || other.is_echoed());
    udp::expect_echo(neighbour, flow.to, flow.said, 100);
    flow.has_reached(&flow.server)
}

/// What a running flow is to lose at once, and get back. The destination is a machine on the wire that would answer whoever
/// asks there for its MAC address.
#[test]
fn nowhere_and_back() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let (host, n1, outside) = (reference.node1.host.ns(), reference.n1().ns(), reference.outside.ns());
    let mut talk = Talk::begin(n1, outside, ANYWHERE);
    let (mut other, neighbour) = (Datagrams::new(n1, 41001, outside, OUTSIDE), udp::socket(outside, 0));
    let mut arrives = |talk: &mut Talk| arrives(&mut talk.udp, &mut other, &neighbour);
    for kind in ["unreachable", "prohibit", "blackhole"] {
        host.ip(&format!("route add {kind} {ANYWHERE}/32"));
        wait::until_true("nothing arrives any more", AT_ONCE, || (0..RUN).all(|_| !arrives(&mut talk)));
        keep_on(A_SECOND_AND_MORE, || assert!(!arrives(&mut talk), "by a route of type {kind}"));
        host.ip(&format!("route delete {kind} {ANYWHERE}/32"));
        talk.expect_to_go_on();
        talk.keep_on(A_SECOND_AND_MORE);
    }
}

/// Without a route the host neither sends packets nor asks on the wire for each destination.
#[test]
fn without_a_route_the_wire_is_left_alone() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let (host, n1, outside) = (reference.node1.host.ns(), reference.n1().ns(), reference.outside.ns());
    let mut talk = Talk::begin(n1, outside, ANYWHERE);
    let any = ANYWHERE.to_string();
    host.ip("route delete default");
    wait::until_true("the kernel tells the container", AT_ONCE, || {
        talk.udp.send();
        talk.udp.error().is_some_and(|error| error.kind() == ErrorKind::NetworkUnreachable)
    });
    let neighbours = || host.ip(&format!("neighbour show to {ANYWHERE}"));
    // A packet may have asked there between the change and word of it.
    wait::until_true("the entry is deleted", SOON, || {
        neighbours().trim().is_empty() || host.attempt(&["ip", "neighbour", "delete", &any, "dev", "eth0"]).success()
    });
    keep_on(A_SECOND_AND_MORE, || {
        talk.udp.send();
        assert_eq!(neighbours().trim(), "", "asked for on the wire");
    });
    host.ip(&format!("route add default via {OUTSIDE}"));
    talk.expect_to_go_on();
}
