//! What lies within an error, layer by layer: checksums, extensions, what is cut or damaged.

use super::*;

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
