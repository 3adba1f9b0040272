//! IPv4 addresses and ports exactly as they lie in a packet.

use bytemuck::{Pod, Zeroable};

/// An IPv4 address whose four bytes lie in memory in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Addr(pub u32);

impl Addr {
    /// 0.0.0.0, which stands for "none" in the maps.
    pub const UNSPECIFIED: Self = Self(0);

    /// From the octets in the order in which they are written.
    #[must_use]
    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// The octets in the order in which they are written.
    #[must_use]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// The address as a number in host order, for comparing and masking.
    #[must_use]
    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0)
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d] = self.octets();
        write!(f, "{a}.{b}.{c}.{d}")
    }
}

/// A TCP, UDP or SCTP port, or an ICMP query identifier, in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Port(pub u16);

impl Port {
    /// No port: the protocol has none, or this end of an ICMP query does not carry the identifier.
    pub const NONE: Self = Self(0);

    /// From a number in host order.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be())
    }

    /// The number in host order.
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.number())
    }
}
