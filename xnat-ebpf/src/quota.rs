//! How many ports a container may have (RFC 6888 REQ-4).

use aya_ebpf::bindings::BPF_NOEXIST;
use xnat_common::{Addr, FlowRef};

use crate::lookup::{self, Found};
use crate::maps::{self, QUOTAS};
use crate::{atomic, mapping};

/// Counts a port against the quota of the container that a flow is of; false if it has all that it may have.
#[inline(always)]
pub fn take(found: &Found) -> bool {
    xnat_take_quota(found.reference.to_bits()) != 0
}

/// Takes a port off the quota of the container that a flow is of.
#[inline(always)]
pub fn give_back_for(found: &Found) {
    if mapping::is_containers(found.flow()) {
        give_back(found.flow().original.src);
    }
}

/// As [`take`].
///
/// A global function, which the verifier checks once by itself; so is [`xnat_give_quota_back`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_take_quota(reference: u64) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return 1;
    };
    if config.max_ports == 0 || !mapping::is_containers(found.flow()) {
        return 1;
    }
    let container = found.flow().original.src;
    if QUOTAS.insert(&container, &1, u64::from(BPF_NOEXIST)).is_ok() {
        return 1;
    }
    let Some(count) = QUOTAS.get_ptr_mut(&container) else {
        // More containers than there is room for: these have no quota.
        return 1;
    };
    // SAFETY: a map value.
    unsafe {
        if atomic::fetch_add(count, 1) < u64::from(config.max_ports) {
            return 1;
        }
        atomic::add(count, u64::MAX);
    }
    0
}

/// Takes a port off. Ports from before there was a quota are not counted, and do not make it negative.
#[inline(always)]
pub fn give_back(container: Addr) {
    xnat_give_quota_back(container.0);
}

/// As [`give_back`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_give_quota_back(container: u32) -> u32 {
    let container = Addr(container);
    let Some(config) = maps::config() else {
        return 0;
    };
    if config.max_ports == 0 {
        return 0;
    }
    if let Some(count) = QUOTAS.get_ptr_mut(&container) {
        // SAFETY: a map value.
        unsafe {
            if atomic::fetch_add(count, u64::MAX) == 0 {
                atomic::add(count, 1);
            }
        }
    }
    0
}
