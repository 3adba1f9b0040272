//! Next hops: how flows learn them, and when they are not to be used.

use xnat_common::config::Config;
use xnat_common::hop::Hop;
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_common::{Direction, Ticks};
use xnat_tests::topology::{N1, NODE1};

use super::{CONTAINER, SERVER, WIRE, known, packet};
use crate::fixture::{Given, REDIRECT, outside, packets};
use crate::lane::{EPOCH, is_of_the_lane, way_out};
use crate::packet::udp;
use crate::world::Hook::{InsideIn, UplinkIn};
use crate::world::{World, now};

#[test]
fn flows_learn_from_their_containers_packets_and_then_from_the_wires() {
    let mut world = World::new();
    world.open_lane();
    Given::Known(outside(proto::UDP, CONTAINER, SERVER).port(WIRE.1).answered()).prepare(&mut world);
    let (out, back) = (udp(CONTAINER, SERVER), udp(SERVER, WIRE));
    world.trace(UplinkIn, &back, false);
    let flow = world.flow();
    assert_eq!(world.hop(&flow, Direction::Reply), None, "nobody knows yet at which port the container is");
    world.trace(InsideIn, &out, false);
    let flow = world.flow();
    let ways = [Direction::Original, Direction::Reply].map(|direction| world.hop(&flow, direction).expect("a hop"));
    for (way, hook) in ways.into_iter().zip([InsideIn, UplinkIn]) {
        assert_eq!([way.dst, way.src], way_out(hook).macs());
        assert_eq!((way.epoch, way.mtu), (EPOCH, 1500));
        let since = now().since(Ticks(way.asked)).0;
        assert!((Hop::ASKING.0..Ticks::from_secs(5).0).contains(&since), "the next packet asks the kernel's neighbour");
    }
    // Another flow of the container's learns from either side.
    Given::Known(outside(proto::UDP, (N1, 40001), SERVER).answered()).prepare(&mut world);
    world.trace(UplinkIn, &udp(SERVER, (NODE1, 40001)), false);
    let flow = world.flows()[1].1;
    assert_eq!(world.hop(&flow, Direction::Reply), Some(ways[1]));
}

#[test]
fn a_frame_from_another_mac_address_teaches_nothing() {
    let mut world = World::new();
    world.open_lane();
    Given::Known(outside(proto::UDP, CONTAINER, SERVER).answered()).prepare(&mut world);
    let [to, _] = InsideIn.macs();
    world.trace(InsideIn, &udp(CONTAINER, SERVER).macs([to, [2, 0, 0, 0, 9, 9]]), false);
    let flow = world.flow();
    assert_eq!(world.hop(&flow, Direction::Reply), None);
    let traced = world.trace(InsideIn, &udp(CONTAINER, SERVER), false);
    assert!(!is_of_the_lane(InsideIn, &traced.outcome));
}

#[test]
fn a_way_that_may_be_another_for_each_packet_is_not_remembered() {
    let mut world = World::new();
    world.open_lane();
    world.configure(|config| config.flags = Config::ROUTES_BY_PACKET);
    Given::Known(outside(proto::UDP, CONTAINER, SERVER).port(WIRE.1).answered()).prepare(&mut world);
    let (out, back) = (udp(CONTAINER, SERVER), udp(SERVER, WIRE));
    for (hook, packet) in [(InsideIn, &out), (UplinkIn, &back), (InsideIn, &out), (UplinkIn, &back)] {
        let outcome = world.trace(hook, packet, false).outcome;
        assert!(outcome.action == REDIRECT && !is_of_the_lane(hook, &outcome));
    }
    let flow = world.flow();
    assert_eq!([Direction::Original, Direction::Reply].map(|direction| world.hop(&flow, direction)), [None; 2]);
}

/// Each hop's packets ask the kernel's neighbour from time to time, so that it sees that it is used.
#[test]
fn a_packet_a_second_goes_by_the_kernels_neighbour() {
    let mut world = World::new();
    for (hook, ends, direction) in
        [(InsideIn, [CONTAINER, SERVER], Direction::Original), (UplinkIn, [SERVER, WIRE], Direction::Reply)]
    {
        let packet = packet(proto::UDP, ends);
        for asked in [0, now().0.wrapping_sub(Hop::ASKING.0), now().0.wrapping_sub(5 * Hop::ASKING.0)] {
            known(&mut world, proto::UDP);
            world.change_hops(|hop| hop.asked = asked);
            let before = packets(&world.flow());
            let first = world.trace(hook, &packet, false);
            assert!(!is_of_the_lane(hook, &first.outcome), "the kernel fills in the MAC addresses");
            let flow = world.flow();
            let hop = world.hop(&flow, direction).expect("a hop");
            assert!(now().since(Ticks(hop.asked)).0 < Hop::ASKING.0 && hop.asked != asked);
            let second = world.trace(hook, &packet, false);
            assert!(is_of_the_lane(hook, &second.outcome));
            assert_eq!((first.outcome.action, first.outcome.mark), (second.outcome.action, second.outcome.mark));
            assert_eq!(first.outcome.frame[14..], second.outcome.frame[14..]);
            assert_eq!(packets(&world.flow())[direction as usize], before[direction as usize] + 2);
        }
    }
}

#[test]
fn a_hop_that_gave_way_to_another_is_not_used() {
    let mut world = World::new();
    for (hook, ends, direction) in
        [(InsideIn, [CONTAINER, SERVER], Direction::Original), (UplinkIn, [SERVER, WIRE], Direction::Reply)]
    {
        let packet = packet(proto::UDP, ends);
        for filling in [false, true] {
            known(&mut world, proto::UDP);
            let flow = world.flow();
            let name = flow.next_hop[direction as usize];
            world.change_hops(|hop| {
                if hop.name == name {
                    hop.name = if filling { Hop::FILLING } else { Hop::next_name(Hop::slot(name), name) };
                    hop.dst = [2, 0, 0, 0, 9, 9];
                }
            });
            let first = world.trace(hook, &packet, false);
            assert!(!is_of_the_lane(hook, &first.outcome) && first.outcome.frame[..6] == hook.macs()[0]);
            let second = world.trace(hook, &packet, false);
            assert_eq!(second.outcome.action, REDIRECT);
            assert_ne!(second.outcome.frame[..6], [2, 0, 0, 0, 9, 9]);
            let flow = world.flow();
            let hop = world.hop(&flow, direction);
            if filling {
                assert_eq!(hop, None, "whoever fills the slot has it");
            } else {
                assert_eq!(hop.expect("learnt anew").dst, way_out(hook).macs()[0]);
            }
        }
    }
}

#[test]
fn a_name_without_a_hop_is_none() {
    let mut world = World::new();
    for name in [0, 1, Hop::SLOTS - 1, Hop::SLOTS, u32::MAX] {
        known(&mut world, proto::UDP);
        world.change_flow(|flow| flow.next_hop = [name; 2]);
        for (hook, ends) in [(InsideIn, [CONTAINER, SERVER]), (UplinkIn, [SERVER, WIRE])] {
            let traced = world.trace(hook, &packet(proto::UDP, ends), false);
            assert_eq!((traced.outcome.action, traced.outcome.frame[..6] == hook.macs()[0]), (REDIRECT, true));
            world.change_flow(|flow| flow.next_hop = [name; 2]);
        }
    }
}

/// The mark is for the hook at the way out. At a port of a bridge there is none, and nobody would take it off again.
#[test]
fn only_what_meets_a_hook_on_its_way_is_marked() {
    let mut world = World::new();
    for (hook, ends, mark) in [(InsideIn, [CONTAINER, SERVER], mark::DONE), (UplinkIn, [SERVER, WIRE], 0)] {
        known(&mut world, proto::UDP);
        world.change_hops(|hop| hop.flags &= !Hop::HOOKED);
        let traced = world.trace(hook, &packet(proto::UDP, ends), false);
        assert!(is_of_the_lane(hook, &traced.outcome));
        assert_eq!(traced.outcome.mark, mark, "at {hook:?}");
    }
}
