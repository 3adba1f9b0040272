//! The clock of the flow table.

use nix::time::{ClockId, clock_gettime};
use xnat_common::Ticks;

/// The time as the dataplane keeps it.
pub(crate) fn now() -> Ticks {
    // CLOCK_MONOTONIC is bpf_ktime_get_ns's clock, and cannot fail.
    let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(std::time::Duration::ZERO, Into::into);
    Ticks::from_ns(since_boot.as_nanos() as u64)
}
