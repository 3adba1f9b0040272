//! ICMP errors in both directions: addresses, ports and checksums of the packet inside are translated like its own.

use std::net::Ipv4Addr;

use xnat_common::counter::Counter::{BadChecksum, IcmpErrorUntranslatable, PrivateSource, ToKernelTtl};
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE};

use crate::fixture::Fate::{Gone, Pass, PassAs, Redirect};
use crate::fixture::Given::{InsideMtu, Known};
use crate::fixture::{self, Fixture, REDIRECT, forwarded, from_host, hairpin, inbound, mapped, outside, run, to_peer};
use crate::packet::{Packet, Tag, echo, echo_reply, icmp, icmp_error, other, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn, UplinkOut};
use crate::world::{GATEWAY, World};

const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const TOO_BIG: (u8, u8) = (3, 4);
const TIME_EXCEEDED: (u8, u8) = (11, 0);
const ALL: usize = usize::MAX >> 8;

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);
/// The container on the wire, on another port.
const MOVED: (Ipv4Addr, u16) = (NODE1, 61234);

/// An error with the packet inside cut to this many octets, IP header included.
fn error_cut(src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), about: &Packet, octets: usize) -> Packet {
    let mut embedded = about.frame([[0; 6]; 2])[14..].to_vec();
    embedded.truncate(octets);
    icmp(src, dst, kind, [0; 4], embedded)
}

#[test]
fn errors_from_the_outside_reach_the_container() {
    let tcp_flow = || Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1).answered());
    let udp_flow = || Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1));
    let ping = || Known(outside(proto::ICMP, (N1, 7), (ANYWHERE, 0)).port(0x7777));
    run([
        Fixture {
            what: "port unreachable, from the server",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp(MOVED, SERVER).ttl(51), ALL).ttl(55),
            fate: Redirect(icmp_error(ANYWHERE, N1, PORT_UNREACHABLE, &udp(CONTAINER, SERVER).ttl(51), ALL).ttl(54)),
            counts: &[],
        },
        Fixture {
            what: "with eight octets of the datagram",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp(MOVED, SERVER), 8),
            fate: Redirect(icmp_error(ANYWHERE, N1, PORT_UNREACHABLE, &udp(CONTAINER, SERVER), 8).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about UDP without a checksum",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp(MOVED, SERVER).without_checksum(), 8),
            fate: Redirect(
                icmp_error(ANYWHERE, N1, PORT_UNREACHABLE, &udp(CONTAINER, SERVER).without_checksum(), 8).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "time exceeded, from a router: it stays the router's",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &tcp(MOVED, SERVER, ACK).ttl(1), 8),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &tcp(CONTAINER, SERVER, ACK).ttl(1), 8).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about a whole TCP segment",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, TOO_BIG, &tcp(MOVED, SERVER, ACK).carrying(333), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, TOO_BIG, &tcp(CONTAINER, SERVER, ACK).carrying(333), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about a packet with options",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, (12, 0), &tcp(MOVED, SERVER, ACK).options(&[0x94, 4, 0, 0]), 20),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (12, 0), &tcp(CONTAINER, SERVER, ACK).options(&[0x94, 4, 0, 0]), 20).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "in a packet with options",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, (3, 1), &udp(MOVED, SERVER), 8).options(&[0x94, 4, 0, 0]),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (3, 1), &udp(CONTAINER, SERVER), 8).options(&[0x94, 4, 0, 0]).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "about a ping",
            at: UplinkIn,
            given: vec![ping()],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &echo(NODE1, ANYWHERE, 0x7777), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &echo(N1, ANYWHERE, 7), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about GRE",
            at: UplinkIn,
            given: vec![Known(outside(47, (N1, 0), (ANYWHERE, 0)))],
            packet: icmp_error(OUTSIDE, NODE1, (3, 2), &other(NODE1, ANYWHERE, 47, &[0; 8]), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, (3, 2), &other(N1, ANYWHERE, 47, &[0; 8]), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about SCTP",
            at: UplinkIn,
            given: vec![Known(outside(proto::SCTP, (N1, 0x1111), (ANYWHERE, 0x2222)))],
            packet: icmp_error(
                OUTSIDE,
                NODE1,
                (3, 2),
                &other(NODE1, ANYWHERE, 132, &[0x11, 0x11, 0x22, 0x22, 0, 0, 0, 0]),
                ALL,
            ),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (3, 2), &other(N1, ANYWHERE, 132, &[0x11, 0x11, 0x22, 0x22, 0, 0, 0, 0]), ALL)
                    .ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "about the first fragment of a datagram",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, (11, 1), &udp(MOVED, SERVER).carrying(2000).fragment(0, 1480), 8),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (11, 1), &udp(CONTAINER, SERVER).carrying(2000).fragment(0, 1480), 8).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "in a frame that is longer than its packet",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &tcp(MOVED, SERVER, ACK), 8).padded(20),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &tcp(CONTAINER, SERVER, ACK), 8).padded(20).ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn errors_from_a_peer() {
    let ours = || Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2));
    let sent = || udp((NODE1, 40000), (NODE2, 80));
    let seen = || udp(CONTAINER, (N2, 80));
    let theirs = || Known(inbound(proto::UDP, (NODE2, 40000), (N1, 80)).answered());
    run([
        Fixture {
            what: "port unreachable comes from the container that was meant",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &sent(), ALL),
            fate: Redirect(icmp_error(N2, N1, PORT_UNREACHABLE, &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "time exceeded comes from the peer, which is a router",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(NODE2, NODE1, TIME_EXCEEDED, &sent(), ALL),
            fate: Redirect(icmp_error(NODE2, N1, TIME_EXCEEDED, &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "so does fragmentation needed",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(NODE2, NODE1, TOO_BIG, &sent(), ALL),
            fate: Redirect(icmp_error(NODE2, N1, TOO_BIG, &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "from a router on the way to the peer",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(OUTSIDE, NODE1, (3, 1), &sent(), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, (3, 1), &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about what a container has answered",
            at: UplinkIn,
            given: vec![theirs()],
            packet: icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &udp((NODE1, 80), (NODE2, 40000)), ALL),
            fate: Redirect(icmp_error(NODE2, N1, PORT_UNREACHABLE, &udp((N1, 80), (NODE2, 40000)), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about an echo reply of a container",
            at: UplinkIn,
            given: vec![Known(inbound(proto::ICMP, (NODE2, 5), (N1, 0)))],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &echo_reply(NODE1, NODE2, 5), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &echo_reply(N1, NODE2, 5), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about what the host itself has sent",
            at: UplinkIn,
            given: vec![Known(from_host(proto::UDP, (GATEWAY, 5000), (N2, 80), NODE2))],
            packet: icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &udp((NODE1, 5000), (NODE2, 80)), ALL).ttl(1),
            fate: PassAs(icmp_error(N2, GATEWAY, PORT_UNREACHABLE, &udp((GATEWAY, 5000), (N2, 80)), ALL).ttl(1)),
            counts: &[],
        },
    ]);
}

#[test]
fn errors_from_inside_reach_the_wire() {
    let answered = || Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1).answered());
    let theirs = || Known(inbound(proto::TCP, (NODE2, 40000), (N1, 80)));
    run([
        Fixture {
            what: "a container does not want an answer",
            at: InsideIn,
            given: vec![answered()],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL),
            fate: Redirect(icmp_error(NODE1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, MOVED), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "a container has no such port, for a peer",
            at: InsideIn,
            given: vec![Known(inbound(proto::UDP, (NODE2, 40000), (N1, 53)))],
            packet: icmp_error(N1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (N1, 53)), 8),
            fate: Redirect(icmp_error(NODE1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (NODE1, 53)), 8).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "a container about what a peer's container sent",
            at: InsideIn,
            given: vec![Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2).port(61234).answered())],
            packet: icmp_error(N1, N2, PORT_UNREACHABLE, &udp((N2, 80), CONTAINER), ALL),
            fate: Redirect(icmp_error(NODE1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 80), MOVED), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "the kernel answers a packet whose time is up",
            at: UplinkOut,
            given: vec![theirs()],
            packet: icmp_error(GATEWAY, NODE2, TIME_EXCEEDED, &tcp((NODE2, 40000), (N1, 80), SYN).ttl(1), ALL),
            fate: PassAs(icmp_error(NODE1, NODE2, TIME_EXCEEDED, &tcp((NODE2, 40000), (NODE1, 80), SYN).ttl(1), ALL)),
            counts: &[],
        },
        Fixture {
            what: "the kernel answers a packet that is too big for the containers' network",
            at: UplinkOut,
            given: vec![theirs()],
            packet: icmp_error(NODE1, NODE2, TOO_BIG, &tcp((NODE2, 40000), (N1, 80), ACK).carrying(99), 28),
            fate: PassAs(icmp_error(NODE1, NODE2, TOO_BIG, &tcp((NODE2, 40000), (NODE1, 80), ACK).carrying(99), 28)),
            counts: &[],
        },
        Fixture {
            what: "an error with a TTL of 1 is the kernel's to drop",
            at: InsideIn,
            given: vec![answered()],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL).ttl(1),
            fate: Pass,
            counts: &[ToKernelTtl],
        },
        Fixture {
            what: "an error about nothing known",
            at: InsideIn,
            given: vec![],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "does not leave",
            at: UplinkOut,
            given: vec![],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL),
            fate: Gone,
            counts: &[PrivateSource],
        },
    ]);
}

#[test]
fn errors_about_nothing_known_are_the_hosts() {
    let udp_flow = || Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1));
    let tcp_flow = || Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1));
    let pass = |what, given, packet| Fixture { what, at: UplinkIn, given, packet, fate: Pass, counts: &[] };
    let about = udp(MOVED, SERVER);
    run([
        pass("no flow", vec![], icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &about, ALL)),
        pass(
            "a flow, but in the direction in which nothing was sent",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &udp(SERVER, MOVED), ALL),
        ),
        pass("half an IP header", vec![udp_flow()], error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &about, 12)),
        pass(
            "an IP header without what follows",
            vec![udp_flow()],
            error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &about, 20),
        ),
        pass(
            "half a pair of ports",
            vec![tcp_flow()],
            error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &tcp(MOVED, SERVER, ACK), 23),
        ),
        pass("nothing at all", vec![], icmp(OUTSIDE, NODE1, TIME_EXCEEDED, [0; 4], vec![])),
        pass(
            "an IP header that is shorter than one",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &about, ALL).edited(42, &[0x44]),
        ),
        pass("IPv6", vec![udp_flow()], icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &about, ALL).edited(42, &[0x65])),
        pass(
            "a later fragment",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, (11, 1), &udp(MOVED, SERVER).carrying(2000).fragment(1480, 600), 100),
        ),
        pass(
            "an error about an error",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &icmp_error(NODE1, ANYWHERE, TIME_EXCEEDED, &about, 8), ALL),
        ),
    ]);
}

#[test]
fn errors_that_cannot_be_translated_whole() {
    run([
        Fixture {
            what: "four octets of TCP are enough, its checksum is not among them",
            at: UplinkIn,
            given: vec![Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1))],
            packet: error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &tcp(MOVED, SERVER, ACK), 24),
            fate: Redirect(error_cut(OUTSIDE, N1, TIME_EXCEEDED, &tcp(CONTAINER, SERVER, ACK), 24).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "four octets of UDP are not",
            at: UplinkIn,
            given: vec![Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1))],
            packet: error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &udp(MOVED, SERVER), 24),
            fate: Gone,
            counts: &[IcmpErrorUntranslatable],
        },
    ]);
}

/// An error with extensions (RFC 4884): the packet inside, padded to 128 octets with zeroes, its length in words, and an
/// MPLS label stack (RFC 4950).
fn with_extensions(src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), about: &Packet, quoted: usize) -> Packet {
    let mut body = about.frame([[0; 6]; 2])[14..].to_vec();
    body.truncate(quoted);
    body.resize(128.max(body.len().next_multiple_of(4)), 0);
    let words = (body.len() / 4) as u8;
    let mut extensions = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40];
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&extensions).ones_complement();
    extensions[2..4].copy_from_slice(&sum.to_ne_bytes());
    body.extend(extensions);
    icmp(src, dst, kind, [0, words, 0, 0], body)
}

#[test]
fn extensions_stay_as_they_are() {
    let both_ways = |what, proto, about: fn((Ipv4Addr, u16), (Ipv4Addr, u16)) -> Packet, quoted| {
        let given = || vec![Known(outside(proto, CONTAINER, SERVER).port(MOVED.1).answered())];
        [
            Fixture {
                what,
                at: UplinkIn,
                given: given(),
                packet: with_extensions(OUTSIDE, NODE1, TIME_EXCEEDED, &about(MOVED, SERVER), quoted),
                fate: Redirect(with_extensions(OUTSIDE, N1, TIME_EXCEEDED, &about(CONTAINER, SERVER), quoted).ttl(63)),
                counts: &[],
            },
            Fixture {
                what,
                at: InsideIn,
                given: given(),
                packet: with_extensions(N1, ANYWHERE, (3, 10), &about(SERVER, CONTAINER), quoted),
                fate: Redirect(with_extensions(NODE1, ANYWHERE, (3, 10), &about(SERVER, MOVED), quoted).ttl(63)),
                counts: &[],
            },
        ]
    };
    run(both_ways("about a long segment", proto::TCP, |src, dst| tcp(src, dst, ACK).carrying(400), 128));
    run(both_ways("about a longer part of one", proto::TCP, |src, dst| tcp(src, dst, ACK).carrying(900), 540));
    run(both_ways("about a datagram", proto::UDP, |src, dst| udp(src, dst).carrying(300), 128));
    run(both_ways("about a datagram that is shorter than its room", proto::UDP, udp, ALL));
    // Its header says that it ends before TCP's checksum would come: what is there is padding, and stays zero.
    let headless = |src, dst| tcp(src, dst, ACK).fragment(0, 8);
    run(both_ways("about a fragment that ends before its checksum", proto::TCP, headless, ALL));
}

#[test]
fn an_icmp_error_with_a_wrong_checksum_is_dropped() {
    let ours = || Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1).answered());
    let theirs = || Known(inbound(proto::UDP, (NODE2, 40000), (N1, 53)));
    let toward_peer = || Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2).port(MOVED.1).answered());
    let dropped =
        |what, at, given, packet| Fixture { what, at, given: vec![given], packet, fate: Gone, counts: &[BadChecksum] };
    let inward = |octets| icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &udp(MOVED, SERVER).carrying(1900), octets);
    let outward = || icmp_error(N1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (N1, 53)), ALL);
    let at = |payload: usize| 14 + 20 + 8 + payload;
    // An embedded packet whose own header is damaged in an error that is not.
    let damaged_inside = |src, dst, about: &Packet, offset: usize| {
        let mut embedded = about.frame([[0; 6]; 2])[14..].to_vec();
        embedded[offset] ^= 0x20;
        icmp(src, dst, TIME_EXCEEDED, [0; 4], embedded)
    };
    run([
        dropped("its checksum", UplinkIn, ours(), inward(8).edited(14 + 20 + 2, &[0x12, 0x34])),
        dropped("no checksum", UplinkIn, ours(), inward(8).edited(14 + 20 + 2, &[0, 0])),
        dropped("its code", UplinkIn, ours(), inward(8).edited(14 + 20 + 1, &[7])),
        dropped("the last octet", UplinkIn, ours(), inward(8).edited(at(27), &[0x77])),
        dropped("the last octet of a long one", UplinkIn, ours(), inward(1908).edited(at(20 + 1907), &[0x77])),
        dropped("the last octet of one with an odd length", UplinkIn, ours(), inward(301).edited(at(320), &[0x77])),
        dropped("an octet where pieces meet", UplinkIn, ours(), inward(400).edited(at(128 - 8), &[0x01])),
        dropped("behind options", UplinkIn, ours(), inward(8).options(&[1; 8]).edited(at(8 + 27), &[0x77])),
        dropped("about a peer's", UplinkIn, theirs(), {
            icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &udp((NODE1, 53), (NODE2, 40000)), 8).edited(at(27), &[0x77])
        }),
        dropped("from inside", InsideIn, theirs(), outward().edited(14 + 20 + 2, &[0x12, 0x34])),
        dropped("from inside, the last octet", InsideIn, theirs(), outward().edited(at(37), &[0x77])),
        dropped("at the way out", UplinkOut, theirs(), outward().edited(14 + 20 + 2, &[0x12, 0x34])),
        dropped("the packet inside, its TTL", UplinkIn, ours(), {
            damaged_inside(OUTSIDE, NODE1, &udp(MOVED, SERVER), 8)
        }),
        dropped("the packet inside, its identification", UplinkIn, ours(), {
            damaged_inside(OUTSIDE, NODE1, &udp(MOVED, SERVER), 4)
        }),
        dropped("the packet inside, an option", UplinkIn, ours(), {
            damaged_inside(OUTSIDE, NODE1, &udp(MOVED, SERVER).options(&[1; 40]), 59)
        }),
        dropped("the packet inside, from inside", InsideIn, theirs(), {
            damaged_inside(N1, NODE2, &udp((NODE2, 40000), (N1, 53)), 8)
        }),
        dropped("from a peer that claims to have forgotten the flow", UplinkIn, toward_peer(), {
            icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &udp(MOVED, (NODE2, 80)), 8)
                .tagged(Tag::UnknownFlow, Ipv4Addr::UNSPECIFIED)
                .edited(14 + 28 + 2, &[0x12, 0x34])
        }),
        Fixture {
            what: "about nothing known it is the kernel's",
            at: UplinkIn,
            given: vec![],
            packet: inward(8).edited(14 + 20 + 2, &[0x12, 0x34]),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "the transport checksum inside is not looked at",
            at: UplinkIn,
            given: vec![ours()],
            packet: damaged_inside(OUTSIDE, NODE1, &udp(MOVED, SERVER), 20 + 8),
            fate: Redirect(damaged_inside(OUTSIDE, N1, &udp(CONTAINER, SERVER), 20 + 8).ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn long_and_odd_errors_keep_exact_checksums() {
    let about = |src, dst| udp(src, dst).carrying(3000);
    let from_wire = |octets| icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &about(MOVED, SERVER), octets);
    let to_container = |octets| icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &about(CONTAINER, SERVER), octets).ttl(63);
    let row = |what, packet, expected| Fixture {
        what,
        at: UplinkIn,
        given: vec![InsideMtu(4000), Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1))],
        packet,
        fate: Redirect(expected),
        counts: &[],
    };
    // Both headers before the quoted octets are 28: so about whole pieces of 32, and the most that is verified, 2048.
    let lengths = [8, 9, 10, 11, 99, 100, 101, 227, 228, 229, 548, 1471, 1472, 2019, 2020, 2021];
    run(lengths.map(|octets| row("of any length", from_wire(octets), to_container(octets))));
    let last = |octets: usize| 14 + 20 + 28 + octets - 1;
    run([row(
        "one that is longer is taken as good, and stays as wrong as it is",
        from_wire(2021).edited(last(2021), &[0x77]),
        to_container(2021).edited(last(2021), &[0x77]),
    )]);
}

/// A datagram between these whose checksum comes to zero, and so is written as all ones (RFC 768).
fn summing_to_zero(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Packet {
    let plain = udp(src, dst).with_payload(vec![0; 2]).frame([[0; 6]; 2]);
    let sum = [plain[14 + 20 + 6], plain[14 + 20 + 7]];
    udp(src, dst).with_payload(sum.to_vec())
}

#[test]
fn a_udp_checksum_inside_never_becomes_none_nor_none_a_checksum() {
    let sent = summing_to_zero(CONTAINER, SERVER);
    let payload = sent.frame([[0; 6]; 2])[14 + 20 + 8..].to_vec();
    let flow = || vec![Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1).answered())];
    let none = |src, dst| udp(src, dst).without_checksum();
    assert_eq!(sent.frame([[0; 6]; 2])[14 + 20 + 6..][..2], [0xff, 0xff]);
    run([
        Fixture {
            what: "the container had sent all ones",
            at: UplinkIn,
            given: flow(),
            packet: icmp_error(OUTSIDE, NODE1, (3, 1), &udp(MOVED, SERVER).with_payload(payload), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, (3, 1), &sent, ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "none, from inside",
            at: InsideIn,
            given: flow(),
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &none(SERVER, CONTAINER), ALL),
            fate: Redirect(icmp_error(NODE1, ANYWHERE, PORT_UNREACHABLE, &none(SERVER, MOVED), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "none, from a peer",
            at: UplinkIn,
            given: vec![Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2).port(61234))],
            packet: icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &none(MOVED, (NODE2, 80)), 8),
            fate: Redirect(icmp_error(N2, N1, PORT_UNREACHABLE, &none(CONTAINER, (N2, 80)), 8).ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn every_kind_of_packet_inside_is_translated_in_both_directions() {
    let options = [0x94, 4, 0, 0, 0x44, 8, 5, 0, 0, 0, 0, 0];
    let query = |flow: fixture::Known| flow.port(0x7777).answered();
    let toward_peer = |proto| Known(to_peer(proto, CONTAINER, (N2, 80), NODE2).port(MOVED.1).answered());
    let from_peer = |proto| Known(inbound(proto, (NODE2, 40000), (N1, 80)));
    let row = |what, at, given, packet, expected: Packet| Fixture {
        what,
        at,
        given: vec![given],
        packet,
        fate: Redirect(expected.ttl(63)),
        counts: &[],
    };
    let whole = |src, dst| tcp(src, dst, ACK).carrying(70).options(&options);
    run([
        row(
            "outside flow, from inside, TCP with options and payload",
            InsideIn,
            Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1).answered()),
            icmp_error(N1, ANYWHERE, (3, 2), &whole(SERVER, CONTAINER), ALL),
            icmp_error(NODE1, ANYWHERE, (3, 2), &whole(SERVER, MOVED), ALL),
        ),
        row(
            "outside flow, from inside, eight octets of TCP",
            InsideIn,
            Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1).answered()),
            icmp_error(N1, ANYWHERE, (3, 2), &tcp(SERVER, CONTAINER, ACK), 8),
            icmp_error(NODE1, ANYWHERE, (3, 2), &tcp(SERVER, MOVED, ACK), 8),
        ),
        row(
            "outside flow, from inside, an echo reply",
            InsideIn,
            Known(query(outside(proto::ICMP, (N1, 7), (ANYWHERE, 0)))),
            icmp_error(N1, ANYWHERE, (3, 2), &echo_reply(ANYWHERE, N1, 7), ALL),
            icmp_error(NODE1, ANYWHERE, (3, 2), &echo_reply(ANYWHERE, NODE1, 0x7777), ALL),
        ),
        row(
            "a router inside, whose address stays there",
            InsideIn,
            Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1).answered()),
            icmp_error(GATEWAY, ANYWHERE, (3, 1), &udp(SERVER, CONTAINER), ALL),
            icmp_error(NODE1, ANYWHERE, (3, 1), &udp(SERVER, MOVED), ALL),
        ),
        row(
            "own peer flow, from the wire, TCP with options and payload",
            UplinkIn,
            toward_peer(proto::TCP),
            icmp_error(OUTSIDE, NODE1, TOO_BIG, &whole(MOVED, (NODE2, 80)), ALL),
            icmp_error(OUTSIDE, N1, TOO_BIG, &whole(CONTAINER, (N2, 80)), ALL),
        ),
        row(
            "own peer flow, from the wire, a ping",
            UplinkIn,
            Known(query(to_peer(proto::ICMP, (N1, 7), (N2, 0), NODE2))),
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &echo(NODE1, NODE2, 0x7777), 8),
            icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &echo(N1, N2, 7), 8),
        ),
        row(
            "own peer flow, from inside, TCP with options and payload",
            InsideIn,
            toward_peer(proto::TCP),
            icmp_error(N1, N2, (3, 2), &whole((N2, 80), CONTAINER), ALL),
            icmp_error(NODE1, NODE2, (3, 2), &whole((NODE2, 80), MOVED), ALL),
        ),
        row(
            "peer's flow, from the wire, TCP with options and payload",
            UplinkIn,
            from_peer(proto::TCP),
            icmp_error(OUTSIDE, NODE1, TOO_BIG, &whole((NODE1, 80), (NODE2, 40000)), ALL),
            icmp_error(OUTSIDE, N1, TOO_BIG, &whole((N1, 80), (NODE2, 40000)), ALL),
        ),
        row(
            "peer's flow, from inside, TCP with options and payload",
            InsideIn,
            from_peer(proto::TCP),
            icmp_error(N1, NODE2, (3, 2), &whole((NODE2, 40000), (N1, 80)), ALL),
            icmp_error(NODE1, NODE2, (3, 2), &whole((NODE2, 40000), (NODE1, 80)), ALL),
        ),
        row(
            "peer's flow, from inside, a ping",
            InsideIn,
            Known(inbound(proto::ICMP, (NODE2, 5), (N1, 0))),
            icmp_error(N1, NODE2, (3, 1), &echo(NODE2, N1, 5), ALL),
            icmp_error(NODE1, NODE2, (3, 1), &echo(NODE2, NODE1, 5), ALL),
        ),
        row(
            "an error with options of its own, from inside",
            InsideIn,
            from_peer(proto::UDP),
            icmp_error(N1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (N1, 80)), 8).options(&options),
            icmp_error(NODE1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (NODE1, 80)), 8).options(&options),
        ),
    ]);
}

#[test]
fn errors_about_flows_that_strangers_opened() {
    let client = (ANYWHERE, 5555);
    let service = (N1, 80);
    for (what, flow) in [
        ("by a forward", forwarded(proto::TCP, client, 8080, service)),
        ("through a mapping", mapped(proto::TCP, client, 8080, service)),
    ] {
        run([
            Fixture {
                what,
                at: UplinkIn,
                given: vec![Known(flow)],
                packet: icmp_error(OUTSIDE, NODE1, TOO_BIG, &tcp((NODE1, 8080), client, ACK).carrying(50), ALL),
                fate: Redirect(icmp_error(OUTSIDE, N1, TOO_BIG, &tcp(service, client, ACK).carrying(50), ALL).ttl(63)),
                counts: &[],
            },
            Fixture {
                what,
                at: InsideIn,
                given: vec![Known(flow)],
                packet: icmp_error(N1, ANYWHERE, (3, 2), &tcp(client, service, ACK), 8),
                fate: Redirect(icmp_error(NODE1, ANYWHERE, (3, 2), &tcp(client, (NODE1, 8080), ACK), 8).ttl(63)),
                counts: &[],
            },
            Fixture {
                what,
                at: UplinkOut,
                given: vec![Known(flow)],
                packet: icmp_error(GATEWAY, ANYWHERE, TOO_BIG, &tcp(client, service, ACK), ALL),
                fate: PassAs(icmp_error(NODE1, ANYWHERE, TOO_BIG, &tcp(client, (NODE1, 8080), ACK), ALL)),
                counts: &[],
            },
        ]);
    }
}

#[test]
fn errors_between_two_containers_by_this_hosts_address() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 12);
    let near = (OTHER, 50000);
    let far = (N1, 80);
    let flow = || Known(hairpin(proto::UDP, near, 8080, far));
    let own = || Known(hairpin(proto::UDP, (NODE1, 50000), 8080, far));
    let seen_by_far = || udp((NODE1, 50000), far);
    let refused = || icmp_error(N1, NODE1, PORT_UNREACHABLE, &seen_by_far(), ALL);
    let toward =
        |place, packet, fate, counts| Fixture { what: place, at: InsideIn, given: vec![flow()], packet, fate, counts };
    run([
        toward(
            "back to the one that opened",
            refused(),
            Redirect(icmp_error(NODE1, OTHER, PORT_UNREACHABLE, &udp(near, (NODE1, 8080)), ALL).ttl(63)),
            &[],
        ),
        toward(
            "to the other",
            icmp_error(OTHER, NODE1, PORT_UNREACHABLE, &udp((NODE1, 8080), near), 8),
            Redirect(icmp_error(NODE1, N1, PORT_UNREACHABLE, &udp(far, (NODE1, 50000)), 8).ttl(63)),
            &[],
        ),
        toward(
            "from a router inside",
            icmp_error(Ipv4Addr::new(192, 168, 110, 200), NODE1, TIME_EXCEEDED, &seen_by_far(), 8),
            Redirect(icmp_error(NODE1, OTHER, TIME_EXCEEDED, &udp(near, (NODE1, 8080)), 8).ttl(63)),
            &[],
        ),
        toward("at its end it is the host's, who ignores it", refused().ttl(1), Pass, &[ToKernelTtl]),
        toward("damaged", refused().edited(14 + 20 + 8 + 30, &[0x77]), Gone, &[BadChecksum]),
        Fixture {
            given: vec![own()],
            ..toward(
                "to the host itself, which takes nothing from its own address off an interface",
                refused(),
                PassAs(icmp_error(N1, NODE1, PORT_UNREACHABLE, &udp((NODE1, 50000), (NODE1, 8080)), ALL)),
                &[],
            )
        },
    ]);
}

#[test]
fn an_icmp_error_neither_refreshes_nor_ends_a_flow() {
    let state = xnat_common::tcp::State::Established;
    let tcp_flow = || outside(proto::TCP, CONTAINER, SERVER).answered().tcp(state).idle(60);
    let about_sent = |kind| (UplinkIn, icmp_error(ANYWHERE, NODE1, kind, &tcp((NODE1, 40000), SERVER, ACK), ALL));
    let about_got = |kind| (InsideIn, icmp_error(N1, ANYWHERE, kind, &tcp(SERVER, CONTAINER, ACK), ALL));
    let mut world = World::new();
    let errors = [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (4, 0), (11, 0), (11, 1), (12, 0)];
    for (hook, packet) in errors.into_iter().flat_map(|kind| [about_sent(kind), about_got(kind)]) {
        world.reset();
        Known(tcp_flow()).prepare(&mut world);
        let before = world.flow();
        let outcome = world.run(hook, &packet, false).expect("a run");
        assert_eq!(outcome.action, REDIRECT, "{packet:?}");
        assert_eq!(bytemuck::bytes_of(&world.flow()), bytemuck::bytes_of(&before), "{packet:?}");
        assert_eq!(world.damage(), None);
    }
    // Nor does it keep alive what has been idle for too long.
    world.reset();
    Known(outside(proto::UDP, CONTAINER, SERVER).idle(301)).prepare(&mut world);
    let error = icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp((NODE1, 40000), SERVER), ALL);
    assert_eq!(world.run(UplinkIn, &error, false).expect("a run").action, REDIRECT);
    world.collect();
    assert_eq!(world.flows().len(), 0);
}

#[test]
fn a_tag_inside_an_error_is_not_shown_to_the_container() {
    let ours = || vec![Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2).port(MOVED.1))];
    let sent = |kind| udp(MOVED, (NODE2, 80)).tagged(kind, N2);
    run([
        Fixture {
            what: "on the packet itself",
            at: UplinkIn,
            given: ours(),
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &sent(Tag::Open), ALL),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &udp(CONTAINER, (N2, 80)).options(&[1; 8]), ALL).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "an error about an announcement is nobody's, as the packet gets its own",
            at: UplinkIn,
            given: ours(),
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &sent(Tag::Announce), 8),
            fate: Gone,
            counts: &[],
        },
    ]);
}
