//! The time.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use xnat_common::Ticks;

use crate::maps::CLOCK;

/// The time, by a clock that is read without touching the hardware.
///
/// The kernel moves that clock on with its jiffies (`tick_do_update_jiffies64`), which a program reads without a call (inlined
/// since 5.6, commit 5576b991e9c1). So it is asked once a jiffy, and the answer noted for all processors.
#[inline(always)]
pub fn now() -> Ticks {
    // SAFETY: the helper has no preconditions.
    let jiffy = unsafe { bpf_jiffies64() } as u32;
    // SAFETY: a value of an array.
    let noted = Noted(CLOCK.get_ptr(0).map_or(0, |noted| unsafe { noted.read_volatile() }));
    if noted.jiffy() == jiffy && noted.ticks() != 0 { Ticks(noted.ticks()) } else { Ticks(xnat_ask_time(jiffy)) }
}

/// Asks, and notes the answer. Who has asked a moment before another one may note it later: then the tick before holds for the
/// rest of a jiffy, no longer than the clock itself lags behind.
///
/// A global function, to which few packets come.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_ask_time(jiffy: u32) -> u32 {
    // SAFETY: the helper has no preconditions (kernel 5.11, commit d05512618056).
    let now = Ticks::from_ns(unsafe { bpf_ktime_get_coarse_ns() });
    if let Some(noted) = CLOCK.get_ptr_mut(0) {
        // SAFETY: a value of an array; one aligned store.
        unsafe { noted.write_volatile(Noted::new(jiffy, now).0) };
    }
    now.0
}

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
