//! Sessions of mappings: counting them in a word, and those with a remote address in `REMOTES`.

use aya_ebpf::bindings::BPF_NOEXIST;
use xnat_common::mapping::{Owner, RemoteEntry, RemoteKey};
use xnat_common::{Addr, Port};

use crate::atomic;
use crate::maps::REMOTES;

/// How often a word is looked at again that another processor has changed in between.
pub const RETRIES: u32 = 8;

/// One session more, if the word is still the endpoint's.
///
/// # Safety
/// `word` is a field of a map value.
#[inline(always)]
pub unsafe fn enter(word: *mut Owner, address: Addr, port: Port) -> bool {
    xnat_enter(word, address.0, port.0.into()) != 0
}

/// As [`enter`].
///
/// A global function, which the verifier checks once by itself; so is [`xnat_exit`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_enter(word: *mut Owner, address: u32, port: u32) -> u32 {
    if word.is_null() {
        return 0;
    }
    for _ in 0..RETRIES {
        // SAFETY: the verifier lets nothing pass but memory of the type's size, or a null pointer.
        let old = unsafe { word.read_volatile() };
        if !old.is(Addr(address), Port(port as u16)) {
            return 0;
        }
        if old.is_leaving() {
            continue;
        }
        let Some(new) = old.joined() else {
            return 0;
        };
        // SAFETY: as above.
        if unsafe { atomic::compare_and_swap(word.cast(), old.0, new.0) } {
            return 1;
        }
    }
    0
}

/// One session less. True if it was the last one: then the word is marked, and the caller has to finish.
///
/// # Safety
/// As [`enter`].
#[inline(always)]
pub unsafe fn exit(word: *mut Owner) -> bool {
    xnat_exit(word) != 0
}

/// As [`exit`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_exit(word: *mut Owner) -> u32 {
    if word.is_null() {
        return 0;
    }
    for _ in 0..RETRIES * 2 {
        // SAFETY: the verifier lets nothing pass but memory of the type's size, or a null pointer.
        let old = unsafe { word.read_volatile() };
        if old.sessions() == 0 || old.is_leaving() {
            return 0;
        }
        let new = old.left();
        // SAFETY: as above.
        if unsafe { atomic::compare_and_swap(word.cast(), old.0, new.0) } {
            return u32::from(new.is_leaving());
        }
    }
    0
}

#[inline(always)]
pub fn remote_key(remote: Addr, port: Port, protocol: u8) -> RemoteKey {
    RemoteKey { remote, port, proto: protocol, zero: 0 }
}

#[inline(always)]
pub fn insert_remote(key: &RemoteKey, owner: Owner) -> bool {
    REMOTES.insert(key, &RemoteEntry { owner, key: *key }, u64::from(BPF_NOEXIST)).is_ok()
}

#[inline(always)]
pub fn join_remote(key: &RemoteKey, address: Addr, own: Port) -> bool {
    let Some(entry) = REMOTES.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a map value; elements are used again, but only for the same map.
    unsafe {
        if !enter(&raw mut (*entry).owner, address, own) {
            return false;
        }
        // The element may have become another key's in the meantime, of the same endpoint.
        if (&raw const (*entry).key).read_volatile() == *key {
            return true;
        }
        let _ = exit(&raw mut (*entry).owner);
    }
    false
}
