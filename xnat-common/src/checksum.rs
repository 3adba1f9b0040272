//! The Internet checksum and its incremental update (RFC 1071, RFC 1624).

/// Folds a sum of 16-bit words into 16 bits of one's complement.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The two halves of a 32-bit field as a sum; the halves lie in the value as they lie in the packet.
#[inline(always)]
#[must_use]
pub const fn sum32(value: u32) -> u32 {
    (value & 0xffff) + (value >> 16)
}

/// The change in one's-complement sum when a 32-bit field goes from `old` to `new`, as at most 18 bits.
#[inline(always)]
#[must_use]
pub const fn delta32(old: u32, new: u32) -> u32 {
    sum32(!old) + sum32(new)
}

/// The change in one's-complement sum when a 16-bit field goes from `old` to `new`.
#[inline(always)]
#[must_use]
pub const fn delta16(old: u16, new: u16) -> u32 {
    !old as u32 + new as u32
}

/// The checksum field after a change of the covered data by `delta` (RFC 1624 eqn. 3).
#[inline(always)]
#[must_use]
pub const fn update(checksum: u16, delta: u32) -> u16 {
    !fold((!checksum) as u32 + fold(delta) as u32)
}

/// The checksum of whole 16-bit words, from nothing: for tests and for headers made new.
#[must_use]
pub fn compute(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_ne_bytes(word));
        sum = u32::from(fold(sum));
    }
    !fold(sum)
}
