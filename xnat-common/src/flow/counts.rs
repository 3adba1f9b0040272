//! Packets and bytes of a flow, in one word.

/// How many packets of one direction have been translated, and their bytes from the IP header on, in one word that is
/// added to once a packet: bytes in the lower bits, packets above.
///
/// What becomes too much for its bits is carried over to another word, by whoever's packet has made it so, in units of the
/// highest bit: packets in the upper half, bytes in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts;

impl Counts {
    /// Bits for bytes.
    const BYTES: u32 = 36;
    /// The bit of the bytes that is carried over.
    const BYTES_CARRY: u64 = 1 << (Self::BYTES - 1);
    /// The bit of the packets that is.
    const PACKETS_CARRY: u64 = 1 << 63;

    /// What a packet of `len` bytes adds.
    #[inline(always)]
    #[must_use]
    pub const fn of_packet(len: u32) -> u64 {
        1 << Self::BYTES | len as u64
    }

    /// What has to be carried over, as it stands in the counts, after `added` was added to `before`.
    #[inline(always)]
    #[must_use]
    pub const fn carry(before: u64, added: u64) -> u64 {
        before.wrapping_add(added) & !before & (Self::BYTES_CARRY | Self::PACKETS_CARRY)
    }

    /// What that adds to the word for what was carried over.
    #[inline(always)]
    #[must_use]
    pub const fn carried(carry: u64) -> u64 {
        let packets = carry >> 63;
        let bytes = carry >> (Self::BYTES - 1) & 1;
        packets << 32 | bytes
    }

    /// Packets and bytes together.
    #[inline(always)]
    #[must_use]
    pub const fn total(counts: u64, carried: u64) -> (u64, u64) {
        let packets = (counts >> Self::BYTES) + (carried >> 32 << (63 - Self::BYTES));
        let bytes = (counts & ((1 << Self::BYTES) - 1)) + ((carried & 0xffff_ffff) << (Self::BYTES - 1));
        (packets, bytes)
    }
}
