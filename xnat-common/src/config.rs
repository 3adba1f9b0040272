//! What user space tells the dataplane: the one entry of the `CONFIG` map.

use bytemuck::{Pod, Zeroable};

use crate::Addr;
use crate::timeout::Timeouts;

/// The running configuration. User space replaces it as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// The interface toward the peers and the outside.
    pub uplink: u32,
    /// Largest IP packet that the uplink takes, in bytes.
    pub uplink_mtu: u32,
    /// The address that flows have on the wire.
    pub address: Addr,
    /// Slots in the flow table.
    pub max_flows: u32,
    /// Bits of [`Config::KERNEL_PATH`].
    pub flags: u32,
    /// Idle timeouts.
    pub timeouts: Timeouts,
}

impl Config {
    /// The hooks on the inside leave everything to the kernel's routing, and the uplink's egress hook translates.
    pub const KERNEL_PATH: u32 = 1;
}

/// Where the allocator and the collector of the flow table stand: the one entry of the `CURSORS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Cursors {
    /// Slots that have ever been taken; those beyond are fresh.
    pub fresh: u64,
    /// The slot at which the collector looks next, modulo the table's size.
    pub hand: u64,
    /// Flows that are live.
    pub used: u64,
    /// A number that tells this flow table from every other; user space draws it when it makes the table.
    pub table: u64,
    /// Fills the cache line.
    pub zero: [u64; 4],
}
