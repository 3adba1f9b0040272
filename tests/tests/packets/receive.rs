//! What a peer sends: tags that open flows to containers, the messages between dataplanes, and what comes untagged.

use std::net::Ipv4Addr;

use xnat_common::counter::Counter::{
    AnnouncesReceived, DirectDestination, FlowsOpened, FlowsReopened, FlowsReplaced, FragmentsHeld, TagMalformed,
    TagStranger, TagSubnet, TagVersion, TagsReceived, ToKernelTtl,
};
use xnat_common::packet::proto;
use xnat_common::{Direction, Side, flow::State, tcp::State as Tcp};
use xnat_tests::packet::{ACK, PSH, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE};

use crate::fixture::Fate::{Gone, Pass, PassFinished, Redirect};
use crate::fixture::Given::{FirstFragment, Known};
use crate::fixture::{Fixture, datagram, inbound, outside, run, to_peer};
use crate::packet::{Tag, echo, icmp_error, other, tag_octets, tcp, udp};
use crate::world::Hook::UplinkIn;

pub const PEER: (Ipv4Addr, u16) = (NODE2, 40000);
pub const CONTAINER: (Ipv4Addr, u16) = (N1, 80);
/// What the container is on the wire.
pub const HOST: (Ipv4Addr, u16) = (NODE1, 80);
/// Another container of this host.
pub const N1B: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 12);
pub const NOWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A tag and what follows it in the option list.
fn tag_and(more: &[u8]) -> Vec<u8> {
    [&tag_octets(Tag::Open, N1), more].concat()
}

#[test]
fn a_tagged_packet_reaches_its_container_untagged() {
    run([
        Fixture {
            what: "TCP SYN",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).ttl(63).tagged(Tag::Open, N1),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).ttl(62)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "TCP SYN with data, TCP options and an ECN mark",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).tos(3).tcp_options(&[2, 4, 5, 0xb4]).carrying(33).tagged(Tag::Open, N1),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).tos(3).tcp_options(&[2, 4, 5, 0xb4]).carrying(33).ttl(63)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "UDP",
            at: UplinkIn,
            given: vec![],
            packet: udp(PEER, HOST).tagged(Tag::Open, N1),
            fate: Redirect(udp(PEER, CONTAINER).ttl(63)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "UDP without a checksum",
            at: UplinkIn,
            given: vec![],
            packet: udp(PEER, HOST).without_checksum().tagged(Tag::Open, N1),
            fate: Redirect(udp(PEER, CONTAINER).without_checksum().ttl(63)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "ICMP echo request",
            at: UplinkIn,
            given: vec![],
            packet: echo(NODE2, NODE1, 5).tagged(Tag::Open, N1),
            fate: Redirect(echo(NODE2, N1, 5).ttl(63)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "GRE",
            at: UplinkIn,
            given: vec![],
            packet: other(NODE2, NODE1, 47, &[0, 0, 8, 0]).tagged(Tag::Open, N1),
            fate: Redirect(other(NODE2, N1, 47, &[0, 0, 8, 0]).ttl(63)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "the middle of a TCP connection that this host has forgotten",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, PSH | ACK).carrying(500).tagged(Tag::Open, N1),
            fate: Redirect(tcp(PEER, CONTAINER, PSH | ACK).carrying(500).ttl(63)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "a SYN, again",
            at: UplinkIn,
            given: vec![Known(inbound(proto::TCP, PEER, CONTAINER).tcp(Tcp::SynSent))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, N1),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).ttl(63)),
            counts: &[TagsReceived],
        },
        Fixture {
            what: "a SYN on a connection that has closed",
            at: UplinkIn,
            given: vec![Known(inbound(proto::TCP, PEER, CONTAINER).answered().tcp(Tcp::TimeWait))],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, N1),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).ttl(63)),
            counts: &[TagsReceived, FlowsReopened],
        },
        Fixture {
            what: "the peer's port, now to another container",
            at: UplinkIn,
            given: vec![Known(inbound(proto::TCP, PEER, (N1B, 80)).answered())],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, N1),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).ttl(63)),
            counts: &[TagsReceived, FlowsReplaced, FlowsOpened],
        },
        Fixture {
            what: "options that follow the tag stay",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).options(&tag_and(&[0x94, 4, 0, 0])),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).options(&[0x94, 4, 0, 0]).ttl(63)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "with a TTL of 1 it is the kernel's to answer",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).ttl(1).tagged(Tag::Open, N1),
            fate: PassFinished(tcp(PEER, CONTAINER, SYN).ttl(1)),
            counts: &[FlowsOpened, TagsReceived, ToKernelTtl],
        },
        Fixture {
            what: "what follows comes untagged",
            at: UplinkIn,
            given: vec![Known(inbound(proto::TCP, PEER, CONTAINER).answered())],
            packet: tcp(PEER, HOST, PSH | ACK).carrying(700),
            fate: Redirect(tcp(PEER, CONTAINER, PSH | ACK).carrying(700).ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn a_flow_of_the_containers_own_gives_way_inside() {
    run([Fixture {
        what: "a container that answered while this host knew nothing of it got another port",
        at: UplinkIn,
        given: vec![Known(outside(proto::TCP, CONTAINER, PEER).port(50505).answered())],
        packet: tcp(PEER, HOST, ACK).tagged(Tag::Open, N1),
        fate: Redirect(tcp(PEER, CONTAINER, ACK).ttl(63)),
        counts: &[TagsReceived, FlowsReplaced, FlowsOpened],
    }]);
}

#[test]
fn tags_that_are_not_accepted() {
    let with_option = |option: &[u8]| tcp(PEER, HOST, SYN).options(option);
    run([
        Fixture {
            what: "from a stranger",
            at: UplinkIn,
            given: vec![],
            packet: tcp((OUTSIDE, 40000), HOST, SYN).tagged(Tag::Open, N1),
            fate: Gone,
            counts: &[TagStranger],
        },
        Fixture {
            what: "from a stranger, in a flow that is known",
            at: UplinkIn,
            given: vec![Known(outside(proto::UDP, (N1, 5000), (ANYWHERE, 53)))],
            packet: udp((ANYWHERE, 53), (NODE1, 5000)).tagged(Tag::Open, N1),
            fate: Gone,
            counts: &[TagStranger],
        },
        Fixture {
            what: "from a stranger, unknown-flow",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::TCP, (N1, 40000), (N2, 80), NODE2).answered())],
            packet: tcp((OUTSIDE, 80), (NODE1, 40000), ACK).tagged(Tag::UnknownFlow, NOWHERE),
            fate: Gone,
            counts: &[TagStranger],
        },
        Fixture {
            what: "for an address that is in no subnet",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, Ipv4Addr::new(192, 168, 111, 11)),
            fate: Gone,
            counts: &[TagSubnet],
        },
        Fixture {
            what: "for an address in the peer's own subnet",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Open, N2),
            fate: Gone,
            counts: &[TagSubnet],
        },
        Fixture {
            what: "for this host's address on the wire",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Announce, NODE1),
            fate: Gone,
            counts: &[TagSubnet],
        },
        Fixture {
            what: "of version 2",
            at: UplinkIn,
            given: vec![],
            packet: with_option(&[0x9e, 8, 0x20, 0, 192, 168, 110, 11]),
            fate: Gone,
            counts: &[TagVersion],
        },
        Fixture {
            what: "of kind 4",
            at: UplinkIn,
            given: vec![],
            packet: with_option(&[0x9e, 8, 0x14, 0, 192, 168, 110, 11]),
            fate: Gone,
            counts: &[TagVersion],
        },
        Fixture {
            what: "with a signature, which nobody here asked for",
            at: UplinkIn,
            given: vec![],
            packet: with_option(&[0x9e, 16, 0x10, 1, 192, 168, 110, 11, 1, 2, 3, 4, 5, 6, 7, 8]),
            fate: Gone,
            counts: &[TagMalformed],
        },
        Fixture {
            what: "of no length",
            at: UplinkIn,
            given: vec![],
            packet: with_option(&[0x9e, 0, 0x10, 0, 192, 168, 110, 11]),
            fate: Gone,
            counts: &[TagMalformed],
        },
        Fixture {
            what: "longer than its option list: the address would be the ports",
            at: UplinkIn,
            given: vec![],
            packet: tcp((NODE2, 0xc0a8), (NODE1, 0x6e0b), SYN).options(&[0x9e, 8, 0x10, 0]),
            fate: Gone,
            counts: &[TagMalformed],
        },
        Fixture {
            what: "on an ICMP error, whose packet inside nobody would translate",
            at: UplinkIn,
            given: vec![],
            packet: icmp_error(NODE2, NODE1, (3, 3), &udp(HOST, PEER), 8).tagged(Tag::Open, N1),
            fate: Gone,
            counts: &[TagMalformed],
        },
        Fixture {
            what: "not first in its list, it is none: the packet is the host's",
            at: UplinkIn,
            given: vec![],
            packet: with_option(&[[1; 4].as_slice(), &tag_octets(Tag::Open, N1)].concat()),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "to another address than the uplink's",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, (N1, 80), SYN).tagged(Tag::Open, N1),
            fate: Gone,
            counts: &[DirectDestination],
        },
    ]);
}

/// A router on the way may cut a tagged packet into fragments, and the copy bit puts the tag on each.
#[test]
fn fragments_of_a_tagged_packet() {
    let whole = || udp(PEER, HOST).carrying(1400).id(7).tagged(Tag::Open, N1);
    let delivered = || udp(PEER, CONTAINER).carrying(1400).id(7).ttl(63);
    let first_has_passed = || FirstFragment(datagram(Side::Wire, NODE2, NODE1, proto::UDP, 7), Direction::Original, 1);
    run([
        Fixture {
            what: "the first",
            at: UplinkIn,
            given: vec![],
            packet: whole().fragment(0, 800),
            fate: Redirect(delivered().fragment(0, 800)),
            counts: &[FlowsOpened, TagsReceived],
        },
        Fixture {
            what: "a later one",
            at: UplinkIn,
            given: vec![Known(inbound(proto::UDP, PEER, CONTAINER)), first_has_passed()],
            packet: whole().fragment(800, 800),
            fate: Redirect(delivered().fragment(800, 800)),
            counts: &[TagsReceived],
        },
        Fixture {
            what: "a later one, ahead of the first",
            at: UplinkIn,
            given: vec![],
            packet: whole().fragment(800, 800),
            fate: Gone,
            counts: &[FragmentsHeld],
        },
    ]);
}

#[test]
fn an_announcement_opens_a_flow_and_ends() {
    let announced = || Known(inbound(proto::TCP, PEER, CONTAINER).bits(State::ANNOUNCED));
    run([
        Fixture {
            what: "of a SYN",
            at: UplinkIn,
            given: vec![],
            packet: tcp(PEER, HOST, SYN).tagged(Tag::Announce, N1),
            fate: Gone,
            counts: &[FlowsOpened, AnnouncesReceived],
        },
        Fixture {
            what: "of a datagram",
            at: UplinkIn,
            given: vec![],
            packet: udp(PEER, HOST).carrying(0).tagged(Tag::Announce, N1),
            fate: Gone,
            counts: &[FlowsOpened, AnnouncesReceived],
        },
        Fixture {
            what: "of a ping",
            at: UplinkIn,
            given: vec![],
            packet: echo(NODE2, NODE1, 5).carrying(0).tagged(Tag::Announce, N1),
            fate: Gone,
            counts: &[FlowsOpened, AnnouncesReceived],
        },
        Fixture {
            what: "the SYN that follows is the container's",
            at: UplinkIn,
            given: vec![announced()],
            packet: tcp(PEER, HOST, SYN).options(&[0x94, 4, 0, 0]),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).options(&[0x94, 4, 0, 0]).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "of a SYN on a connection that has closed",
            at: UplinkIn,
            given: vec![Known(inbound(proto::TCP, PEER, CONTAINER).answered().tcp(Tcp::Close).bits(State::ANNOUNCED))],
            packet: tcp(PEER, HOST, SYN),
            fate: Redirect(tcp(PEER, CONTAINER, SYN).ttl(63)),
            counts: &[FlowsReopened],
        },
    ]);
}

#[test]
fn an_untagged_opening_is_for_the_host() {
    run([
        Fixture { what: "a SYN", at: UplinkIn, given: vec![], packet: tcp(PEER, HOST, SYN), fate: Pass, counts: &[] },
        Fixture {
            what: "a SYN on the tuple of a flow to a container",
            at: UplinkIn,
            given: vec![Known(inbound(proto::TCP, PEER, CONTAINER).answered())],
            packet: tcp(PEER, HOST, SYN),
            fate: Pass,
            counts: &[FlowsReplaced],
        },
        Fixture { what: "UDP", at: UplinkIn, given: vec![], packet: udp(PEER, HOST), fate: Pass, counts: &[] },
        Fixture { what: "a ping", at: UplinkIn, given: vec![], packet: echo(NODE2, NODE1, 5), fate: Pass, counts: &[] },
    ]);
}
