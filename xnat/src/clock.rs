//! The clock of the flow table.

use nix::time::{ClockId, clock_gettime};
use xnat_common::Ticks;

/// The time as the dataplane keeps it.
pub(crate) fn now() -> Ticks {
    // The clock of bpf_ktime_get_coarse_ns, which the programs read a jiffy late at the most; it cannot fail.
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(std::time::Duration::ZERO, Into::into);
    Ticks::from_ns(since_boot.as_nanos() as u64)
}
