//! The express lane: what takes it, what leaves it, and that nobody can tell but by the MAC addresses.

use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::hop::Hop;
use xnat_common::packet::proto;
use xnat_common::{Direction, Ticks};
use xnat_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2};

use crate::fixture::{
    Given, Known, MARK_DONE, REDIRECT, ago, bytes, forwarded, inbound, mapped, outside, packets, tally, to_peer,
};
use crate::lane::{EPOCH, Traced, is_fresh, is_of_the_lane, is_same, way_out};
use crate::packet::{End, Packet, echo, tcp, udp};
use crate::world::Hook::{self, InsideIn, UplinkIn};
use crate::world::{UPLINK, World, now};

const CONTAINER: End = (N1, 40000);
const SERVER: End = (ANYWHERE, 80);
const WIRE: End = (NODE1, 50505);
const PEERS: End = (N2, 80);
const PEER: End = (NODE2, 80);
const CLIENT: End = (ANYWHERE, 50000);
const OPENER: End = (NODE2, 50000);
const SERVICE: End = (N1, 8080);

/// A flow, and its ends as its container and as the wire has them: the near one inside, the far one inside, and so on.
struct Case {
    what: &'static str,
    flow: Known,
    inside: [End; 2],
    wire: [End; 2],
}

fn cases(proto: u8) -> Vec<Case> {
    let mapping = State::MAPPED | State::REMOTE_NEAR;
    vec![
        Case {
            what: "to the outside",
            flow: outside(proto, CONTAINER, SERVER).port(WIRE.1),
            inside: [CONTAINER, SERVER],
            wire: [WIRE, SERVER],
        },
        Case {
            what: "to a peer",
            flow: to_peer(proto, CONTAINER, PEERS, NODE2).port(WIRE.1),
            inside: [CONTAINER, PEERS],
            wire: [WIRE, PEER],
        },
        Case {
            what: "from a peer",
            flow: inbound(proto, OPENER, SERVICE),
            inside: [SERVICE, OPENER],
            wire: [(NODE1, SERVICE.1), OPENER],
        },
        Case {
            what: "by a forward",
            flow: forwarded(proto, CLIENT, WIRE.1, SERVICE),
            inside: [SERVICE, CLIENT],
            wire: [WIRE, CLIENT],
        },
        Case {
            what: "by a mapping",
            flow: mapped(proto, CLIENT, WIRE.1, SERVICE).bits(mapping),
            inside: [SERVICE, CLIENT],
            wire: [WIRE, CLIENT],
        },
    ]
}

fn packet(proto: u8, [src, dst]: [End; 2]) -> Packet {
    if proto == proto::TCP { tcp(src, dst, PSH | ACK).carrying(100) } else { udp(src, dst) }
}

fn reversed([near, far]: [End; 2]) -> [End; 2] {
    [far, near]
}

/// A world with this flow, whose ways are known, and which was last seen five seconds ago.
fn learn(world: &mut World, flow: Known, packet: &Packet) {
    world.reset();
    world.open_lane();
    Given::Known(flow).prepare(world);
    world.learn(packet);
    world.change_flow(0, |flow| flow.word = flow.word & !0xffff_ffff | u64::from(ago(5).0));
}

/// The flow to the outside that most tests are about.
fn known(world: &mut World, proto: u8) {
    let flow = outside(proto, CONTAINER, SERVER).port(WIRE.1).answered();
    learn(world, flow, &packet(proto, [CONTAINER, SERVER]));
}

/// A packet takes the lane, and this is what leaves.
#[track_caller]
fn expect_express(world: &mut World, hook: Hook, packet: &Packet, translated: &Packet) -> Traced {
    let traced = world.trace(hook, packet, false);
    let (outcome, expected) = (&traced.outcome, translated.frame(way_out(hook).macs()));
    assert_eq!(outcome.action, REDIRECT, "{:?}", tally(traced.counted.iter().copied()));
    assert_eq!(outcome.frame, expected, "\n  got      {:02x?}\n  expected {expected:02x?}", outcome.frame);
    assert_eq!((outcome.mark, tally(traced.counted.iter().copied())), (MARK_DONE, vec![]));
    traced
}

#[test]
fn packets_of_established_flows_take_the_lane() {
    let mut world = World::new();
    for proto in [proto::UDP, proto::TCP] {
        for Case { what, flow, inside, wire } in cases(proto) {
            println!("{what}, protocol {proto}");
            learn(&mut world, flow.answered(), &packet(proto, inside));
            let before = world.flow();
            let out = packet(proto, inside).tos(0x2e);
            expect_express(&mut world, InsideIn, &out, &packet(proto, wire).tos(0x2e).ttl(63));
            let flow = world.flow();
            assert!(is_fresh(&flow));
            let back = packet(proto, reversed(wire)).ttl(9);
            expect_express(&mut world, UplinkIn, &back, &packet(proto, reversed(inside)).ttl(8));
            let flow = world.flow();
            let len = if proto == proto::TCP { 140 } else { 38 };
            let more = |after: [u64; 2], before: [u64; 2]| [after[0] - before[0], after[1] - before[1]];
            assert_eq!(more(packets(&flow), packets(&before)), [1, 1]);
            assert_eq!(more(bytes(&flow), bytes(&before)), [len, len]);
            assert_eq!(flow.state, before.state);
            assert_eq!(flow.next_hop, before.next_hop);
        }
    }
}

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
    assert_eq!(tally(one.counted.iter().copied()), tally(other.counted.iter().copied()));
    assert_eq!(one.flows.len(), other.flows.len());
    for ((slot, flow), (other_slot, other)) in one.flows.iter().zip(&other.flows) {
        assert!(slot == other_slot && is_same(flow, other), "\n  {flow:?}\n  {other:?}");
    }
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
        ("SYN|ACK", UplinkIn, back(SYN | ACK)),
        ("FIN", InsideIn, out(FIN | ACK)),
        ("FIN", UplinkIn, back(FIN | ACK)),
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
        ("doomed", |world| world.change_flow(0, |flow| flow.state |= State::DOOMED)),
        ("held", |world| world.change_flow(0, |flow| flow.state |= State::HELD)),
        ("announced", |world| world.change_flow(0, |flow| flow.state |= State::ANNOUNCED)),
        ("being moved", |world| world.change_flow(0, |flow| flow.state |= State::MOVING)),
        ("expired", |world| world.change_flow(0, |flow| flow.word = 1 << 32 | u64::from(ago(7441).0))),
        ("the epoch has changed", |world| world.set_watch(EPOCH + 1, now().0.wrapping_add(10_000))),
        ("nobody watches any more", |world| world.set_watch(EPOCH, now().0.wrapping_sub(1))),
        ("nobody has watched yet", |world| world.set_watch(0, now().0.wrapping_add(10_000))),
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
    world.change_flow(0, |flow| flow.state &= !State::CONFIRMED);
    let traced = world.trace(InsideIn, &udp(CONTAINER, PEERS), false);
    assert!(!is_of_the_lane(InsideIn, &traced.outcome));
    assert_eq!(traced.outcome.frame[14] & 0xf, 7, "a tag");
}

#[test]
fn an_expired_flow_is_not_revived() {
    let mut world = World::new();
    for (hook, ends) in [(InsideIn, [CONTAINER, SERVER]), (UplinkIn, [SERVER, WIRE])] {
        let expire: Change = |world| world.change_flow(0, |flow| flow.word = 1 << 32 | u64::from(ago(301).0));
        let traced = expect_long_way(&mut world, proto::UDP, expire, hook, &packet(proto::UDP, ends));
        assert!(traced.counted.contains(&(Counter::FlowsExpired, 1)), "{:?}", traced.counted);
    }
    // As long as it could be the shortest timeout of all, the lane does not ask which one is the flow's.
    for (idle, express) in [(58, true), (62, false), (299, false)] {
        known(&mut world, proto::UDP);
        world.change_flow(0, |flow| flow.word = 1 << 32 | u64::from(ago(idle).0));
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
            world.change_flow(0, |flow| flow.word = flow.word & !0xffff_ffff | u64::from(ago(5).0));
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
        world.change_flow(0, |flow| flow.next_hop = [name; 2]);
        for (hook, ends) in [(InsideIn, [CONTAINER, SERVER]), (UplinkIn, [SERVER, WIRE])] {
            let traced = world.trace(hook, &packet(proto::UDP, ends), false);
            assert_eq!((traced.outcome.action, traced.outcome.frame[..6] == hook.macs()[0]), (REDIRECT, true));
            world.change_flow(0, |flow| flow.next_hop = [name; 2]);
        }
    }
}

/// The datagram with the payload by which its checksum comes to zero, which UDP writes as 0xffff.
fn summing_to_zero(ends: [End; 2]) -> Vec<u8> {
    let frame = udp(ends[0], ends[1]).with_payload(vec![0, 0]).frame([[0; 6]; 2]);
    frame[40..42].to_vec()
}

#[test]
fn checksums_are_right_after_the_lane() {
    let mut world = World::new();
    let zero = |ends: [End; 2]| summing_to_zero(ends);
    let (out, wire) = ([CONTAINER, SERVER], [WIRE, SERVER]);
    for (hook, from, to) in [(InsideIn, out, wire), (UplinkIn, reversed(wire), reversed(out))] {
        let datagram = |ends: [End; 2]| udp(ends[0], ends[1]);
        let segment = |ends: [End; 2]| tcp(ends[0], ends[1], PSH | ACK);
        type Make<'a> = &'a dyn Fn([End; 2]) -> Packet;
        let table: [(&str, Make<'_>); 10] = [
            ("a datagram", &datagram),
            ("an odd one, padded", &|ends| datagram(ends).carrying(3).padded(15)),
            ("an empty one", &|ends| datagram(ends).carrying(0).padded(18)),
            ("a long one", &|ends| datagram(ends).carrying(1472)),
            ("one that came to zero", &|ends| datagram(ends).with_payload(zero(from))),
            ("one that comes to zero", &|ends| datagram(ends).with_payload(zero(to))),
            ("a segment", &segment),
            ("a segment with options", &|ends| segment(ends).tcp_options(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])),
            ("a long segment", &|ends| segment(ends).carrying(1460)),
            ("one with all other flags", &|ends| tcp(ends[0], ends[1], ACK | PSH | 0xc0).tos(3)),
        ];
        for (what, make) in table {
            println!("{what} at {hook:?}");
            let is_tcp = make(from).frame([[0; 6]; 2])[23] == proto::TCP;
            for summed in [false, true] {
                known(&mut world, if is_tcp { proto::TCP } else { proto::UDP });
                let traced = world.trace(hook, &make(from), summed);
                assert_eq!(traced.outcome.frame, make(to).ttl(63).frame(way_out(hook).macs()), "summed: {summed}");
            }
        }
        // Without a checksum there is nothing to keep: the kernel's own NAT does not keep a network card's sum either.
        known(&mut world, proto::UDP);
        let without = |ends| datagram(ends).without_checksum();
        expect_express(&mut world, hook, &without(from), &without(to).ttl(63));
    }
}

#[test]
fn super_packets_stay_whole() {
    let mut world = World::new();
    let large = |ends: [End; 2]| tcp(ends[0], ends[1], ACK).carrying(2800).segmented(1400);
    known(&mut world, proto::TCP);
    expect_express(&mut world, InsideIn, &large([CONTAINER, SERVER]), &large([WIRE, SERVER]).ttl(63));
    expect_express(&mut world, UplinkIn, &large([SERVER, WIRE]), &large([SERVER, CONTAINER]).ttl(63));
    let flow = world.flow();
    assert_eq!(bytes(&flow), [140 + 2840, 2840]);
}

/// What may be fragmented later gets an identification of its own where it leaves with an address that many share.
#[test]
fn what_may_be_fragmented_leaves_with_another_identification() {
    let mut world = World::new();
    known(&mut world, proto::UDP);
    let datagram = |ends: [End; 2], id| udp(ends[0], ends[1]).may_fragment().id(id);
    let mut ids: Vec<u16> = (0..8)
        .map(|_| {
            let traced = world.trace(InsideIn, &datagram([CONTAINER, SERVER], 7), false);
            let frame = traced.outcome.frame;
            let id = u16::from_be_bytes([frame[18], frame[19]]);
            let expected = datagram([WIRE, SERVER], id).ttl(63);
            assert_eq!(frame, expected.frame(way_out(InsideIn).macs()));
            id
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() > 4, "random ones, not {ids:?}");
    let back = datagram([SERVER, CONTAINER], 7).ttl(63);
    expect_express(&mut world, UplinkIn, &datagram([SERVER, WIRE], 7), &back);
}
