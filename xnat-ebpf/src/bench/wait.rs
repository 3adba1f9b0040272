//! How long packets wait on a processor: from the interrupt that brings them until the kernel gets to them.
//!
//! The interrupt asks for softirq `NET_RX`, which runs as soon as nothing on the processor keeps it from that. What delays
//! the interrupt itself, on a virtual machine above all, is not in this time; nor is what passes on a processor that has
//! nothing else to do: it was idle when the interrupt came, in no softirq, and none came before this one. There a machine
//! that is not run for a while is all that a packet can wait for.
//!
//! What of the time has passed elsewhere is noted: that in which the hypervisor says that it has not run the processor, and
//! that which tasks have had which have nothing to do with the daemon, softirqs in their midst left out. A packet waits for a
//! task if that cannot be preempted, as a kernel thread in a long loop, or if softirqs were left to `ksoftirqd`, which takes
//! its turn as any task. Why they were left to it is not known here, so what remains is the least that the daemon has done,
//! and the whole wait the most.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;

use crate::maps::{JOB, WAITS};

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
    /// Where the hypervisor tells in how much of the time it has not run the processor, in nanoseconds; zero until that is
    /// known.
    steal_time: u64,
    /// How much that was when it was asked for.
    stolen_before: u64,
    /// How much of the time other tasks have had the processor, up to `since`.
    others: u64,
    since: u64,
    /// How much that was when it was asked for.
    others_before: u64,
    /// How long what is handled now has waited, in nanoseconds.
    waited: u64,
    /// The part of that in which the processor was not run, or was another task's: the longer of both.
    elsewhere: u64,
}

/// What [`Wait::inside`] says of `NET_RX`, and of any other softirq.
const RECEIVING: u64 = 1;
const OTHER: u64 = 2;

/// How long what is handled now has waited, and in how much of that the processor was elsewhere.
#[inline(always)]
pub fn waited() -> (u64, u64) {
    // SAFETY: this processor's own value.
    WAITS.get_ptr(0).map_or((0, 0), |wait| unsafe { ((*wait).waited, (*wait).elsewhere) })
}

/// Where a processor's number stands in its run queue, in bytes.
#[unsafe(no_mangle)]
static QUEUE_NUMBER: Global<u64> = Global::new(0);
/// From a processor's run queue to the time in which the hypervisor did not run it, in bytes.
#[unsafe(no_mangle)]
static STEAL_TIME: Global<u64> = Global::new(0);

/// A task begins to wait for a processor, or ends: of that the kernel hands over the run queue.
#[raw_tracepoint(tracepoint = "sched_update_nr_running_tp")]
pub fn sched_update_nr_running_tp(context: RawTracePointContext) -> i32 {
    let queue: u64 = context.arg(0);
    // SAFETY: the helpers cope with every address, and with none.
    let (number, here) =
        unsafe { (bpf_probe_read_kernel((queue + QUEUE_NUMBER.load()) as *const u32), bpf_get_smp_processor_id()) };
    // It may be another processor's.
    if number != Ok(here) {
        return 0;
    }
    with(|wait| wait.steal_time = queue.wrapping_add(STEAL_TIME.load()))
}

/// A task makes room for another one.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn sched_switch(_context: RawTracePointContext) -> i32 {
    with(pass)
}

/// A softirq is asked for.
#[raw_tracepoint(tracepoint = "softirq_raise")]
pub fn softirq_raise(context: RawTracePointContext) -> i32 {
    with(|wait| {
        if context.arg::<u32>(0) == NET_RX && wait.raised == 0 {
            pass(wait);
            (wait.raised, wait.stolen_before, wait.others_before) = (wait.since, stolen(wait), wait.others);
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
        pass(wait);
        if context.arg::<u32>(0) != NET_RX {
            (wait.inside, wait.busy) = (OTHER, 1);
            return;
        }
        if wait.follows == 0 {
            (wait.waited, wait.elsewhere) = (0, 0);
        }
        if wait.raised != 0 && wait.busy != 0 {
            // What has not been known at both moments is none.
            let stolen = if wait.stolen_before == 0 { 0 } else { stolen(wait).saturating_sub(wait.stolen_before) };
            let others = wait.others - wait.others_before;
            wait.waited += wait.since - wait.raised;
            wait.elsewhere += if stolen > others { stolen } else { others };
        }
        (wait.raised, wait.busy, wait.follows, wait.inside) = (0, 0, 0, RECEIVING);
    })
}

/// One ends.
#[raw_tracepoint(tracepoint = "softirq_exit")]
pub fn softirq_exit(_context: RawTracePointContext) -> i32 {
    with(|wait| {
        pass(wait);
        wait.inside = 0;
    })
}

/// Time has passed: whose was it?
#[inline(always)]
fn pass(wait: &mut Wait) {
    let now = now();
    if wait.inside == 0 && is_other() {
        wait.others += now - wait.since;
    }
    wait.since = now;
}

/// Whether the task that has the processor is neither the daemon's, nor one that works off what others have left to it, nor
/// the idle one.
#[inline(always)]
fn is_other() -> bool {
    let (process, daemon) = ((bpf_get_current_pid_tgid() >> 32) as u32, JOB.get(0).map_or(0, |job| job.probe));
    let Ok(name) = bpf_get_current_comm() else { return false };
    let works_off = [*b"ksof", *b"kwor", *b"rcu_", *b"rcuc", *b"rcuo"].contains(&[name[0], name[1], name[2], name[3]]);
    process != 0 && process != daemon && !works_off
}

/// In how much of the time the processor was not run though it had something to do, as far as that is told.
#[inline(always)]
fn stolen(wait: &Wait) -> u64 {
    match wait.steal_time {
        0 => 0,
        // SAFETY: the helper copes with every address.
        at => unsafe { bpf_probe_read_kernel(at as *const u64) }.unwrap_or(0),
    }
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
