//! Octets to send, and sums over what arrived.

/// A sum over a stream that depends on the order of its octets and not on how it was cut.
#[derive(Debug, Clone, Copy)]
pub struct Digest {
    length: u64,
    hash: u64,
    pending: [u8; 8],
}

impl Default for Digest {
    fn default() -> Self {
        Self { length: 0, hash: 0xcbf2_9ce4_8422_2325, pending: [0; 8] }
    }
}

impl Digest {
    /// Adds octets.
    pub fn add(&mut self, mut bytes: &[u8]) {
        // Eight octets a step: unoptimised test builds have to keep up with a fast link.
        while !bytes.is_empty() {
            let at = (self.length % 8) as usize;
            let take = bytes.len().min(8 - at);
            self.pending[at..at + take].copy_from_slice(&bytes[..take]);
            self.length += take as u64;
            bytes = &bytes[take..];
            if at + take == 8 {
                self.hash = step(self.hash, u64::from_le_bytes(self.pending));
            }
        }
    }

    /// Length and sum, in words.
    pub fn report(&self) -> String {
        let mut last = [0; 8];
        let rest = (self.length % 8) as usize;
        last[..rest].copy_from_slice(&self.pending[..rest]);
        let hash = step(self.hash, u64::from_le_bytes(last));
        format!("{} octets {hash:016x}", self.length)
    }
}

fn step(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Octets without a short period, different for each seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_does_not_depend_on_the_pieces() {
        let bytes = pattern(7, 1000);
        let mut whole = Digest::default();
        whole.add(&bytes);
        let mut pieces = Digest::default();
        bytes.chunks(13).for_each(|piece| pieces.add(piece));
        assert_eq!(whole.report(), pieces.report());
        let mut swapped = Digest::default();
        swapped.add(&bytes[8..]);
        swapped.add(&bytes[..8]);
        assert_ne!(whole.report(), swapped.report());
    }
}
