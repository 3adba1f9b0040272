//! Fragments that come before their datagram's first one are kept, and received again when that has come.
//!
//! What is kept is a slot of an array, taken in turn: the oldest gives way. The slots of one datagram are a chain that
//! begins in its record. Whoever decides the fate of a datagram publishes it and then takes the chain; whoever has added
//! to the chain looks at the fate again and takes the chain himself if it has been decided. So each fragment is taken by
//! one of the two, on whatever processors they are, and there is no lock.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes, bpf_skb_store_bytes};
use xnat_common::Ticks;
use xnat_common::collection;
use xnat_common::counter::Counter;
use xnat_common::fragment::{
    self, DATAGRAMS, Datagram, Fate, HELD_A_SOURCE, HELD_LEN, Handle, Held, LIFETIME, Link, Slot, Source, SourceUse,
    within_quota,
};
use xnat_common::packet::{ethernet, ipv4};

use crate::atomic;
use crate::datagram;
use crate::maps::{FRAGMENT_HANDS, FRAGMENT_SOURCES, HELD, count};
use crate::skb::{Skb, bounded};

/// Which of the hands moves over the slots.
const HAND: u32 = 1;
/// Slots that are tried, if others are just being written or read.
const TRIES: u32 = 4;
/// How often a chain is tried that others add to.
const CHAIN_TRIES: u32 = 8;
/// Shorter frames are padded: the kernel does not let a packet become shorter than its headers were (`bpf_skb_min_len`).
const FRAME_MIN: usize = ethernet::LEN + ipv4::LEN_MAX;
/// How often a source that has used up its quota has the tables looked through, in ticks: once a second.
const SWEEP_INTERVAL: Ticks = Ticks::from_secs(1);

#[inline(always)]
fn slot_of(held: *mut Held) -> Slot {
    // SAFETY: a value of an array lives as long as the map.
    Slot(unsafe { (&raw const (*held).word).read_volatile() })
}

#[inline(always)]
fn change(held: *mut Held, old: Slot, new: Slot) -> bool {
    // SAFETY: a field of a map value.
    unsafe { atomic::compare_and_swap(&raw mut (*held).word, old.0, new.0) }
}

/// A slot that was taken.
struct Taken {
    index: u32,
    held: *mut Held,
    slot: Slot,
}

/// Takes the next slot.
#[inline(always)]
fn take() -> Option<Taken> {
    let hand = FRAGMENT_HANDS.get_ptr_mut(HAND)?;
    for _ in 0..TRIES {
        // SAFETY: a map value.
        let index = unsafe { atomic::fetch_add(hand, 1) } as u32 & (fragment::HELD - 1);
        let held = HELD.get_ptr_mut(index)?;
        let slot = slot_of(held);
        let new = slot.taken_anew();
        if slot.is_busy() || !change(held, slot, new) {
            continue;
        }
        if slot.is_full() {
            forget(held);
        }
        return Some(Taken { index, held, slot: new });
    }
    None
}

/// What was in a slot that has been taken is lost.
#[inline(always)]
fn forget(held: *mut Held) {
    count(Counter::FragmentExpired);
    // SAFETY: fields of a map value.
    give_back(unsafe { (*held).source });
}

/// One fragment less is kept for a source.
#[inline(always)]
fn give_back(source: Source) {
    if let Some(account) = FRAGMENT_SOURCES.get_ptr_mut(&source) {
        // SAFETY: a field of a map value; see `datagram::find_or_make`.
        unsafe { atomic::add(&raw mut (*account).held, u64::MAX) };
    }
}

/// Copies the frame into a slot that was taken.
#[inline(always)]
fn save(skb: Skb, held: *mut Held) -> bool {
    let len = skb.len();
    if len == 0 || len > HELD_LEN as u32 {
        return false;
    }
    // SAFETY: the frame's room is as long as was checked.
    unsafe {
        (*held).len = len;
        bpf_skb_load_bytes(skb.raw().cast(), 0, (&raw mut (*held).frame).cast(), bounded::<HELD_LEN>(len)) == 0
    }
}

/// Makes the packet what is in a slot.
#[inline(always)]
fn load(skb: Skb, held: *mut Held) -> bool {
    // SAFETY: a field of a map value.
    let len = unsafe { (&raw const (*held).len).read_volatile() };
    if len == 0 || len > HELD_LEN as u32 {
        return false;
    }
    if !skb.resize(len) {
        return false;
    }
    // SAFETY: the frame is as long as was checked.
    unsafe { bpf_skb_store_bytes(skb.raw(), 0, (&raw const (*held).frame).cast(), bounded::<HELD_LEN>(len), 0) == 0 }
}

/// Keeps a later fragment, if it `keeps` one; and takes what is kept of a datagram whose fate is known, to have it received
/// again or to end it. The packet itself ends here.
#[inline(always)]
pub fn hold(skb: Skb, handle: Handle, datagram: *mut Datagram, keeps: bool, now: Ticks) {
    // SAFETY: a field of a map value.
    let source = unsafe { (*datagram).key }.source();
    if keeps && !hold_for(skb, datagram, source, now) {
        return count(Counter::FragmentQuota);
    }
    let fate = datagram::fate(datagram);
    if fate != Fate::Unknown {
        // SAFETY: a field of a map value.
        let first = unsafe { atomic::exchange(&raw mut (*datagram).chain, Link::NONE.0) };
        follow(skb, first, mark_for(handle, fate), counter_for(fate));
    }
}

#[inline(always)]
fn hold_for(skb: Skb, datagram: *mut Datagram, source: Source, now: Ticks) -> bool {
    let Some(account) = datagram::source_use(source) else {
        return false;
    };
    // SAFETY: fields of a map value; see `datagram::find_or_make`.
    unsafe {
        if !within_quota((*account).held, HELD_A_SOURCE) {
            sweep_for(account, now);
            if !within_quota((*account).held, HELD_A_SOURCE) {
                return false;
            }
        }
        atomic::add(&raw mut (*account).held, 1);
    }
    let kept = keep(skb, datagram, source, now);
    if kept {
        count(Counter::FragmentsHeld);
    } else {
        give_back(source);
    }
    kept
}

/// Copies the frame and adds it to the datagram's chain.
#[inline(always)]
fn keep(skb: Skb, datagram: *mut Datagram, source: Source, now: Ticks) -> bool {
    let Some(Taken { index, held, slot }) = take() else {
        return false;
    };
    // SAFETY: fields of a map value that nobody else writes while the slot is busy.
    unsafe {
        (*held).source = source;
        (*held).ifindex = skb.ifindex();
        (*held).time = now.0;
        let frame = (&raw mut (*held).frame).cast::<u64>();
        for word in 0..FRAME_MIN.div_ceil(size_of::<u64>()) {
            frame.add(word).write_volatile(0);
        }
    }
    if !save(skb, held) {
        change(held, slot, slot.free());
        return false;
    }
    // SAFETY: as above.
    unsafe {
        if (*held).len < FRAME_MIN as u32 {
            (*held).len = FRAME_MIN as u32;
        }
    }
    for _ in 0..CHAIN_TRIES {
        // SAFETY: as above.
        let head = unsafe { (&raw const (*datagram).chain).read_volatile() };
        // SAFETY: as above.
        unsafe { (*held).next = head };
        if !change(held, slot, slot.full()) {
            return false;
        }
        // SAFETY: a field of a map value.
        if unsafe { atomic::compare_and_swap(&raw mut (*datagram).chain, head, Link::new(index, slot).0) } {
            return true;
        }
        // It may have given way to another one already.
        if !change(held, slot.full(), slot) {
            return true;
        }
    }
    change(held, slot, slot.free());
    false
}

/// What is done with the chain of a datagram.
struct Chain {
    skb: *mut __sk_buff,
    next: u64,
    /// The mark with which fragments are received again; zero if they end here.
    mark: u32,
    /// What fragments that end here count as.
    counter: u32,
}

/// The mark of fragments that are received again, or zero.
#[inline(always)]
fn mark_for(handle: Handle, fate: Fate) -> u32 {
    if matches!(fate, Fate::Kernel | Fate::Flow) { handle.0 } else { 0 }
}

/// What fragments count as that end with their datagram.
#[inline(always)]
fn counter_for(fate: Fate) -> Counter {
    if fate == Fate::Poisoned { Counter::FragmentOverlap } else { Counter::FragmentUnknown }
}

#[inline(always)]
fn follow(skb: Skb, first: u64, mark: u32, counter: Counter) {
    let mut chain = Chain { skb: skb.raw(), next: first, mark, counter: counter as u32 };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(fragment::HELD, next_of_chain as *mut c_void, (&raw mut chain).cast(), 0) };
}

extern "C" fn next_of_chain(_nth: u64, chain: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `follow` gave it.
    let chain = unsafe { &mut *chain.cast::<Chain>() };
    let link = Link(chain.next);
    if link == Link::NONE {
        return 1;
    }
    let Some(held) = HELD.get_ptr_mut(link.index()) else {
        return 1;
    };
    let slot = slot_of(held);
    // What has given way was older than all that follow, or than none: they have given way before.
    if !link.matches(slot) || !change(held, slot, slot.taken()) {
        return 1;
    }
    // SAFETY: fields of a map value that nobody else writes while the slot is busy.
    let (next, ifindex, source) = unsafe { ((*held).next, (*held).ifindex, (*held).source) };
    let skb = Skb::from_raw(chain.skb);
    if chain.mark == 0 {
        crate::maps::count_number(chain.counter);
    } else if load(skb, held) {
        skb.set_mark(chain.mark);
        skb.receive_copy(ifindex);
    } else {
        count(Counter::RewriteFailed);
    }
    give_back(source);
    change(held, slot.taken(), slot.free());
    chain.next = next;
    0
}

/// Decides the fate of a datagram when its first fragment has been through its way: `passed` unless that has ended. What
/// has been kept is received again after it. Zero if the first fragment was lost by that.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_settle(skb: *mut __sk_buff, handle: u32, passed: u32) -> u32 {
    let (skb, handle) = (Skb::from_raw(skb), Handle(handle));
    let Some(datagram) = datagram::record(handle) else {
        return 1;
    };
    // SAFETY: fields of a map value.
    let first = unsafe {
        let fate = match passed {
            0 => Fate::Dropped,
            _ if (*datagram).has_flow != 0 => Fate::Flow,
            _ => Fate::Kernel,
        };
        // One that has been poisoned stays so.
        atomic::compare_and_swap(&raw mut (*datagram).fate, Fate::Unknown as u64, fate as u64);
        atomic::exchange(&raw mut (*datagram).chain, Link::NONE.0)
    };
    if first == Link::NONE.0 {
        return 1;
    }
    let fate = datagram::fate(datagram);
    let mark = mark_for(handle, fate);
    if mark == 0 || passed == 0 {
        follow(skb, first, 0, counter_for(fate));
        return 1;
    }
    // The packet itself carries the others to where they are received again, and then becomes what it was.
    let own_mark = skb.mark();
    let Some(Taken { held, slot, .. }) = take() else {
        follow(skb, first, 0, Counter::FragmentExpired);
        return 1;
    };
    // Growing takes a sum of the network card's off the packet (`__skb_grow_rcsum`), which would be of other octets.
    let len = skb.len();
    if !save(skb, held) || !skb.resize(len + 8) {
        change(held, slot, slot.free());
        follow(skb, first, 0, Counter::FragmentExpired);
        return 1;
    }
    follow(skb, first, mark, Counter::FragmentExpired);
    let restored = load(skb, held);
    change(held, slot, slot.free());
    skb.set_mark(own_mark);
    u32::from(restored)
}

/// On behalf of a source that has used up its quota, ends what has expired; once a second.
#[inline(always)]
pub fn sweep_for(account: *mut SourceUse, now: Ticks) {
    // SAFETY: a field of a map value; a lost race sweeps twice.
    unsafe {
        let swept = Ticks((*account).swept as u32);
        if now.since(swept).0 < SWEEP_INTERVAL.0 {
            return;
        }
        (*account).swept = u64::from(now.0);
    }
    xnat_sweep(now.0);
}

/// Ends datagrams of which nothing has come for too long, and what is kept of them. Returns zero, because such a function
/// has to return something.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_sweep(now: u32) -> u32 {
    let mut now = Ticks(now);
    // SAFETY: as in `follow`.
    unsafe { bpf_loop(collection::FRAGMENTS, expire_nth as *mut c_void, (&raw mut now).cast(), 0) };
    0
}

extern "C" fn expire_nth(nth: u64, now: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `xnat_sweep` gave it.
    expire(nth as u32, unsafe { *now.cast::<Ticks>() });
    0
}

/// As [`expire`]. Returns zero, because such a function has to return something.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_expire(place: u32, now: u32) -> u32 {
    expire(place, Ticks(now));
    0
}

/// Looks at one of the places in which datagrams and, behind them, fragments are kept, and ends what has been there for too
/// long.
#[inline(always)]
fn expire(place: u32, now: Ticks) {
    if place < DATAGRAMS {
        datagram::expire(place, now);
        return;
    }
    let Some(held) = HELD.get_ptr_mut(place - DATAGRAMS) else {
        return;
    };
    let slot = slot_of(held);
    // SAFETY: a field of a map value.
    let time = Ticks(unsafe { (&raw const (*held).time).read_volatile() });
    if slot.is_full() && now.since(time).0 > LIFETIME.0 && change(held, slot, slot.taken()) {
        forget(held);
        change(held, slot.taken(), slot.free());
    }
}
