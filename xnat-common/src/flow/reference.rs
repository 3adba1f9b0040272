//! References to flows.

use bytemuck::{Pod, Zeroable};

use super::Direction;

/// A reference from a tuple to its flow: the value of the `TUPLES` map.
///
/// The lower half is the slot in the `FLOWS` array, the upper half the generation, whose lowest bit (always one in a live
/// slot) is replaced by the [`Direction`]. One word, because the verifier follows words best.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowRef(u64);

impl FlowRef {
    /// A reference to the flow of `generation` in slot `index`.
    #[inline(always)]
    #[must_use]
    pub const fn new(index: u32, generation: u32, direction: Direction) -> Self {
        Self(((generation & !1 | direction as u32) as u64) << 32 | index as u64)
    }

    /// The word, for passing it on where only numbers go.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Self::to_bits`].
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The same flow as packets of `direction` find it.
    #[inline(always)]
    #[must_use]
    pub const fn in_direction(self, direction: Direction) -> Self {
        Self::new(self.index(), self.generation(), direction)
    }

    /// The slot in the `FLOWS` array.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// The generation that the slot had when the reference was made.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 | 1
    }

    /// The direction of the packets that find the flow by this reference.
    #[inline(always)]
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.0 >> 32 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }
}
