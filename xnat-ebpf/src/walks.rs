//! How much may be walked through in search of a port.
//!
//! A walk is as long as what it goes through in the worst case, and a container can bring the worst case about. So all of
//! them together have so many steps in a tick; what is refused then is found again by its next packet.

use crate::atomic;
use crate::maps::CURSORS;

/// Steps in a tick (about 16.8 ms) after which no walk begins. One that has begun goes to its end.
const STEPS_A_TICK: u64 = 1 << 16;

/// Whether another walk may begin.
#[inline(always)]
pub fn may_walk(now: u32) -> bool {
    let Some(cursors) = CURSORS.get_ptr(0) else {
        return false;
    };
    // SAFETY: a field of a map value.
    let word = unsafe { (&raw const (*cursors).walked).read_volatile() };
    word >> 32 != u64::from(now) || word & 0xffff_ffff < STEPS_A_TICK
}

/// Notes how many steps a walk has had.
#[inline(always)]
pub fn note(now: u32, steps: i64) {
    let Some(cursors) = CURSORS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a field of a map value; a lost race lets a walk more begin.
    unsafe {
        let word = &raw mut (*cursors).walked;
        let old = word.read_volatile();
        let before = if old >> 32 == u64::from(now) { old & 0xffff_ffff } else { 0 };
        atomic::compare_and_swap(word, old, u64::from(now) << 32 | (before + steps.cast_unsigned()) & 0xffff_ffff);
    }
}
