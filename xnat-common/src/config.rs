//! What user space tells the dataplane: the one entry of the `CONFIG` map.

use bytemuck::{Pod, Zeroable};

use crate::Addr;
use crate::index;
use crate::mapping::{self, Dependence};
use crate::timeout::Timeouts;

/// The running configuration. User space replaces it as a whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// Where the tuples of flows lie depends on it, so that nobody outside can have many lie in one place. User space draws
    /// it when it makes the table.
    pub seed: u64,
    /// One less than the number of buckets for tuples, which is a power of two.
    pub bucket_mask: u32,
    /// The shortest of the idle timeouts: a flow that was seen since is not looked at for having expired.
    pub least_idle: u32,
    /// The interface toward the peers and the outside.
    pub uplink: u32,
    /// Largest IP packet that the uplink takes, in bytes.
    pub uplink_mtu: u32,
    /// The address that flows have on the wire.
    pub address: Addr,
    /// How many flows there may be.
    pub max_flows: u32,
    /// Bits of [`Config::KERNEL_PATH`].
    pub flags: u32,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// What mappings depend on: a [`Dependence`] by [`mapping::Class`], and room for one more.
    pub mapping: [u8; 4],
    /// What filtering depends on, in the same way; never on less than the mapping.
    pub filtering: [u8; 4],
    /// The first port that a flow may have on the wire, in host order.
    pub first_port: u16,
    /// The last one.
    pub last_port: u16,
    /// How many ports a container may have; zero for as many as there are.
    pub max_ports: u32,
    /// Who gets what peers without xnat address to this host, or [`Addr::UNSPECIFIED`].
    pub default_inbound: Addr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            filtering: [Dependence::Address as u8; 4],
            first_port: 1,
            last_port: u16::MAX,
            timeouts: Timeouts::default(),
            ..Self::zeroed()
        }
    }
}

impl Config {
    /// The hooks on the inside leave everything to the kernel's routing, and the uplink's egress hook translates.
    pub const KERNEL_PATH: u32 = 1;
    /// Every packet goes through every step, and asks the kernel for its next hop.
    pub const SLOW_PATH: u32 = 2;
    /// There are forwards.
    pub const FORWARDS: u32 = 4;
    /// Which way a packet takes may depend on its ports: what is known of one flow's route says nothing of another's.
    pub const ROUTES_BY_PORT: u32 = 8;
    /// Ports are stamped in the moment in which the host's sockets are bound to them, so that nobody need be asked about
    /// one that has no stamp while a daemon runs.
    pub const BINDS_STAMPED: u32 = 16;
    /// Which way a packet takes may depend on its DSCP or its mark: no next hop is remembered.
    pub const ROUTES_BY_PACKET: u32 = 32;

    /// Slots of the flow table.
    #[inline(always)]
    #[must_use]
    pub const fn slots(&self) -> u32 {
        index::slots(self.max_flows)
    }

    /// What mappings of a protocol depend on.
    #[inline(always)]
    #[must_use]
    pub const fn mapping(&self, class: mapping::Class) -> Dependence {
        let [tcp, udp, icmp, _] = self.mapping;
        Dependence::from_u8(by_class(class, tcp, udp, icmp))
    }

    /// What filtering of a protocol depends on.
    #[inline(always)]
    #[must_use]
    pub const fn filtering(&self, class: mapping::Class) -> Dependence {
        let [tcp, udp, icmp, _] = self.filtering;
        Dependence::from_u8(by_class(class, tcp, udp, icmp))
    }
}

#[inline(always)]
const fn by_class(class: mapping::Class, tcp: u8, udp: u8, icmp: u8) -> u8 {
    match class {
        mapping::Class::Tcp => tcp,
        mapping::Class::Udp => udp,
        mapping::Class::Icmp => icmp,
    }
}

/// Where the allocator and the collector of the flow table stand: the one entry of the `CURSORS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Cursors {
    /// Slots that were tried in turn, one after the other; those beyond are only taken as their flows' homes.
    pub fresh: u64,
    /// The slot at which the collector looks next, modulo the table's size.
    pub hand: u64,
    /// Flows that are live.
    pub used: u64,
    /// A number that tells this flow table from every other; user space draws it when it makes the table.
    pub table: u64,
    /// How many flows have ended.
    pub ended: u64,
    /// When refusals were last told by ICMP, in ticks (upper half), and how many in that tick.
    pub refusals: u64,
    /// In which tick ports were last walked through one by one (upper half), and how many of them in that tick.
    pub walked: u64,
    /// How many endpoints have another port on the wire than inside, for which there are entries in the index.
    pub moved: u64,
    /// One once `KERNEL_FLOWS` has had an entry.
    pub kernel_flows: u64,
    /// When a search for a port last found nothing, in ticks (lower half); zero if none has.
    pub full: u64,
}
