//! Time as the flow table keeps it.

/// A moment or a span in units of 2^24 ns (about 16.8 ms) of `CLOCK_MONOTONIC`; wraps after 2.2 years.
///
/// 32 bits keep a record small, and a flow that is busy all the time is stamped 60 times a second, not per packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks(pub u32);

/// Binary logarithm of the nanoseconds in a tick.
pub const TICK_SHIFT: u32 = 24;

impl Ticks {
    /// The tick in which `nanoseconds` of the monotonic clock lie.
    #[must_use]
    pub const fn from_ns(nanoseconds: u64) -> Self {
        Self((nanoseconds >> TICK_SHIFT) as u32)
    }

    /// A span of whole seconds, rounded up.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        let ns = seconds as u64 * 1_000_000_000;
        Self(((ns + (1 << TICK_SHIFT) - 1) >> TICK_SHIFT) as u32)
    }

    /// A span in nanoseconds.
    #[must_use]
    pub const fn as_ns(self) -> u64 {
        (self.0 as u64) << TICK_SHIFT
    }

    /// How long ago `earlier` was; zero if it lies in the future (another processor stamped it a moment ago).
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        let span = self.0.wrapping_sub(earlier.0);
        Self(if span > u32::MAX / 2 { 0 } else { span })
    }
}
