//! Which packets are sent: from a set of flows to the generator's job.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use xnat_tests::wait;

use crate::candidate::{Candidate, Setup};
use crate::frame::{Frame, Packet};
use crate::kernel::Kernel;
use crate::layout::{AT_RANDOM, IN_ORDER, INWARD, Job, OUTWARD, Tally};
use crate::rig::{BRIDGE_MAC, CONTAINER, CONTAINER_MAC, HOST, OUTSIDE, PEER, PEER_CONTAINER, UPLINK_MAC, WIRE_MAC};

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the container to the wire.
    Outward,
    /// From the wire to the container.
    Inward,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Outward, Self::Inward];

    /// In ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Outward => "outward",
            Self::Inward => "inward",
        }
    }

    /// In titles.
    pub fn title(self) -> &'static str {
        match self {
            Self::Outward => "toward the outside",
            Self::Inward => "toward the container",
        }
    }
}

/// The transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

impl Protocol {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Udp, Self::Tcp];

    /// In ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// In titles.
    pub fn title(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// Ports that flows to one destination have: 2^15.
pub const PORT_BITS: u32 = 15;
/// The lowest of them.
const FIRST_PORT: u16 = 16_384;

/// One run of the generator.
#[derive(Clone, Copy, Debug)]
pub struct Send {
    pub packet: Packet,
    pub direction: Direction,
    /// Else one flow after the other.
    pub at_random: bool,
    /// Number of the first flow.
    pub first: u32,
    pub flows: u32,
    /// Packets before the clock starts.
    pub warm_up: u32,
    /// Packets in all.
    pub packets: u32,
    /// The container's address.
    pub container: Ipv4Addr,
    /// The lowest of the ports.
    pub first_port: u16,
    /// By which a flow's number is multiplied for its port; odd.
    pub stride: u32,
}

impl Default for Send {
    fn default() -> Self {
        Self {
            packet: Packet::Udp,
            direction: Direction::Outward,
            at_random: false,
            first: 0,
            flows: 1,
            warm_up: 0,
            packets: 1,
            container: CONTAINER,
            first_port: FIRST_PORT,
            stride: 1,
        }
    }
}

impl Send {
    /// The generator's job at a candidate.
    pub fn job(&self, candidate: Candidate) -> Job {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        // A class that nothing else here has; never the least, which is what everything has by itself.
        let service = ((run % 32) as u8 + 16) << 2;
        let outward = self.direction == Direction::Outward;
        let translated = candidate.translates();
        let local = if !outward && translated { HOST } else { self.container };
        let (remote, remote_step, remote_port, remote_port_step) = match (candidate, outward) {
            // On the wire all containers of a peer have the peer's address.
            (Candidate::XnatPeer, true) => (PEER_CONTAINER, 0, 1024, 1),
            (Candidate::XnatPeer, false) => (PEER, 0, 1024, 1),
            _ => (OUTSIDE, 1, 443, 0),
        };
        let none = Ipv4Addr::UNSPECIFIED;
        let frame = if outward {
            Frame::new((BRIDGE_MAC, CONTAINER_MAC), self.packet, local, none, service)
        } else {
            Frame::new((UPLINK_MAC, WIRE_MAC), self.packet, none, local, service)
        };
        let arrives_with = if outward && translated { HOST } else { self.container };
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
            port_stride: self.stride,
            local_port: self.first_port.into(),
            remote: remote.to_bits(),
            remote_port,
            remote_step,
            remote_port_step,
            header_sum: frame.header_sum,
            datagram_sum: frame.datagram_sum,
            service: service.into(),
            probe: 0,
            arrives_with: u32::from_ne_bytes(arrives_with.octets()),
        }
    }

    /// Sends, and returns what was counted when nothing more is on its way.
    fn tally(&self, kernel: &mut Kernel, setup: &Setup) -> Result<Tally, String> {
        let rig = &setup.rig;
        let interface = if self.direction == Direction::Outward { rig.port } else { rig.uplink };
        let job = self.job(setup.candidate);
        let mut tally = kernel.run(&rig.host, interface, job).map_err(|error| format!("the generator: {error}"))?;
        let all = u64::from(self.packets);
        if tally.arrived < all {
            wait::within(Duration::from_millis(100), || {
                tally = kernel.tally();
                (tally.arrived >= all).then_some(())
            });
        }
        Ok(tally)
    }

    /// Sends and returns nanoseconds a packet, from the first after the warm-up until the last had arrived; an error if
    /// not all did.
    pub fn run(&self, kernel: &mut Kernel, setup: &Setup) -> Result<f64, String> {
        let tally = self.tally(kernel, setup)?;
        let all = u64::from(self.packets);
        if tally.arrived != all || tally.wrong != 0 {
            let counted = setup.counters();
            return Err(format!("{} of {all} packets arrived, {} untranslated{counted}", tally.arrived, tally.wrong));
        }
        Ok((tally.ended - tally.started) as f64 / f64::from(self.packets - self.warm_up))
    }

    /// Sends, again if not all arrived. For packets after which the same ones may follow.
    pub fn run_until_all_arrive(&self, kernel: &mut Kernel, setup: &Setup) -> Result<(), String> {
        let mut outcome = Ok(());
        for _ in 0..ATTEMPTS {
            outcome = self.run(kernel, setup).map(drop);
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map_err(|error| format!("opening {} flows, {:?}: {error}", self.flows, self.packet))
    }

    /// Sends what is to be refused, and returns nanoseconds a packet, from the first after the warm-up to the last; an
    /// error if any arrived.
    pub fn run_refused(&self, kernel: &mut Kernel, setup: &Setup) -> Result<f64, String> {
        let tally = self.tally(kernel, setup)?;
        if tally.arrived != 0 || tally.wrong != 0 {
            return Err(format!("{} of {} packets were not refused", tally.arrived + tally.wrong, self.packets));
        }
        Ok((tally.generated_last - tally.started) as f64 / f64::from(self.packets - self.warm_up - 1))
    }
}

/// How many flows are opened at a time.
const CHUNK: u32 = 100_000;
/// How often that is tried: on a busy machine a packet may be lost, which no real end would leave it at either.
const ATTEMPTS: u32 = 3;

/// Opens flows, one after the other, as both ends of real ones would.
pub fn open(kernel: &mut Kernel, setup: &Setup, protocol: Protocol, first: u32, flows: u32) -> Result<(), String> {
    use Direction::{Inward, Outward};
    let ways = match protocol {
        Protocol::Udp => [(Packet::Udp, Outward), (Packet::Udp, Inward), (Packet::Udp, Outward)],
        Protocol::Tcp => [(Packet::Syn, Outward), (Packet::SynAck, Inward), (Packet::ClientAck, Outward)],
    };
    for start in (first..first + flows).step_by(CHUNK as usize) {
        let flows = CHUNK.min(first + flows - start);
        for (packet, direction) in ways {
            let send = Send { packet, direction, first: start, flows, packets: flows, ..Send::default() };
            send.run_until_all_arrive(kernel, setup)?;
        }
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
