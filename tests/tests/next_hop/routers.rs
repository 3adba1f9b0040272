//! Routers and peers on the wire, whose MAC addresses change.

use xnat_tests::capture::Capture;
use xnat_tests::packet::ICMP;
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE, Reference};
use xnat_tests::wait::{self, SOON};
use xnat_tests::{udp, xnat};

use super::fork::{Fork, Router};
use super::{A_SECOND_AND_MORE, Talk, change_mac, expect_neighbour, mac_of};

const NEW_MAC: &str = "02:00:5e:00:00:aa";

#[test]
fn the_router_changes_its_mac_address() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let outside = reference.outside.ns();
    let mut talk = Talk::begin(reference.n1().ns(), outside, ANYWHERE);
    change_mac(outside, "eth0", NEW_MAC);
    expect_neighbour(reference.node1.host.ns(), OUTSIDE, NEW_MAC);
    talk.expect_to_go_on();
}

#[test]
fn the_peer_changes_its_mac_address() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let mut there = Talk::begin(reference.n1().ns(), reference.n2().ns(), N2);
    let mut back = Talk::begin(reference.n2().ns(), reference.n1().ns(), N1);
    change_mac(reference.node2.host.ns(), "eth0", NEW_MAC);
    expect_neighbour(reference.node1.host.ns(), NODE2, NEW_MAC);
    there.expect_to_go_on();
    back.expect_to_go_on();
}

#[test]
fn the_uplink_itself_changes_its_mac_address() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let mut there = Talk::begin(reference.n1().ns(), reference.n2().ns(), N2);
    let mut outside = Talk::begin(reference.n2().ns(), reference.outside.ns(), ANYWHERE);
    change_mac(reference.node1.host.ns(), "eth0", NEW_MAC);
    expect_neighbour(reference.node2.host.ns(), NODE1, NEW_MAC);
    there.expect_to_go_on();
    outside.expect_to_go_on();
}

#[test]
fn the_routers_neighbour_entry_is_deleted() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let mut talk = Talk::begin(reference.n1().ns(), reference.outside.ns(), ANYWHERE);
    for _ in 0..3 {
        reference.node1.host.ns().ip(&format!("neighbour delete {OUTSIDE} dev eth0"));
        talk.expect_to_go_on();
        talk.keep_on(A_SECOND_AND_MORE);
    }
}

#[test]
fn the_routers_neighbour_entry_is_replaced() {
    let mut fork = Fork::begin(|_| {});
    let routers = [(fork.other.ns().clone(), Router::Other), (fork.reference.outside.ns().clone(), Router::First)];
    for (router, which) in routers {
        let mac = mac_of(&router, "eth0");
        fork.host().ip(&format!("neighbour replace {OUTSIDE} lladdr {mac} dev eth0 nud permanent"));
        fork.expect_by(which);
    }
    fork.talk.expect_to_go_on();
}

#[test]
fn the_uplinks_mtu_falls() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let at_n1 = Capture::filtered(reference.n1().inside(), "icmp");
    for (there, address) in [(reference.outside.ns(), ANYWHERE), (reference.n2().ns(), N2)] {
        let mut talk = Talk::begin(reference.n1().ns(), there, address);
        udp::expect_echo(&talk.udp.socket, talk.udp.to, 1, 1472);
        reference.node1.host.set_uplink_mtu(1400);
        let told = || {
            let error = |p: &xnat_tests::packet::Packet| {
                p.proto == ICMP && p.icmp_type == 3 && p.icmp_code == 4 && p.icmp_rest & 0xffff == 1400
            };
            let inner = |p: &xnat_tests::packet::Packet| p.embedded().is_some_and(|inner| inner.goes(N1, address));
            at_n1.packets().iter().any(|p| error(p) && inner(p))
        };
        wait::until_true("n1 is told that fragmentation is needed", SOON, || {
            // Once it has been told it sends fragments.
            let _ = talk.udp.socket.send_to(&[0; 1472], talk.udp.to);
            told()
        });
        talk.expect_to_go_on();
        reference.node1.host.set_uplink_mtu(1500);
    }
}
