//! Which packets are sent: from a set of flows to the generator's job.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use xnat_tests::wait;

use crate::candidate::{Candidate, Setup};
use crate::frame::{Packet, frame};
use crate::kernel::Kernel;
use crate::layout::{AT_RANDOM, IN_ORDER, INWARD, Job, OUTWARD};
use crate::rig::{BRIDGE_MAC, CONTAINER, CONTAINER_MAC, HOST, OUTSIDE, PEER, PEER_CONTAINER, UPLINK_MAC, WIRE_MAC};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the container to the wire.
    Outward,
    /// From the wire to the container.
    Inward,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Outward, Self::Inward];
}

/// The transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Udp,
    Tcp,
}

/// Each destination is reached from this many ports: 2^15, from [`FIRST_PORT`] on.
const PORT_BITS: u32 = 15;
const FIRST_PORT: u32 = 16_384;

/// One run of the generator.
#[derive(Clone, Copy, Debug)]
pub struct Send {
    pub packet: Packet,
    pub direction: Direction,
    pub at_random: bool,
    pub first: u32,
    pub flows: u32,
    pub warm_up: u32,
    pub packets: u32,
}

impl Send {
    /// The generator's job at a candidate.
    fn job(&self, candidate: Candidate) -> Job {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        // A class that nothing else here has; never the least, which is what everything has by itself.
        let service = ((run % 32) as u8 + 16) << 2;
        let outward = self.direction == Direction::Outward;
        let translated = candidate.translates();
        let local = if !outward && translated { HOST } else { CONTAINER };
        let (remote, remote_step, remote_port, remote_port_step) = match (candidate, outward) {
            // On the wire all containers of a peer have the peer's address.
            (Candidate::XnatPeer, true) => (PEER_CONTAINER, 0, 1024, 1),
            (Candidate::XnatPeer, false) => (PEER, 0, 1024, 1),
            _ => (OUTSIDE, 1, 443, 0),
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let frame = if outward {
            frame((BRIDGE_MAC, CONTAINER_MAC), self.packet, local, none, service)
        } else {
            frame((UPLINK_MAC, WIRE_MAC), self.packet, none, local, service)
        };
        let arrives_with = if outward && translated { HOST } else { CONTAINER };
        Job {
            frame: frame.octets,
            length: frame.length,
            direction: if outward { OUTWARD } else { INWARD },
            order: if self.at_random { AT_RANDOM } else { IN_ORDER },
            seed: run.wrapping_mul(0x9e37_79b1),
            first: self.first,
            flows: self.flows,
            warm_up: self.warm_up,
            packets: self.packets,
            port_bits: PORT_BITS,
            port_stride: 1,
            local_port: FIRST_PORT,
            remote: remote.to_bits(),
            remote_port,
            remote_step,
            remote_port_step,
            header_sum: frame.header_sum,
            datagram_sum: frame.datagram_sum,
            service: service.into(),
            arrives_with: u32::from_ne_bytes(arrives_with.octets()),
        }
    }

    /// Sends and returns nanoseconds a packet, if all packets arrived.
    pub fn run(&self, kernel: &mut Kernel, setup: &Setup) -> Result<f64, String> {
        let rig = &setup.rig;
        let interface = if self.direction == Direction::Outward { rig.port } else { rig.uplink };
        let job = self.job(setup.candidate);
        let mut tally = kernel.run(&rig.host, interface, job).map_err(|error| format!("the generator: {error}"))?;
        let all = u64::from(self.packets);
        // The last of them may still be on their way.
        if tally.arrived < all {
            wait::within(std::time::Duration::from_millis(200), || {
                tally = kernel.tally();
                (tally.arrived >= all).then_some(())
            });
        }
        if tally.arrived != all || tally.wrong != 0 {
            return Err(format!("{} of {all} packets arrived, {} untranslated", tally.arrived, tally.wrong));
        }
        Ok((tally.ended - tally.started) as f64 / f64::from(self.packets - self.warm_up))
    }
}

/// Opens flows, one after the other, as both ends of real ones would.
pub fn open(kernel: &mut Kernel, setup: &Setup, protocol: Protocol, first: u32, flows: u32) -> Result<(), String> {
    use Direction::{Inward, Outward};
    let ways = match protocol {
        Protocol::Udp => [(Packet::Udp, Outward), (Packet::Udp, Inward), (Packet::Udp, Outward)],
        Protocol::Tcp => [(Packet::Syn, Outward), (Packet::SynAck, Inward), (Packet::ClientAck, Outward)],
    };
    for (packet, direction) in ways {
        let send = Send { packet, direction, at_random: false, first, flows, warm_up: 0, packets: flows };
        send.run(kernel, setup).map_err(|error| format!("opening {flows} flows, {packet:?}: {error}"))?;
    }
    Ok(())
}

/// A packet of an established flow.
pub fn established(protocol: Protocol, direction: Direction) -> Packet {
    match (protocol, direction) {
        (Protocol::Udp, _) => Packet::Udp,
        (Protocol::Tcp, Direction::Outward) => Packet::ClientAck,
        (Protocol::Tcp, Direction::Inward) => Packet::ServerAck,
    }
}
