//! Fragments: the first has the ports and opens the way, the others follow.

use std::net::Ipv4Addr;
use std::time::Duration;

use xnat_common::counter::Counter::{
    FlowsOpened, FragmentOverlap, FragmentUnknown, FragmentsHeld, Malformed, MappingsOpened,
};
use xnat_common::fragment::{DATAGRAMS_A_SOURCE, HELD_A_SOURCE};
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_common::{Direction, Side};
use xnat_tests::packet::SYN;
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2};
use xnat_tests::wait;

use crate::fixture::Fate::{Gone, Pass, PassAs, Redirect};
use crate::fixture::Given::{FirstFragment, Known};
use crate::fixture::{Fixture, PASS, REDIRECT, SHOT, datagram, inbound, outside, packets, run, tally};
use crate::packet::{Packet, Tag, echo, tcp, udp};
use crate::world::Hook::{self, InsideIn, UplinkIn, UplinkOut};
use crate::world::World;

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 53);
const ID: u16 = 0x1234;

/// A datagram of two fragments and a bit.
fn whole(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Packet {
    udp(src, dst).carrying(3000).id(ID)
}

#[test]
fn fragments_follow_the_first() {
    let moved = || Known(outside(proto::UDP, CONTAINER, SERVER).port(61234));
    let sent =
        |seconds| FirstFragment(datagram(Side::Inside, N1, ANYWHERE, proto::UDP, ID), Direction::Original, seconds);
    let came = || FirstFragment(datagram(Side::Wire, ANYWHERE, NODE1, proto::UDP, ID), Direction::Reply, 1);
    let theirs = || FirstFragment(datagram(Side::Wire, NODE2, NODE1, proto::UDP, ID), Direction::Original, 1);
    run([
        Fixture {
            what: "the first opens a flow",
            at: InsideIn,
            given: vec![],
            packet: whole(CONTAINER, SERVER).fragment(0, 1480),
            fate: Redirect(whole((NODE1, 40000), SERVER).fragment(0, 1480).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "the first of a ping",
            at: InsideIn,
            given: vec![],
            packet: echo(N1, ANYWHERE, 9).carrying(2000).fragment(0, 1480),
            fate: Redirect(echo(NODE1, ANYWHERE, 9).carrying(2000).fragment(0, 1480).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "the middle",
            at: InsideIn,
            given: vec![moved(), sent(1)],
            packet: whole(CONTAINER, SERVER).fragment(1480, 1480),
            fate: Redirect(whole((NODE1, 61234), SERVER).fragment(1480, 1480).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "the end, shorter than any transport header",
            at: InsideIn,
            given: vec![moved(), sent(29)],
            packet: whole(CONTAINER, SERVER).fragment(3000, 8).padded(18),
            fate: Redirect(whole((NODE1, 61234), SERVER).fragment(3000, 8).padded(18).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "the middle of an answer",
            at: UplinkIn,
            given: vec![moved(), came()],
            packet: whole(SERVER, (NODE1, 61234)).fragment(1480, 1480),
            fate: Redirect(whole(SERVER, CONTAINER).fragment(1480, 1480).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "the middle of what a peer sends",
            at: UplinkIn,
            given: vec![Known(inbound(proto::UDP, (NODE2, 40000), (N1, 80))), theirs()],
            packet: whole((NODE2, 40000), (NODE1, 80)).fragment(1480, 1480),
            fate: Redirect(whole((NODE2, 40000), (N1, 80)).fragment(1480, 1480).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "the middle of what the kernel has routed",
            at: UplinkOut,
            given: vec![moved(), sent(1)],
            packet: whole(CONTAINER, SERVER).fragment(1480, 1480),
            fate: PassAs(whole((NODE1, 61234), SERVER).fragment(1480, 1480)),
            counts: &[],
        },
    ]);
}

#[test]
fn fragments_whose_first_one_is_unknown() {
    let moved = || Known(outside(proto::UDP, CONTAINER, SERVER).port(61234));
    let late = || FirstFragment(datagram(Side::Inside, N1, ANYWHERE, proto::UDP, ID), Direction::Original, 31);
    run([
        Fixture {
            what: "are kept until it comes",
            at: InsideIn,
            given: vec![moved()],
            packet: whole(CONTAINER, SERVER).fragment(1480, 1480),
            fate: Gone,
            counts: &[FragmentsHeld],
        },
        Fixture {
            what: "31 seconds are too late",
            at: InsideIn,
            given: vec![moved(), late()],
            packet: whole(CONTAINER, SERVER).fragment(1480, 1480),
            fate: Gone,
            counts: &[FragmentsHeld],
        },
        Fixture {
            what: "do not leave with a container's address",
            at: UplinkOut,
            given: vec![moved()],
            packet: whole(CONTAINER, SERVER).fragment(1480, 1480),
            fate: Gone,
            counts: &[FragmentUnknown],
        },
        Fixture {
            what: "leave when they are the host's own",
            at: UplinkOut,
            given: vec![],
            packet: whole((NODE1, 40000), SERVER).fragment(1480, 1480),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "from the wire may be anybody's",
            at: UplinkIn,
            given: vec![moved()],
            packet: whole(SERVER, (NODE1, 61234)).fragment(1480, 1480),
            fate: Gone,
            counts: &[FragmentsHeld],
        },
    ]);
}

#[test]
fn first_fragments_without_the_transport_header() {
    run([
        Fixture {
            what: "eight octets of a TCP header: its flags would come in the second (RFC 1858)",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).fragment(0, 8),
            fate: Gone,
            counts: &[Malformed],
        },
        Fixture {
            what: "from the wire",
            at: UplinkIn,
            given: vec![],
            packet: tcp(SERVER, CONTAINER_ON_WIRE, SYN).fragment(0, 16),
            fate: Gone,
            counts: &[Malformed],
        },
    ]);
}

#[test]
fn fragments_that_could_overlap_are_dropped() {
    let shapes = [
        ("cut elsewhere than between units", whole(CONTAINER, SERVER).fragment(0, 1001)),
        (
            "beyond the longest datagram",
            whole(CONTAINER, SERVER).carrying(65_000).id(ID).fragment(64_000, 1000).edited(20, &[0x1f, 0xff]),
        ),
        ("eight octets into TCP (RFC 1858)", tcp(CONTAINER, SERVER, SYN).carrying(100).fragment(8, 40)),
        ("nothing at all", whole(CONTAINER, SERVER).fragment(1480, 0)),
    ];
    run(shapes.into_iter().map(|(what, packet)| Fixture {
        what,
        at: InsideIn,
        given: vec![],
        packet,
        fate: Gone,
        counts: &[FragmentOverlap],
    }));
}

/// Runs fragments one after the other, each of which meets its own fate, and compares what was counted.
#[track_caller]
fn expect_in_turn(hook: Hook, packets: &[(Packet, i32)], counts: &[(&str, u64)]) {
    let mut world = World::new();
    for (nth, (packet, action)) in packets.iter().enumerate() {
        let outcome = world.run(hook, packet, false).expect("a run");
        assert_eq!(outcome.action, *action, "packet {nth}: {:?}", tally(world.counters()));
        if outcome.action == PASS {
            assert_eq!(outcome.frame, packet.frame(hook.macs()), "packet {nth} is left as it is");
        }
    }
    assert_eq!(tally(world.counters()), counts);
}

#[test]
fn overlapping_fragments_poison_their_datagram() {
    let part = |start, len| whole(CONTAINER, SERVER).fragment(start, len);
    expect_in_turn(
        InsideIn,
        &[(part(0, 1480), REDIRECT), (part(1472, 800), SHOT), (part(2272, 736), SHOT)],
        &[("flows_opened", 1), ("mappings_opened", 1), ("fragment_overlap", 2)],
    );
    // The last one first: what was kept ends with its datagram.
    expect_in_turn(
        InsideIn,
        &[(part(1480, 1480), SHOT), (part(1400, 800), SHOT), (part(0, 1400), SHOT)],
        &[("fragments_held", 1), ("fragment_overlap", 3)],
    );
}

#[test]
fn a_fragment_that_the_network_has_doubled_passes_once() {
    let part = |start, len| whole(CONTAINER, SERVER).fragment(start, len);
    expect_in_turn(
        InsideIn,
        &[(part(0, 1480), REDIRECT), (part(0, 1480), SHOT), (part(1480, 1480), REDIRECT), (part(1480, 1480), SHOT)],
        &[("flows_opened", 1), ("mappings_opened", 1), ("fragment_overlap", 2)],
    );
}

#[test]
fn later_fragments_share_the_fate_of_the_first() {
    let to_host = |start, len| whole(SERVER, (NODE1, 40000)).fragment(start, len);
    expect_in_turn(UplinkIn, &[(to_host(0, 1480), PASS), (to_host(1480, 1480), PASS)], &[]);
    // A SYN that comes from a peer with a tag for nobody here.
    let refused = |start, len| {
        udp((NODE2, 40000), (NODE1, 80)).carrying(1600).tagged(Tag::Open, ANYWHERE).id(7).fragment(start, len)
    };
    expect_in_turn(
        UplinkIn,
        &[(refused(0, 800), SHOT), (refused(800, 808), SHOT)],
        &[("tag_subnet", 1), ("fragment_unknown", 1)],
    );
}

#[test]
fn a_datagram_that_is_complete_gives_its_identification_free() {
    let part = |start, len| whole(CONTAINER, SERVER).fragment(start, len);
    let all = [(part(0, 1480), REDIRECT), (part(1480, 1480), REDIRECT), (part(2960, 48), REDIRECT)];
    expect_in_turn(InsideIn, &[all.clone(), all].concat(), &[("flows_opened", 1), ("mappings_opened", 1)]);
}

#[test]
fn a_source_has_a_quota_of_unfinished_datagrams() {
    let mut world = World::new();
    let first = |from, id| udp(from, SERVER).carrying(3000).id(id).fragment(0, 1480);
    for id in 1..=DATAGRAMS_A_SOURCE as u16 {
        assert_eq!(world.run(InsideIn, &first(CONTAINER, id), false).expect("a run").action, REDIRECT, "{id}");
    }
    assert_eq!(world.run(InsideIn, &first(CONTAINER, 9999), false).expect("a run").action, SHOT);
    let other = (Ipv4Addr::new(192, 168, 110, 12), 40001);
    assert_eq!(world.run(InsideIn, &first(other, 9999), false).expect("a run").action, REDIRECT);
    assert_eq!(tally(world.counters())[2..], [("fragment_quota", 1)]);
    // A datagram that has come whole gives its place back.
    for (start, len) in [(1480, 1480), (2960, 48)] {
        let rest = udp(CONTAINER, SERVER).carrying(3000).id(5).fragment(start, len);
        assert_eq!(world.run(InsideIn, &rest, false).expect("a run").action, REDIRECT);
    }
    assert_eq!(world.run(InsideIn, &first(CONTAINER, 9999), false).expect("a run").action, REDIRECT);
}

#[test]
fn what_is_kept_for_a_source_has_a_quota() {
    let mut world = World::new();
    let later = |id| whole(CONTAINER, SERVER).id(id).fragment(1480, 1480);
    for id in 1..=HELD_A_SOURCE as u16 + 10 {
        assert_eq!(world.run(InsideIn, &later(id), false).expect("a run").action, SHOT);
    }
    assert_eq!(tally(world.counters()), [("fragments_held", HELD_A_SOURCE), ("fragment_quota", 10)]);
}

#[test]
fn what_is_not_completed_within_half_a_minute_is_forgotten() {
    let mut world = World::new();
    let later = |id| whole(CONTAINER, SERVER).id(id).fragment(1480, 1480);
    for id in 1..=HELD_A_SOURCE as u16 {
        world.run(InsideIn, &later(id), false).expect("a run");
    }
    world.age_fragments(29);
    world.collect();
    assert_eq!((world.datagrams() as u64, world.counters().len()), (HELD_A_SOURCE, 1));
    world.age_fragments(2);
    world.collect();
    assert_eq!(world.datagrams(), 0);
    assert_eq!(tally(world.counters()), [("fragments_held", HELD_A_SOURCE), ("fragment_expired", HELD_A_SOURCE)]);
    // The quota is free again, and a first fragment that comes too late has nobody to wait for.
    world.run(InsideIn, &later(1), false).expect("a run");
    assert_eq!(
        world.run(InsideIn, &whole(CONTAINER, SERVER).id(2).fragment(0, 1480), false).expect("a run").action,
        REDIRECT
    );
    assert_eq!(
        tally(world.counters())[2..],
        [("fragments_held", HELD_A_SOURCE + 1), ("fragment_expired", HELD_A_SOURCE)]
    );
}

#[test]
fn a_source_that_has_used_up_its_quota_gets_it_back_without_the_daemon() {
    let mut world = World::new();
    let first = |id| whole(CONTAINER, SERVER).id(id).fragment(0, 1480);
    for id in 1..=DATAGRAMS_A_SOURCE as u16 {
        world.run(InsideIn, &first(id), false).expect("a run");
    }
    world.age_fragments(31);
    assert_eq!(world.run(InsideIn, &first(9999), false).expect("a run").action, REDIRECT);
    assert_eq!(world.datagrams(), 1);
}

/// Where a datagram was cut unevenly, a fragment may be too long for the uplink although the first one was not.
#[test]
fn a_fragment_that_the_kernel_must_cut_follows_its_datagram_there() {
    let mut world = World::new();
    let other = (Ipv4Addr::new(192, 168, 110, 12), 40001);
    let long = |from, start, len| whole(from, SERVER).fragment(start, len);
    world.run(InsideIn, &long(other, 0, 800), false).expect("a run");
    let first = world.run(InsideIn, &long(CONTAINER, 0, 800), false).expect("a run");
    assert_eq!(first.action, REDIRECT);
    let rest = long(CONTAINER, 800, 2208);
    assert_eq!(world.run(InsideIn, &rest, false).expect("a run").action, PASS);
    // The kernel has cut it.
    for (start, len) in [(800, 1480), (2280, 728)] {
        let outcome = world.run(UplinkOut, &long(CONTAINER, start, len), false).expect("a run");
        assert_eq!(outcome.action, PASS);
        assert_ne!(id_of(&outcome.frame), ID, "the other container's datagram has that");
        let expected = whole((NODE1, 40000), SERVER).id(id_of(&first.frame)).fragment(start, len);
        assert_eq!(outcome.frame, expected.frame(UplinkOut.macs()));
    }
    assert_eq!(tally(world.counters()), [("flows_opened", 2), ("to_kernel_mtu", 1), ("mappings_opened", 2)]);
}

/// The packet itself carries the others to where they are received again.
#[test]
fn a_first_fragment_is_what_it_was_after_it_has_brought_the_others() {
    let mut world = World::new();
    world.attach(InsideIn);
    for summed in [false, true] {
        world.reset();
        let (from, to) = ((N1, 40000), (NODE1, 40000));
        for (start, len) in [(2960, 48), (1480, 1480)] {
            let later = whole(from, SERVER).fragment(start, len);
            assert_eq!(world.run(InsideIn, &later, false).expect("a run").action, SHOT);
        }
        let outcome = world.run(InsideIn, &whole(from, SERVER).fragment(0, 1480), summed).expect("a run");
        let expected = whole(to, SERVER).fragment(0, 1480).ttl(63).frame(InsideIn.macs());
        assert_eq!((outcome.action, outcome.mark), (REDIRECT, mark::DONE));
        assert_eq!(outcome.frame, expected, "summed {summed}");
        // The others come by the hook on their own.
        wait::until_true("all three have been translated", wait::SOON, || packets(&world.flow()) == [3, 0]);
        assert_eq!(tally(world.counters()), [("flows_opened", 1), ("mappings_opened", 1), ("fragments_held", 2)]);
    }
}

/// The identification of a frame.
fn id_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

#[test]
fn identifications_on_the_wire_are_no_others() {
    let mut world = World::new();
    let containers = [CONTAINER, (Ipv4Addr::new(192, 168, 110, 12), 40001), (Ipv4Addr::new(192, 168, 110, 13), 40002)];
    let mut seen = Vec::new();
    for container in containers {
        let mut send = |start, len| {
            let outcome = world.run(InsideIn, &whole(container, SERVER).fragment(start, len), false).expect("a run");
            assert_eq!(outcome.action, REDIRECT);
            let frame = outcome.frame;
            assert!(xnat_tests::packet::Packet::parse(Duration::ZERO, &frame).checksums_right());
            id_of(&frame)
        };
        let ids = [send(0, 1480), send(1480, 1480), send(2960, 48)];
        assert_eq!(ids, [ids[0]; 3], "one datagram");
        seen.push(ids[0]);
    }
    assert_eq!(seen[0], ID, "the original one while nobody has it");
    assert!(seen[1] != seen[0] && seen[2] != seen[0] && seen[2] != seen[1], "{seen:?}");
    // To another destination it is free.
    let elsewhere = whole(CONTAINER, (N2, 53)).fragment(0, 1480);
    assert_eq!(id_of(&world.run(InsideIn, &elsewhere, false).expect("a run").frame), ID);
}

#[test]
fn what_may_be_fragmented_later_gets_a_random_identification() {
    let mut world = World::new();
    let mut send = |packet: Packet| id_of(&world.run(InsideIn, &packet, false).expect("a run").frame);
    assert!((0..4).all(|_| send(udp(CONTAINER, SERVER).id(ID)) == ID), "an atomic datagram keeps its own");
    assert!((0..4).any(|_| send(udp(CONTAINER, SERVER).id(ID).may_fragment()) != ID));
}

const CONTAINER_ON_WIRE: (Ipv4Addr, u16) = (NODE1, 40000);
