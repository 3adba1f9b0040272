//! The express lane: what takes it, what leaves it, and that nobody can tell but by the MAC addresses.

mod checksums;
mod hops;
mod leaves;
mod openings;
mod turns;
mod wire;

use xnat_common::flow::State;
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, PSH};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2};

use crate::fixture::{Given, Known, REDIRECT, ago, bytes, forwarded, inbound, mapped, outside, packets, to_peer};
use crate::lane::{Traced, is_fresh, way_out};
use crate::packet::{End, Packet, tcp, udp};
use crate::world::Hook::{self, InsideIn, UplinkIn};
use crate::world::World;

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
    world.change_flow(|flow| flow.word = flow.word & !0xffff_ffff | u64::from(ago(5).0));
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
    assert_eq!(outcome.action, REDIRECT, "{:?}", traced.tally());
    assert_eq!(outcome.frame, expected, "\n  got      {:02x?}\n  expected {expected:02x?}", outcome.frame);
    assert_eq!((outcome.mark, traced.tally()), (mark::DONE, vec![]));
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
