//! Checksums, identifications and super-packets in the lane.

use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, PSH};

use super::{CONTAINER, SERVER, WIRE, expect_express, known, reversed};
use crate::fixture::bytes;
use crate::lane::way_out;
use crate::packet::{End, Packet, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn};
use crate::world::World;

/// The datagram with the payload by which its checksum comes to zero, which UDP writes as 0xffff.
fn summing_to_zero(ends: [End; 2]) -> Vec<u8> {
    let frame = udp(ends[0], ends[1]).with_payload(vec![0, 0]).frame([[0; 6]; 2]);
    frame[40..42].to_vec()
}

/// How a packet between two ends is made.
type Make<'a> = &'a dyn Fn([End; 2]) -> Packet;

#[test]
fn checksums_are_right_after_the_lane() {
    let mut world = World::new();
    let zero = |ends: [End; 2]| summing_to_zero(ends);
    let (out, wire) = ([CONTAINER, SERVER], [WIRE, SERVER]);
    for (hook, from, to) in [(InsideIn, out, wire), (UplinkIn, reversed(wire), reversed(out))] {
        let datagram = |ends: [End; 2]| udp(ends[0], ends[1]);
        let segment = |ends: [End; 2]| tcp(ends[0], ends[1], PSH | ACK);
        let table: [(&str, Make<'_>); 10] = [
            ("a datagram", &datagram),
            ("an odd one, padded", &|ends| datagram(ends).carrying(3).padded(15)),
            ("an empty one", &|ends| datagram(ends).carrying(0).padded(18)),
            ("a long one", &|ends| datagram(ends).carrying(1472)),
            ("one that came to zero", &|ends| datagram(ends).with_payload(zero(from))),
            ("one that comes to zero", &|ends| datagram(ends).with_payload(zero(to))),
            ("a segment", &segment),
            ("a segment with options", &|ends| segment(ends).tcp_options(&[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8])),
            ("a long segment", &|ends| segment(ends).carrying(1460)),
            ("one with all other flags", &|ends| tcp(ends[0], ends[1], ACK | PSH | 0xc0).tos(3)),
        ];
        for (what, make) in table {
            println!("{what} at {hook:?}");
            let is_tcp = make(from).frame([[0; 6]; 2])[23] == proto::TCP;
            for summed in [false, true] {
                known(&mut world, if is_tcp { proto::TCP } else { proto::UDP });
                let traced = world.trace(hook, &make(from), summed);
                assert_eq!(traced.outcome.frame, make(to).ttl(63).frame(way_out(hook).macs()), "summed: {summed}");
            }
        }
        // Without a checksum there is nothing to keep: the kernel's own NAT does not keep a network card's sum either.
        known(&mut world, proto::UDP);
        let without = |ends| datagram(ends).without_checksum();
        expect_express(&mut world, hook, &without(from), &without(to).ttl(63));
    }
}

#[test]
fn super_packets_stay_whole() {
    let mut world = World::new();
    let large = |ends: [End; 2]| tcp(ends[0], ends[1], ACK).carrying(2800).segmented(1400);
    known(&mut world, proto::TCP);
    expect_express(&mut world, InsideIn, &large([CONTAINER, SERVER]), &large([WIRE, SERVER]).ttl(63));
    expect_express(&mut world, UplinkIn, &large([SERVER, WIRE]), &large([SERVER, CONTAINER]).ttl(63));
    let flow = world.flow();
    assert_eq!(bytes(&flow), [140 + 2840, 2840]);
}

/// What may be fragmented later gets an identification of its own where it leaves with an address that many share.
#[test]
fn what_may_be_fragmented_leaves_with_another_identification() {
    let mut world = World::new();
    known(&mut world, proto::UDP);
    let datagram = |ends: [End; 2], id| udp(ends[0], ends[1]).may_fragment().id(id);
    let mut ids: Vec<u16> = (0..8)
        .map(|_| {
            let traced = world.trace(InsideIn, &datagram([CONTAINER, SERVER], 7), false);
            let frame = traced.outcome.frame;
            let id = u16::from_be_bytes([frame[18], frame[19]]);
            let expected = datagram([WIRE, SERVER], id).ttl(63);
            assert_eq!(frame, expected.frame(way_out(InsideIn).macs()));
            id
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() > 4, "random ones, not {ids:?}");
    let back = datagram([SERVER, CONTAINER], 7).ttl(63);
    expect_express(&mut world, UplinkIn, &datagram([SERVER, WIRE], 7), &back);
}
