//! Flows from their first packet to their last: the packets of a conversation, one after the other.

use std::net::Ipv4Addr;

use xnat_common::collection::SLICE_OF_FRAGMENTS;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::index::slots;
use xnat_common::packet::proto;
use xnat_common::tcp::State as Tcp;
use xnat_common::{Addr, Kind, Ticks};
use xnat_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2};

use crate::fixture::{Given, PASS, REDIRECT, SHOT, bytes, inbound, outside, packets, tally, to_peer, tuple};
use crate::packet::{Packet, Tag, echo, echo_reply, tcp, udp};
use crate::world::Hook::{self, InsideIn, InsideOut, UplinkIn, UplinkOut};
use crate::world::{INSIDE, MAX_FLOWS, MTU, World};

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const WIRE: (Ipv4Addr, u16) = (NODE1, 40000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);
const PEERS: (Ipv4Addr, u16) = (N2, 80);
const PEER: (Ipv4Addr, u16) = (NODE2, 80);

impl World {
    /// Runs a packet that must meet this fate.
    #[track_caller]
    pub fn expect(&mut self, hook: Hook, packet: &Packet, action: i32) -> Vec<u8> {
        let outcome = self.run(hook, packet, false).expect("a run");
        assert_eq!(outcome.action, action, "{:?}", tally(self.counters()));
        assert_eq!(self.damage(), None);
        outcome.frame
    }

    /// What a counter says.
    pub fn count(&mut self, counter: Counter) -> u64 {
        self.counters().into_iter().find(|(which, _)| *which == counter).map_or(0, |(_, value)| value)
    }
}

#[test]
fn a_connection_to_the_outside() {
    let mut world = World::new();
    let out = |flags| (InsideIn, tcp(CONTAINER, SERVER, flags));
    let back = |flags| (UplinkIn, tcp(SERVER, WIRE, flags));
    let mapped = State::MAPPED | State::REMOTE_NEAR;
    let replied = mapped | State::REPLIED | State::CONFIRMED;
    let open = replied | State::ASSURED;
    let table = [
        (out(SYN), Tcp::SynSent, mapped),
        (back(SYN | ACK), Tcp::SynRecv, replied),
        (out(ACK), Tcp::Established, open),
        (back(PSH | ACK), Tcp::Established, open),
        (out(FIN | ACK), Tcp::FinWait, open | State::FIN_ORIGINAL),
        (back(ACK), Tcp::CloseWait, open | State::FIN_ORIGINAL),
        (back(FIN | ACK), Tcp::LastAck, open | State::FIN_ORIGINAL | State::FIN_REPLY),
        (out(ACK), Tcp::TimeWait, open | State::FIN_ORIGINAL | State::FIN_REPLY),
        (out(SYN), Tcp::SynSent, mapped),
        (back(RST | ACK), Tcp::Close, replied),
    ];
    for ((hook, packet), tcp, bits) in table {
        world.expect(hook, &packet, REDIRECT);
        let state = State(world.flow().state);
        assert_eq!((state.tcp(), state.0 & !0xff), (tcp, bits), "after {packet:?}");
    }
    let flow = world.flow();
    assert_eq!((packets(&flow), bytes(&flow)), ([5, 5], [200, 200]));
    assert_eq!((flow.inside, flow.peer, flow.kind), (INSIDE, Addr::UNSPECIFIED, Kind::Outside as u8));
    assert_eq!(flow.original, tuple(CONTAINER, SERVER));
    assert_eq!(flow.reply, tuple(SERVER, WIRE));
    assert_eq!(tally(world.counters()), [("flows_opened", 1), ("flows_reopened", 1), ("mappings_opened", 1)]);
}

#[test]
fn a_connection_to_a_peer_is_tagged_until_it_answers() {
    let mut world = World::new();
    for tagged in 1..=2 {
        world.expect(InsideIn, &tcp(CONTAINER, PEERS, SYN), REDIRECT);
        let flow = world.flow();
        assert_eq!((flow.tagged, flow.kind, flow.peer), (tagged, Kind::Peer as u8, NODE2.into()));
        assert!(!State(flow.state).has(State::CONFIRMED));
    }
    world.expect(UplinkIn, &tcp(PEER, WIRE, SYN | ACK), REDIRECT);
    assert!(State(world.flow().state).has(State::CONFIRMED | State::REPLIED));
    world.expect(InsideIn, &tcp(CONTAINER, PEERS, ACK), REDIRECT);
    let flow = world.flow();
    assert_eq!(flow.tagged, 2);
    // A tag is the wire's and not the flow's: it is not among the octets.
    assert_eq!((packets(&flow), bytes(&flow)), ([3, 1], [120, 40]));

    // The peer loses its table. What it sends back makes the next packet carry the tag again.
    let lost = tcp(PEER, WIRE, ACK).tagged(Tag::UnknownFlow, Ipv4Addr::UNSPECIFIED);
    world.expect(UplinkIn, &lost, SHOT);
    let frame = world.expect(InsideIn, &tcp(CONTAINER, PEERS, PSH | ACK), REDIRECT);
    assert_eq!(frame[14] & 0xf, 7, "a tag");
    world.expect(UplinkIn, &tcp(PEER, WIRE, ACK), REDIRECT);
    let frame = world.expect(InsideIn, &tcp(CONTAINER, PEERS, PSH | ACK), REDIRECT);
    assert_eq!(frame[14] & 0xf, 5, "no tag any more");
    assert_eq!(State(world.flow().state).tcp(), Tcp::Established, "the connection has not noticed");
}

#[test]
fn a_connection_from_a_peer() {
    let mut world = World::new();
    let (peer, container, host) = ((NODE2, 40000), (N1, 80), (NODE1, 80));
    world.expect(UplinkIn, &tcp(peer, host, SYN).tagged(Tag::Open, N1), REDIRECT);
    let flow = world.flow();
    assert_eq!((flow.kind, flow.peer, flow.inside), (Kind::Inbound as u8, NODE2.into(), INSIDE));
    assert_eq!((flow.original, flow.reply), (tuple(peer, host), tuple(container, peer)));
    assert_eq!(State(flow.state), State(State::CONFIRMED).with_tcp(Tcp::SynSent));
    world.expect(InsideIn, &tcp(container, peer, SYN | ACK), REDIRECT);
    world.expect(UplinkIn, &tcp(peer, host, ACK), REDIRECT);
    let flow = world.flow();
    assert_eq!(State(flow.state).tcp(), Tcp::Established);
    assert_eq!((packets(&flow), bytes(&flow)), ([2, 1], [80, 40]), "without the tag's octets");
    assert_eq!(tally(world.counters()), [("flows_opened", 1), ("tags_received", 1)]);
}

#[test]
fn an_announcement_serves_the_packet_that_follows_it() {
    let mut world = World::new();
    let (peer, host) = ((NODE2, 40000), (NODE1, 80));
    world.expect(UplinkIn, &tcp(peer, host, SYN).tagged(Tag::Announce, N1), SHOT);
    let flow = world.flow();
    assert!(State(flow.state).has(State::ANNOUNCED));
    assert_eq!(packets(&flow), [0, 0], "an announcement is no packet of the flow");
    world.expect(UplinkIn, &tcp(peer, host, SYN).options(&[0x94, 4, 0, 0]), REDIRECT);
    assert!(!State(world.flow().state).has(State::ANNOUNCED));
}

#[test]
fn datagrams_and_pings_are_answered() {
    let mut world = World::new();
    world.expect(InsideIn, &udp(CONTAINER, SERVER), REDIRECT);
    let mapped = State::MAPPED | State::REMOTE_NEAR;
    assert_eq!(State(world.flow().state), State(mapped));
    world.expect(UplinkIn, &udp(SERVER, WIRE), REDIRECT);
    let answered = State(mapped | State::REPLIED | State::CONFIRMED | State::ASSURED);
    assert_eq!(State(world.flow().state), answered);

    world.reset();
    world.expect(InsideIn, &echo(N1, ANYWHERE, 7), REDIRECT);
    world.expect(UplinkIn, &echo_reply(ANYWHERE, NODE1, 7), REDIRECT);
    world.expect(InsideIn, &echo(N1, ANYWHERE, 7), REDIRECT);
    let flow = world.flow();
    assert_eq!((State(flow.state), packets(&flow)), (answered, [2, 1]));
}

#[test]
fn all_fragments_of_a_datagram_take_one_way() {
    let mut world = World::new();
    let whole = udp(CONTAINER, PEERS).carrying(3500).id(99);
    for (start, len) in [(0, 1480), (1480, 1480), (2960, 1480)] {
        world.expect(InsideIn, &whole.clone().fragment(start, len), REDIRECT);
    }
    assert_eq!(packets(&world.flow()), [3, 0]);
    // The first fragment was announced; the others carry no ports, so nothing could be announced by them.
    assert_eq!(tally(world.counters()), [("flows_opened", 1), ("announces_sent", 1)]);
}

/// Kernel forwarding does not make a flow the kernel's: what was translated and handed to the kernel because it is too
/// long for the containers' network comes by at its egress hook.
#[test]
fn a_flow_survives_what_the_kernel_fragments_for_it() {
    let mut world = World::new();
    world.set_inside_mtu(1280);
    Given::Known(inbound(proto::UDP, (NODE2, 40000), (N1, 80))).prepare(&mut world);
    let long = udp((NODE2, 40000), (NODE1, 80)).carrying(1400).may_fragment();
    let outcome = world.run(UplinkIn, &long, false).expect("a run");
    assert_eq!(outcome.action, PASS);
    let forwarded = udp((NODE2, 40000), (N1, 80)).carrying(1400).fragment(0, 1256).marked(outcome.mark);
    world.expect(InsideOut, &forwarded, PASS);
    assert_eq!(tally(world.counters()), [("to_kernel_mtu", 1)]);
    assert_eq!(packets(&world.flow()), [1, 0]);
    assert_eq!(MTU, 1500);
}

#[test]
fn a_flow_moves_to_another_port_after_a_conflict() {
    let mut world = World::new();
    for (flow, conflict, next) in [
        (
            to_peer(proto::TCP, CONTAINER, PEERS, NODE2).tcp(Tcp::SynSent),
            tcp(PEER, WIRE, SYN).tagged(Tag::Conflict, N2),
            tcp(CONTAINER, PEERS, SYN),
        ),
        (
            to_peer(proto::ICMP, (N1, 40000), (N2, 0), NODE2),
            echo(NODE2, NODE1, 40000).carrying(0).tagged(Tag::Conflict, N2),
            echo(N1, N2, 40000),
        ),
    ] {
        world.reset();
        Given::Known(flow.tagged(1, 0)).prepare(&mut world);
        world.expect(UplinkIn, &conflict, SHOT);
        let moved = world.flow();
        assert_ne!(moved.reply.dport.number(), 40000, "another port");
        assert_eq!(moved.tagged, 0, "of which the peer is to be told");
        let frame = world.expect(InsideIn, &next, REDIRECT);
        assert_eq!(frame[14] & 0xf, 7, "with a tag");
        // The first port is free again: nobody here knows what comes for it.
        world.expect(UplinkIn, &conflict, SHOT);
        assert_eq!(world.count(Counter::ConflictReceived), 1);
        assert_eq!(world.flow().reply, moved.reply);
    }
}

#[test]
fn answers_that_a_flow_is_unknown_are_limited() {
    let mut world = World::new();
    let reset = tcp((NODE1, 80), (NODE2, 40000), RST);
    let actions: Vec<i32> = (0..2000)
        .map(|_| world.run(UplinkOut, &reset, false).expect("a run").action)
        .take_while(|action| *action != SHOT)
        .collect();
    assert!(actions.len() >= 32, "32 in a tick are answered");
    assert!(actions.len() < 2000, "there is a limit");
    assert!(actions.iter().all(|action| *action == PASS));
    assert_eq!(world.count(Counter::UnknownFlowLimited), 1);
    assert_eq!(world.count(Counter::UnknownFlowSent), actions.len() as u64);
}

#[test]
fn collection_ends_what_was_idle_for_too_long() {
    let mut world = World::new();
    let udp_flow = |port| outside(proto::UDP, (N1, port), SERVER);
    let tcp_flow = |port| outside(proto::TCP, (N1, port), SERVER);
    let ping = |id| outside(proto::ICMP, (N1, id), (ANYWHERE, 0));
    let table = [
        ("UDP without an answer, 119 s", udp_flow(1).idle(119), true),
        ("UDP without an answer, 121 s", udp_flow(2).idle(121), false),
        ("UDP with an answer, 299 s", udp_flow(3).answered().idle(299), true),
        ("UDP with an answer, 301 s", udp_flow(4).answered().idle(301), false),
        ("a ping, 59 s", ping(5).answered().idle(59), true),
        ("a ping, 61 s", ping(6).answered().idle(61), false),
        ("TCP opening, 239 s", tcp_flow(7).tcp(Tcp::SynSent).idle(239), true),
        ("TCP opening, 241 s", tcp_flow(8).tcp(Tcp::SynSent).idle(241), false),
        ("TCP established, 7439 s", tcp_flow(9).answered().idle(7439), true),
        ("TCP established, 7441 s", tcp_flow(10).answered().idle(7441), false),
        ("TCP closed, 241 s", tcp_flow(11).answered().tcp(Tcp::TimeWait).idle(241), false),
        ("GRE, 599 s", outside(47, (N1, 0), (ANYWHERE, 0)).idle(599), true),
        ("GRE, 601 s", outside(48, (N1, 0), (ANYWHERE, 0)).idle(601), false),
    ];
    for (_, flow, _) in &table {
        Given::Known(*flow).prepare(&mut world);
    }
    world.collect();
    assert_eq!(world.damage(), None);
    let live: Vec<u32> = world.flows().into_iter().map(|(slot, _)| slot).collect();
    for (slot, (what, _, lives)) in (0_u32..).zip(&table) {
        assert_eq!(live.contains(&slot), *lives, "{what}");
    }
    assert_eq!(world.count(Counter::FlowsExpired), 7);
}

#[test]
fn the_collector_says_when_the_next_flow_can_be_due() {
    let mut world = World::new();
    let none = world.collect_from(0);
    assert!(none.left().0 > Ticks::from_secs(30_000).0, "there is no flow");
    assert_eq!(
        none.places(),
        slots(MAX_FLOWS) + 1,
        "all slots, and none but a first place of the larger ones behind them"
    );
    for (port, idle, left) in [(1, 0, 120), (2, 100, 20), (3, 50, 20)] {
        Given::Known(outside(proto::UDP, (N1, port), SERVER).idle(idle)).prepare(&mut world);
        let found = world.collect_from(0).left();
        // Some time passes on a busy machine.
        let (least, most) = (Ticks::from_secs(left - 5), Ticks::from_secs(left));
        assert!(least.0 <= found.0 && found.0 <= most.0, "{found:?} for {left} s");
    }
    Given::Known(outside(proto::UDP, (N1, 4), SERVER).idle(121)).prepare(&mut world);
    assert!(world.collect_from(0).left().0 > 0, "what has ended is not due again");
    assert_eq!(world.count(Counter::FlowsExpired), 1);
    assert_eq!(world.collect_from(u32::MAX / 2).places(), SLICE_OF_FRAGMENTS, "behind the last place there is nothing");
}
