//! Openings of a peer that cross one of ours.

use super::receive::{CONTAINER, HOST, N1B, NOWHERE, PEER};

use xnat_common::counter::Counter::{
    AnnouncesReceived, ConflictHeld, ConflictReceived, ConflictSent, FlowsCrossed, FlowsOpened, FlowsReplaced,
    MessageUnmatched, TagsReceived,
};
use xnat_common::packet::proto;
use xnat_common::{flow::State, tcp::State as Tcp};
use xnat_tests::packet::SYN;
use xnat_tests::topology::{N1, N2, NODE1, NODE2, NODE3};

use crate::fixture::Fate::{Gone, Redirect, SentBack};
use crate::fixture::Given::Known;
use crate::fixture::{Fixture, from_host, run, to_peer};
use crate::packet::{Tag, echo, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn};

#[test]
fn both_open_at_once() {
    let syn_sent = || to_peer(proto::TCP, CONTAINER, (N2, 40000), NODE2).tcp(Tcp::SynSent);
    let ours = || Known(syn_sent().tagged(1, 0));
    run([
        Fixture {
            what: "from our container's own end: only the container that ours calls may share the flow",
            at: UplinkIn,
            given: vec![ours()],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, N1),
            fate: SentBack(tcp(HOST, PEER, SYN).tagged(Tag::Conflict, N2)),
            counts: &[TagsReceived, ConflictSent],
        },
        Fixture {
            what: "for another container of this host: none may",
            at: UplinkIn,
            given: vec![ours()],
            packet: tcp(PEER, HOST, SYN).tcp_options(&[2, 4, 5, 0xb4]).carrying(9).ttl(63).tagged(Tag::Open, N1B),
            fate: SentBack(tcp(HOST, PEER, SYN).tagged(Tag::Conflict, NOWHERE)),
            counts: &[TagsReceived, ConflictSent],
        },
        Fixture {
            what: "over UDP",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::UDP, CONTAINER, (N2, 40000), NODE2))],
            packet: udp(PEER, HOST).tagged(Tag::Open, N1B),
            fate: SentBack(udp(HOST, PEER).carrying(0).tagged(Tag::Conflict, NOWHERE)),
            counts: &[TagsReceived, ConflictSent],
        },
        Fixture {
            what: "announced",
            at: UplinkIn,
            given: vec![ours()],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Announce, N1),
            fate: SentBack(tcp(HOST, PEER, SYN).tagged(Tag::Conflict, N2)),
            counts: &[AnnouncesReceived, ConflictSent],
        },
        Fixture {
            what: "the packet that was announced does not reach the wrong container",
            at: UplinkIn,
            given: vec![Known(syn_sent().bits(State::ANNOUNCED))],
            packet: tcp(PEER, HOST, SYN),
            fate: Gone,
            counts: &[ConflictHeld],
        },
        Fixture {
            what: "a flow of the host's own is never shared with a container",
            at: UplinkIn,
            given: vec![Known(from_host(proto::TCP, HOST, (N2, 40000), NODE2).tcp(Tcp::SynSent))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, N1),
            fate: SentBack(tcp(HOST, PEER, SYN).tagged(Tag::Conflict, NOWHERE)),
            counts: &[TagsReceived, ConflictSent],
        },
        Fixture {
            what: "ours has closed: the peer's takes its place",
            at: UplinkIn,
            given: vec![Known(syn_sent().answered().tcp(Tcp::TimeWait))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, N1),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).ttl(63)),
            counts: &[TagsReceived, FlowsReplaced, FlowsOpened],
        },
    ]);
}

#[test]
fn a_peer_says_that_our_flow_crosses_its_own() {
    let syn_sent = || to_peer(proto::TCP, CONTAINER, (N2, 40000), NODE2).tcp(Tcp::SynSent);
    run([
        Fixture {
            what: "which another container of ours may share: this one moves",
            at: UplinkIn,
            given: vec![Known(syn_sent().tagged(1, 0))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Conflict, N1B),
            fate: Gone,
            counts: &[ConflictReceived],
        },
        Fixture {
            what: "a ping comes back as a ping",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::ICMP, (N1, 5), (N2, 0), NODE2).tagged(1, 0))],
            packet: echo(NODE2, NODE1, 5).carrying(0).tagged(Tag::Conflict, NOWHERE),
            fate: Gone,
            counts: &[ConflictReceived],
        },
        Fixture {
            what: "which this container may share: it is one flow",
            at: UplinkIn,
            given: vec![Known(syn_sent().tagged(1, 0))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Conflict, N1),
            fate: Gone,
            counts: &[FlowsCrossed],
        },
        Fixture {
            what: "its SYN is then repeated untagged, as a packet of the peer's flow",
            at: InsideIn,
            given: vec![Known(syn_sent().tagged(1, 0).bits(State::CONFIRMED | State::CROSSED))],
            packet: tcp(CONTAINER, (N2, 40000), SYN),
            fate: Redirect(tcp(HOST, PEER, SYN).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "an established connection does not move",
            at: UplinkIn,
            given: vec![Known(syn_sent().answered().tagged(1, 0))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Conflict, NOWHERE),
            fate: Gone,
            counts: &[MessageUnmatched],
        },
        Fixture {
            what: "nor does a flow that was not tagged lately",
            at: UplinkIn,
            given: vec![Known(syn_sent().tagged(1, 3))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Conflict, NOWHERE),
            fate: Gone,
            counts: &[MessageUnmatched],
        },
        Fixture {
            what: "nor one that another peer has nothing to do with",
            at: UplinkIn,
            given: vec![Known(syn_sent().tagged(1, 0))],
            packet: tcp((NODE3, 40000), HOST, SYN).tagged(Tag::Conflict, NOWHERE),
            fate: Gone,
            counts: &[MessageUnmatched],
        },
    ]);
}
