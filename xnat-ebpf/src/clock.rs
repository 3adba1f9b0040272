//! The time.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use xnat_common::Ticks;
use xnat_common::time::Noted;

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
    noted.at(jiffy).unwrap_or_else(|| Ticks(xnat_ask_time(jiffy)))
}

/// Asks, and notes the answer.
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
    // SAFETY: a value of an array; one aligned load, and below one aligned store.
    let now = Noted(unsafe { place.read_volatile() }).or_later(asked);
    // SAFETY: as above.
    unsafe { place.write_volatile(Noted::new(jiffy, now).0) };
    now.0
}
