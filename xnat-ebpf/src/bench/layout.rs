//! What the benchmark's two halves share; `tests/benches/nat` includes this very file.
#![allow(dead_code, reason = "each half uses a part")]

/// Octets of the longest frame that is generated: an acknowledgement with timestamps.
pub const FRAME_MAX: usize = 66;
/// Octets that every frame has.
pub const FRAME_MIN: usize = 64;

/// Toward the outside: the local end is the source.
pub const OUTWARD: u32 = 0;
/// Toward the container: the local end is the destination.
pub const INWARD: u32 = 1;

/// Flows one after the other.
pub const IN_ORDER: u32 = 0;
/// Flows by a hash of the packet's number.
pub const AT_RANDOM: u32 = 1;

/// What the generator is to send, and what the sinks are to count.
///
/// A flow is a number. Its low [`Job::port_bits`] bits choose the local port, what is above them the remote end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The frame, of which ports, the remote address and the checksums of IP and transport header are zero.
    pub frame: [u64; FRAME_MAX.div_ceil(8)],
    /// Octets of the frame.
    pub length: u32,
    /// [`OUTWARD`] or [`INWARD`].
    pub direction: u32,
    /// [`IN_ORDER`] or [`AT_RANDOM`].
    pub order: u32,
    /// Added to a packet's number before it is hashed, so that no run repeats another's order.
    pub seed: u32,
    /// Number of the first flow.
    pub first: u32,
    /// How many flows there are from there on.
    pub flows: u32,
    /// The clock starts with the packet of this number, counted from zero.
    pub warm_up: u32,
    /// Packets in all; the clock stops when the last of them has arrived.
    pub packets: u32,
    /// See above.
    pub port_bits: u32,
    /// By which a flow's number is multiplied for its local port; odd, so that each number has a port of its own.
    pub port_stride: u32,
    /// The lowest local port.
    pub local_port: u32,
    /// The first remote address, host byte order.
    pub remote: u32,
    /// The first remote port.
    pub remote_port: u32,
    /// How far apart the remote addresses are.
    pub remote_step: u32,
    /// How far apart the remote ports are.
    pub remote_port_step: u32,
    /// Sum of the 16-bit words of the IP header as it is in `frame`.
    pub header_sum: u32,
    /// Sum of the 16-bit words of the pseudo header and the datagram as they are in `frame`.
    pub datagram_sum: u32,
    /// Type of service, by which the sinks know the generator's packets.
    pub service: u32,
    /// Not zero: each packet's payload is the time at which it should have been sent, and how late it arrives is noted. The
    /// number of the process whose doing delays may be.
    pub probe: u32,
    /// The local address that a packet has when it arrives, in the order of the octets in the packet.
    pub arrives_with: u32,
}

/// Where a datagram's payload begins in a frame.
pub const PAYLOAD: usize = 42;
/// How late a packet has arrived, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Delay {
    /// Since it should have been sent.
    pub whole: u64,
    /// The part of it that the packet waited on the processor that forwards it, for whatever was done there.
    pub waited: u64,
    /// The part of that in which the processor was not run by the hypervisor, or was another task's.
    pub elsewhere: u64,
}

/// How many delays are noted; later ones take the places of the first.
pub const DELAYS: usize = 1 << 18;

/// What has happened since the job was set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Packets generated.
    pub generated: u64,
    /// When the one after the warm-up was, in nanoseconds (`CLOCK_MONOTONIC`).
    pub started: u64,
    /// When the last was.
    pub generated_last: u64,
    /// Packets that arrived as they should.
    pub arrived: u64,
    /// When the last of them did.
    pub ended: u64,
    /// The generator's packets that arrived with another address than they should.
    pub wrong: u64,
}
