//! Ports that the host's own sockets use, which no flow may have on the wire.
//!
//! The dataplane stamps a port when it sees the host send from it; user space stamps the ports of all sockets every few
//! seconds, listeners and idle connections included.

use crate::Port;
use crate::packet::proto;
use crate::time::Ticks;

/// All ports of TCP, then all ports of UDP: so many stamps the `HOST_PORTS` map has. A stamp is eight bytes long because
/// arrays that are mapped into memory have their entries at such distances; the time is in [`Ticks`].
pub const STAMPS: u32 = 2 << 16;

/// Entries of the map: behind the stamps come words with a bit for each. A stamp without its bit does not count. So most ports
/// are known not to be the host's without a look at their stamps, all of which together no near cache holds.
pub const ENTRIES: u32 = STAMPS + STAMPS / u64::BITS;

/// The UDP port of the peer link at both ends, in host order. What comes from it is taken for a peer's daemon, so no flow
/// has it on the wire.
pub const LINK_PORT: u16 = 9628;

/// How long a stamp counts.
pub const LIFETIME: Ticks = Ticks::from_secs(60);

/// How often user space stamps the ports of all sockets, in seconds.
pub const STAMP_SECONDS: u64 = 15;

/// The index of a port in the map; none for protocols without sockets of their own.
#[inline(always)]
#[must_use]
pub const fn index(protocol: u8, port: Port) -> Option<u32> {
    match protocol {
        proto::TCP => Some(port.number() as u32),
        proto::UDP => Some(1 << 16 | port.number() as u32),
        _ => None,
    }
}

/// The entry of the map that has the bit of the stamp at `index`, and the bit.
#[inline(always)]
#[must_use]
pub const fn bit(index: u32) -> (u32, u64) {
    (STAMPS + index / u64::BITS, 1 << (index % u64::BITS))
}

/// Whether a port that was last stamped at `stamp` is in use at `now`. Zero is no stamp.
#[inline(always)]
#[must_use]
pub const fn in_use(stamp: u64, now: Ticks) -> bool {
    stamp != 0 && now.since(Ticks(stamp as u32)).0 <= LIFETIME.0
}
