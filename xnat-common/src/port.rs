//! Which ports a flow may have on the wire, and in which order they are tried.

use crate::Port;
use crate::packet::proto;

/// How often a port is picked at random, from 64 that follow each other, before all are gone through one by one.
pub const RANDOM_ATTEMPTS: u32 = 64;

/// The first port of the unprivileged class.
const UNPRIVILEGED: u16 = 1024;

/// Whether a port is of the class below 1024.
#[inline(always)]
#[must_use]
pub const fn is_privileged(port: Port) -> bool {
    port.number() < UNPRIVILEGED
}

/// Ports that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first one, in host order.
    pub first: u16,
    /// How many there are, from 0 to 65536.
    pub count: u32,
}

impl Range {
    /// From one port to another, both included; none if they are the wrong way round.
    #[inline(always)]
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Self {
        let count = if first <= last { last as u32 - first as u32 + 1 } else { 0 };
        Self { first, count }
    }

    /// The port at a place; from `count` on it starts again.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, place: u32) -> Port {
        let place = if place >= self.count { place - self.count } else { place };
        Port::new(self.first.wrapping_add(place as u16))
    }

    /// A place, of 16 random bits. The upper half of a product spreads them without a division.
    #[inline(always)]
    #[must_use]
    pub const fn place(self, random: u32) -> u32 {
        ((random & 0xffff) * self.count) >> 16
    }

    /// Which of the 64 ports from `first` on are among them, which has the lowest bit.
    #[inline(always)]
    #[must_use]
    pub const fn among(self, first: u16) -> u64 {
        let (from, to) = (self.first as u32, self.first as u32 + self.count);
        let first = first as u32;
        let below = from.saturating_sub(first);
        let end = to.saturating_sub(first);
        bits_below(end) & !bits_below(below)
    }

    /// Whether a port is among them.
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, port: Port) -> bool {
        let port = port.number() as u32;
        port >= self.first as u32 && port < self.first as u32 + self.count
    }
}

/// The lowest bits, so many; all from 64 on.
const fn bits_below(count: u32) -> u64 {
    if count < u64::BITS { (1 << count) - 1 } else { u64::MAX }
}

/// The first place from `start` on, or else from zero on, whose bit is set; 64 if none is. By halves, because eBPF has no
/// instruction that counts zeroes.
#[inline(always)]
#[must_use]
pub const fn pick(bits: u64, start: u32) -> u32 {
    if bits == 0 {
        return u64::BITS;
    }
    let mut rest = bits.rotate_right(start);
    let mut place = start;
    let mut half = u64::BITS / 2;
    while half > 0 {
        let none = (rest & bits_below(half) == 0) as u32;
        rest >>= none * half;
        place += none * half;
        half /= 2;
    }
    place % u64::BITS
}

/// The ports, of those from `first` to `last`, that a flow with the port `original` may have where it cannot keep that:
/// those of the same class, if there are any (RFC 4787 REQ-3a).
///
/// An ICMP identifier has no classes, and no administrator wants to bound it. None for protocols whose port cannot be
/// changed: SCTP keeps its ports, because its checksum is a CRC over everything, and others have none.
#[inline(always)]
#[must_use]
pub const fn range(protocol: u8, original: Port, first: u16, last: u16) -> Option<Range> {
    match protocol {
        proto::ICMP => return Some(Range::new(1, u16::MAX)),
        proto::TCP | proto::UDP => {}
        _ => return None,
    }
    let same_class = if is_privileged(original) {
        Range::new(if first == 0 { 1 } else { first }, if last < UNPRIVILEGED { last } else { UNPRIVILEGED - 1 })
    } else {
        Range::new(if first > UNPRIVILEGED { first } else { UNPRIVILEGED }, last)
    };
    Some(if same_class.count == 0 { Range::new(first, last) } else { same_class })
}

/// Whether the ports of a protocol are of two classes, privileged and not, and may be changed.
#[inline(always)]
#[must_use]
pub const fn has_classes(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP)
}

/// Whether a flow may keep its own port.
#[inline(always)]
#[must_use]
pub const fn may_keep(protocol: u8, port: Port, first: u16, last: u16) -> bool {
    match protocol {
        proto::TCP | proto::UDP => Range::new(first, last).contains(port),
        _ => true,
    }
}
