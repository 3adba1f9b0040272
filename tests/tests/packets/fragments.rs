//! Fragments: the first has the ports and opens the way, the others follow.

use std::net::Ipv4Addr;

use xnat_common::counter::Counter::{FlowsOpened, FragmentUnknown, Malformed, MappingsOpened};
use xnat_common::packet::proto;
use xnat_common::{Direction, Side};
use xnat_tests::packet::SYN;
use xnat_tests::topology::{ANYWHERE, N1, NODE1, NODE2};

use crate::fixture::Fate::{Gone, Pass, PassAs, Redirect};
use crate::fixture::Given::{FirstFragment, Known};
use crate::fixture::{Fixture, datagram, inbound, outside, run};
use crate::packet::{Packet, echo, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn, UplinkOut};

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
            what: "go to the kernel, which may reassemble",
            at: InsideIn,
            given: vec![moved()],
            packet: whole(CONTAINER, SERVER).fragment(1480, 1480),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "31 seconds are too late",
            at: InsideIn,
            given: vec![moved(), late()],
            packet: whole(CONTAINER, SERVER).fragment(1480, 1480),
            fate: Pass,
            counts: &[],
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
            what: "from the wire are the host's",
            at: UplinkIn,
            given: vec![moved()],
            packet: whole(SERVER, (NODE1, 61234)).fragment(1480, 1480),
            fate: Pass,
            counts: &[],
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

const CONTAINER_ON_WIRE: (Ipv4Addr, u16) = (NODE1, 40000);
