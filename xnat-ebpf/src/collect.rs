//! Collection: a clock hand over the slots.
//!
//! It depends neither on the daemon nor on timers. The daemon, while it runs, passes the table in slices, through the
//! `xnat_collect` program; without it, and when records or ports run short, packets that open flows move a hand of their own
//! a little.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use xnat_common::collection::{self, ENDS, Look, SLICE_OF_FRAGMENTS};
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{State, Word};
use xnat_common::{Direction, FlowRef, Ticks};

use crate::atomic;
use crate::lookup::{self, Found};
use crate::maps::{self, CLOSED, CURSORS, FLOWS, WATCH};
use crate::{claim, hold, index, mapping};

/// Slots that a packet looks at when it opens a flow.
const STEPS_AN_OPENING: u32 = 4;
/// A table is crowded in which less than one record in so many is left.
const CROWDED: u32 = 8;
/// For so long ports run short after a search has found none.
const LATELY: Ticks = Ticks::from_secs(1);
/// What [`xnat_visit`] returns of a slot whose flow has ended; otherwise it is the time that the flow has left.
const ENDED: u32 = 0;
/// The time that is left where there is no flow.
const NEVER: u32 = u32::MAX;

/// Ends a flow: it is gone for every packet at once, then its tuples go, then its slot is free.
///
/// False if it was gone already or a packet has refreshed it in this moment.
#[inline(always)]
pub fn end(found: &Found) -> bool {
    let word = found.word();
    word.generation() == found.reference.generation() && end_if(found, word)
}

/// Ends the flow if its word is still `word`.
#[inline(always)]
fn end_if(found: &Found, word: Word) -> bool {
    // What is just being opened is its opener's: not all that it holds is noted yet, and it is not counted.
    if !found.state().has(State::PUBLISHED) {
        return false;
    }
    // SAFETY: a field of a map value.
    if !unsafe { atomic::compare_and_swap(&raw mut (*found.flow).word, word.0, word.ended().0) } {
        return false;
    }
    // From here on nobody else touches the slot: no reference has its new generation, and it is not on the free list.
    xnat_bury(found.reference.index());
    true
}

/// Takes everything away that leads to a flow or that it has held, then frees its slot.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_bury(index: u32) -> u32 {
    let Some(flow) = FLOWS.get(index) else {
        return 0;
    };
    for direction in [Direction::Original, Direction::Reply] {
        index::remove(&flow.key(direction), FlowRef::new(index, 0, direction));
    }
    mapping::release(flow, index);
    maps::flow_ended();
    claim::xnat_free(index)
}

/// Ends the flow if it has been idle for too long.
#[inline(always)]
pub fn visit(found: &Found, now: Ticks) {
    xnat_visit(found.reference.index(), now.0);
}

/// Looks at the slot and ends its flow if that has been idle for too long. Returns [`ENDED`], or after how many ticks the
/// flow may be due.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_visit(index: u32, now: u32) -> u32 {
    let (Some(config), Some(flow)) = (maps::config(), FLOWS.get_ptr_mut(index)) else {
        return NEVER;
    };
    // SAFETY: a value of an array; see `lookup::Found::flow`.
    let word = Word(unsafe { (&raw const (*flow).word).read_volatile() });
    if !word.is_live() {
        return NEVER;
    }
    let reference = FlowRef::new(index, word.generation(), Direction::Original);
    let found = Found { flow, reference };
    let state = found.state();
    if state.has(State::DOOMED) {
        // Packets may stamp the flow between the look and the end of it, but only once a tick.
        if end(&found) || end(&found) {
            maps::count(Counter::FlowReleased);
            return ENDED;
        }
        return 1;
    }
    let idle = config.timeouts.idle(found.flow().proto, state).0;
    let spent = Ticks(now).since(word.last_seen()).0;
    if spent < idle {
        return idle - spent;
    }
    if end_if(&found, word) {
        maps::count(Counter::FlowsExpired);
        return ENDED;
    }
    // A packet has refreshed it in this moment.
    1
}

/// Whether a daemon collects, in its own time.
#[inline(always)]
pub fn is_done_by_daemon(now: Ticks) -> bool {
    WATCH.get(0).is_some_and(|watch| watch.is_watched(now))
}

/// Whether records or ports run short, so that there is no time to be lost.
#[inline(always)]
pub fn is_urgent(config: &Config, now: Ticks) -> bool {
    maps::flows_live() >= u64::from(config.max_flows - config.max_flows / CROWDED) || maps::was_full_within(LATELY, now)
}

/// Moves the hand by the few slots that an opening packet pays for.
#[inline(always)]
pub fn step(now: Ticks) {
    xnat_step(now.0);
}

/// As [`step`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_step(now: u32) -> u32 {
    let (Some(config), Some(cursors)) = (maps::config(), CURSORS.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: fields of a map value.
    let hand = unsafe { atomic::fetch_add(&raw mut (*cursors).hand, u64::from(STEPS_AN_OPENING)) };
    let slots = config.slots().into();
    let Some(mut index) = hand.checked_rem(slots) else {
        return 0;
    };
    for _ in 0..STEPS_AN_OPENING {
        if is_worth_a_visit(config, index as u32, Ticks(now)) {
            xnat_visit(index as u32, now);
        }
        index = if index + 1 < slots { index + 1 } else { 0 };
    }
    STEPS_AN_OPENING
}

/// Whether there is a flow in the slot that may have to be ended.
#[inline(always)]
fn is_worth_a_visit(config: &Config, index: u32, now: Ticks) -> bool {
    let Some(flow) = FLOWS.get(index) else {
        return false;
    };
    // SAFETY: values of an array; see `lookup::Found::flow`.
    let (word, state) =
        unsafe { (Word((&raw const flow.word).read_volatile()), State((&raw const flow.state).read_volatile())) };
    word.is_live() && (now.since(word.last_seen()).0 >= config.least_idle || state.has(State::DOOMED))
}

/// What the loop's body needs, and what it has found.
struct Slice {
    first: u32,
    slots: u32,
    now: Ticks,
    /// How many flows had ended before.
    ended: u64,
    /// The least time that a flow has left.
    left: u32,
}

/// Looks at a slice of the places from `first` on. How far it came is part of the answer: whoever asked for it goes on from
/// there, and is alone in that, so that of a whole pass it is known when the next flow may be due.
#[inline(always)]
pub fn slice(config: &Config, first: u32, now: Ticks) -> Look {
    let mut slice = Slice { first, slots: config.slots(), now, ended: maps::flows_ended(), left: NEVER };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    let places = unsafe { bpf_loop(collection::SLICE, visit_nth as *mut c_void, (&raw mut slice).cast(), 0) };
    Look::new(places.cast_unsigned() as u32, Ticks(slice.left))
}

extern "C" fn visit_nth(nth: u64, slice: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `slice` gave it.
    let slice = unsafe { &mut *slice.cast::<Slice>() };
    let place = slice.first.wrapping_add(nth as u32);
    if place >= slice.slots {
        hold::xnat_expire(place - slice.slots, slice.now.0);
        return i64::from(nth + 1 >= u64::from(SLICE_OF_FRAGMENTS));
    }
    let left = xnat_visit(place, slice.now.0);
    if left == ENDED {
        // Counted in a map: a count in the loop would be followed by the verifier from 0 to the end. What others end at the
        // same time only makes the run shorter.
        return i64::from(maps::flows_ended().wrapping_sub(slice.ended) >= u64::from(ENDS));
    }
    if left < slice.left {
        slice.left = left;
    }
    0
}

/// Closed flows that are ended at a time when ports or records have run short.
const RECLAIM: u32 = 256;

/// Ends the flows that closed first, because ports or records have run short. Returns how many were ended.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_reclaim() -> u32 {
    // A count in the loop would be followed by the verifier from 0 to the end.
    let before = maps::flows_ended();
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(RECLAIM, reclaim_next as *mut c_void, core::ptr::null_mut(), 0) };
    (maps::flows_ended() - before) as u32
}

extern "C" fn reclaim_next(_nth: u64, _context: *mut c_void) -> i64 {
    let Ok(Some(reference)) = CLOSED.pop() else {
        return 1;
    };
    // It may have ended since, or have been taken up anew.
    if let Some(found) = lookup::by_reference(FlowRef::from_bits(reference))
        && found.state().tcp().is_over()
        && end(&found)
    {
        maps::count(Counter::PortsReclaimed);
    }
    0
}
