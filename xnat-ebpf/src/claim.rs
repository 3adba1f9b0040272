//! Claiming a flow: a slot, a wire tuple of its own, and both references to it, or nothing.

use aya_ebpf::bindings::BPF_NOEXIST;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Flow, Kind, State, Word};
use xnat_common::{Addr, Direction, FlowRef, Ticks, Tuple};

use crate::lookup::Found;
use crate::maps::{self, CURSORS, FLOWS, FREE, TUPLES};
use crate::skb::Skb;
use crate::{atomic, collect, port};

/// What is known of a flow before it has a record.
#[derive(Clone, Copy)]
pub struct Opening {
    pub proto: u8,
    pub kind: Kind,
    /// The tuple of the opening packet as it reached this host.
    pub original: Tuple,
    /// The tuple of the answers; where a port may be chosen, `dport` is the first candidate.
    pub reply: Tuple,
    /// The inside interface, or zero.
    pub inside: u32,
    /// The peer, or [`Addr::UNSPECIFIED`].
    pub peer: Addr,
    pub state: State,
}

/// Why a flow was not claimed.
#[derive(Clone, Copy)]
pub enum Refused {
    /// Another packet has opened the same flow in this moment.
    Raced,
    /// Counted under this name.
    Because(Counter),
}

/// Opens a flow. The insertion of its reply tuple is what reserves the port.
#[inline(always)]
pub fn claim(skb: Skb, config: &Config, opening: &Opening, now: Ticks) -> Result<Found, Refused> {
    collect::step(config, now);
    let index = take_slot(config).ok_or(Refused::Because(Counter::TableFull))?;
    let flow = FLOWS.get_ptr_mut(index).ok_or(Refused::Because(Counter::TableFull))?;
    let found = fill(flow, index, opening, now);
    if !reserve_reply(skb, opening, &found, now) {
        give_back(&found);
        // Where the peer has chosen the port there is none to run out of.
        let of_peer = opening.kind as u8 == Kind::Inbound as u8;
        return Err(if of_peer { Refused::Raced } else { Refused::Because(Counter::PortsExhausted) });
    }
    let original = found.flow().key(Direction::Original);
    if TUPLES.insert(&original, &found.reference, u64::from(BPF_NOEXIST)).is_err() {
        let _ = TUPLES.remove(&found.flow().key(Direction::Reply));
        give_back(&found);
        return Err(Refused::Raced);
    }
    maps::add_used(1);
    maps::count(Counter::FlowsOpened);
    Ok(found)
}

/// A slot that nobody else has: a freed one, or one that has never been used.
#[inline(always)]
fn take_slot(config: &Config) -> Option<u32> {
    if let Ok(Some(index)) = FREE.pop() {
        return Some(index);
    }
    let cursors = CURSORS.get_ptr_mut(0)?;
    let slots = u64::from(config.max_flows);
    // SAFETY: fields of a map value. The check keeps the counter from running away while the table is full.
    unsafe {
        if (&raw const (*cursors).fresh).read_volatile() >= slots {
            return None;
        }
        let index = atomic::fetch_add(&raw mut (*cursors).fresh, 1);
        (index < slots).then_some(index as u32)
    }
}

/// Writes the record and makes the slot live.
#[inline(always)]
fn fill(flow: *mut Flow, index: u32, opening: &Opening, now: Ticks) -> Found {
    // SAFETY: the slot is ours alone until a reference to it is inserted; readers that map the array look at the
    // generation before and after, and that is even until the last store.
    unsafe {
        let word = Word((&raw const (*flow).word).read_volatile());
        (*flow).original = opening.original;
        (*flow).reply = opening.reply;
        (*flow).proto = opening.proto;
        (*flow).kind = opening.kind as u8;
        (*flow).tagged = 0;
        (*flow).zero = 0;
        (*flow).state = opening.state.0;
        (*flow).inside = opening.inside;
        (*flow).peer = opening.peer;
        (*flow).tag_time = 0;
        (*flow).opened = now.0;
        (*flow).next_hop = [0; 2];
        (*flow).packets = [0; 2];
        (*flow).bytes = [0; 2];
        (*flow).window = [xnat_common::tcp::Window { end: 0, max_end: 0, max_window: 0 }; 2];
        (*flow).syn = [0; 2];
        let live = word.next(now);
        // An exchange rather than a store: it orders the stores before it for readers on other processors.
        atomic::compare_and_swap(&raw mut (*flow).word, word.0, live.0);
        Found { flow, reference: FlowRef::new(index, live.generation(), Direction::Original) }
    }
}

/// Gives back a slot that no reference leads to.
#[inline(always)]
fn give_back(found: &Found) {
    let word = found.word();
    // SAFETY: the slot is still ours alone.
    unsafe { (&raw mut (*found.flow).word).write_volatile(word.next(word.last_seen()).0) };
    let _ = FREE.push(&found.reference.index(), 0);
}

/// Finds a reply tuple that nobody has and inserts it.
#[inline(always)]
fn reserve_reply(skb: Skb, opening: &Opening, found: &Found, now: Ticks) -> bool {
    if opening.kind as u8 == Kind::Inbound as u8 {
        // The peer has chosen the port; inside nothing may change.
        return TUPLES
            .insert(
                &found.flow().key(Direction::Reply),
                &found.in_direction(Direction::Reply).reference,
                u64::from(BPF_NOEXIST),
            )
            .is_ok();
    }
    port::take(skb, found, now)
}
