//! Packets that claim to be what they cannot, and damaged ones: dropped by name, or left to the kernel untouched.

use std::net::Ipv4Addr;

use xnat_common::counter::Counter::{
    BadChecksum, DirectDestination, FlowsOpened, Malformed, MappingsOpened, MartianSource, OwnSource, SourceRoute,
    SpoofedSource, TagsReceived,
};
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE};

use crate::fixture::Fate::{Gone, Pass, Redirect};
use crate::fixture::Given::Known;
use crate::fixture::{Fixture, inbound, outside, run, to_peer};
use crate::packet::{Packet, Tag, echo, icmp_error, other, tag_octets, tcp, udp};
use crate::world::GATEWAY;
use crate::world::Hook::{self, InsideIn, UplinkIn, UplinkOut};

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);
const MASQUERADED: (Ipv4Addr, u16) = (NODE1, 40000);
const PEER: (Ipv4Addr, u16) = (NODE2, 40000);
/// IGMP.
const IGMP: u8 = 2;
/// Where the IP header's checksum is in a frame.
const IP_CHECKSUM: usize = 14 + 10;

fn pass(what: &'static str, at: Hook, packet: Packet) -> Fixture {
    Fixture { what, at, given: vec![], packet, fate: Pass, counts: &[] }
}

/// A loose source route by one more hop, and its padding.
fn loose_route() -> [u8; 8] {
    [0x83, 7, 4, 203, 0, 113, 9, 0]
}

/// A strict one.
fn strict_route() -> [u8; 8] {
    [0x89, 7, 4, 203, 0, 113, 9, 0]
}

#[test]
fn spoofed_sources_are_dropped_and_counted() {
    let spoofed =
        |what, packet| Fixture { what, at: UplinkIn, given: vec![], packet, fate: Gone, counts: &[SpoofedSource] };
    run([
        spoofed("to the host", udp(CONTAINER, (NODE1, 53))),
        spoofed("from another address of the subnet", udp((Ipv4Addr::new(192, 168, 110, 200), 1), (NODE1, 53))),
        spoofed("from the host's own address there", tcp((GATEWAY, 1), (NODE1, 22), SYN)),
        spoofed("to a container", tcp((GATEWAY, 1), CONTAINER, SYN)),
        spoofed("to a peer's container", udp(CONTAINER, (N2, 80))),
        spoofed("to anybody else", udp(CONTAINER, SERVER)),
        spoofed("to all", udp(CONTAINER, (Ipv4Addr::BROADCAST, 67))),
        spoofed("by multicast", udp(CONTAINER, (Ipv4Addr::new(224, 0, 0, 251), 5353))),
        spoofed("a later fragment", udp(CONTAINER, (NODE1, 53)).carrying(2000).fragment(1480, 400)),
        spoofed("too short for its protocol", other(N1, NODE1, proto::TCP, &[0; 4])),
        spoofed("with a tag", udp(CONTAINER, (NODE1, 53)).tagged(Tag::Open, N1)),
        Fixture {
            given: vec![Known(outside(proto::UDP, CONTAINER, SERVER))],
            ..spoofed("an error about a flow", icmp_error(N1, NODE1, (11, 0), &udp(MASQUERADED, SERVER), 8))
        },
        pass("a peer's container is the kernel's to judge", UplinkIn, udp((N2, 1), (NODE1, 53))),
    ]);
}

#[test]
fn sources_that_no_host_has_are_dropped_and_counted() {
    let sources = [
        ("this network", [0, 0, 0, 0]),
        ("a host on this network", [0, 1, 2, 3]),
        ("loopback", [127, 0, 0, 1]),
        ("all of loopback", [127, 255, 255, 254]),
        ("multicast", [224, 0, 0, 1]),
        ("the last of multicast", [239, 255, 255, 255]),
        ("broadcast", [255, 255, 255, 255]),
    ];
    for (what, source) in sources {
        let source = (Ipv4Addr::from(source), 4000);
        let row = |packet| Fixture { what, at: UplinkIn, given: vec![], packet, fate: Gone, counts: &[MartianSource] };
        run([
            row(udp(source, (NODE1, 53))),
            row(tcp(source, MASQUERADED, SYN)),
            row(icmp_error(source.0, NODE1, (3, 1), &udp(MASQUERADED, SERVER), 8)),
            row(udp(source, (N1, 53))),
            row(udp(source, (N2, 53))),
            pass(what, UplinkIn, udp(source, (OUTSIDE, 53))),
        ]);
    }
    let no_address = (Ipv4Addr::UNSPECIFIED, 68);
    let everybody = Ipv4Addr::new(224, 0, 0, 1);
    run([
        pass("a DHCP client asks", UplinkIn, udp(no_address, (Ipv4Addr::BROADCAST, 67))),
        pass("an IGMP querier without an address", UplinkIn, other(no_address.0, everybody, IGMP, &[0x11; 8])),
        pass("126/8 is somebody's", UplinkIn, udp((Ipv4Addr::new(126, 255, 255, 255), 1), (NODE1, 53))),
        pass("and 240/4 where it is used", UplinkIn, udp((Ipv4Addr::new(240, 0, 0, 1), 1), (NODE1, 53))),
        pass("so is 223/8", UplinkIn, udp((Ipv4Addr::new(223, 255, 255, 255), 1), (NODE1, 53))),
        pass("and 1/8", UplinkIn, udp((Ipv4Addr::new(1, 0, 0, 1), 1), (NODE1, 53))),
    ]);
}

#[test]
fn land_packets_are_dropped_and_counted() {
    let row = |what, packet| Fixture { what, at: UplinkIn, given: vec![], packet, fate: Gone, counts: &[OwnSource] };
    run([
        row("the same port at both ends", tcp((NODE1, 22), (NODE1, 22), SYN)),
        row("other ports", udp((NODE1, 5), (NODE1, 7))),
        row("a ping", echo(NODE1, NODE1, 9)),
        row("to a container", tcp((NODE1, 1), (N1, 80), SYN)),
        Fixture {
            given: vec![Known(outside(proto::UDP, CONTAINER, (NODE1, 40000)))],
            ..row("that would find a flow", udp(MASQUERADED, MASQUERADED))
        },
        pass("our own broadcast comes back", UplinkIn, udp((NODE1, 1), (Ipv4Addr::new(172, 29, 0, 255), 1))),
        pass("our own multicast does", UplinkIn, udp((NODE1, 5353), (Ipv4Addr::new(224, 0, 0, 251), 5353))),
    ]);
}

#[test]
fn a_containers_address_from_the_wire_is_dropped_and_counted() {
    let row = |what, packet| Fixture {
        what,
        at: UplinkIn,
        given: vec![Known(outside(proto::TCP, CONTAINER, SERVER)), Known(inbound(proto::UDP, PEER, (N1, 80)))],
        packet,
        fate: Gone,
        counts: &[DirectDestination],
    };
    run([
        row("an opening", tcp(SERVER, (N1, 80), SYN)),
        row("an answer, as the container would see it", tcp(SERVER, CONTAINER, ACK)),
        row("a peer, without translation", udp(PEER, (N1, 80))),
        row("a peer's container", udp((N2, 1), (N1, 80))),
        row("the host's own address there", udp(SERVER, (GATEWAY, 53))),
        row("where no container is", echo(ANYWHERE, Ipv4Addr::new(192, 168, 110, 99), 3)),
        row("all of them", udp(SERVER, (Ipv4Addr::new(192, 168, 110, 255), 9))),
        row("a later fragment", udp(SERVER, (N1, 80)).carrying(2000).fragment(1480, 400)),
        pass("this host's loopback is the kernel's", UplinkIn, tcp(SERVER, (Ipv4Addr::LOCALHOST, 80), SYN)),
        pass("a peer's container is the kernel's", UplinkIn, udp(SERVER, (N2, 53))),
        pass("another host", UplinkIn, udp(SERVER, (OUTSIDE, 53))),
    ]);
}

#[test]
fn what_is_not_in_a_subnet_of_ours_passes_from_inside() {
    let sources = [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [172, 29, 0, 4], [10, 0, 0, 9]];
    run(sources.map(|source| pass("to the outside", InsideIn, udp((Ipv4Addr::from(source), 4000), SERVER))));
    run(sources.map(|source| pass("to a peer's container", InsideIn, udp((Ipv4Addr::from(source), 4000), (N2, 80)))));
}

#[test]
fn source_routes_are_not_translated() {
    let row = |what, at, given, packet: Packet| Fixture { what, at, given, packet, fate: Gone, counts: &[SourceRoute] };
    let flow = || vec![Known(outside(proto::TCP, CONTAINER, SERVER).answered())];
    let behind = |options: &[u8]| [&[1, 1, 0x44, 6, 5, 0, 0, 0][..], options].concat();
    run([
        row("loose, an opening", InsideIn, vec![], udp(CONTAINER, SERVER).options(&loose_route())),
        row("strict, an opening", InsideIn, vec![], tcp(CONTAINER, SERVER, SYN).options(&strict_route())),
        row("to a peer", InsideIn, vec![], udp(CONTAINER, (N2, 80)).options(&loose_route())),
        row("of a flow", InsideIn, flow(), tcp(CONTAINER, SERVER, ACK).options(&loose_route())),
        row("behind other options", InsideIn, flow(), tcp(CONTAINER, SERVER, ACK).options(&behind(&strict_route()))),
        row("the container's, on the kernel's way", UplinkOut, vec![], udp(CONTAINER, SERVER).options(&loose_route())),
        row("the host's, to a peer's container", UplinkOut, vec![], udp((NODE1, 9), (N2, 80)).options(&loose_route())),
        row("the answer", UplinkIn, flow(), tcp(SERVER, MASQUERADED, ACK).options(&loose_route())),
        row("the answer, strict", UplinkIn, flow(), tcp(SERVER, MASQUERADED, ACK).options(&strict_route())),
        row("behind others", UplinkIn, flow(), tcp(SERVER, MASQUERADED, ACK).options(&behind(&loose_route()))),
        row("that leads on from this host", UplinkIn, vec![], udp(SERVER, (NODE1, 53)).options(&loose_route())),
        row(
            "behind a tag",
            UplinkIn,
            vec![],
            udp(PEER, (NODE1, 80)).options(&[&tag_octets(Tag::Open, N1)[..], &loose_route()].concat()),
        ),
        row(
            "on an error",
            UplinkIn,
            flow(),
            icmp_error(OUTSIDE, NODE1, (11, 0), &tcp(MASQUERADED, SERVER, ACK), 8).options(&loose_route()),
        ),
        pass("to the gateway", InsideIn, udp(CONTAINER, (GATEWAY, 53)).options(&loose_route())),
        pass("from no container", InsideIn, udp((OUTSIDE, 9), SERVER).options(&loose_route())),
        pass("by another host", UplinkIn, udp(SERVER, (OUTSIDE, 53)).options(&loose_route())),
        pass("the host's own", UplinkOut, udp((NODE1, 9), SERVER).options(&loose_route())),
        Fixture {
            what: "what looks like one within another option is none",
            at: InsideIn,
            given: flow(),
            packet: tcp(CONTAINER, SERVER, ACK).options(&[0x44, 8, 5, 0, 0x83, 0x89, 0x83, 0x89]),
            fate: Redirect(tcp(MASQUERADED, SERVER, ACK).options(&[0x44, 8, 5, 0, 0x83, 0x89, 0x83, 0x89]).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "nor behind the end of the list",
            at: InsideIn,
            given: flow(),
            packet: tcp(CONTAINER, SERVER, ACK).options(&[1, 0, 0x83, 7]),
            fate: Redirect(tcp(MASQUERADED, SERVER, ACK).options(&[1, 0, 0x83, 7]).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "a recorded route is no source route",
            at: UplinkIn,
            given: flow(),
            packet: tcp(SERVER, MASQUERADED, ACK).options(&[7, 7, 4, 0, 0, 0, 0, 0]),
            fate: Redirect(tcp(SERVER, CONTAINER, ACK).options(&[7, 7, 4, 0, 0, 0, 0, 0]).ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn transport_headers_that_lie_about_lengths() {
    let row = |what, at, packet: Packet| Fixture { what, at, given: vec![], packet, fate: Gone, counts: &[Malformed] };
    let data_offset = |packet: Packet, words: u8| packet.edited(14 + 20 + 12, &[words << 4]);
    let syn = || tcp(CONTAINER, SERVER, SYN);
    run([
        row("four words, opening", InsideIn, data_offset(syn(), 4)),
        row("none", InsideIn, data_offset(syn(), 0)),
        row("beyond the packet", InsideIn, data_offset(syn(), 6)),
        row("far beyond", InsideIn, data_offset(syn().carrying(39), 15)),
        row("into Ethernet's padding", InsideIn, data_offset(syn().padded(40), 15)),
        row("to a peer", InsideIn, data_offset(tcp(CONTAINER, (N2, 80), SYN), 4)),
        row("from the wire", UplinkIn, data_offset(tcp(SERVER, MASQUERADED, SYN | ACK), 4)),
        row("from a peer", UplinkIn, tcp(PEER, (NODE1, 80), SYN).tagged(Tag::Open, N1).edited(14 + 28 + 12, &[0x60])),
        row("at the way out", UplinkOut, data_offset(syn(), 4)),
        pass("the host's own is its own affair", UplinkOut, data_offset(tcp((NODE1, 5), SERVER, SYN), 4)),
        Fixture {
            what: "data that is taken for options is the receiver's",
            at: InsideIn,
            given: vec![],
            packet: data_offset(syn().carrying(40), 15),
            fate: Redirect(data_offset(tcp(MASQUERADED, SERVER, SYN).carrying(40).ttl(63), 15)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "a UDP length beyond the packet is the receiver's to judge",
            at: InsideIn,
            given: vec![Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2).answered())],
            packet: udp(CONTAINER, (N2, 80)).edited(14 + 20 + 4, &[0xff, 0xff]),
            fate: Redirect(udp(MASQUERADED, (NODE2, 80)).ttl(63).edited(14 + 20 + 4, &[0xff, 0xff])),
            counts: &[],
        },
    ]);
}

#[test]
fn nothing_is_opened_by_a_packet_with_a_damaged_header() {
    let damaged = |packet: Packet| packet.edited(IP_CHECKSUM, &[0xde, 0xad]);
    let row =
        |what, at, packet: Packet| Fixture { what, at, given: vec![], packet, fate: Gone, counts: &[BadChecksum] };
    run([
        row("TCP", InsideIn, damaged(tcp(CONTAINER, SERVER, SYN))),
        row("UDP", InsideIn, damaged(udp(CONTAINER, SERVER))),
        row("a ping", InsideIn, damaged(echo(N1, ANYWHERE, 5))),
        row("to a peer", InsideIn, damaged(tcp(CONTAINER, (N2, 80), SYN))),
        row("with options", InsideIn, damaged(udp(CONTAINER, SERVER).options(&[0x94, 4, 0, 0]))),
        row("with all options that there can be", InsideIn, damaged(udp(CONTAINER, SERVER).options(&[1; 40]))),
        row("an octet of an option", InsideIn, udp(CONTAINER, SERVER).options(&[1; 40]).edited(14 + 59, &[0])),
        row("another TTL", InsideIn, udp(CONTAINER, SERVER).edited(14 + 8, &[77])),
        Fixture {
            counts: &[TagsReceived, BadChecksum],
            ..row("from a peer", UplinkIn, damaged(tcp(PEER, (NODE1, 80), SYN).tagged(Tag::Open, N1)))
        },
        pass("to the gateway it is the kernel's", InsideIn, damaged(udp(CONTAINER, (GATEWAY, 53)))),
        pass("so it is from the wire to the host", UplinkIn, damaged(udp(SERVER, (NODE1, 53)))),
        Fixture {
            what: "the longest header, undamaged",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, SERVER).options(&[1; 40]),
            fate: Redirect(udp(MASQUERADED, SERVER).options(&[1; 40]).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
    ]);
}

/// The sum is changed by what translation changes, so what was wrong stays wrong, by as much.
#[test]
fn a_damaged_packet_of_a_flow_stays_damaged() {
    let good = || tcp(CONTAINER, SERVER, ACK);
    let frame = good().frame([[0; 6]; 2]);
    let [a, b] = [frame[IP_CHECKSUM], frame[IP_CHECKSUM + 1]];
    let translated = || tcp(MASQUERADED, SERVER, ACK).ttl(63);
    let after = translated().frame([[0; 6]; 2]);
    let [c, d] = [after[IP_CHECKSUM], after[IP_CHECKSUM + 1]];
    run([Fixture {
        what: "to the outside",
        at: InsideIn,
        given: vec![Known(outside(proto::TCP, CONTAINER, SERVER).answered())],
        packet: good().edited(IP_CHECKSUM, &[a ^ 0x10, b]),
        fate: Redirect(translated().edited(IP_CHECKSUM, &[c.wrapping_add((a ^ 0x10).wrapping_sub(a)), d])),
        counts: &[],
    }]);
}
