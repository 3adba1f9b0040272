//! Next hops that are remembered, so that a packet need not look up its route and its neighbour.
//!
//! A remembered hop is only used while somebody watches the network: the daemon raises the epoch whenever a route, a
//! neighbour, an address or an interface changes, and says for how long that can be relied on. Without it every packet
//! asks the kernel.

use bytemuck::{Pod, Zeroable};

use crate::Addr;
use crate::time::Ticks;

/// What the daemon knows of changes in the network: the one entry of the `WATCH` map, in memory that it shares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Watch {
    /// Raised when something has changed by which packets find their way. Never zero once the daemon has written it.
    pub epoch: u32,
    /// Until when changes are watched for, in [`Ticks`].
    pub until: u32,
}

impl Watch {
    /// For how long the daemon's word is good, in seconds; it renews it every second.
    pub const SECONDS: u32 = 3;

    /// Whether what was learnt in `epoch` still holds.
    #[inline(always)]
    #[must_use]
    pub const fn trusts(&self, epoch: u32, now: Ticks) -> bool {
        epoch == self.epoch && self.is_watched(now)
    }

    /// Whether somebody watches for changes.
    #[inline(always)]
    #[must_use]
    pub const fn is_watched(&self, now: Ticks) -> bool {
        // Within a window, because ticks wrap: the word of a daemon that died would be good again after a year. One tick
        // more, because the programs' clock may lag behind the daemon's.
        let left = self.until.wrapping_sub(now.0);
        self.epoch != 0 && left != 0 && left <= Ticks::from_secs(Self::SECONDS).0 + 1
    }
}

/// A next hop: an entry of the `HOPS` array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Hop {
    /// The name by which flows remember the hop: its slot in the lower bits, how often the slot was filled above. Zero in
    /// one that was never filled.
    pub name: u32,
    /// In which [`Watch::epoch`] it was learnt.
    pub epoch: u32,
    /// The interface through which packets leave.
    pub ifindex: u32,
    /// Longest IP packet that it takes, in bytes, as far as there are any longer.
    pub mtu: u16,
    /// Bits of [`Hop::HOOKED`].
    pub flags: u16,
    /// The neighbour's MAC address.
    pub dst: [u8; 6],
    /// This host's MAC address there.
    pub src: [u8; 6],
    /// When a packet last went by way of the kernel's own neighbour, in [`Ticks`].
    pub asked: u32,
}

impl Hop {
    /// A hook of ours is at the interface's egress, which has to know that the packet is done.
    pub const HOOKED: u16 = 1;
    /// Stands for a name while the slot is being filled.
    pub const FILLING: u32 = u32::MAX;
    /// How many there are, as a power of two.
    pub const SLOTS_SHIFT: u32 = 12;
    /// How many there are.
    pub const SLOTS: u32 = 1 << Self::SLOTS_SHIFT;
    /// How often a packet goes by way of the kernel's neighbour, which otherwise would find itself unused and never look
    /// whether the other end is still there (`neigh_timer_handler`).
    pub const ASKING: Ticks = Ticks::from_secs(1);

    /// The slot of a hop by its name.
    #[inline(always)]
    #[must_use]
    pub const fn slot(name: u32) -> u32 {
        name & (Self::SLOTS - 1)
    }

    /// The slot in which the hop to `mac` through an interface belongs.
    #[inline(always)]
    #[must_use]
    pub const fn slot_for(ifindex: u32, mac: [u8; 6]) -> u32 {
        let [a, b, c, d, e, f] = mac;
        let low = u32::from_le_bytes([c, d, e, f]);
        let high = u32::from_le_bytes([a, b, 0, 0]) ^ ifindex.rotate_left(16);
        (low.wrapping_mul(0x9e37_79b1) ^ high.wrapping_mul(0x85eb_ca6b)) >> (32 - Self::SLOTS_SHIFT)
    }

    /// The name of the hop that is next put into a slot where one of this name was.
    #[inline(always)]
    #[must_use]
    pub const fn next_name(slot: u32, before: u32) -> u32 {
        let count = (before >> Self::SLOTS_SHIFT).wrapping_add(1) & (u32::MAX >> Self::SLOTS_SHIFT);
        // Neither zero, nor what could look like `FILLING`.
        let count = if count == 0 || count == u32::MAX >> Self::SLOTS_SHIFT { 1 } else { count };
        count << Self::SLOTS_SHIFT | slot
    }
}

/// What a flow remembers of a direction's next hop: the name of one, or that there was none to be learnt of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered;

impl Remembered {
    /// For how long a vain question is not repeated, as a shift of ticks: about a second.
    const VAIN_SHIFT: u32 = 6;

    /// What stands for "nothing to be learnt", at this time. No hop has such a name, whose upper bits are zero.
    #[inline(always)]
    #[must_use]
    pub const fn nothing(now: Ticks) -> u32 {
        Hop::slot(now.0 >> Self::VAIN_SHIFT) | 1
    }

    /// The name, or [`Self::nothing`] for zero.
    #[inline(always)]
    #[must_use]
    pub const fn or_nothing(name: u32, now: Ticks) -> u32 {
        if name == 0 { Self::nothing(now) } else { name }
    }
}

/// The key of the `STATIONS` map: a MAC address behind a bridge.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct StationKey {
    /// The bridge.
    pub bridge: u32,
    /// The address.
    pub mac: [u8; 6],
    /// Always zero.
    pub zero: u16,
}

/// A value of the `STATIONS` map: at which port of its bridge a MAC address was last seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Station {
    /// The port.
    pub port: u32,
    /// In which [`Watch::epoch`].
    pub epoch: u32,
}

/// What is remembered of the way of a container's openings to a destination outside, so that the next one need not ask
/// whose both addresses are, where the route leads, and for the neighbours: an entry of the `ROUTES` array, of which each
/// processor has its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Route {
    /// The container.
    pub src: Addr,
    /// The destination: no subnet's of ours or of a peer, and reached through the uplink.
    pub dst: Addr,
    /// The interface where the container's packets come in.
    pub port: u32,
    /// In which [`Watch::epoch`] that was so.
    pub epoch: u32,
    /// The interface that holds the container's subnet.
    pub inside: u32,
    /// The name of the next [`Hop`], zero before it is learnt, or [`Remembered::nothing`].
    pub out: u32,
    /// The same of the hop toward the container.
    pub back: u32,
    /// How many openings have gone the long way.
    pub openings: u32,
}

impl Route {
    /// How many there are, as a power of two.
    pub const SLOTS_SHIFT: u32 = 10;
    /// How many there are.
    pub const SLOTS: u32 = 1 << Self::SLOTS_SHIFT;

    /// The slot in which the way belongs.
    #[inline(always)]
    #[must_use]
    pub const fn slot_for(src: Addr, dst: Addr, port: u32) -> u32 {
        let hash = (src.0 ^ port.rotate_left(16)).wrapping_mul(0x9e37_79b1) ^ dst.0.wrapping_mul(0x85eb_ca6b);
        hash.wrapping_mul(0xc2b2_ae35) >> (32 - Self::SLOTS_SHIFT)
    }

    /// Whether it is the way between these, as it was in `epoch`.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(&self, src: Addr, dst: Addr, port: u32, epoch: u32) -> bool {
        self.src.0 == src.0 && self.dst.0 == dst.0 && self.port == port && self.epoch == epoch
    }
}
