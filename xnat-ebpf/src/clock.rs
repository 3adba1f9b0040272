//! The time.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use xnat_common::Ticks;

use crate::maps::CLOCK;

/// The time, by a clock that is read without touching the hardware.
///
/// The kernel moves that clock on right after its jiffies (`tick_do_update_jiffies64`), which a program reads without a call
/// (inlined since 5.6, commit 5576b991e9c1). So it is asked once a jiffy, and the answer noted for all processors. Who asks in
/// between gets the time before, which then holds for that jiffy.
#[inline(always)]
pub fn now() -> Ticks {
    // SAFETY: the helper has no preconditions.
    let jiffy = unsafe { bpf_jiffies64() } as u32;
    // SAFETY: a value of an array.
    let noted = Noted(CLOCK.get_ptr(0).map_or(0, |noted| unsafe { noted.read_volatile() }));
    if noted.jiffy() == jiffy && noted.ticks() != 0 { Ticks(noted.ticks()) } else { Ticks(xnat_ask_time(jiffy)) }
}

/// Asks, and notes the answer; if another processor has noted a later one already, that.
///
/// A global function, to which few packets come.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_ask_time(jiffy: u32) -> u32 {
    // SAFETY: the helper has no preconditions (kernel 5.11, commit d05512618056).
    let asked = Ticks::from_ns(unsafe { bpf_ktime_get_coarse_ns() });
    let Some(place) = CLOCK.get_ptr_mut(0) else {
        return asked.0;
    };
    // SAFETY: a value of an array.
    let noted = Noted(unsafe { place.read_volatile() }).ticks();
    let is_later = noted != 0 && noted.wrapping_sub(asked.0) <= AHEAD;
    let now = if is_later { Ticks(noted) } else { asked };
    // SAFETY: as above; one aligned store.
    unsafe { place.write_volatile(Noted::new(jiffy, now).0) };
    now.0
}

/// By so many ticks another processor's answer may be ahead of one from a moment before.
const AHEAD: u32 = 2;

/// The time, in ticks, above the jiffy in which it was asked for; zero if it has not been.
#[derive(Clone, Copy)]
struct Noted(u64);

impl Noted {
    #[inline(always)]
    const fn new(jiffy: u32, now: Ticks) -> Self {
        Self((now.0 as u64) << 32 | jiffy as u64)
    }

    #[inline(always)]
    const fn jiffy(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn ticks(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
