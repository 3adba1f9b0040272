//! Flows that one of the two hosts has forgotten.

use super::receive::{CONTAINER, HOST, NOWHERE, PEER};

use xnat_common::counter::Counter::{MessageUnmatched, UnknownFlowReceived, UnknownFlowSent};
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, PSH, RST};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, NODE3};

use crate::fixture::Fate::{Gone, Pass, PassAs, Redirect};
use crate::fixture::Given::Known;
use crate::fixture::{Fixture, from_host, inbound, outside, run, to_peer};
use crate::packet::{Tag, icmp_error, tcp, udp};
use crate::world::Hook::{UplinkIn, UplinkOut};

#[test]
fn a_peer_has_forgotten_a_flow() {
    let ours = || Known(to_peer(proto::TCP, (N1, 40000), (N2, 80), NODE2).answered().tagged(3, 50));
    let reset = || tcp((NODE2, 80), (NODE1, 40000), RST);
    let error = || icmp_error(NODE2, NODE1, (3, 3), &udp((NODE1, 40000), (NODE2, 80)), 18);
    run([
        Fixture {
            what: "its host's reset is not delivered, and the flow is tagged again",
            at: UplinkIn,
            given: vec![ours()],
            packet: reset().tagged(Tag::UnknownFlow, NOWHERE),
            fate: Gone,
            counts: &[UnknownFlowReceived],
        },
        Fixture {
            what: "of UDP",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::UDP, (N1, 40000), (N2, 80), NODE2).answered())],
            packet: error().tagged(Tag::UnknownFlow, NOWHERE),
            fate: Gone,
            counts: &[UnknownFlowReceived],
        },
        Fixture {
            what: "the host's own",
            at: UplinkIn,
            given: vec![Known(from_host(proto::TCP, (NODE1, 40000), (N2, 80), NODE2).answered())],
            packet: reset().tagged(Tag::UnknownFlow, NOWHERE),
            fate: Gone,
            counts: &[UnknownFlowReceived],
        },
        Fixture {
            what: "a connection with the peer's host itself is reset",
            at: UplinkIn,
            given: vec![],
            packet: reset().tagged(Tag::UnknownFlow, NOWHERE),
            fate: PassAs(reset()),
            counts: &[],
        },
        Fixture {
            what: "so is a container's",
            at: UplinkIn,
            given: vec![Known(outside(proto::TCP, (N1, 40000), (NODE2, 80)).answered())],
            packet: reset().tagged(Tag::UnknownFlow, NOWHERE),
            fate: Redirect(tcp((NODE2, 80), (N1, 40000), RST).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "and its UDP socket hears that nobody listens",
            at: UplinkIn,
            given: vec![],
            packet: error().tagged(Tag::UnknownFlow, NOWHERE),
            fate: PassAs(error()),
            counts: &[],
        },
        Fixture {
            what: "another peer's word does not count",
            at: UplinkIn,
            given: vec![ours()],
            packet: tcp((NODE3, 80), (NODE1, 40000), RST).tagged(Tag::UnknownFlow, NOWHERE),
            fate: PassAs(tcp((NODE3, 80), (NODE1, 40000), RST)),
            counts: &[],
        },
        Fixture {
            what: "nor does it for a flow that the peer has opened",
            at: UplinkIn,
            given: vec![Known(inbound(proto::TCP, PEER, CONTAINER).answered())],
            packet: tcp(PEER, HOST, RST).tagged(Tag::UnknownFlow, NOWHERE),
            fate: Gone,
            counts: &[MessageUnmatched],
        },
    ]);
}

#[test]
fn this_host_has_forgotten_a_flow() {
    let reset = || tcp(HOST, PEER, RST);
    let error = || icmp_error(NODE1, NODE2, (3, 3), &udp(PEER, HOST), 18).tos(0xc0);
    run([
        Fixture {
            what: "its packets are the kernel's to judge",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, PSH | ACK).carrying(300),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "whose reset tells the peer",
            at: UplinkOut,
            given: vec![],
            packet: reset(),
            fate: PassAs(reset().tagged(Tag::UnknownFlow, NOWHERE)),
            counts: &[UnknownFlowSent],
        },
        Fixture {
            what: "UDP is the host's, too",
            at: UplinkIn,
            given: vec![],
            packet: udp(PEER, HOST),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "whose error tells the peer",
            at: UplinkOut,
            given: vec![],
            packet: error(),
            fate: PassAs(error().tagged(Tag::UnknownFlow, NOWHERE)),
            counts: &[UnknownFlowSent],
        },
        Fixture {
            what: "a SYN to a closed port is refused by the host itself",
            at: UplinkOut,
            given: vec![],
            packet: tcp(HOST, PEER, RST | ACK),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "a peer that does not speak xnat would not understand",
            at: UplinkOut,
            given: vec![],
            packet: tcp(HOST, (NODE3, 40000), RST),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "nor its UDP",
            at: UplinkOut,
            given: vec![],
            packet: icmp_error(NODE1, NODE3, (3, 3), &udp((NODE3, 40000), HOST), 18),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "another error says something else",
            at: UplinkOut,
            given: vec![],
            packet: icmp_error(NODE1, NODE2, (3, 10), &udp(PEER, HOST), 18),
            fate: Pass,
            counts: &[],
        },
    ]);
}
