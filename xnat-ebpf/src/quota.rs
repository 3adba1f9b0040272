//! How many ports a container may have (RFC 6888 REQ-4).

use aya_ebpf::bindings::BPF_NOEXIST;
use xnat_common::Addr;

use crate::atomic;
use crate::maps::{self, QUOTAS};

/// Counts a port against a container's quota; false if it has all that it may have.
#[inline(always)]
pub fn take(container: Addr) -> bool {
    xnat_take_quota(container.0) != 0
}

/// As [`take`].
///
/// A global function, which the verifier checks once by itself; so is [`xnat_give_quota_back`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_take_quota(container: u32) -> u32 {
    let container = Addr(container);
    let Some(config) = maps::config() else {
        return 1;
    };
    if config.max_ports == 0 {
        return 1;
    }
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
