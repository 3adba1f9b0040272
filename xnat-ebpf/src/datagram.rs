//! Records of datagrams whose fragments come in any order: finding, making and ending them, and what has been seen.
//!
//! A record is a slot of an array with a generation, as a flow is. It is live while fragments are missing; its key and its
//! sender's quota are free as soon as all have been seen, and the slot remains what it is until the hand has gone round.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_loop;
use xnat_common::Ticks;
use xnat_common::flow::{FlowRef, Word};
use xnat_common::fragment::{
    self, Comparison, DATAGRAMS_A_SOURCE, Datagram, DatagramKey, Fate, Handle, LIFETIME, Novelty, Piece, Source,
    SourceUse, WORDS, within_quota,
};

use crate::atomic;
use crate::maps::{DATAGRAM_KEYS, DATAGRAMS, FRAGMENT_HANDS, FRAGMENT_SOURCES};

/// Which of the hands moves over the datagrams.
const HAND: u32 = 0;
/// Slots that a new datagram looks at before it takes one whose datagram is neither complete nor old.
const TRIES: u32 = 64;

/// The record of a datagram, if the slot has not been given to another one.
#[inline(always)]
pub fn record(handle: Handle) -> Option<*mut Datagram> {
    let datagram = DATAGRAMS.get_ptr_mut(handle.slot())?;
    handle.matches(word_of(datagram).generation()).then_some(datagram)
}

/// The record of the datagram with `key`, if `handle` means that.
#[inline(always)]
pub fn record_of(handle: Handle, key: &DatagramKey) -> Option<*mut Datagram> {
    let datagram = record(handle)?;
    // SAFETY: a field of a map value.
    let own = unsafe { (*datagram).key };
    let same = own.src == key.src && own.dst == key.dst && own.id == key.id && own.proto == key.proto;
    (same && own.ifindex == key.ifindex).then_some(datagram)
}

#[inline(always)]
fn word_of(datagram: *mut Datagram) -> Word {
    // SAFETY: a value of an array lives as long as the map.
    Word(unsafe { (&raw const (*datagram).word).read_volatile() })
}

/// What becomes of the datagram's fragments, read anew.
#[inline(always)]
pub fn fate(datagram: *mut Datagram) -> Fate {
    // SAFETY: see `word_of`.
    Fate::from_u64(unsafe { (&raw const (*datagram).fate).read_volatile() })
}

/// No more of the datagram's fragments pass.
#[inline(always)]
pub fn poison(datagram: *mut Datagram) {
    // SAFETY: a field of a map value.
    unsafe { atomic::exchange(&raw mut (*datagram).fate, Fate::Poisoned as u64) };
}

/// What a source has of us; the record is made if there is none.
#[inline(always)]
pub fn source_use(source: Source) -> Option<*mut SourceUse> {
    if let Some(known) = FRAGMENT_SOURCES.get_ptr_mut(&source) {
        return Some(known);
    }
    let _ = FRAGMENT_SOURCES.insert(&source, &SourceUse::default(), u64::from(BPF_NOEXIST));
    FRAGMENT_SOURCES.get_ptr_mut(&source)
}

/// The live datagram with `key`.
#[inline(always)]
fn find(key: &DatagramKey, now: Ticks) -> Option<Handle> {
    // SAFETY: the value is copied at once; what it refers to is compared.
    let handle = Handle(unsafe { *DATAGRAM_KEYS.get(key)? });
    if let Some(datagram) = record_of(handle, key) {
        let word = word_of(datagram);
        if word.is_live() {
            if now.since(word.last_seen()).0 <= LIFETIME.0 {
                return Some(handle);
            }
            end(datagram, word);
        }
    }
    let _ = DATAGRAM_KEYS.remove(key);
    None
}

/// The live datagram with `key`, which is made if there is none. None if its source may not have more of them.
#[inline(always)]
pub fn find_or_make(key: &DatagramKey, now: Ticks) -> Option<Handle> {
    if let Some(handle) = find(key, now) {
        return Some(handle);
    }
    let account = source_use(key.source())?;
    // SAFETY: fields of a map value. An element of this map may be another source's by now; then the numbers of both are
    // off by one for a while.
    unsafe {
        if !within_quota((*account).datagrams, DATAGRAMS_A_SOURCE) {
            crate::hold::sweep_for(account, now);
            if !within_quota((*account).datagrams, DATAGRAMS_A_SOURCE) {
                return None;
            }
        }
        atomic::add(&raw mut (*account).datagrams, 1);
    }
    if let Some(handle) = make(key, now) {
        return Some(handle);
    }
    // SAFETY: as above.
    unsafe { atomic::add(&raw mut (*account).datagrams, u64::MAX) };
    // Another processor was faster.
    find(key, now)
}

#[inline(always)]
fn make(key: &DatagramKey, now: Ticks) -> Option<Handle> {
    let mut search = Search { now, slot: u32::MAX, generation: 0 };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(TRIES, try_next as *mut c_void, (&raw mut search).cast(), 0) };
    let datagram = DATAGRAMS.get_ptr_mut(search.slot)?;
    // SAFETY: nobody else has the slot: nothing refers to its new generation yet.
    unsafe {
        (*datagram).fate = Fate::Unknown as u64;
        (*datagram).flow = FlowRef::default();
        (*datagram).chain = 0;
        (*datagram).seen = 0;
        (*datagram).end = 0;
        (*datagram).key = *key;
        (*datagram).wire_id = 0;
        (*datagram).has_flow = 0;
        let bitmap = (&raw mut (*datagram).bitmap).cast::<u64>();
        const { assert!(WORDS.is_multiple_of(8), "whole turns") };
        // Eight at a time, because the verifier walks through every turn.
        for eight in 0..WORDS as usize / 8 {
            for word in 0..8 {
                // Volatile, so that this does not become a call of memset, which there is none of.
                bitmap.add(eight * 8 + word).write_volatile(0);
            }
        }
    }
    let handle = Handle::new(search.slot, search.generation);
    if DATAGRAM_KEYS.insert(key, &handle.0, u64::from(BPF_NOEXIST)).is_ok() {
        return Some(handle);
    }
    let word = word_of(datagram);
    // SAFETY: a field of a map value. If this fails, the slot is another's already.
    unsafe { atomic::compare_and_swap(&raw mut (*datagram).word, word.0, word.next(word.last_seen()).0) };
    None
}

/// The search for a slot.
struct Search {
    now: Ticks,
    slot: u32,
    generation: u32,
}

extern "C" fn try_next(nth: u64, search: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `make` gave it.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Some(hand) = FRAGMENT_HANDS.get_ptr_mut(HAND) else {
        return 1;
    };
    // SAFETY: a map value.
    let slot = unsafe { atomic::fetch_add(hand, 1) } as u32 & (fragment::DATAGRAMS - 1);
    let Some(datagram) = DATAGRAMS.get_ptr_mut(slot) else {
        return 1;
    };
    let mut word = word_of(datagram);
    if word.is_live() {
        let old = search.now.since(word.last_seen()).0 > LIFETIME.0;
        // There are too many of them: one has to give way.
        let last = nth == u64::from(TRIES) - 1;
        if !(old || last) || !end(datagram, word) {
            return 0;
        }
        word = word.next(word.last_seen());
    }
    let taken = word.next(search.now);
    // SAFETY: a field of a map value.
    if !unsafe { atomic::compare_and_swap(&raw mut (*datagram).word, word.0, taken.0) } {
        return 0;
    }
    search.slot = slot;
    search.generation = taken.generation();
    1
}

/// Ends a live datagram: its key and its source's quota are free. False if somebody else has done it.
#[inline(always)]
fn end(datagram: *mut Datagram, word: Word) -> bool {
    // SAFETY: fields of a map value.
    let key = unsafe { (*datagram).key };
    // SAFETY: as above.
    if !unsafe { atomic::compare_and_swap(&raw mut (*datagram).word, word.0, word.next(word.last_seen()).0) } {
        return false;
    }
    let _ = DATAGRAM_KEYS.remove(&key);
    if let Some(account) = FRAGMENT_SOURCES.get_ptr_mut(&key.source()) {
        // SAFETY: as in `find_or_make`.
        unsafe { atomic::add(&raw mut (*account).datagrams, u64::MAX) };
    }
    true
}

/// Ends the datagram in a slot if its fragments have not come in time.
#[inline(always)]
pub fn expire(slot: u32, now: Ticks) {
    if let Some(datagram) = DATAGRAMS.get_ptr_mut(slot) {
        let word = word_of(datagram);
        if word.is_live() && now.since(word.last_seen()).0 > LIFETIME.0 {
            end(datagram, word);
        }
    }
}

/// Notes the flow of the first fragment.
#[inline(always)]
pub fn set_flow(handle: Handle, flow: FlowRef) {
    if let Some(datagram) = record(handle) {
        // SAFETY: fields of a map value. Nobody reads them before the fate is known, which this fragment decides.
        unsafe {
            (*datagram).flow = flow;
            if (*datagram).has_flow == 0 {
                (*datagram).has_flow = 1;
            }
        }
    }
}

/// The walk over the bitmap's words.
struct Walk {
    slot: u32,
    word: u32,
    piece: Piece,
    comparison: Comparison,
    /// Something lies behind the end.
    behind: bool,
}

/// Notes what a fragment carries. Each word is set with one atomic operation, which tells what it was before, so fragments
/// that overlap find out in whatever order and on whatever processor they come. (Two copies of a fragment at the same
/// moment may each find the other in part, and count as overlapping.)
#[inline(always)]
pub fn cover(handle: Handle, datagram: *mut Datagram, piece: Piece) -> Novelty {
    let mut walk =
        Walk { slot: handle.slot(), word: piece.first_word(), piece, comparison: Comparison::default(), behind: false };
    // SAFETY: as in `make`.
    unsafe { bpf_loop(piece.words(), set_word as *mut c_void, (&raw mut walk).cast(), 0) };
    let novelty = walk.comparison.novelty();
    if novelty != Novelty::New {
        return novelty;
    }
    // SAFETY: fields of a map value.
    let end = unsafe { &raw mut (*datagram).end };
    if piece.last {
        // First the end, then a look at what lies behind it; the others do it the other way round.
        // SAFETY: as above.
        unsafe { atomic::compare_and_swap(end, 0, u64::from(piece.end)) };
        walk.word = (piece.end - 1) / u64::BITS;
        // SAFETY: as in `make`.
        unsafe { bpf_loop(WORDS, look_behind as *mut c_void, (&raw mut walk).cast(), 0) };
    }
    // SAFETY: as above.
    let seen = unsafe { atomic::fetch_add(&raw mut (*datagram).seen, u64::from(piece.units())) };
    // SAFETY: as above.
    let end = unsafe { end.read_volatile() };
    if walk.behind || !fragment::agrees(piece, end) {
        return Novelty::Overlap;
    }
    if seen + u64::from(piece.units()) == end {
        let word = word_of(datagram);
        if word.is_live() && handle.matches(word.generation()) {
            self::end(datagram, word);
        }
    }
    Novelty::New
}

extern "C" fn set_word(_nth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `cover` gave it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let Some(datagram) = DATAGRAMS.get_ptr_mut(walk.slot) else {
        return 1;
    };
    let mask = walk.piece.mask(walk.word);
    // SAFETY: the index is within the bitmap.
    let before = unsafe {
        let bitmap = (&raw mut (*datagram).bitmap).cast::<u64>();
        atomic::fetch_or(bitmap.add((walk.word & (WORDS - 1)) as usize), mask)
    };
    walk.comparison.add(mask, before);
    walk.word += 1;
    0
}

extern "C" fn look_behind(_nth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `cover` gave it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let Some(datagram) = DATAGRAMS.get_ptr_mut(walk.slot) else {
        return 1;
    };
    if walk.word >= WORDS {
        return 1;
    }
    // SAFETY: the index is within the bitmap.
    let word = unsafe {
        let bitmap = (&raw const (*datagram).bitmap).cast::<u64>();
        bitmap.add((walk.word & (WORDS - 1)) as usize).read_volatile()
    };
    walk.behind |= word & walk.piece.behind(walk.word) != 0;
    walk.word += 1;
    0
}
