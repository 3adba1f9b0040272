//! What the daemon and the dataplane tell each other about collection: a look at a run of places, and what was found.
//!
//! The places are the slots of the flow table, and behind them those of datagrams and of fragments that are kept.

use crate::time::Ticks;
use crate::{fragment, index};

/// How many places a run of the collector looks at. If all of them are empty that takes some 25 µs, most of it waiting for
/// memory.
pub const SLICE: u32 = 512;
/// How many places of datagrams and fragments it looks at: they are large, up to 16 KiB, so hardly two lie in one page, and
/// are seldom looked at, so no cache has them. Each takes 1 to 2 µs.
pub const SLICE_OF_FRAGMENTS: u32 = 32;
/// A run that has ended so many flows looks at no more places, because ending one takes much longer than a look: no packet
/// gets through on this processor before the run is over (`bpf_test_run`).
pub const ENDS: u32 = 16;

/// Places behind those of the flows.
pub const FRAGMENTS: u32 = fragment::DATAGRAMS + fragment::HELD;

/// How many places there are in all.
#[must_use]
pub const fn places(max_flows: u32) -> u32 {
    index::slots(max_flows).saturating_add(FRAGMENTS)
}

/// What a run has found, in the word that it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look(pub u32);

impl Look {
    /// For the number of places, of which a run looks at [`SLICE`] at most.
    const PLACES_BITS: u32 = 11;
    /// For the time: up to some ten hours.
    const LEFT_MAX: u32 = u32::MAX >> Self::PLACES_BITS;

    /// So many places were looked at, and none of their flows is due before this time has passed.
    #[inline(always)]
    #[must_use]
    pub const fn new(places: u32, left: Ticks) -> Self {
        let left = if left.0 > Self::LEFT_MAX { Self::LEFT_MAX } else { left.0 };
        Self(left << Self::PLACES_BITS | places & ((1 << Self::PLACES_BITS) - 1))
    }

    /// How many places were looked at.
    #[must_use]
    pub const fn places(self) -> u32 {
        self.0 & ((1 << Self::PLACES_BITS) - 1)
    }

    /// How long it takes at least until one of their flows is due; at most ten hours, whatever there is.
    #[must_use]
    pub const fn left(self) -> Ticks {
        Ticks(self.0 >> Self::PLACES_BITS)
    }
}
