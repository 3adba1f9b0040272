//! How long packets wait on a processor: from the interrupt that brings them until the kernel gets to them.
//!
//! The interrupt asks for softirq `NET_RX`, which runs as soon as nothing on the processor keeps it from that. What delays
//! the interrupt itself, on a virtual machine above all, is not in this time.

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
    /// Not zero: it was asked for while it ran, so that what it has begun is finished later.
    follows: u64,
    /// Not zero: it runs.
    inside: u64,
    /// How long what is handled now has waited, in nanoseconds.
    waited: u64,
}

/// How long what is handled now has waited.
#[inline(always)]
pub fn waited() -> u64 {
    // SAFETY: this processor's own value.
    WAITS.get_ptr(0).map_or(0, |wait| unsafe { (*wait).waited })
}

/// The softirq is asked for.
#[raw_tracepoint(tracepoint = "softirq_raise")]
pub fn softirq_raise(context: RawTracePointContext) -> i32 {
    with(&context, |wait, now| {
        if wait.raised == 0 {
            wait.raised = now;
            wait.follows = wait.inside;
        }
    })
}

/// It begins.
#[raw_tracepoint(tracepoint = "softirq_entry")]
pub fn softirq_entry(context: RawTracePointContext) -> i32 {
    with(&context, |wait, now| {
        let before = if wait.follows == 0 { 0 } else { wait.waited };
        wait.waited = if wait.raised == 0 { before } else { before + (now - wait.raised) };
        (wait.raised, wait.follows, wait.inside) = (0, 0, 1);
    })
}

/// It ends.
#[raw_tracepoint(tracepoint = "softirq_exit")]
pub fn softirq_exit(context: RawTracePointContext) -> i32 {
    with(&context, |wait, _| wait.inside = 0)
}

#[inline(always)]
fn with(context: &RawTracePointContext, note: impl FnOnce(&mut Wait, u64)) -> i32 {
    if context.arg::<u32>(0) == NET_RX
        && let Some(wait) = WAITS.get_ptr_mut(0)
    {
        // SAFETY: this processor's own value; a helper without arguments.
        unsafe { note(&mut *wait, bpf_ktime_get_ns()) };
    }
    0
}
