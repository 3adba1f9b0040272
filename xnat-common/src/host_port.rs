//! Ports that the host's own sockets use, which no flow may have on the wire.
//!
//! The dataplane stamps a port when it sees the host send from it, and, where programs can be attached to the root cgroup,
//! when a socket is bound to it; user space stamps the ports of all sockets every few seconds, listeners and idle
//! connections included.

use crate::packet::proto;
use crate::time::Ticks;
use crate::{Addr, Port};

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

/// Whether a socket that is bound to `bound` receives what is addressed to `address`.
#[inline(always)]
#[must_use]
pub const fn receives(bound: Addr, address: Addr) -> bool {
    bound.0 == Addr::UNSPECIFIED.0 || bound.0 == address.0
}

/// As [`receives`], of a socket of IPv6; `bound` by words, in network order. One that is bound to all addresses may receive
/// what comes by IPv4 too, and so does one that is bound to an address which stands for one of IPv4 (RFC 4291 2.5.5.2).
#[inline(always)]
#[must_use]
pub const fn receives_too(bound: [u32; 4], address: Addr) -> bool {
    let [first, second, third, last] = bound;
    if first | second != 0 {
        return false;
    }
    third == 0 && last == 0 || third == MAPPED && receives(Addr(last), address)
}

/// What an IPv6 address that stands for one of IPv4 has before that, in network order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// Whether a port that was last stamped at `stamp` is in use at `now`. Zero is no stamp.
#[inline(always)]
#[must_use]
pub const fn in_use(stamp: u64, now: Ticks) -> bool {
    stamp != 0 && now.since(Ticks(stamp as u32)).0 <= LIFETIME.0
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn words(address: &str) -> [u32; 4] {
        let octets = address.parse::<Ipv6Addr>().unwrap().octets();
        let word = |nth: usize| u32::from_ne_bytes(octets[nth * 4..][..4].try_into().unwrap());
        [word(0), word(1), word(2), word(3)]
    }

    #[test]
    fn sockets_receive_what_is_addressed_to_them() {
        let address = |text: &str| Addr::new(text.parse::<Ipv4Addr>().unwrap().octets());
        let own = address("172.29.0.4");
        for (bound, expected) in [("0.0.0.0", true), ("172.29.0.4", true), ("127.0.0.1", false)] {
            assert_eq!(receives(address(bound), own), expected, "{bound}");
        }
        for (bound, expected) in [
            ("::", true),
            ("::ffff:172.29.0.4", true),
            ("::ffff:0.0.0.0", true),
            ("::ffff:127.0.0.1", false),
            ("::1", false),
            ("::172.29.0.4", false),
            ("fe80::ffff:172.29.0.4", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(receives_too(words(bound), own), expected, "{bound}");
        }
    }
}
