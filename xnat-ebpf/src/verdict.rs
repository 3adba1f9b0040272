//! What becomes of a packet.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use xnat_common::counter::Counter;

use crate::maps;

/// What becomes of a packet: the program's return value in the lower half, and one more than the number of the counter
/// that it adds to in the upper half. One word, because the verifier rejects the copy of an enum's unused fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict(u64);

/// The result of a step: a value to go on with, or the packet's fate.
pub type Step<T> = Result<T, Verdict>;

impl Verdict {
    /// The packet goes on its way through the kernel, and later programs at the hook see it: for TCX this is
    /// `TCX_NEXT`, for clsact "no match, go on".
    pub const PASS: Self = Self::redirect(TC_ACT_UNSPEC);

    /// The packet was a message between the dataplanes and ends here.
    pub const CONSUMED: Self = Self::redirect(TC_ACT_SHOT);

    /// The packet goes where a redirecting helper, whose return value this is, has said.
    pub const fn redirect(action: i32) -> Self {
        Self(action.cast_unsigned() as u64)
    }

    /// The packet is dropped and counted.
    pub const fn drop(counter: Counter) -> Self {
        Self(((counter as u64 + 1) << 32) | TC_ACT_SHOT as u64)
    }

    /// The word, for passing it on where only numbers go.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Self::to_bits`].
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// What stands for "the packet goes on" where a verdict's bits would be.
    const GOES_ON: u64 = u64::MAX;

    /// A step's result as the answer of a global function.
    #[inline(always)]
    pub fn answer(step: Step<()>) -> u64 {
        match step {
            Ok(()) => Self::GOES_ON,
            Err(verdict) => verdict.0,
        }
    }

    /// The reverse of [`Self::answer`].
    #[inline(always)]
    pub fn or_on(answer: u64) -> Step<()> {
        if answer == Self::GOES_ON { Ok(()) } else { Err(Self(answer)) }
    }

    /// Whether the packet ends here.
    #[inline(always)]
    pub const fn is_end(self) -> bool {
        self.0 as u32 == TC_ACT_SHOT as u32
    }

    /// Counts, and gives the program's return value.
    #[inline(always)]
    pub fn finish(self) -> i32 {
        let counter = (self.0 >> 32) as u32;
        if counter != 0 {
            maps::count_number(counter - 1);
        }
        (self.0 as u32).cast_signed()
    }
}
