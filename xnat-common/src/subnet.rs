//! Whose an address is.

use bytemuck::{Pod, Zeroable};

use crate::Addr;

/// A value of the `SUBNETS` prefix map: the subnets of this host and of its peers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Subnet {
    /// For a subnet of ours the interface that holds an address in it; zero for a peer's.
    pub inside: u32,
    /// The peer that owns the subnet; [`Addr::UNSPECIFIED`] for one of ours.
    pub peer: Addr,
}

impl Subnet {
    /// Whether the subnet is this host's own.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.peer.0 == 0
    }
}

/// A value of the `PEERS` map, whose key is the peer's address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Peer {
    /// Bits of [`Peer::SPEAKS_XNAT`].
    pub flags: u32,
    /// When this host last answered the peer with unknown-flow, in ticks; limits the rate.
    pub unknown_flow_time: u32,
    /// How many unknown-flow answers have been given in that tick.
    pub unknown_flow_count: u32,
    /// Always zero.
    pub zero: u32,
}

impl Peer {
    /// The peer runs xnat: openings toward its subnets are tagged.
    pub const SPEAKS_XNAT: u32 = 1;
    /// Unknown-flow answers a tick (about 16.8 ms) and peer.
    pub const UNKNOWN_FLOW_A_TICK: u32 = 32;
}

/// A value of the `INSIDES` map, whose key is an interface index: a bridge, its ports, or a plain interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Inside {
    /// The interface that holds the subnet's address: the bridge for its ports, else the interface itself.
    pub ifindex: u32,
    /// Largest IP packet that it takes, in bytes.
    pub mtu: u32,
    /// Its MAC address; frames for other addresses are not for this host.
    pub mac: [u8; 6],
    /// Bits of [`Inside::DIRECT`].
    pub flags: u16,
    /// This host's address there, from which it tells containers of refusals.
    pub address: Addr,
}

impl Inside {
    /// Packets toward containers may be handed straight to this port, or interface: it is up, and the bridge would do
    /// nothing else to them.
    pub const DIRECT: u16 = 1;
}
