//! Openings that take the lane: from the third one on between the same two, and nobody can tell.

use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::packet::proto;
use xnat_common::{Direction, Flow, FlowKey, Side};
use xnat_tests::packet::{ACK, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2};

use super::{SERVER, packet};
use crate::fixture::{REDIRECT, tally, tuple};
use crate::lane::{EPOCH, Traced, is_of_the_lane, stay_on_this_processor};
use crate::packet::{End, Packet, echo, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn};
use crate::world::{World, now};

/// What is done to a world before the packet comes.
type Change = fn(&mut World);

fn opening(proto: u8, port: u16, server: End) -> Packet {
    if proto == proto::TCP { tcp((N1, port), server, SYN) } else { udp((N1, port), server) }
}

/// A world in which openings to the server take the lane.
pub(super) fn learnt(world: &mut World, proto: u8) {
    stay_on_this_processor();
    world.reset();
    world.open_lane();
    for port in [40_000, 40_001] {
        let outcome = world.run(InsideIn, &opening(proto, port, SERVER), false).expect("a run");
        assert!(outcome.action == REDIRECT && !is_of_the_lane(InsideIn, &outcome), "nothing was known before");
    }
    world.change_hops(|hop| hop.asked = now().0);
}

/// Whether a packet that opens a flow takes the lane; with the lane closed everything else is the same.
#[track_caller]
fn takes_the_lane(world: &mut World, proto: u8, change: Change, packet: &Packet) -> (bool, Traced) {
    learnt(world, proto);
    change(world);
    let one = world.trace(InsideIn, packet, false);
    let damage = world.damage();
    learnt(world, proto);
    change(world);
    world.close_lane();
    let other = world.trace(InsideIn, packet, false);
    assert_eq!((damage, world.damage()), (None, None));
    one.expect_same(&other);
    (one.outcome.action == REDIRECT && is_of_the_lane(InsideIn, &one.outcome), one)
}

#[test]
fn the_third_opening_to_a_destination_takes_the_lane() {
    let mut world = World::new();
    for proto in [proto::UDP, proto::TCP] {
        let (fast, traced) = takes_the_lane(&mut world, proto, |_| {}, &opening(proto, 40_002, SERVER));
        assert!(fast, "{proto}");
        assert_eq!(traced.flows.len(), 3);
        let (fast, _) = takes_the_lane(&mut world, proto, |_| {}, &opening(proto, 40_002, (ANYWHERE, 443)));
        assert!(fast, "another port of the destination");
    }
    let syn = tcp((N1, 40_002), SERVER, SYN);
    for options in [&[2_u8, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7][..], &[1, 1, 1, 1]] {
        let (fast, traced) = takes_the_lane(&mut world, proto::TCP, |_| {}, &syn.clone().tcp_options(options));
        assert!(fast && traced.flows.len() == 3);
    }
}

#[test]
fn the_next_packets_of_such_a_flow_take_the_lane_at_once() {
    let mut world = World::new();
    learnt(&mut world, proto::UDP);
    let ends = [(N1, 40_002), SERVER];
    for _ in 0..2 {
        let outcome = world.run(InsideIn, &packet(proto::UDP, ends), false).expect("a run");
        assert!(is_of_the_lane(InsideIn, &outcome));
    }
    let flow = newest(&mut world);
    for direction in [Direction::Original, Direction::Reply] {
        assert!(world.hop(&flow, direction).is_some(), "{direction:?}");
    }
}

fn newest(world: &mut World) -> Flow {
    let mut flows = world.flows().into_iter().map(|(_, flow)| flow);
    flows.find(|flow| flow.original.sport.number() == 40_002).expect("the flow")
}

#[test]
fn an_opening_that_asks_for_more_takes_the_long_way() {
    let mut world = World::new();
    let udp_packet = || opening(proto::UDP, 40_002, SERVER);
    let syn = || opening(proto::TCP, 40_002, SERVER);
    let [mac, from] = InsideIn.macs();
    let table: [(&str, u8, Change, Packet); 14] = [
        ("another destination", proto::UDP, |_| {}, opening(proto::UDP, 40_002, ([198, 51, 100, 77].into(), 80))),
        ("a peer's container", proto::UDP, |_| {}, opening(proto::UDP, 40_002, (N2, 80))),
        ("a bad sum", proto::UDP, |_| {}, udp_packet().edited(24, &[0x12, 0x34])),
        ("options", proto::UDP, |_| {}, udp_packet().options(&[0x94, 4, 0, 0])),
        ("TTL 1", proto::UDP, |_| {}, udp_packet().ttl(1)),
        ("over the MTU", proto::UDP, |_| {}, udp_packet().carrying(1473)),
        ("a ping", proto::UDP, |_| {}, echo(N1, ANYWHERE, 7)),
        ("for another MAC address", proto::UDP, |_| {}, udp_packet().macs([from, mac])),
        ("the middle of a connection", proto::TCP, |_| {}, tcp((N1, 40_002), SERVER, ACK)),
        ("a SYN again", proto::TCP, |_| {}, opening(proto::TCP, 40_001, SERVER)),
        ("another epoch", proto::UDP, |world| world.set_watch(EPOCH + 1, now().0.wrapping_add(1000)), udp_packet()),
        ("nobody watches", proto::TCP, |world| world.set_watch(EPOCH, now().0), syn()),
        ("the kernel's path", proto::TCP, |world| world.configure(|it| it.flags = Config::KERNEL_PATH), syn()),
        (
            "the kernel's own",
            proto::UDP,
            |world| {
                let key = FlowKey::new(tuple((N1, 40_002), SERVER), proto::UDP, Side::Inside);
                world.add_kernel_flow(key, now());
            },
            udp_packet(),
        ),
    ];
    for (what, proto, change, packet) in table {
        let (fast, _) = takes_the_lane(&mut world, proto, change, &packet);
        assert!(!fast, "{what}");
    }
}

#[test]
fn a_way_that_may_depend_on_ports_is_not_remembered() {
    let mut world = World::new();
    stay_on_this_processor();
    world.reset();
    world.open_lane();
    world.configure(|config| config.flags = Config::ROUTES_BY_PORT);
    for port in 40_000..40_005 {
        let outcome = world.run(InsideIn, &opening(proto::UDP, port, SERVER), false).expect("a run");
        assert!(outcome.action == REDIRECT && !is_of_the_lane(InsideIn, &outcome), "{port}");
    }
}

#[test]
fn a_refused_opening_is_told_so_by_the_lane() {
    let mut world = World::new();
    for proto in [proto::UDP, proto::TCP] {
        let full = |world: &mut World| world.configure(|config| config.max_flows = 2);
        let (_, traced) = takes_the_lane(&mut world, proto, full, &opening(proto, 40_002, SERVER));
        assert_eq!(tally(traced.counted), tally([(Counter::TableFull, 1), (Counter::Refusals, 1)]));
    }
}

#[test]
fn an_answer_finds_the_flow() {
    let mut world = World::new();
    learnt(&mut world, proto::TCP);
    world.run(InsideIn, &opening(proto::TCP, 40_002, SERVER), false).expect("a run");
    let wire = newest(&mut world).reply;
    let answer = tcp((wire.src.into(), wire.sport.number()), (wire.dst.into(), wire.dport.number()), SYN | ACK);
    let outcome = world.run(UplinkIn, &answer, false).expect("a run");
    assert_eq!(outcome.action, REDIRECT);
}
