//! Collection: a clock hand over the slots.
//!
//! It depends neither on the daemon nor on timers. Packets that open flows move the hand a little; the daemon, while it
//! runs, moves it in slices through the `xnat_collect` program.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{State, Word};
use xnat_common::packet::proto;
use xnat_common::{Direction, FlowRef, Ticks};

use crate::atomic;
use crate::lookup::Found;
use crate::maps::{self, CURSORS, FLOWS};
use crate::{claim, index, mapping, walks};

/// Slots that a packet looks at when it opens a flow.
const STEPS_AN_OPENING: u32 = 4;
/// Slots that one run of the `xnat_collect` program looks at: so few that packets hardly wait if all of them hold flows that
/// end.
const SLICE: u32 = 512;

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
    mapping::release(flow);
    maps::flow_ended();
    claim::xnat_free(index)
}

/// Ends the flow if it has been idle for too long.
#[inline(always)]
pub fn visit(found: &Found, now: Ticks) {
    xnat_visit(found.reference.index(), now.0);
}

/// Looks at the slot and ends its flow if that has been idle for too long.
///
/// A global function, which the verifier checks once by itself. Returns zero, because such a function has to return
/// something.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_visit(index: u32, now: u32) -> u32 {
    let (Some(config), Some(flow)) = (maps::config(), FLOWS.get_ptr_mut(index)) else {
        return 0;
    };
    // SAFETY: a value of an array; see `lookup::Found::flow`.
    let word = Word(unsafe { (&raw const (*flow).word).read_volatile() });
    if !word.is_live() {
        return 0;
    }
    let reference = FlowRef::new(index, word.generation(), Direction::Original);
    let found = Found { flow, reference };
    let state = found.state();
    if state.has(State::DOOMED) {
        // Packets may stamp the flow between the look and the end of it, but only once a tick.
        if end(&found) || end(&found) {
            maps::count(Counter::FlowReleased);
        }
    } else if Ticks(now).since(word.last_seen()).0 >= config.timeouts.idle(found.flow().proto, state).0
        && end_if(&found, word)
    {
        maps::count(Counter::FlowsExpired);
    }
    0
}

/// The slot at which the hand stood before moving by `steps`, not yet divided by the number of slots, and that number.
#[inline(always)]
fn move_hand(config: &Config, steps: u32) -> Option<(u64, u64)> {
    let cursors = CURSORS.get_ptr_mut(0)?;
    // SAFETY: fields of a map value.
    let hand = unsafe { atomic::fetch_add(&raw mut (*cursors).hand, u64::from(steps)) };
    (config.max_flows != 0).then_some((hand, config.slots().into()))
}

/// Moves the hand by the few slots that an opening packet pays for.
#[inline(always)]
pub fn step(config: &Config, now: Ticks) {
    let Some((hand, slots)) = move_hand(config, STEPS_AN_OPENING) else {
        return;
    };
    for offset in 0..STEPS_AN_OPENING {
        let Some(index) = (hand + u64::from(offset)).checked_rem(slots) else {
            return;
        };
        xnat_visit(index as u32, now.0);
    }
}

/// What the loop's body needs.
struct Slice {
    hand: u64,
    slots: u64,
    now: Ticks,
}

/// Moves the hand by a slice.
#[inline(always)]
pub fn slice(config: &Config, now: Ticks) {
    let Some((hand, slots)) = move_hand(config, SLICE) else {
        return;
    };
    let mut slice = Slice { hand, slots, now };
    let steps = if slots < u64::from(SLICE) { slots as u32 } else { SLICE };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe {
        bpf_loop(steps, visit_nth as *mut c_void, (&raw mut slice).cast(), 0);
    }
}

extern "C" fn visit_nth(nth: u64, slice: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `slice` gave it.
    let slice = unsafe { &*slice.cast::<Slice>() };
    let Some(index) = (slice.hand + nth).checked_rem(slice.slots) else {
        return 1;
    };
    xnat_visit(index as u32, slice.now.0);
    0
}

/// Slots that a search for closed flows looks at, at most.
const RECLAIM_SLOTS: u32 = 32_768;
/// Closed flows after which such a search is content.
const RECLAIM_ENOUGH: u64 = 256;
/// Slots after which it is content with any.
const RECLAIM_FEW: u64 = 4096;

/// What the search's body needs.
struct Reclaim {
    hand: u64,
    slots: u64,
    /// How many flows had ended before. A count of its own would be followed by the verifier from 0 to the end.
    before: u64,
}

/// Ends closed flows, because ports or records have run short: from where the hand stands, which moves on. Where there
/// was none, not again in the same tick. Returns how many were ended.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_reclaim(now: u32) -> u32 {
    let (Some(config), Some(cursors)) = (maps::config(), CURSORS.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: a field of a map value.
    if unsafe { (&raw const (*cursors).reclaimed).read_volatile() } == u64::from(now) || !walks::may_walk(now) {
        return 0;
    }
    let Some((hand, slots)) = move_hand(config, 0) else {
        return 0;
    };
    let mut reclaim = Reclaim { hand, slots, before: maps::flows_ended() };
    let steps = if slots < u64::from(RECLAIM_SLOTS) { slots as u32 } else { RECLAIM_SLOTS };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    let visited = unsafe { bpf_loop(steps, reclaim_nth as *mut c_void, (&raw mut reclaim).cast(), 0) };
    // SAFETY: a field of a map value.
    unsafe { atomic::add(&raw mut (*cursors).hand, visited.cast_unsigned()) };
    walks::note(now, visited);
    let ended = (maps::flows_ended() - reclaim.before) as u32;
    if ended == 0 {
        // SAFETY: as above; several processors may write the same.
        unsafe { (&raw mut (*cursors).reclaimed).write_volatile(u64::from(now)) };
    }
    ended
}

extern "C" fn reclaim_nth(nth: u64, reclaim: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `xnat_reclaim` gave it.
    let reclaim = unsafe { &mut *reclaim.cast::<Reclaim>() };
    let Some(index) = (reclaim.hand + nth).checked_rem(reclaim.slots) else {
        return 1;
    };
    let Some(flow) = FLOWS.get_ptr_mut(index as u32) else {
        return 1;
    };
    // SAFETY: a value of an array; see `lookup::Found::flow`.
    let word = Word(unsafe { (&raw const (*flow).word).read_volatile() });
    if !word.is_live() {
        return 0;
    }
    let found = Found { flow, reference: FlowRef::new(index as u32, word.generation(), Direction::Original) };
    let closed = found.flow().proto == proto::TCP && found.state().tcp().is_over();
    if closed && end_if(&found, word) {
        maps::count(Counter::PortsReclaimed);
        let ended = maps::flows_ended() - reclaim.before;
        return i64::from(ended >= RECLAIM_ENOUGH || nth >= RECLAIM_FEW);
    }
    0
}
