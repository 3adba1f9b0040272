//! Fragments that carry no ports follow their datagram's first one, in whatever order they come in.
//!
//! What comes in on an interface is looked at in any order: its datagram has a record (`datagram`), and what comes before
//! the first one is kept (`hold`). What the kernel sends out is in order, and the flow of a datagram's first fragment is
//! remembered in `FRAGMENTS`.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::counter::Counter;
use xnat_common::fragment::{Datagram, Fate, Fragment, Handle, LIFETIME, Novelty, Piece};
use xnat_common::packet::Headers;
use xnat_common::{Addr, Side, Ticks, Tuple};

use crate::lookup::{self, Found};
use crate::maps::{FRAGMENTS, count};
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};
use crate::{datagram, hold};

/// The fragment is left to the kernel.
const TO_KERNEL: u32 = 1;
/// The fragment is kept, or was dropped and counted.
const ENDED: u32 = 2;
/// What makes of a handle that its fragment is to be kept.
const KEEP: u32 = 1 << 31;
/// What makes of a handle that what is kept of its datagram is to be ended.
const RELEASE: u32 = 1 << 30;

/// A fragment that comes in: is noted in its datagram, whose handle is the answer, or ends here, or shares the fate of a
/// datagram that is left to the kernel.
#[inline(always)]
pub fn arrive(skb: Skb, headers: &Headers, now: Ticks) -> Step<u32> {
    let ends = u64::from(headers.tuple.src.0) << 32 | u64::from(headers.tuple.dst.0);
    let numbers = numbers(headers);
    let answer = xnat_datagram(skb.raw(), ends, numbers, now.0);
    let answer = xnat_arrive(skb.raw(), answer, numbers);
    match xnat_keep(skb.raw(), answer, now.0) {
        TO_KERNEL => Err(Verdict::PASS),
        ENDED => Err(Verdict::CONSUMED),
        handle => Ok(handle),
    }
}

/// What the headers of a fragment say besides its addresses, in one word for a global function.
#[inline(always)]
pub fn numbers(headers: &Headers) -> u64 {
    u64::from(headers.id) << 48
        | u64::from(headers.fragment) << 32
        | u64::from(headers.total_len) << 16
        | u64::from(headers.proto) << 8
        | u64::from(headers.ip_len)
}

/// The reverse of [`numbers`], with the addresses.
#[inline(always)]
pub fn headers_of(ends: u64, numbers: u64) -> Headers {
    let tuple = Tuple { src: Addr((ends >> 32) as u32), dst: Addr(ends as u32), ..Tuple::default() };
    Headers {
        tuple,
        id: (numbers >> 48) as u16,
        fragment: (numbers >> 32) as u16,
        total_len: (numbers >> 16) as u16,
        proto: (numbers >> 8) as u8,
        ip_len: numbers as u8,
        ..Headers::default()
    }
}

/// The datagram of a fragment: its handle, or what becomes of a fragment that has none. One that was kept before and is
/// received again has been noted: its mark goes, and its fate is known.
///
/// A global function, which the verifier checks once by itself; three in a row, because the stack is short.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_datagram(skb: *mut __sk_buff, ends: u64, numbers: u64, now: u32) -> u32 {
    let skb = Skb::from_raw(skb);
    let headers = headers_of(ends, numbers);
    let key = headers.datagram_key(skb.ifindex());
    let mark = Handle(skb.mark());
    if mark.is_valid() && datagram::record_of(mark, &key).is_some() {
        return mark.0;
    }
    if Piece::of(&headers).is_none() {
        return end(Counter::FragmentOverlap);
    }
    match datagram::find_or_make(&key, Ticks(now)) {
        Some(handle) => handle.0,
        None => end(Counter::FragmentQuota),
    }
}

/// Notes a fragment of the datagram with this handle. The answer is the handle if the fragment goes on, or what becomes of
/// it, or the handle in disguise for [`xnat_keep`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_arrive(skb: *mut __sk_buff, handle: u32, numbers: u64) -> u32 {
    let skb = Skb::from_raw(skb);
    let handle = Handle(handle);
    if !handle.is_valid() {
        return handle.0;
    }
    let Some(datagram) = datagram::record(handle) else {
        return end(Counter::FragmentQuota);
    };
    if skb.mark() == handle.0 {
        skb.set_mark(0);
        return fate(datagram::fate(datagram), handle);
    }
    let Some(piece) = Piece::of(&headers_of(0, numbers)) else {
        return end(Counter::FragmentOverlap);
    };
    match datagram::cover(handle, datagram, piece) {
        Novelty::New => {}
        Novelty::Duplicate => return end(Counter::FragmentOverlap),
        Novelty::Overlap => {
            datagram::poison(datagram);
            return handle.0 ^ RELEASE;
        }
    }
    match datagram::fate(datagram) {
        Fate::Poisoned => end(Counter::FragmentOverlap),
        _ if piece.start == 0 => handle.0,
        Fate::Unknown => handle.0 ^ KEEP,
        known => fate(known, handle),
    }
}

/// Keeps a fragment whose datagram's fate is not known, and ends those that are kept of one that has just been poisoned;
/// any other answer stays what it is.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_keep(skb: *mut __sk_buff, answer: u32, now: u32) -> u32 {
    let keeps = Handle(answer ^ KEEP).is_valid();
    let handle = Handle(answer ^ if keeps { KEEP } else { RELEASE });
    if !handle.is_valid() {
        return answer;
    }
    let Some(datagram) = datagram::record(handle) else {
        return end(Counter::FragmentQuota);
    };
    if !keeps {
        count(Counter::FragmentOverlap);
    }
    hold::hold(Skb::from_raw(skb), handle, datagram, keeps, Ticks(now));
    ENDED
}

/// What becomes of a later fragment whose datagram's fate is known.
#[inline(always)]
fn fate(fate: Fate, handle: Handle) -> u32 {
    match fate {
        Fate::Flow => handle.0,
        Fate::Kernel => TO_KERNEL,
        Fate::Poisoned => end(Counter::FragmentOverlap),
        Fate::Unknown | Fate::Dropped => end(Counter::FragmentUnknown),
    }
}

#[inline(always)]
fn end(counter: Counter) -> u32 {
    count(counter);
    ENDED
}

/// The other end of a first fragment's way: its fate becomes its datagram's.
#[inline(always)]
pub fn settle(skb: Skb, handle: u32, fate: Verdict) -> Verdict {
    if hold::xnat_settle(skb.raw(), handle, u32::from(!fate.is_end())) == 0 {
        return Verdict::drop(Counter::RewriteFailed);
    }
    fate
}

/// Remembers where the later fragments of a datagram go when its first one passes.
#[inline(always)]
pub fn remember(headers: &Headers, side: Side, found: &Found, now: Ticks) {
    if !headers.is_fragment() || headers.is_later_fragment() {
        return;
    }
    if headers.datagram == 0 {
        remember_in_order(headers, side, found, headers.id, now);
    } else {
        datagram::set_flow(Handle(headers.datagram), found.reference);
    }
}

#[inline(always)]
fn remember_in_order(headers: &Headers, side: Side, found: &Found, wire_id: u16, now: Ticks) {
    let fragment = Fragment { flow: found.reference, time: now.0, wire_id, zero: 0 };
    // The map drops its oldest datagrams by itself, so this does not fail for want of room.
    let _ = FRAGMENTS.insert(&headers.fragment_key(side), &fragment, 0);
}

/// A fragment from inside is left to the kernel although its datagram's first one was not: it comes by at the uplink's
/// egress hook.
#[inline(always)]
pub fn leave_to_kernel(headers: &Headers, found: &Found, now: Ticks) {
    if headers.datagram == 0 || !headers.is_later_fragment() {
        return;
    }
    if let Some(datagram) = datagram::record(Handle(headers.datagram)) {
        // SAFETY: a field of a map value, which the first fragment has set.
        let wire_id = unsafe { (*datagram).wire_id } as u16;
        remember_in_order(headers, Side::Inside, found, wire_id, now);
    }
}

/// Whether the kernel gets a packet toward a container, as it must get this one if `must`: then it gets all that follow of
/// the datagram as well, because it puts them together before it looks.
#[inline(always)]
pub fn goes_to_kernel(headers: &Headers, must: bool) -> bool {
    if headers.datagram == 0 {
        return must;
    }
    xnat_goes_to_kernel(headers.datagram, headers.is_later_fragment().into(), must.into()) != 0
}

/// As [`goes_to_kernel`], for a fragment.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_goes_to_kernel(handle: u32, later: u32, must: u32) -> u32 {
    let Some(datagram) = datagram::record(Handle(handle)) else {
        return must;
    };
    // SAFETY: a field of a map value. The first fragment writes it before the others' fate is known.
    unsafe {
        if later != 0 {
            return must | u32::from((*datagram).has_flow == Datagram::BY_KERNEL);
        }
        if must != 0 {
            (*datagram).has_flow = Datagram::BY_KERNEL;
        }
    }
    must
}

/// The flow of a later fragment.
#[inline(always)]
pub fn find(headers: &Headers, side: Side, now: Ticks) -> Option<Found> {
    if headers.datagram != 0 {
        let datagram = datagram::record(Handle(headers.datagram))?;
        // SAFETY: a field of a map value, which the first fragment has set.
        return lookup::by_reference(unsafe { (*datagram).flow });
    }
    // SAFETY: the value is copied at once.
    let fragment = unsafe { *FRAGMENTS.get(&headers.fragment_key(side))? };
    if now.since(Ticks(fragment.time)).0 > LIFETIME.0 {
        return None;
    }
    lookup::by_reference(fragment.flow)
}
