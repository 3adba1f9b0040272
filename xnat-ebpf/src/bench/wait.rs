//! How long packets wait on a processor: from the interrupt that brings them until the kernel gets to them.
//!
//! The interrupt asks for softirq `NET_RX`, which runs as soon as nothing on the processor keeps it from that. What delays
//! the interrupt itself, on a virtual machine above all, is not in this time; nor is what passes on a processor that has
//! nothing else to do: it was idle when the interrupt came, in no softirq, and none came before this one. There a machine
//! that is not run for a while is all that a packet can wait for.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

use crate::maps::WAITS;

/// `NET_RX_SOFTIRQ` of `linux/interrupt.h`.
const NET_RX: u32 = 3;

/// Where a processor is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Wait {
    /// Since when the softirq has been asked for; zero if it has not.
    raised: u64,
    /// Not zero: something else was being done when it was asked for, or has been since.
    busy: u64,
    /// Not zero: it was asked for while it ran, so that what it has begun is finished later.
    follows: u64,
    /// One for the softirq that runs, zero for none, more for another one.
    inside: u64,
    /// How long what is handled now has waited, in nanoseconds.
    waited: u64,
}

/// What [`Wait::inside`] says of `NET_RX`, and of any other softirq.
const RECEIVING: u64 = 1;
const OTHER: u64 = 2;

/// How long what is handled now has waited.
#[inline(always)]
pub fn waited() -> u64 {
    // SAFETY: this processor's own value.
    WAITS.get_ptr(0).map_or(0, |wait| unsafe { (*wait).waited })
}

/// A softirq is asked for.
#[raw_tracepoint(tracepoint = "softirq_raise")]
pub fn softirq_raise(context: RawTracePointContext) -> i32 {
    with(|wait| {
        if context.arg::<u32>(0) == NET_RX && wait.raised == 0 {
            wait.raised = now();
            wait.follows = u64::from(wait.inside == RECEIVING);
            // The idle task's number is zero.
            wait.busy = u64::from(wait.inside != 0 || bpf_get_current_pid_tgid() != 0);
        }
    })
}

/// One begins.
#[raw_tracepoint(tracepoint = "softirq_entry")]
pub fn softirq_entry(context: RawTracePointContext) -> i32 {
    with(|wait| {
        if context.arg::<u32>(0) != NET_RX {
            (wait.inside, wait.busy) = (OTHER, 1);
            return;
        }
        let before = if wait.follows == 0 { 0 } else { wait.waited };
        let since = if wait.raised == 0 || wait.busy == 0 { 0 } else { now() - wait.raised };
        wait.waited = before + since;
        (wait.raised, wait.busy, wait.follows, wait.inside) = (0, 0, 0, RECEIVING);
    })
}

/// One ends.
#[raw_tracepoint(tracepoint = "softirq_exit")]
pub fn softirq_exit(_context: RawTracePointContext) -> i32 {
    with(|wait| wait.inside = 0)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn with(note: impl FnOnce(&mut Wait)) -> i32 {
    if let Some(wait) = WAITS.get_ptr_mut(0) {
        // SAFETY: this processor's own value.
        unsafe { note(&mut *wait) };
    }
    0
}
