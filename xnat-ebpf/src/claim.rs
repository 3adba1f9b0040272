//! Claiming a flow: a slot, a wire tuple of its own, and both references to it, or nothing.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Flow, Kind, State, Word};
use xnat_common::{Addr, Direction, FlowRef, Port, Ticks, Tuple, port};

use crate::lookup::Found;
use crate::maps::{self, CURSORS, FLOWS, FREE, TUPLES};
use crate::skb::Skb;
use crate::socket::{self, Rival};
use crate::{atomic, collect, kernel_flow};

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
        return Err(Refused::Because(Counter::PortsExhausted));
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

/// The reference by which packets in reply direction find the flow.
#[inline(always)]
fn reply_reference(found: &Found) -> FlowRef {
    FlowRef::new(found.reference.index(), found.reference.generation(), Direction::Reply)
}

/// Finds a reply tuple that nobody has and inserts it.
#[inline(always)]
fn reserve_reply(skb: Skb, opening: &Opening, found: &Found, now: Ticks) -> bool {
    if opening.kind as u8 == Kind::Inbound as u8 {
        // The peer has chosen the port; inside nothing may change.
        return TUPLES
            .insert(&found.flow().key(Direction::Reply), &reply_reference(found), u64::from(BPF_NOEXIST))
            .is_ok();
    }
    let found_port = search(skb, opening.kind, found, 0, now);
    if found_port > 1 {
        maps::count(Counter::PortsChanged);
    }
    found_port != 0
}

/// The search for a port.
struct Search {
    skb: *mut __sk_buff,
    flow: *mut Flow,
    reference: FlowRef,
    wanted: Port,
    host: bool,
    first: u32,
    now: Ticks,
    /// How many candidates it took; zero while none was free.
    taken: u32,
}

/// Finds a free port and takes it, from attempt number `first` on. Returns how many candidates that took, or zero.
#[inline(always)]
fn search(skb: Skb, kind: Kind, found: &Found, first: u32, now: Ticks) -> u32 {
    let mut search = Search {
        skb: skb.raw(),
        flow: found.flow,
        reference: found.reference,
        wanted: found.flow().reply.dport,
        host: kind as u8 == Kind::Host as u8,
        first,
        now,
        taken: 0,
    };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(port::ATTEMPTS, attempt as *mut c_void, (&raw mut search).cast(), 0) };
    search.taken
}

extern "C" fn attempt(nth: u64, search: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `search` gave it.
    let search = unsafe { &mut *search.cast::<Search>() };
    let found = Found { flow: search.flow, reference: search.reference };
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    let nth = nth as u32 + search.first;
    let Some(candidate) = port::candidate(found.flow().proto, search.wanted, nth, random) else {
        return 1;
    };
    if !try_port(Skb::from_raw(search.skb), search.host, &found, candidate, search.now) {
        return 0;
    }
    search.taken = nth + 1;
    1
}

/// Takes the port `candidate` for the flow if neither a flow, nor the kernel's NAT, nor a socket of the host has it.
#[inline(always)]
fn try_port(skb: Skb, host: bool, found: &Found, candidate: Port, now: Ticks) -> bool {
    let mut key = found.flow().key(Direction::Reply);
    key.tuple.dport = candidate;
    let rival = if host { Rival::Connected } else { Rival::Any };
    if kernel_flow::owns(&key, now) || socket::takes(skb, key.proto, &key.tuple, rival) {
        return false;
    }
    if TUPLES.insert(&key, &reply_reference(found), u64::from(BPF_NOEXIST)).is_err() {
        return false;
    }
    // SAFETY: one aligned store of two bytes; nobody can read a half of it.
    unsafe { (&raw mut (*found.flow).reply.dport).write_volatile(candidate) };
    true
}

/// Moves a flow to another port on the wire; false if there is none.
#[inline(always)]
pub fn move_port(skb: Skb, found: &Found, now: Ticks) -> bool {
    let old = found.flow().key(Direction::Reply);
    let Some(kind) = Kind::from_u8(found.flow().kind) else {
        return false;
    };
    // The original port is the one that was taken; from the second candidate on they are random.
    let moved = search(skb, kind, found, 1, now) != 0;
    if moved {
        let _ = TUPLES.remove(&old);
    }
    moved
}
