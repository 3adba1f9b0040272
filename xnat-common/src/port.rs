//! Which port a flow may have on the wire.

use crate::Port;
use crate::packet::proto;

/// How many ports are tried before a flow is refused.
pub const ATTEMPTS: u32 = 64;

/// The first port of the unprivileged class.
const UNPRIVILEGED: u16 = 1024;

/// The port to try at `attempt`: the original first, then random ones of the same class (RFC 4787 REQ-3).
///
/// None when the protocol's port cannot be changed: SCTP keeps its ports, because its checksum is a CRC over
/// everything, and protocols without ports have nothing to change.
#[inline(always)]
#[must_use]
pub const fn candidate(protocol: u8, original: Port, attempt: u32, random: u32) -> Option<Port> {
    if attempt == 0 {
        return Some(original);
    }
    match protocol {
        proto::TCP | proto::UDP | proto::ICMP => {}
        _ => return None,
    }
    // An ICMP identifier has no classes, and port 0 is no port.
    let low = original.number() < UNPRIVILEGED && protocol != proto::ICMP;
    let (first, count) = if low { (1, 1023) } else { (UNPRIVILEGED, 64_512) };
    // The upper half of a product spreads 16 random bits over the range without a division.
    let offset = ((random & 0xffff) * count) >> 16;
    Some(Port::new(first + offset as u16))
}
