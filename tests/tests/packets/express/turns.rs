//! Segments that begin and end connections to the outside: they take the lane, and nobody can tell.

use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::packet::proto;
use xnat_common::tcp::State as Tcp;
use xnat_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xnat_tests::topology::{N1, NODE1};

use super::openings::learnt;
use super::{Case, SERVER, cases, learn, packet, reversed};
use crate::fixture::REDIRECT;
use crate::lane::{Traced, is_of_the_lane};
use crate::packet::{End, Packet, tcp};
use crate::world::Hook::{self, InsideIn, UplinkIn};
use crate::world::World;

const CLIENT: End = (N1, 40_002);
const ON_THE_WIRE: End = (NODE1, 40_002);

fn out(flags: u8, seq: u32, ack: u32) -> (Hook, Packet) {
    (InsideIn, tcp(CLIENT, SERVER, flags).numbers(seq, ack))
}

fn back(flags: u8, seq: u32, ack: u32) -> (Hook, Packet) {
    (UplinkIn, tcp(SERVER, ON_THE_WIRE, flags).numbers(seq, ack))
}

/// A packet through the lane and through the long way; everything but the MAC addresses is the same. Returns what has come
/// of it on the lane.
#[track_caller]
fn same(fast: &mut World, slow: &mut World, hook: Hook, packet: &Packet) -> Traced {
    let [one, other] = [fast, slow].map(|world| world.trace(hook, packet, false));
    one.expect_same(&other);
    one
}

/// Two worlds in which openings to the server are known, in one of which the lane is closed.
fn worlds() -> (World, World) {
    let (mut fast, mut slow) = (World::new(), World::new());
    for world in [&mut fast, &mut slow] {
        learnt(world, proto::TCP);
    }
    slow.close_lane();
    (fast, slow)
}

fn state(traced: &Traced) -> Tcp {
    let flow = traced.flows.iter().map(|(_, flow)| flow).find(|flow| flow.original.sport.number() == CLIENT.1);
    State(flow.expect("the flow").state).tcp()
}

#[test]
fn a_whole_connection_takes_the_lane() {
    let (mut fast, mut slow) = worlds();
    let story = [
        (out(SYN, 1000, 0), Tcp::SynSent),
        (back(SYN | ACK, 5000, 1001), Tcp::SynRecv),
        (out(ACK, 1001, 5001), Tcp::Established),
        (out(PSH | ACK, 1001, 5001), Tcp::Established),
        (back(PSH | ACK, 5001, 1001), Tcp::Established),
        (back(FIN | ACK, 5001, 1001), Tcp::FinWait),
        (out(ACK, 1001, 5002), Tcp::CloseWait),
        (out(FIN | ACK, 1001, 5002), Tcp::LastAck),
        (back(ACK, 5002, 1002), Tcp::TimeWait),
        // The last acknowledgement was lost.
        (out(FIN | ACK, 1001, 5002), Tcp::TimeWait),
        (back(ACK, 5002, 1002), Tcp::TimeWait),
    ];
    for ((hook, packet), then) in story {
        let traced = same(&mut fast, &mut slow, hook, &packet);
        assert!(is_of_the_lane(hook, &traced.outcome), "{then:?}");
        assert_eq!(state(&traced), then);
    }
    let (hook, reset) = out(RST | ACK, 1002, 5002);
    assert!(!is_of_the_lane(hook, &same(&mut fast, &mut slow, hook, &reset).outcome));
}

#[test]
fn what_is_not_plausible_ends_nothing() {
    let (mut fast, mut slow) = worlds();
    for (hook, packet) in [out(SYN, 1000, 0), back(SYN | ACK, 5000, 1001), out(ACK, 1001, 5001)] {
        same(&mut fast, &mut slow, hook, &packet);
    }
    for (hook, stray) in [
        out(FIN | ACK, 0x7000_0000, 5001),
        back(FIN | ACK, 0x7000_0000, 1001),
        back(FIN | ACK, 5001, 0x7000_0000),
        back(SYN | ACK, 0x7000_0000, 0x7000_0000),
    ] {
        let traced = same(&mut fast, &mut slow, hook, &stray);
        assert_eq!((traced.outcome.action, state(&traced)), (REDIRECT, Tcp::Established));
        assert_eq!(traced.counted, [(Counter::TcpImplausible, 1)]);
    }
}

#[test]
fn only_flows_to_the_outside_turn_on_the_lane() {
    let mut world = World::new();
    for Case { what, flow, inside, wire } in cases(proto::TCP) {
        for (hook, [src, dst]) in [(InsideIn, inside), (UplinkIn, reversed(wire))] {
            learn(&mut world, flow.answered(), &packet(proto::TCP, inside));
            let traced = world.trace(hook, &tcp(src, dst, FIN | ACK), false);
            assert_eq!(traced.outcome.action, REDIRECT, "{what}");
            assert_eq!(is_of_the_lane(hook, &traced.outcome), what == "to the outside", "{what} at {hook:?}");
        }
    }
}
