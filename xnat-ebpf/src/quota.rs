//! How many ports a container may have (RFC 6888 REQ-4).

use aya_ebpf::bindings::BPF_NOEXIST;
use xnat_common::Addr;
use xnat_common::config::Config;

use crate::atomic;
use crate::maps::{self, QUOTAS};

/// Counts a port against a container's quota; false if it has all that it may have.
#[inline(always)]
pub fn take(config: &Config, container: Addr) -> bool {
    if config.max_ports == 0 {
        return true;
    }
    if QUOTAS.insert(&container, &1, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    let Some(count) = QUOTAS.get_ptr_mut(&container) else {
        // More containers than there is room for: these have no quota.
        return true;
    };
    // SAFETY: a map value.
    unsafe {
        if atomic::fetch_add(count, 1) < u64::from(config.max_ports) {
            return true;
        }
        atomic::add(count, u64::MAX);
    }
    false
}

/// Takes a port off. Ports from before there was a quota are not counted, and do not make it negative.
#[inline(always)]
pub fn give_back(container: Addr) {
    let Some(config) = maps::config() else {
        return;
    };
    if config.max_ports == 0 {
        return;
    }
    if let Some(count) = QUOTAS.get_ptr_mut(&container) {
        // SAFETY: a map value.
        unsafe {
            if atomic::fetch_add(count, u64::MAX) == 0 {
                atomic::add(count, 1);
            }
        }
    }
}
