//! The lane with the hooks attached: frames sent in at one end and read at the other.
//!
//! What is remembered is given a MAC address of its own, so that a frame tells which way it has come.

use xnat_common::counter::Counter;
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, PSH};

use super::{CONTAINER, SERVER, WIRE, known};
use crate::fixture::packets;
use crate::lane::way_out;
use crate::packet::{End, Macs, Packet, frame, tcp, udp};
use crate::wire::{GSO_TCPV4, Machine, Offload, expect_offloaded, host, partial};
use crate::world::Hook::{self, InsideIn, UplinkIn};
use crate::world::World;

/// In the last octet of the neighbours' MAC addresses.
const REMEMBERED: u8 = 0x80;

/// The MAC addresses of what took the lane from `hook` on.
fn macs(hook: Hook) -> Macs {
    let [mut to, from] = way_out(hook).macs();
    to[5] ^= REMEMBERED;
    [to, from]
}

fn remember(world: &mut World, proto: u8) {
    known(world, proto);
    world.change_hops(|hop| hop.dst[5] ^= REMEMBERED);
}

/// Both ways in: the hook, the tuple there, and that of what leaves.
const WAYS: [(Hook, [End; 2], [End; 2]); 2] =
    [(InsideIn, [CONTAINER, SERVER], [WIRE, SERVER]), (UplinkIn, [SERVER, WIRE], [SERVER, CONTAINER])];

/// How a packet between two ends is made.
type Make = fn([End; 2]) -> Packet;

fn machines(hook: Hook, container: Machine, wire: Machine) -> [Machine; 2] {
    if hook == InsideIn { [container, wire] } else { [wire, container] }
}

#[test]
fn frames_leave_by_the_remembered_hops() {
    for (hook, from, to) in WAYS {
        let (mut world, container, wire) = host();
        let [sender, receiver] = machines(hook, container, wire);
        for proto in [proto::UDP, proto::TCP] {
            remember(&mut world, proto);
            let packet = |ends: [End; 2]| super::packet(proto, ends);
            sender.send(&packet(from).frame(hook.macs()), Offload::default());
            receiver.expect(&packet(to).ttl(63).macs(macs(hook)), way_out(hook));
            // What is handed straight to an interface is finished, and not the kernel's own.
            assert_eq!(world.count(Counter::KernelFlows), 0);
            assert_eq!(packets(&world.flow())[usize::from(hook == UplinkIn)], 1 + u64::from(hook == InsideIn));
        }
    }
}

#[test]
fn checksums_that_the_device_completes_stay_so() {
    for (hook, from, to) in WAYS {
        let (mut world, container, wire) = host();
        let [sender, receiver] = machines(hook, container, wire);
        let datagram = |[src, dst]: [End; 2]| udp(src, dst).carrying(333);
        let segment = |[src, dst]: [End; 2]| tcp(src, dst, PSH | ACK).tcp_options(&[1; 12]).carrying(100);
        for (proto, make, field) in [(proto::UDP, datagram as Make, 6), (proto::TCP, segment as Make, 16)] {
            remember(&mut world, proto);
            let (frame, offload) = partial(&make(from), hook, 34, field);
            sender.send(&frame, offload);
            let got = expect_offloaded(&receiver, &make(to).ttl(63).macs(macs(hook)), way_out(hook));
            assert!(got.checksum().is_some(), "it is still the device's");
        }
    }
}

#[test]
fn super_packets_stay_whole() {
    for (hook, from, to) in WAYS {
        let (mut world, container, wire) = host();
        let [sender, receiver] = machines(hook, container, wire);
        remember(&mut world, proto::TCP);
        let large = |[src, dst]: [End; 2]| tcp(src, dst, PSH | ACK).carrying(14_000);
        let (frame, offload) = partial(&large(from), hook, 34, 16);
        sender.send(&frame, Offload { gso_type: GSO_TCPV4, gso_size: 1400, hdr_len: 54, ..offload });
        let got = expect_offloaded(&receiver, &large(to).ttl(63).macs(macs(hook)), way_out(hook));
        assert_eq!((got.gso_type, got.gso_size), (GSO_TCPV4, 1400));
    }
}

/// What is not in the linear part of the buffer cannot be read in the lane.
#[test]
fn headers_beyond_the_linear_part_take_some_way() {
    let (mut world, container, wire) = host();
    for interface in ["in0", "c0", "up0", "wire0"] {
        world.ns.ip(&format!("link set {interface} mtu 9000"));
    }
    for (linear, express) in [(14, false), (34, false), (41, false), (42, true), (60, true), (200, true)] {
        known(&mut world, proto::UDP);
        world.configure(|config| config.uplink_mtu = 9000);
        world.change_hops(|hop| {
            hop.mtu = 9000;
            hop.dst[5] ^= REMEMBERED;
        });
        // A frame of more than a page is what a packet socket splits.
        let long = |[src, dst]: [End; 2]| udp(src, dst).carrying(6000);
        let offload = Offload { hdr_len: linear, ..Offload::default() };
        container.send(&long([CONTAINER, SERVER]).frame(InsideIn.macs()), offload);
        let macs = if express { macs(InsideIn) } else { way_out(InsideIn).macs() };
        wire.expect(&long([WIRE, SERVER]).ttl(63).macs(macs), way_out(InsideIn));
    }
}

#[test]
fn frames_of_another_vlan_are_not_touched() {
    for (hook, from, to) in WAYS {
        let (mut world, container, wire) = host();
        let [sender, receiver] = machines(hook, container, wire);
        remember(&mut world, proto::UDP);
        let packet = |[src, dst]: [End; 2]| udp(src, dst);
        let before = packets(&world.flow());
        let ip = packet(from).frame(hook.macs())[14..].to_vec();
        sender.send(&frame(0x8100, [&[0, 5, 8, 0], &ip[..]].concat()).frame(hook.macs()), Offload::default());
        assert_eq!(packets(&world.flow()), before);
        sender.send(&packet(from).frame(hook.macs()), Offload::default());
        receiver.expect(&packet(to).ttl(63).macs(macs(hook)), way_out(hook));
        assert_eq!(packets(&world.flow()), if hook == InsideIn { [2, 0] } else { [1, 1] });
    }
}
