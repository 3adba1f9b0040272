//! The word of a slot by which flows begin, are refreshed, and end.

use crate::time::Ticks;

/// Generation (upper half) and last-seen time (lower half) of a slot.
///
/// An odd generation means that the slot holds a flow. A packet refreshes and the collector ends a flow by
/// compare-and-swap on this one word, so neither can undo what the other has just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// Puts the two halves together.
    #[must_use]
    pub const fn new(generation: u32, last_seen: Ticks) -> Self {
        Self((generation as u64) << 32 | last_seen.0 as u64)
    }

    /// How often the slot has been taken and freed.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// When a packet last refreshed the flow.
    #[must_use]
    pub const fn last_seen(self) -> Ticks {
        Ticks(self.0 as u32)
    }

    /// Whether the slot holds a flow.
    #[must_use]
    pub const fn is_live(self) -> bool {
        self.generation() & 1 == 1
    }

    /// Whether the slot may be taken: it holds no flow, and nobody is filling or emptying it.
    #[inline(always)]
    #[must_use]
    pub const fn is_free(self) -> bool {
        !self.is_live() && self.0 as u32 != Self::BUSY
    }

    /// The word of a slot without a flow that nobody may take, because it is being filled or emptied.
    #[inline(always)]
    #[must_use]
    pub const fn busy(self) -> Self {
        Self::new(self.generation(), Ticks(Self::BUSY))
    }

    /// The word of a slot that may be taken.
    #[inline(always)]
    #[must_use]
    pub const fn free(self) -> Self {
        Self::new(self.generation(), Ticks(0))
    }

    /// The word of a flow that has ended: nobody may take its slot before everything that leads to it has gone.
    #[inline(always)]
    #[must_use]
    pub const fn ended(self) -> Self {
        Self::new(self.generation().wrapping_add(1), Ticks(Self::BUSY))
    }

    /// Stands in place of the time in a slot without a flow that nobody may take.
    const BUSY: u32 = u32::MAX;

    /// The word with the next generation: a free slot becomes live, a live one free.
    #[must_use]
    pub const fn next(self, now: Ticks) -> Self {
        Self::new(self.generation().wrapping_add(1), now)
    }
}
