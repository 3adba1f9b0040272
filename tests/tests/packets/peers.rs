//! From a container or the host to a peer's containers: translation at both ends, and the flow tag.

use std::net::Ipv4Addr;

use xnat_common::counter::Counter::{
    AnnouncesSent, FlowsOpened, InsideTag, MappingsOpened, TagsSent, ToKernelMtu, ToKernelTtl,
};
use xnat_common::packet::proto;
use xnat_common::{flow::State, tcp::State as Tcp};
use xnat_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, N3, NODE1, NODE2, NODE3};

use crate::fixture::Fate::{Gone, Pass, PassAs, Redirect};
use crate::fixture::Given::{Configured, Known};
use crate::fixture::{Fixture, from_host, inbound, outside, run, to_peer};
use crate::packet::{Tag, echo, echo_reply, other, tag_octets, tcp, udp};
use crate::world::GATEWAY;
use crate::world::Hook::{InsideIn, UplinkIn, UplinkOut};

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const SERVER: (Ipv4Addr, u16) = (N2, 80);
/// What container and server are on the wire.
const FROM: (Ipv4Addr, u16) = (NODE1, 40000);
const TO: (Ipv4Addr, u16) = (NODE2, 80);

#[test]
fn openings_are_tagged() {
    run([
        Fixture {
            what: "TCP SYN",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN),
            fate: Redirect(tcp(FROM, TO, SYN).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "TCP SYN with data and TCP options",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).tcp_options(&[2, 4, 5, 0xb4]).carrying(99),
            fate: Redirect(tcp(FROM, TO, SYN).tcp_options(&[2, 4, 5, 0xb4]).carrying(99).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "UDP",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER),
            fate: Redirect(udp(FROM, TO).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "UDP without a checksum, padded by Ethernet",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER).carrying(1).without_checksum().padded(17),
            fate: Redirect(udp(FROM, TO).carrying(1).without_checksum().padded(17).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "ICMP echo request",
            at: InsideIn,
            given: vec![],
            packet: echo(N1, N2, 0x0a0b),
            fate: Redirect(echo(NODE1, NODE2, 0x0a0b).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "GRE",
            at: InsideIn,
            given: vec![],
            packet: other(N1, N2, 47, &[0, 0, 8, 0]),
            fate: Redirect(other(NODE1, NODE2, 47, &[0, 0, 8, 0]).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "the middle of a TCP connection that this host does not know: the peer may",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, PSH | ACK).carrying(10),
            fate: Redirect(tcp(FROM, TO, PSH | ACK).carrying(10).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "a peer that does not speak xnat gets no tags",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, (N3, 80), SYN),
            fate: Redirect(tcp(FROM, (NODE3, 80), SYN).ttl(63)),
            counts: &[FlowsOpened],
        },
        Fixture {
            what: "the host of a peer is like anybody outside",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, (NODE2, 22), SYN),
            fate: Redirect(tcp(FROM, (NODE2, 22), SYN).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "an opening with a TTL of 1",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).ttl(1),
            fate: Pass,
            counts: &[ToKernelTtl],
        },
        Fixture {
            what: "an opening that is too long",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER).carrying(2000),
            fate: Pass,
            counts: &[ToKernelMtu],
        },
    ]);
}

#[test]
fn tags_go_on_until_the_peer_has_answered() {
    let syn_sent = || to_peer(proto::TCP, CONTAINER, SERVER, NODE2).tcp(Tcp::SynSent).tagged(1, 1);
    let answered = || to_peer(proto::TCP, CONTAINER, SERVER, NODE2).answered().tagged(1, 1);
    let datagrams = || to_peer(proto::UDP, CONTAINER, SERVER, NODE2);
    run([
        Fixture {
            what: "a SYN, again",
            at: InsideIn,
            given: vec![Known(syn_sent())],
            packet: tcp(CONTAINER, SERVER, SYN),
            fate: Redirect(tcp(FROM, TO, SYN).ttl(63).tagged(Tag::Open, N2)),
            counts: &[TagsSent],
        },
        Fixture {
            what: "data of an answered flow",
            at: InsideIn,
            given: vec![Known(answered())],
            packet: tcp(CONTAINER, SERVER, PSH | ACK).carrying(100),
            fate: Redirect(tcp(FROM, TO, PSH | ACK).carrying(100).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "a SYN, again, whose answer was lost behind this host: untagged it would be for the peer itself",
            at: InsideIn,
            given: vec![Known(syn_sent().bits(State::REPLIED | State::CONFIRMED).tcp(Tcp::SynRecv))],
            packet: tcp(CONTAINER, SERVER, SYN),
            fate: Redirect(tcp(FROM, TO, SYN).ttl(63).tagged(Tag::Open, N2)),
            counts: &[TagsSent],
        },
        Fixture {
            what: "a SYN of a container that has forgotten its connection",
            at: InsideIn,
            given: vec![Known(answered())],
            packet: tcp(CONTAINER, SERVER, SYN),
            fate: Redirect(tcp(FROM, TO, SYN).ttl(63).tagged(Tag::Open, N2)),
            counts: &[TagsSent],
        },
        Fixture {
            what: "data of a flow that the peer does not know any more",
            at: InsideIn,
            given: vec![Known(
                to_peer(proto::TCP, CONTAINER, SERVER, NODE2).tcp(Tcp::Established).bits(State::REPLIED),
            )],
            packet: tcp(CONTAINER, SERVER, PSH | ACK).carrying(100),
            fate: Redirect(tcp(FROM, TO, PSH | ACK).carrying(100).ttl(63).tagged(Tag::Open, N2)),
            counts: &[TagsSent],
        },
        Fixture {
            what: "the sixteenth datagram that nobody answers",
            at: InsideIn,
            given: vec![Known(datagrams().tagged(15, 0))],
            packet: udp(CONTAINER, SERVER),
            fate: Redirect(udp(FROM, TO).ttl(63).tagged(Tag::Open, N2)),
            counts: &[TagsSent],
        },
        Fixture {
            what: "the seventeenth",
            at: InsideIn,
            given: vec![Known(datagrams().tagged(16, 1))],
            packet: udp(CONTAINER, SERVER),
            fate: Redirect(udp(FROM, TO).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "one of many, five seconds after the last tag",
            at: InsideIn,
            given: vec![Known(datagrams().tagged(200, 6))],
            packet: udp(CONTAINER, SERVER),
            fate: Redirect(udp(FROM, TO).ttl(63).tagged(Tag::Open, N2)),
            counts: &[TagsSent],
        },
    ]);
}

#[test]
fn a_tag_that_does_not_fit_goes_ahead() {
    run([
        Fixture {
            what: "the longest packet that a tag fits into",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER).carrying(540),
            fate: Redirect(udp(FROM, TO).carrying(540).ttl(63).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "one octet more",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER).carrying(541),
            fate: Redirect(udp(FROM, TO).carrying(541).ttl(63)),
            counts: &[FlowsOpened, AnnouncesSent],
        },
        Fixture {
            what: "the longest ping",
            at: InsideIn,
            given: vec![],
            packet: echo(N1, N2, 5).carrying(1472),
            fate: Redirect(echo(NODE1, NODE2, 5).carrying(1472).ttl(63)),
            counts: &[FlowsOpened, AnnouncesSent],
        },
        Fixture {
            what: "a packet with options of its own",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).options(&[0x94, 4, 0, 0]),
            fate: Redirect(tcp(FROM, TO, SYN).options(&[0x94, 4, 0, 0]).ttl(63)),
            counts: &[FlowsOpened, AnnouncesSent],
        },
        Fixture {
            what: "the first fragment of a datagram",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER).carrying(2000).fragment(0, 1480),
            fate: Redirect(udp(FROM, TO).carrying(2000).fragment(0, 1480).ttl(63)),
            counts: &[FlowsOpened, AnnouncesSent],
        },
    ]);
}

#[test]
fn answers_come_from_the_container() {
    run([
        Fixture {
            what: "SYN|ACK from the peer",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::TCP, CONTAINER, SERVER, NODE2).tcp(Tcp::SynSent))],
            packet: tcp(TO, FROM, SYN | ACK).ttl(63),
            fate: Redirect(tcp(SERVER, CONTAINER, SYN | ACK).ttl(62)),
            counts: &[],
        },
        Fixture {
            what: "RST from the peer",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::TCP, CONTAINER, SERVER, NODE2).tcp(Tcp::SynSent))],
            packet: tcp(TO, FROM, RST | ACK).ttl(63),
            fate: Redirect(tcp(SERVER, CONTAINER, RST | ACK).ttl(62)),
            counts: &[],
        },
        Fixture {
            what: "UDP from the peer, to another port",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::UDP, CONTAINER, SERVER, NODE2).port(50505))],
            packet: udp(TO, (NODE1, 50505)),
            fate: Redirect(udp(SERVER, CONTAINER).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "an echo reply from the peer",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::ICMP, (N1, 5), (N2, 0), NODE2))],
            packet: echo_reply(NODE2, NODE1, 5),
            fate: Redirect(echo_reply(N2, N1, 5).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "from a peer that does not speak xnat",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::TCP, CONTAINER, (N3, 80), NODE3).tcp(Tcp::SynSent))],
            packet: tcp((NODE3, 80), FROM, SYN | ACK),
            fate: Redirect(tcp((N3, 80), CONTAINER, SYN | ACK).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "from another peer on the same ports: it is for the host",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::TCP, CONTAINER, SERVER, NODE2).tcp(Tcp::SynSent))],
            packet: tcp((NODE3, 80), FROM, SYN | ACK),
            fate: Pass,
            counts: &[],
        },
    ]);
}

#[test]
fn a_container_answers_a_peer_untagged() {
    let peer = (NODE2, 40000);
    run([
        Fixture {
            what: "SYN|ACK",
            at: InsideIn,
            given: vec![Known(inbound(proto::TCP, peer, (N1, 80)).tcp(Tcp::SynSent))],
            packet: tcp((N1, 80), peer, SYN | ACK),
            fate: Redirect(tcp((NODE1, 80), peer, SYN | ACK).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "an echo reply",
            at: InsideIn,
            given: vec![Known(inbound(proto::ICMP, (NODE2, 5), (N1, 0)))],
            packet: echo_reply(N1, NODE2, 5),
            fate: Redirect(echo_reply(NODE1, NODE2, 5).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "TCP of a connection that this host has forgotten: the kernel's own NAT may know it",
            at: InsideIn,
            given: vec![],
            packet: tcp((N1, 80), peer, FIN | ACK),
            fate: Pass,
            counts: &[],
        },
    ]);
}

#[test]
fn the_host_reaches_a_peers_containers() {
    let host = (NODE1, 50000);
    run([
        Fixture {
            what: "its TCP SYN; the kernel counts no hop",
            at: UplinkOut,
            given: vec![],
            packet: tcp(host, SERVER, SYN),
            fate: PassAs(tcp(host, TO, SYN).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "from the address of the inside interface",
            at: UplinkOut,
            given: vec![],
            packet: udp((GATEWAY, 50000), SERVER),
            fate: PassAs(udp(host, TO).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "the answer goes to the host, its TTL untouched",
            at: UplinkIn,
            given: vec![Known(from_host(proto::TCP, host, SERVER, NODE2).tcp(Tcp::SynSent))],
            packet: tcp(TO, host, SYN | ACK).ttl(1),
            fate: PassAs(tcp(SERVER, host, SYN | ACK).ttl(1)),
            counts: &[],
        },
        Fixture {
            what: "its ping",
            at: UplinkOut,
            given: vec![],
            packet: echo(NODE1, N2, 77),
            fate: PassAs(echo(NODE1, NODE2, 77).tagged(Tag::Open, N2)),
            counts: &[FlowsOpened, TagsSent],
        },
        Fixture {
            what: "to a peer that does not speak xnat",
            at: UplinkOut,
            given: vec![],
            packet: tcp(host, (N3, 80), SYN),
            fate: PassAs(tcp(host, (NODE3, 80), SYN)),
            counts: &[FlowsOpened],
        },
        Fixture {
            what: "from the address of the inside interface to the outside",
            at: UplinkOut,
            given: vec![],
            packet: udp((GATEWAY, 50000), (ANYWHERE, 53)),
            fate: PassAs(udp(host, (ANYWHERE, 53))),
            counts: &[FlowsOpened],
        },
        Fixture {
            what: "to the outside in its own name: the kernel's",
            at: UplinkOut,
            given: vec![],
            packet: tcp(host, (ANYWHERE, 80), SYN),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "to the host of a peer: the kernel's",
            at: UplinkOut,
            given: vec![],
            packet: tcp(host, (NODE2, 22), ACK),
            fate: Pass,
            counts: &[],
        },
    ]);
}

#[test]
fn nothing_inside_makes_tags() {
    let behind = |padding: &[u8]| {
        let mut options = padding.to_vec();
        options.extend(tag_octets(Tag::Open, N2));
        options.resize(options.len().next_multiple_of(4), 1);
        options
    };
    run([
        Fixture {
            what: "first",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).tagged(Tag::Open, N2),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "behind padding",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).options(&behind(&[1, 1, 1, 1])),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "at an odd place",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).options(&behind(&[1])),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "behind another option",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).options(&behind(&[0x94, 4, 0, 0])),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "as the last octet of the longest list",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).options(&[[1; 39].as_slice(), &[0x9e]].concat()),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "to the outside",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, (ANYWHERE, 53)).tagged(Tag::UnknownFlow, N2),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "in a flow that is known",
            at: InsideIn,
            given: vec![Known(outside(proto::UDP, CONTAINER, (ANYWHERE, 53)))],
            packet: udp(CONTAINER, (ANYWHERE, 53)).tagged(Tag::Open, N2),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "on the kernel's path",
            at: InsideIn,
            given: vec![Configured(|config| config.flags = xnat_common::config::Config::KERNEL_PATH)],
            packet: udp(CONTAINER, SERVER).tagged(Tag::Open, N2),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "in a later fragment",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER).carrying(2000).tagged(Tag::Open, N2).fragment(1480, 600),
            fate: Gone,
            counts: &[InsideTag],
        },
        Fixture {
            what: "behind the end of the list it is no option",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, (ANYWHERE, 53)).options(&behind(&[0, 0, 0, 0])),
            fate: Redirect(udp((NODE1, 40000), (ANYWHERE, 53)).options(&behind(&[0, 0, 0, 0])).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "in the data of another option it is none either",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, (ANYWHERE, 53)).options(&[0x44, 8, 5, 0, 0x9e, 8, 0x10, 0]),
            fate: Redirect(udp((NODE1, 40000), (ANYWHERE, 53)).options(&[0x44, 8, 5, 0, 0x9e, 8, 0x10, 0]).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
    ]);
}
