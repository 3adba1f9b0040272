//! Flows of the kernel's own NAT, and where it must have them to itself.

use xnat_common::counter::Counter;
use xnat_common::flow::State;
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
        if touch(seen, now) {
            return;
        }
    } else {
        // Before it is there, so that nobody overlooks it. The map drops its oldest tuples by itself.
        maps::note_kernel_flows();
        let _ = KERNEL_FLOWS.insert(&key, &now.0, 0);
        maps::count(Counter::KernelFlows);
    }
    // A flow that was opened on this tuple before the kernel showed that it owns it was a mistake. One that carries a
    // conversation was not: then the tuple is shared by accident, and whoever was there first keeps it.
    if let Some(found) = lookup::find(&key)
        && !found.state().has(State::ASSURED)
        && collect::end(&found)
    {
        maps::count(Counter::FlowReleased);
    }
}

/// Stamps a tuple; whether it was the kernel's all the time.
#[inline(always)]
fn touch(seen: *mut u32, now: Ticks) -> bool {
    // SAFETY: a map value; a lost race between two stores of the time does no harm.
    unsafe {
        let fresh = now.since(Ticks(*seen)).0 <= LIFETIME.0;
        if *seen != now.0 {
            *seen = now.0;
        }
        fresh
    }
}

/// Whether a packet from inside with this key is the kernel's. One that opens nothing is so however long the connection
/// has been idle.
#[inline(always)]
pub fn claims(key: &FlowKey, opens: bool, now: Ticks) -> bool {
    if !maps::has_kernel_flows() {
        return false;
    }
    match KERNEL_FLOWS.get_ptr_mut(key) {
        // SAFETY: the value is read at once.
        Some(seen) if opens && now.since(Ticks(unsafe { *seen })).0 > LIFETIME.0 => false,
        Some(seen) => {
            touch(seen, now);
            true
        }
        None => false,
    }
}

/// Whether the kernel has ever had this key, as far as the map remembers.
#[inline(always)]
pub fn knows(key: &FlowKey) -> bool {
    maps::has_kernel_flows() && KERNEL_FLOWS.get_ptr(key).is_some()
}
