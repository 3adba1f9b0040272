//! What identifies one direction of a flow.

use bytemuck::{Pod, Zeroable};

use crate::{Addr, Port};

/// Addresses and ports of a packet, as it is seen at one place.
///
/// An ICMP query carries its identifier in `sport` of the request and in `dport` of the answer, the other being
/// [`Port::NONE`]; so a request that comes from outside never looks like the answer to one from inside.
/// Protocols without ports have [`Port::NONE`] in both.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
}

impl Tuple {
    /// The tuple of a packet that goes the other way between the same two ends.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }
}

/// On which side of the translation a tuple is seen.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Among the containers, or between the host's own sockets and the uplink.
    Inside = 0,
    /// Between this host's uplink and the other hosts.
    Wire = 1,
}

/// The key of the `TUPLES` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FlowKey {
    /// The tuple as it is seen on `side`, in the direction in which it is looked up.
    pub tuple: Tuple,
    /// IP protocol number.
    pub proto: u8,
    /// A [`Side`].
    pub side: u8,
    /// Always zero.
    pub zero: u16,
}

impl FlowKey {
    /// The key for a packet with `tuple` that is seen on `side`.
    #[must_use]
    pub const fn new(tuple: Tuple, proto: u8, side: Side) -> Self {
        Self { tuple, proto, side: side as u8, zero: 0 }
    }
}
