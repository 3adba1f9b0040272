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

/// A time that was asked for, in ticks, above the jiffy in which that was; zero if none was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted(pub u64);

impl Noted {
    /// By so many ticks another processor's answer may be ahead of one from a moment before.
    const AHEAD: u32 = 2;

    /// What was asked for in `jiffy`, the lower half of the kernel's count.
    #[inline(always)]
    #[must_use]
    pub const fn new(jiffy: u32, now: Ticks) -> Self {
        Self((now.0 as u64) << 32 | jiffy as u64)
    }

    /// The time, if it was asked for in this jiffy.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, jiffy: u32) -> Option<Ticks> {
        // There is no time in the first tick after the start of the machine: jiffies are zero five minutes later.
        if self.0 as u32 == jiffy && self.ticks() != 0 { Some(Ticks(self.ticks())) } else { None }
    }

    /// What was noted, if another processor has had a later answer than the one that was `asked` for now; else that.
    #[inline(always)]
    #[must_use]
    pub const fn or_later(self, asked: Ticks) -> Ticks {
        let is_later = self.ticks() != 0 && self.ticks().wrapping_sub(asked.0) <= Self::AHEAD;
        if is_later { Ticks(self.ticks()) } else { asked }
    }

    #[inline(always)]
    const fn ticks(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
