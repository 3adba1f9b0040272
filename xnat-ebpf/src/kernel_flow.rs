//! Flows of the kernel's own NAT, and where it must have them to itself.

use xnat_common::counter::Counter;
use xnat_common::kernel_flow::LIFETIME;
use xnat_common::packet::Headers;
use xnat_common::{FlowKey, Side, Ticks};

use crate::maps::{self, KERNEL_FLOWS};
use crate::{collect, lookup};

/// Remembers that the answers to this packet, which the kernel sends, are the kernel's.
#[inline(always)]
pub fn remember(headers: &Headers, side: Side, now: Ticks) {
    let key = FlowKey::new(headers.tuple.reversed(), headers.proto, side);
    if let Some(seen) = KERNEL_FLOWS.get_ptr_mut(&key) {
        // SAFETY: a map value; a lost race between two stores of the time does no harm.
        unsafe {
            if *seen != now.0 {
                *seen = now.0;
            }
        }
        return;
    }
    // The map drops its oldest tuples by itself.
    let _ = KERNEL_FLOWS.insert(&key, &now.0, 0);
    maps::count(Counter::KernelFlows);
    // A flow that was opened on this tuple before the kernel showed that it owns it was a mistake.
    if let Some(found) = lookup::find(&key)
        && collect::end(&found)
    {
        maps::count(Counter::FlowReleased);
    }
}

/// Whether a packet with this key is the kernel's.
#[inline(always)]
pub fn owns(key: &FlowKey, now: Ticks) -> bool {
    // SAFETY: the value is read at once.
    match unsafe { KERNEL_FLOWS.get(key) } {
        Some(seen) => now.since(Ticks(*seen)).0 <= LIFETIME.0,
        None => false,
    }
}
