//! A dataplane of which not all is there: hooks without stages, or without a configuration.

use std::net::Ipv4Addr;

use aya::maps::ProgramArray;
use xnat_common::counter::Counter::{self, PrivateDestination, PrivateSource, StageMissing};
use xnat_common::names::{map as names, program};
use xnat_tests::packet::SYN;
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1};

use crate::dataplane::map;
use crate::fixture::{PASS, SHOT};
use crate::packet::{Packet, tcp, udp};
use crate::world::Hook::{self, InsideIn, InsideOut, LoopbackOut, UplinkIn, UplinkOut};
use crate::world::World;

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const HOST: (Ipv4Addr, u16) = (NODE1, 50000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);

impl World {
    /// Takes the stages away, as the kernel does when nobody holds them any more.
    fn drop_stages(&mut self) {
        let mut stages: ProgramArray<_> = map(&mut self.ebpf, names::STAGES);
        for stage in (0..).take(program::STAGES.len()) {
            stages.clear_index(&stage).expect("a stage");
        }
    }

    /// Sends a packet, which must stay what it is, and returns its fate and what was counted.
    fn expect_unchanged(&mut self, at: Hook, packet: &Packet) -> (i32, Vec<Counter>) {
        let before = self.counters();
        let outcome = self.run(at, packet, true).expect("a run");
        assert_eq!(outcome.frame, packet.frame(at.macs()), "{at:?}");
        let after = self.counters();
        let counted = after.into_iter().filter(|it| !before.contains(it)).map(|(counter, _)| counter);
        (outcome.action, counted.collect())
    }
}

#[test]
fn without_stages_packets_are_the_kernels_but_no_container_s_address_leaves() {
    let mut world = World::new();
    world.drop_stages();
    let opening = tcp(CONTAINER, SERVER, SYN);
    for (at, packet) in [
        (InsideIn, &opening),
        (UplinkIn, &udp(SERVER, HOST)),
        (UplinkOut, &tcp(HOST, SERVER, SYN)),
        (LoopbackOut, &tcp(HOST, (NODE1, 80), SYN)),
    ] {
        assert_eq!(world.expect_unchanged(at, packet), (PASS, vec![StageMissing]), "{at:?}");
    }
    assert_eq!(world.expect_unchanged(UplinkOut, &opening), (SHOT, vec![PrivateSource, StageMissing]));
    let to_peer = tcp(HOST, (N2, 80), SYN);
    assert_eq!(world.expect_unchanged(UplinkOut, &to_peer), (SHOT, vec![PrivateDestination, StageMissing]));
}

#[test]
fn without_a_configuration_everything_passes_with_stages_or_without() {
    let mut world = World::new();
    world.configure(|config| config.uplink = 0);
    for stages in [true, false] {
        if !stages {
            world.drop_stages();
        }
        for (at, packet) in [
            (InsideIn, tcp(CONTAINER, SERVER, SYN)),
            (InsideOut, tcp(SERVER, CONTAINER, SYN)),
            (UplinkIn, udp(SERVER, HOST)),
            (UplinkOut, tcp(CONTAINER, SERVER, SYN)),
            (UplinkOut, tcp(HOST, SERVER, SYN)),
            (LoopbackOut, tcp(HOST, (NODE1, 80), SYN)),
        ] {
            assert_eq!(world.expect_unchanged(at, &packet), (PASS, vec![]), "{at:?}, stages: {stages}");
        }
    }
}
