//! What leaves the lane for the long way, and meets the same fate there as ever.

use xnat_common::Direction;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, NODE2};

use super::{CONTAINER, PEERS, SERVER, WIRE, known, learn, packet};
use crate::fixture::{REDIRECT, ago, tally, to_peer};
use crate::lane::{EPOCH, Traced, is_fresh, is_of_the_lane};
use crate::packet::{Packet, echo, tcp, udp};
use crate::world::Hook::{self, InsideIn, UplinkIn};
use crate::world::{UPLINK, World, now};

/// What is done to a world after its flow has learnt its ways.
type Change = fn(&mut World);

/// Runs a packet where the lane is open, and where it is not. It may not take the lane, and everything is the same.
#[track_caller]
fn expect_long_way(world: &mut World, proto: u8, change: Change, hook: Hook, packet: &Packet) -> Traced {
    known(world, proto);
    change(world);
    let one = world.trace(hook, packet, false);
    known(world, proto);
    change(world);
    world.configure(|config| config.flags = Config::SLOW_PATH);
    let other = world.trace(hook, packet, false);
    if one.outcome.action == REDIRECT {
        assert!(!is_of_the_lane(hook, &one.outcome), "it took the lane");
    }
    assert_eq!(one.outcome, other.outcome);
    one.expect_same(&other);
    one
}

#[test]
fn packets_that_want_a_closer_look_take_the_long_way() {
    let mut world = World::new();
    let out = |flags| tcp(CONTAINER, SERVER, flags);
    let back = |flags| tcp(SERVER, WIRE, flags);
    let (send, answer) = (udp(CONTAINER, SERVER), udp(SERVER, WIRE));
    let [mac, from] = InsideIn.macs();
    let table = [
        ("options", InsideIn, send.clone().options(&[0x94, 4, 0, 0])),
        ("options", UplinkIn, answer.clone().options(&[1, 1, 1, 1])),
        ("options", InsideIn, out(ACK).options(&[0x94, 4, 0, 0])),
        ("a first fragment", InsideIn, send.clone().carrying(200).fragment(0, 104)),
        ("a first fragment", UplinkIn, answer.clone().carrying(200).fragment(0, 104)),
        ("a later fragment", InsideIn, send.clone().carrying(200).fragment(104, 104)),
        ("a later fragment", UplinkIn, answer.clone().carrying(200).fragment(104, 104)),
        ("the reserved flag", InsideIn, send.clone().edited(20, &[0xc0, 0])),
        ("TTL 1", InsideIn, send.clone().ttl(1)),
        ("TTL 1", UplinkIn, answer.clone().ttl(1)),
        ("TTL 0", UplinkIn, answer.clone().ttl(0)),
        ("over the MTU", InsideIn, send.clone().carrying(1473)),
        ("over the MTU", InsideIn, send.clone().carrying(1473).may_fragment()),
        ("over the MTU", UplinkIn, answer.clone().carrying(1473)),
        ("over the MTU", InsideIn, out(ACK).carrying(1461)),
        ("segments over the MTU", InsideIn, out(ACK).carrying(2800).segmented(1461)),
        ("segments over the MTU", UplinkIn, back(ACK).tcp_options(&[1; 4]).carrying(2800).segmented(1457)),
        ("SYN", InsideIn, out(SYN)),
        ("SYN", UplinkIn, back(SYN)),
        ("FIN without ACK", InsideIn, out(FIN)),
        ("FIN without ACK", UplinkIn, back(FIN)),
        ("SYN and FIN", InsideIn, out(SYN | FIN)),
        ("RST", InsideIn, out(RST)),
        ("RST", UplinkIn, back(RST | ACK)),
        ("no flag", InsideIn, out(0)),
        ("only PSH", UplinkIn, back(PSH)),
        ("a header longer than its packet", InsideIn, out(ACK).edited(46, &[0x60])),
        ("a header too short", UplinkIn, back(ACK).edited(46, &[0x40])),
        ("longer than its frame", UplinkIn, answer.clone().edited(16, &[0, 100])),
        ("shorter than a header", InsideIn, send.clone().edited(16, &[0, 27])),
        ("not version 4", InsideIn, send.clone().edited(14, &[0x65])),
        ("not IPv4", InsideIn, send.clone().edited(12, &[0x88, 0xb5])),
        ("for another MAC address", InsideIn, send.clone().macs([[2, 0, 0, 0, 9, 9], from])),
        ("of no flow", InsideIn, udp((N1, 40001), SERVER)),
        ("a ping", InsideIn, echo(N1, ANYWHERE, 7)),
        ("from the wire, with the container's tuple", UplinkIn, udp(CONTAINER, SERVER)),
    ];
    for (what, hook, packet) in table {
        println!("{what} at {hook:?}");
        let proto = if packet.frame([[0; 6]; 2])[23] == proto::TCP { proto::TCP } else { proto::UDP };
        expect_long_way(&mut world, proto, |_| {}, hook, &packet);
    }
    // The source address of a frame says nothing: answers go where the container's packets are from by their address.
    known(&mut world, proto::UDP);
    let traced = world.trace(InsideIn, &send.macs([mac, [2, 0, 0, 0, 9, 9]]), false);
    assert!(is_of_the_lane(InsideIn, &traced.outcome));
}

#[test]
fn flows_that_are_not_settled_take_the_long_way() {
    let mut world = World::new();
    let table: [(&str, Change); 9] = [
        ("doomed", |world| world.change_flow(|flow| flow.state |= State::DOOMED)),
        ("held", |world| world.change_flow(|flow| flow.state |= State::HELD)),
        ("announced", |world| world.change_flow(|flow| flow.state |= State::ANNOUNCED)),
        ("being moved", |world| world.change_flow(|flow| flow.state |= State::MOVING)),
        ("expired", |world| world.change_flow(|flow| flow.word = 1 << 32 | u64::from(ago(7441).0))),
        ("the epoch has changed", |world| world.set_watch(EPOCH + 1, now().0.wrapping_add(100))),
        ("nobody watches any more", |world| world.set_watch(EPOCH, now().0.wrapping_sub(1))),
        ("nobody has watched yet", |world| world.set_watch(0, now().0.wrapping_add(100))),
        ("on the kernel's path", |world| world.configure(|config| config.flags = Config::KERNEL_PATH)),
    ];
    for (what, change) in table {
        for proto in [proto::UDP, proto::TCP] {
            for (hook, ends) in [(InsideIn, [CONTAINER, SERVER]), (UplinkIn, [SERVER, WIRE])] {
                println!("{what}, protocol {proto}, at {hook:?}");
                // What must be tried where the flags say nothing of the slow path is told by the MAC addresses.
                known(&mut world, proto);
                change(&mut world);
                let traced = world.trace(hook, &packet(proto, ends), false);
                assert!(traced.outcome.action != REDIRECT || !is_of_the_lane(hook, &traced.outcome));
                if what != "on the kernel's path" {
                    expect_long_way(&mut world, proto, change, hook, &packet(proto, ends));
                }
            }
        }
    }
}

#[test]
fn a_flow_that_its_peer_does_not_know_yet_is_tagged() {
    let mut world = World::new();
    let flow = to_peer(proto::UDP, CONTAINER, PEERS, NODE2).port(WIRE.1).answered();
    learn(&mut world, flow, &udp(CONTAINER, PEERS));
    world.change_flow(|flow| flow.state &= !State::CONFIRMED);
    let traced = world.trace(InsideIn, &udp(CONTAINER, PEERS), false);
    assert!(!is_of_the_lane(InsideIn, &traced.outcome));
    assert_eq!(traced.outcome.frame[14] & 0xf, 7, "a tag");
}

#[test]
fn an_expired_flow_is_not_revived() {
    let mut world = World::new();
    for (hook, ends) in [(InsideIn, [CONTAINER, SERVER]), (UplinkIn, [SERVER, WIRE])] {
        let expire: Change = |world| world.change_flow(|flow| flow.word = 1 << 32 | u64::from(ago(301).0));
        let traced = expect_long_way(&mut world, proto::UDP, expire, hook, &packet(proto::UDP, ends));
        assert!(traced.counted.contains(&(Counter::FlowsExpired, 1)), "{:?}", traced.counted);
    }
    // As long as it could be the shortest timeout of all, the lane does not ask which one is the flow's.
    for (idle, express) in [(58, true), (62, false), (299, false)] {
        known(&mut world, proto::UDP);
        world.change_flow(|flow| flow.word = 1 << 32 | u64::from(ago(idle).0));
        let traced = world.trace(UplinkIn, &udp(SERVER, WIRE), false);
        assert_eq!(is_of_the_lane(UplinkIn, &traced.outcome), express, "idle for {idle} s");
        assert!(is_fresh(&world.flow()) && traced.counted.is_empty());
    }
}

/// What has no effect must not keep a flow alive either (RFC 7857 §2.2).
#[test]
fn implausible_segments_take_the_long_way_and_leave_no_trace() {
    let mut world = World::new();
    for (hook, ends) in [(InsideIn, [CONTAINER, SERVER]), (UplinkIn, [SERVER, WIRE])] {
        let both_known: Change = |world| {
            world.trace(InsideIn, &packet(proto::TCP, [CONTAINER, SERVER]), false);
            world.trace(UplinkIn, &packet(proto::TCP, [SERVER, WIRE]), false);
            world.change_flow(|flow| flow.word = flow.word & !0xffff_ffff | u64::from(ago(5).0));
        };
        for (seq, ack) in [(0x7000_0000, 1), (1, 0x7000_0000), (0x9000_0000, 1), (1, 0x9000_0000)] {
            let stray = packet(proto::TCP, ends).numbers(seq, ack);
            let traced = expect_long_way(&mut world, proto::TCP, both_known, hook, &stray);
            assert_eq!(tally(traced.counted), [("tcp_implausible", 1)]);
            assert!(!is_fresh(&world.flow()), "at {hook:?}");
        }
        known(&mut world, proto::TCP);
        both_known(&mut world);
        let traced = world.trace(hook, &packet(proto::TCP, ends).numbers(101, 101), false);
        assert!(is_of_the_lane(hook, &traced.outcome), "the next segment does take the lane");
    }
}

/// What the kernel has to answer is no packet of the flow.
#[test]
fn packets_over_the_mtu_leave_no_trace() {
    let mut world = World::new();
    for proto in [proto::UDP, proto::TCP] {
        let long = packet(proto, [CONTAINER, SERVER]).carrying(1481);
        let traced = expect_long_way(&mut world, proto, |_| {}, InsideIn, &long);
        assert_eq!(tally(traced.counted), [("to_kernel_mtu", 1)]);
        assert!(!is_fresh(&world.flow()));
    }
}

#[test]
fn a_container_that_moved_to_another_port_takes_the_long_way() {
    let mut world = World::new();
    let moved: Change = |world| {
        let flow = world.flow();
        let name = flow.next_hop[Direction::Reply as usize];
        world.change_hops(|hop| {
            if hop.name == name {
                hop.ifindex = UPLINK;
            }
        });
    };
    expect_long_way(&mut world, proto::UDP, moved, InsideIn, &udp(CONTAINER, SERVER));
}
