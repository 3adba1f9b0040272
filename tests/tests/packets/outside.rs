//! Between a container and the outside: masquerade, and the answers back.

use xnat_common::counter::Counter::{FlowsOpened, MappingsOpened, PrivateSource, ToKernelMtu, ToKernelTtl};
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, NODE1};

use crate::fixture::Fate::{Gone, Pass, PassAs, PassFinished, Redirect};
use crate::fixture::Given::{InsideMtu, Known};
use crate::fixture::{Fixture, outside, run, run_plain};
use crate::packet::{Packet, echo, echo_reply, other, query, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn, UplinkOut};

const CONTAINER: (std::net::Ipv4Addr, u16) = (N1, 40000);
const MASQUERADED: (std::net::Ipv4Addr, u16) = (NODE1, 40000);
const SERVER: (std::net::Ipv4Addr, u16) = (ANYWHERE, 80);
const NAMESERVER: (std::net::Ipv4Addr, u16) = (ANYWHERE, 53);
/// SCTP's INIT chunk has the ports first and a CRC that knows nothing of addresses.
const SCTP_INIT: [u8; 12] = [0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0x11, 0x22, 0x33, 0x44];

/// The datagram with the payload by which its checksum comes to zero, which UDP writes as 0xffff.
fn summing_to_zero(datagram: Packet) -> Packet {
    let frame = datagram.clone().with_payload(vec![0, 0]).frame([[0; 6]; 2]);
    let checksum = frame[40..42].to_vec();
    datagram.with_payload(checksum)
}

#[test]
fn a_datagram_can_sum_to_zero() {
    let frame = summing_to_zero(udp(MASQUERADED, NAMESERVER)).frame([[0; 6]; 2]);
    assert_eq!(frame[40..42], [0xff, 0xff]);
}

#[test]
fn openings_are_masqueraded() {
    run([
        Fixture {
            what: "TCP SYN",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN),
            fate: Redirect(tcp(MASQUERADED, SERVER, SYN).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "TCP SYN with ECN, a type of service, and TCP options",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN | 0xc0).tos(0x2e).tcp_options(&[2, 4, 5, 0xb4, 1, 1, 4, 2]),
            fate: Redirect(
                tcp(MASQUERADED, SERVER, SYN | 0xc0).tos(0x2e).tcp_options(&[2, 4, 5, 0xb4, 1, 1, 4, 2]).ttl(63),
            ),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "TCP SYN with an IP option that is nobody's business",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, SYN).options(&[0x94, 4, 0, 0]),
            fate: Redirect(tcp(MASQUERADED, SERVER, SYN).options(&[0x94, 4, 0, 0]).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "UDP",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, NAMESERVER),
            fate: Redirect(udp(MASQUERADED, NAMESERVER).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "UDP with an odd number of octets, padded by Ethernet",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, NAMESERVER).carrying(3).padded(15),
            fate: Redirect(udp(MASQUERADED, NAMESERVER).carrying(3).padded(15).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "UDP without a checksum stays without",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, NAMESERVER).without_checksum(),
            fate: Redirect(udp(MASQUERADED, NAMESERVER).without_checksum().ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "UDP whose checksum comes to zero is sent with all ones",
            at: InsideIn,
            given: vec![],
            packet: {
                let payload = summing_to_zero(udp(MASQUERADED, NAMESERVER)).frame([[0; 6]; 2])[42..].to_vec();
                udp(CONTAINER, NAMESERVER).with_payload(payload)
            },
            fate: Redirect(summing_to_zero(udp(MASQUERADED, NAMESERVER)).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "UDP whose checksum was all ones gets another",
            at: InsideIn,
            given: vec![],
            packet: summing_to_zero(udp(CONTAINER, NAMESERVER)),
            fate: {
                let payload = summing_to_zero(udp(CONTAINER, NAMESERVER)).frame([[0; 6]; 2])[42..].to_vec();
                Redirect(udp(MASQUERADED, NAMESERVER).with_payload(payload).ttl(63))
            },
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "ICMP echo request",
            at: InsideIn,
            given: vec![],
            packet: echo(N1, ANYWHERE, 0x0a0b),
            fate: Redirect(echo(NODE1, ANYWHERE, 0x0a0b).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "ICMP timestamp request",
            at: InsideIn,
            given: vec![],
            packet: query(N1, ANYWHERE, 13, 9).carrying(12),
            fate: Redirect(query(NODE1, ANYWHERE, 13, 9).carrying(12).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "SCTP, ports kept",
            at: InsideIn,
            given: vec![],
            packet: other(N1, ANYWHERE, proto::SCTP, &SCTP_INIT),
            fate: Redirect(other(NODE1, ANYWHERE, proto::SCTP, &SCTP_INIT).ttl(63)),
            counts: &[FlowsOpened],
        },
        Fixture {
            what: "GRE, by address alone",
            at: InsideIn,
            given: vec![],
            packet: other(N1, ANYWHERE, 47, &[0, 0, 8, 0]),
            fate: Redirect(other(NODE1, ANYWHERE, 47, &[0, 0, 8, 0]).ttl(63)),
            counts: &[FlowsOpened],
        },
        Fixture {
            what: "a packet of a protocol without any octets",
            at: InsideIn,
            given: vec![],
            packet: other(N1, ANYWHERE, 50, &[]).padded(26),
            fate: Redirect(other(NODE1, ANYWHERE, 50, &[]).padded(26).ttl(63)),
            counts: &[FlowsOpened],
        },
    ]);
}

#[test]
fn what_follows_is_translated_both_ways() {
    let syn_sent = || Known(outside(proto::TCP, CONTAINER, SERVER).tcp(xnat_common::tcp::State::SynSent));
    let tcp_flow = || Known(outside(proto::TCP, CONTAINER, SERVER).answered());
    let moved = || Known(outside(proto::TCP, CONTAINER, SERVER).port(61234).answered());
    let udp_moved = || Known(outside(proto::UDP, CONTAINER, NAMESERVER).port(61234));
    let echo_moved = || Known(outside(proto::ICMP, (N1, 0x0a0b), (ANYWHERE, 0)).port(0xf1f2));
    run([
        Fixture {
            what: "SYN|ACK back",
            at: UplinkIn,
            given: vec![syn_sent()],
            packet: tcp(SERVER, MASQUERADED, SYN | ACK).ttl(55),
            fate: Redirect(tcp(SERVER, CONTAINER, SYN | ACK).ttl(54)),
            counts: &[],
        },
        Fixture {
            what: "TCP data out",
            at: InsideIn,
            given: vec![tcp_flow()],
            packet: tcp(CONTAINER, SERVER, PSH | ACK).carrying(1001),
            fate: Redirect(tcp(MASQUERADED, SERVER, PSH | ACK).carrying(1001).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "TCP data back",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: tcp(SERVER, MASQUERADED, PSH | ACK).carrying(1460),
            fate: Redirect(tcp(SERVER, CONTAINER, PSH | ACK).carrying(1460).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "RST back",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: tcp(SERVER, MASQUERADED, RST),
            fate: Redirect(tcp(SERVER, CONTAINER, RST).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "FIN out, on another port",
            at: InsideIn,
            given: vec![moved()],
            packet: tcp(CONTAINER, SERVER, FIN | ACK),
            fate: Redirect(tcp((NODE1, 61234), SERVER, FIN | ACK).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "an answer on another port",
            at: UplinkIn,
            given: vec![moved()],
            packet: tcp(SERVER, (NODE1, 61234), ACK).carrying(77),
            fate: Redirect(tcp(SERVER, CONTAINER, ACK).carrying(77).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "UDP out on another port",
            at: InsideIn,
            given: vec![udp_moved()],
            packet: udp(CONTAINER, NAMESERVER),
            fate: Redirect(udp((NODE1, 61234), NAMESERVER).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "UDP back from another port",
            at: UplinkIn,
            given: vec![udp_moved()],
            packet: udp(NAMESERVER, (NODE1, 61234)).carrying(513),
            fate: Redirect(udp(NAMESERVER, CONTAINER).carrying(513).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "an echo request with another identifier",
            at: InsideIn,
            given: vec![echo_moved()],
            packet: echo(N1, ANYWHERE, 0x0a0b),
            fate: Redirect(echo(NODE1, ANYWHERE, 0xf1f2).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "its reply",
            at: UplinkIn,
            given: vec![echo_moved()],
            packet: echo_reply(ANYWHERE, NODE1, 0xf1f2),
            fate: Redirect(echo_reply(ANYWHERE, N1, 0x0a0b).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "an echo request from outside with the same identifier is for the host",
            at: UplinkIn,
            given: vec![echo_moved()],
            packet: echo(ANYWHERE, NODE1, 0xf1f2),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "GRE back",
            at: UplinkIn,
            given: vec![Known(outside(47, (N1, 0), (ANYWHERE, 0)))],
            packet: other(ANYWHERE, NODE1, 47, &[0, 0, 8, 0]),
            fate: Redirect(other(ANYWHERE, N1, 47, &[0, 0, 8, 0]).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "SCTP back",
            at: UplinkIn,
            given: vec![Known(outside(proto::SCTP, (N1, 80), (ANYWHERE, 40000)))],
            packet: other(ANYWHERE, NODE1, proto::SCTP, &SCTP_INIT),
            fate: Redirect(other(ANYWHERE, N1, proto::SCTP, &SCTP_INIT).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "a packet that the kernel has routed is translated at the uplink, its TTL already counted",
            at: UplinkOut,
            given: vec![moved()],
            packet: tcp(CONTAINER, SERVER, ACK).carrying(5).ttl(63),
            fate: PassAs(tcp((NODE1, 61234), SERVER, ACK).carrying(5).ttl(63)),
            counts: &[],
        },
    ]);
}

/// Nothing makes up for the change of ports then, so a network card's sum is off by it. Nobody looks: there is no checksum
/// to compare it with.
#[test]
fn udp_without_a_checksum_changes_ports_only() {
    let flow = || Known(outside(proto::UDP, CONTAINER, NAMESERVER).port(61234));
    run_plain([
        Fixture {
            what: "out",
            at: InsideIn,
            given: vec![flow()],
            packet: udp(CONTAINER, NAMESERVER).without_checksum(),
            fate: Redirect(udp((NODE1, 61234), NAMESERVER).without_checksum().ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "back",
            at: UplinkIn,
            given: vec![flow()],
            packet: udp(NAMESERVER, (NODE1, 61234)).without_checksum(),
            fate: Redirect(udp(NAMESERVER, CONTAINER).without_checksum().ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn what_the_kernel_must_answer_goes_to_the_kernel() {
    let flow = || Known(outside(proto::UDP, CONTAINER, NAMESERVER).answered());
    run([
        Fixture {
            what: "an opening with a TTL of 1",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, NAMESERVER).ttl(1),
            fate: Pass,
            counts: &[ToKernelTtl],
        },
        Fixture {
            what: "an opening with a TTL of 0",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, NAMESERVER).ttl(0),
            fate: Pass,
            counts: &[ToKernelTtl],
        },
        Fixture {
            what: "a packet of a flow with a TTL of 1",
            at: InsideIn,
            given: vec![flow()],
            packet: udp(CONTAINER, NAMESERVER).ttl(1),
            fate: Pass,
            counts: &[ToKernelTtl],
        },
        Fixture {
            what: "an answer with a TTL of 1 is translated, so that the kernel knows whom it is for",
            at: UplinkIn,
            given: vec![flow()],
            packet: udp(NAMESERVER, MASQUERADED).ttl(1),
            fate: PassFinished(udp(NAMESERVER, CONTAINER).ttl(1)),
            counts: &[ToKernelTtl],
        },
        Fixture {
            what: "the largest packet",
            at: InsideIn,
            given: vec![flow()],
            packet: udp(CONTAINER, NAMESERVER).carrying(1472),
            fate: Redirect(udp(MASQUERADED, NAMESERVER).carrying(1472).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "one octet more",
            at: InsideIn,
            given: vec![flow()],
            packet: udp(CONTAINER, NAMESERVER).carrying(1473),
            fate: Pass,
            counts: &[ToKernelMtu],
        },
        Fixture {
            what: "an opening that is one octet too long",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, NAMESERVER).carrying(1473),
            fate: Pass,
            counts: &[ToKernelMtu],
        },
        Fixture {
            what: "an opening that is much too long",
            at: InsideIn,
            given: vec![],
            packet: udp(CONTAINER, NAMESERVER).carrying(2000),
            fate: Pass,
            counts: &[ToKernelMtu],
        },
        Fixture {
            what: "an answer that the inside interface does not take",
            at: UplinkIn,
            given: vec![flow(), InsideMtu(1280)],
            packet: udp(NAMESERVER, MASQUERADED).carrying(1300),
            fate: PassFinished(udp(NAMESERVER, CONTAINER).carrying(1300)),
            counts: &[ToKernelMtu],
        },
    ]);
}

#[test]
fn segments_count_for_the_mtu() {
    let flow = || Known(outside(proto::TCP, CONTAINER, SERVER).answered());
    run([
        Fixture {
            what: "a packet that will be cut into segments that fit",
            at: InsideIn,
            given: vec![flow()],
            packet: tcp(CONTAINER, SERVER, ACK).carrying(2920).segmented(1460),
            fate: Redirect(tcp(MASQUERADED, SERVER, ACK).carrying(2920).segmented(1460).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "segments that do not fit with their TCP options",
            at: InsideIn,
            given: vec![flow()],
            packet: tcp(CONTAINER, SERVER, ACK).tcp_options(&[1, 1, 1, 1]).carrying(2920).segmented(1460),
            fate: Pass,
            counts: &[ToKernelMtu],
        },
        Fixture {
            what: "an answer in segments",
            at: UplinkIn,
            given: vec![flow(), InsideMtu(1500)],
            packet: tcp(SERVER, MASQUERADED, ACK).carrying(2920).segmented(1460),
            fate: Redirect(tcp(SERVER, CONTAINER, ACK).carrying(2920).segmented(1460).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "an answer in segments for a smaller interface",
            at: UplinkIn,
            given: vec![flow(), InsideMtu(1400)],
            packet: tcp(SERVER, MASQUERADED, ACK).carrying(2920).segmented(1460),
            fate: PassFinished(tcp(SERVER, CONTAINER, ACK).carrying(2920).segmented(1460)),
            counts: &[ToKernelMtu],
        },
    ]);
}

#[test]
fn a_private_address_does_not_leave() {
    run([
        Fixture {
            what: "the middle of a TCP connection that is nobody's goes to the kernel first",
            at: InsideIn,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, ACK),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "and ends at the uplink",
            at: UplinkOut,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, ACK),
            fate: Gone,
            counts: &[PrivateSource],
        },
        Fixture {
            what: "a RST that is nobody's",
            at: UplinkOut,
            given: vec![],
            packet: tcp(CONTAINER, SERVER, RST),
            fate: Gone,
            counts: &[PrivateSource],
        },
        Fixture {
            what: "an echo reply to nobody",
            at: UplinkOut,
            given: vec![],
            packet: echo_reply(N1, ANYWHERE, 7),
            fate: Gone,
            counts: &[PrivateSource],
        },
        Fixture {
            what: "an ICMP redirect",
            at: UplinkOut,
            given: vec![],
            packet: query(N1, ANYWHERE, 5, 7),
            fate: Gone,
            counts: &[PrivateSource],
        },
        Fixture {
            what: "what the kernel's own NAT has translated leaves",
            at: UplinkOut,
            given: vec![],
            packet: tcp(MASQUERADED, SERVER, ACK),
            fate: Pass,
            counts: &[],
        },
    ]);
}
