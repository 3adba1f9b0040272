//! Second step: find the flow.

use xnat_common::config::Config;
use xnat_common::flow::{State, Word};
use xnat_common::{Direction, Flow, FlowKey, FlowRef, Ticks};

use crate::maps::FLOWS;
use crate::{atomic, collect, index};

/// A flow, and the direction in which it was found.
#[derive(Clone, Copy)]
pub struct Found {
    /// The record.
    pub flow: *mut Flow,
    /// How it was found.
    pub reference: FlowRef,
}

impl Found {
    /// The record.
    #[inline(always)]
    pub fn flow(&self) -> &Flow {
        // SAFETY: the pointer comes from a successful array look-up; array values live as long as the map. Fields that
        // change under the reader are only the counters, the state and the time, each read once where it matters.
        unsafe { &*self.flow }
    }

    #[inline(always)]
    pub fn direction(&self) -> Direction {
        self.reference.direction()
    }

    /// The same flow as packets of `direction` find it.
    #[inline(always)]
    pub fn in_direction(&self, direction: Direction) -> Self {
        Self { flow: self.flow, reference: self.reference.in_direction(direction) }
    }

    /// The state, read anew.
    #[inline(always)]
    pub fn state(&self) -> State {
        // SAFETY: as in flow().
        State(unsafe { (&raw const (*self.flow).state).read_volatile() })
    }

    /// Replaces the state; true if nobody else has changed it in between.
    #[inline(always)]
    pub fn change_state(&self, old: State, new: State) -> bool {
        // SAFETY: a field of a map value.
        unsafe { atomic::compare_and_swap32(&raw mut (*self.flow).state, old.0, new.0) }
    }

    /// Stamps the flow with `now`; false if it has been collected in the meantime.
    #[inline(always)]
    pub fn refresh(&self, now: Ticks) -> bool {
        // Two tries: the first may lose against another packet of the same flow, in which case that one has stamped it.
        for _ in 0..2 {
            let word = self.word();
            if word.generation() != self.reference.generation() {
                return false;
            }
            if word.last_seen() == now {
                return true;
            }
            let stamped = Word::new(word.generation(), now);
            // SAFETY: a field of a map value.
            if unsafe { atomic::compare_and_swap(&raw mut (*self.flow).word, word.0, stamped.0) } {
                return true;
            }
        }
        self.word().generation() == self.reference.generation()
    }

    #[inline(always)]
    pub fn word(&self) -> Word {
        // SAFETY: as in flow().
        Word(unsafe { (&raw const (*self.flow).word).read_volatile() })
    }
}

/// The live flow that packets with `key` belong to.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<Found> {
    by_reference(index::find(key)?)
}

/// As [`find`], at once for a flow that is at home, where its homes are looked at.
#[inline(always)]
pub fn find_fast(config: &Config, key: &FlowKey) -> Option<Found> {
    let [a, b] = key.words();
    match index::at_home(config, a, b) {
        Some((flow, reference)) => Some(Found { flow, reference }),
        None => by_reference(index::find_away(key)?),
    }
}

/// The flow, unless its idle time is over and the collector has not come by yet: then it ends here, and is not revived.
#[inline(always)]
pub fn unless_expired(found: Found, now: Ticks) -> Option<Found> {
    // A flow that is busy has been stamped in this tick, and needs no further look.
    if found.word().last_seen() == now {
        return Some(found);
    }
    collect::visit(&found, now);
    (found.word().generation() == found.reference.generation()).then_some(found)
}

/// The flow that `reference` means, if it still lives.
#[inline(always)]
pub fn by_reference(reference: FlowRef) -> Option<Found> {
    let flow = FLOWS.get_ptr_mut(reference.index())?;
    let found = Found { flow, reference };
    (found.word().generation() == reference.generation()).then_some(found)
}
