//! Fragments that carry no ports follow their datagram's first one.

use xnat_common::packet::{FRAGMENT_LIFETIME, Fragment, Headers};
use xnat_common::{Side, Ticks};

use crate::lookup::{self, Found};
use crate::maps::FRAGMENTS;

/// Remembers where the later fragments of a datagram go when its first one passes.
#[inline(always)]
pub fn remember(headers: &Headers, side: Side, found: &Found, now: Ticks) {
    if !headers.is_fragment() || headers.is_later_fragment() {
        return;
    }
    let fragment = Fragment { flow: found.reference, time: now.0, zero: 0 };
    // The map drops its oldest datagrams by itself, so this does not fail for want of room.
    let _ = FRAGMENTS.insert(&headers.fragment_key(side), &fragment, 0);
}

/// The flow of a later fragment.
#[inline(always)]
pub fn find(headers: &Headers, side: Side, now: Ticks) -> Option<Found> {
    // SAFETY: the value is copied at once.
    let fragment = unsafe { *FRAGMENTS.get(&headers.fragment_key(side))? };
    if now.since(Ticks(fragment.time)).0 > FRAGMENT_LIFETIME.0 {
        return None;
    }
    lookup::by_reference(fragment.flow)
}
