//! Ports on the wire: finding one that nobody has, and taking it.
//!
//! A flow keeps its own port if that is free. Else a few are tried at random, and then all of them, one after the other
//! from a random place on: the search ends only when there is none. What it found full is remembered for a moment, so
//! that being refused costs no more than a look-up.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::mapping::{Destination, ForwardKey, Full};
use xnat_common::packet::proto;
use xnat_common::port::{RANDOM_ATTEMPTS, Range, has_classes, is_privileged, may_keep, range};
use xnat_common::{Addr, Direction, Flow, FlowRef, Port, Ticks, Tuple, host_port};

use crate::claim::Opening;
use crate::lookup::{self, Found};
use crate::mapping::{self, Claimed, Goal};
use crate::maps::{self, FULL, HOST_PORTS};
use crate::skb::Skb;
use crate::socket::{self, Rival};
use crate::{account, collect, index, kernel_flow, quota, walks};

/// Nothing was found.
const NONE: u32 = 0;
/// The flow has its own port.
const KEPT: u32 = 1;
/// The flow has another port.
const CHANGED: u32 = 2;
/// The port of the flow's mapping is somebody else's toward its other end.
const CLASH: u32 = 3;
/// Another packet of the endpoint has just got it a mapping.
const RETRY: u32 = 4;
/// Nothing was found at random, and enough walks have been made for the moment.
const TIRED: u32 = 5;

/// How long a full destination is believed to be full if no flow has ended.
const FULL_LIFETIME: Ticks = Ticks::from_secs(1);

/// Looks at what tells whether a port is free, so that the processor fetches all of it at once before it is asked for.
#[inline(always)]
pub fn prefetch(protocol: u8, port: Port) {
    mapping::owner_of(protocol, port);
    if let Some(at) = host_port::index(protocol, port)
        && let Some(stamp) = HOST_PORTS.get_ptr(at)
    {
        // SAFETY: a value of an array.
        unsafe { stamp.read_volatile() };
    }
}

/// Takes a port on the wire for a flow that is being opened: the one in its reply tuple, or another.
#[inline(always)]
pub fn take(skb: Skb, found: &Found, now: Ticks) -> Result<(), Counter> {
    let config = maps::config().ok_or(Counter::PortsExhausted)?;
    let mut goal = mapping::goal(config, found.flow());
    if goal as u32 != Goal::Flow as u32 {
        match join(skb, found, goal, now) {
            NONE => {}
            // The endpoint has its mapping and gets no second one.
            CLASH => goal = Goal::Flow,
            _ => return Ok(()),
        }
    }
    if !quota::take(found) {
        return Err(Counter::QuotaExceeded);
    }
    let mut result = NONE;
    if goal as u32 != Goal::Flow as u32 {
        result = search(skb, found, goal, now);
        if result == RETRY {
            result = join(skb, found, goal, now);
            if result == KEPT || result == CHANGED {
                // The port that was counted is the other packet's.
                quota::give_back_for(found);
                return Ok(());
            }
        }
    }
    if result != KEPT && result != CHANGED {
        result = search(skb, found, Goal::Flow, now);
    }
    if result == KEPT || result == CHANGED {
        return Ok(());
    }
    quota::give_back_for(found);
    Err(Counter::PortsExhausted)
}

#[inline(always)]
fn join(skb: Skb, found: &Found, goal: Goal, now: Ticks) -> u32 {
    xnat_join(skb.raw(), found.reference.to_bits(), u64::from(now.0) << 32 | goal as u64)
}

/// Searches a port unless there is known to be none; if there is none, ends closed flows and searches again.
#[inline(always)]
fn search(skb: Skb, found: &Found, goal: Goal, now: Ticks) -> u32 {
    let (reference, goal) = (found.reference.to_bits(), goal as u32);
    let ended = maps::flows_ended() as u32;
    if xnat_is_full(reference, goal, ended, now.0) != 0 {
        return NONE;
    }
    let mut result = find(skb, reference, goal, now.0);
    if result == NONE && collect::xnat_reclaim() != 0 {
        result = find(skb, reference, goal, now.0);
    }
    if result == NONE {
        xnat_note_full(reference, goal, ended, now.0);
    }
    if result == TIRED { NONE } else { result }
}

/// Makes the flow a session of a mapping that its endpoint has already, or of one that begins with the endpoint's own port,
/// if that is free and nobody counts ports. `goal` is a [`Goal`], the time in the upper half.
///
/// What is true of nearly all flows is asked first and at once, so that they are through here without a search.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_join(skb: *mut __sk_buff, reference: u64, goal: u64) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return NONE;
    };
    let (goal, now) = (Goal::of(goal as u32), Ticks((goal >> 32) as u32));
    let flow = found.flow();
    let own = flow.original.sport;
    let (mut port, mut is_new) = (own, false);
    if !mapping::join(flow, goal, own) {
        port = match maps::moved(&mapping::endpoint(flow, goal)) {
            Some(moved) if mapping::join(flow, goal, moved) => moved,
            // Asked before it begins: others would join it meanwhile.
            None if may_begin(config, flow, goal)
                && is_unused(Skb::from_raw(skb), &found, own, Rival::Any, now)
                && mapping::begin(flow) =>
            {
                own
            }
            _ => return NONE,
        };
        is_new = port == own;
    }
    // If somebody else has the port toward this end, the flow needs another, for itself.
    let is_unused = is_new || is_unused(Skb::from_raw(skb), &found, port, Rival::Any, now);
    if is_unused && reserve(&found, port) {
        settle(config, &found, goal);
        if is_new {
            maps::count(Counter::MappingsOpened);
        }
        if port == own {
            return KEPT;
        }
        maps::count(Counter::PortsChanged);
        return CHANGED;
    }
    if mapping::leave(&found, goal, port) {
        quota::give_back(flow.original.src);
    }
    if is_new { NONE } else { CLASH }
}

/// Whether a mapping may begin with the flow's own port without a search.
#[inline(always)]
fn may_begin(config: &Config, flow: &Flow, goal: Goal) -> bool {
    goal as u32 == Goal::Endpoint as u32
        && config.max_ports == 0
        && may_keep(flow.proto, flow.reply.dport, config.first_port, config.last_port)
}

/// Notes what the flow, which has its port now, holds of a mapping.
#[inline(always)]
fn settle(config: &Config, found: &Found, goal: Goal) {
    match goal {
        Goal::Flow => {}
        Goal::Endpoint => account::mark(found, State::MAPPED | mapping::permit(config, found), 0),
        Goal::Remote => account::mark(found, State::REMOTE_FAR, 0),
    }
}

/// Moves a flow with a peer to another port on the wire; false if there is none.
#[inline(always)]
pub fn change(skb: Skb, found: &Found, now: Ticks) -> bool {
    // Two messages about the same flow would both give up the port that it has.
    let state = found.state();
    if state.has(State::MOVING) || !found.change_state(state, State(state.0 | State::MOVING)) {
        return false;
    }
    let old = found.flow().key(Direction::Reply);
    let moved = find(skb, found.reference.to_bits(), Goal::Flow as u32 | OTHER, now.0) == CHANGED;
    if moved {
        index::remove(&old, found.in_direction(Direction::Reply).reference);
    }
    account::mark(found, 0, State::MOVING);
    moved
}

/// Whether a search toward the same end has just found nothing. It is worth another one in the next tick if a flow has
/// ended, and now and then, because flows close.
///
/// A global function, whose stack is not that of the programs; so is [`xnat_note_full`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_is_full(reference: u64, goal: u32, ended: u32, now: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    let flow = found.flow();
    is_full(&end_of(flow.proto, &flow.original, &flow.reply, Goal::of(goal)), ended, Ticks(now)).into()
}

#[inline(always)]
fn is_full(destination: &Destination, ended: u32, now: Ticks) -> bool {
    if !maps::was_full_within(FULL_LIFETIME, now) {
        return false;
    }
    let Some(full) = FULL.get_ptr(destination) else {
        return false;
    };
    // SAFETY: a map value, read at once.
    let Full { time, ended: then } = unsafe { full.read_volatile() };
    let age = now.since(Ticks(time)).0;
    age == 0 || then == ended && age < FULL_LIFETIME.0
}

/// Whether an opening from a container would find no port, as somebody has just found out who would have shared one.
#[inline(always)]
pub fn is_hopeless(config: &Config, opening: &Opening, now: Ticks) -> bool {
    let (protocol, Tuple { src, sport, .. }) = (opening.proto, opening.original);
    // Who has a mapping needs none, nor does a container to which a forward of its port leads.
    let forward = |key| maps::forward(config, key).is_some_and(|it| it.address == src && it.port == sport);
    opening.kind as u8 == Kind::Outside as u8
        && !mapping::owner_of(protocol, sport).is(src, sport)
        && !forward(&ForwardKey { port: sport, proto: protocol, zero: 0 })
        && is_full(
            &end_of(opening.proto, &opening.original, &opening.reply, Goal::Flow),
            maps::flows_ended() as u32,
            now,
        )
}

/// Remembers that a search has found nothing.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_note_full(reference: u64, goal: u32, ended: u32, now: u32) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return 0;
    };
    let flow = found.flow();
    // A flow that cannot have another port says nothing of other ports.
    if range(flow.proto, flow.reply.dport, config.first_port, config.last_port).is_some() {
        let end = end_of(flow.proto, &flow.original, &flow.reply, Goal::of(goal));
        let _ = FULL.insert(&end, &Full { time: now, ended }, 0);
        maps::note_full(Ticks(now));
    }
    0
}

/// A flag beside the goal: the flow's own port is not wanted.
const OTHER: u32 = 1 << 8;
/// Another one, for a single port: it is not wanted if it is somebody's mapping.
const UNOWNED: u64 = 1 << 9;

/// The search for a port.
struct Search {
    skb: *mut __sk_buff,
    reference: FlowRef,
    /// A [`Goal`], the time in the upper half.
    goal: u64,
    range: Range,
    /// Where the walk through the range began.
    start: u32,
    found: u32,
}

/// Finds a free port for a flow and takes it. `goal` is a [`Goal`], and perhaps [`OTHER`]. Returns [`KEPT`], [`CHANGED`],
/// [`NONE`], [`TIRED`] or [`RETRY`].
#[inline(always)]
fn find(skb: Skb, reference: u64, goal: u32, now: u32) -> u32 {
    let kept = xnat_keep_port(skb.raw(), reference, goal, now);
    if kept != NONE {
        return kept;
    }
    let goal = u64::from(now) << 32 | u64::from(goal & 0xff);
    let found = xnat_search_range(skb.raw(), reference, goal, 0);
    // No port of its class is left: an unprivileged one is better than none, but not the other way round.
    if found == NONE { xnat_search_range(skb.raw(), reference, goal, 1) } else { found }
}

/// Takes the flow's own port if that is free and may be kept.
///
/// Global functions, which the verifier checks once by themselves, and one after the other, because the stack is short.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_keep_port(skb: *mut __sk_buff, reference: u64, goal: u32, now: u32) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return NONE;
    };
    let own = found.flow().reply.dport;
    if goal & OTHER != 0 || !may_keep(found.flow().proto, own, config.first_port, config.last_port) {
        return NONE;
    }
    // Where somebody else has a mapping, what is no session of it does not go by choice.
    let unowned = if mapping::is_containers(found.flow()) { UNOWNED } else { 0 };
    match xnat_try_port(skb, reference, u64::from(now) << 32 | u64::from(goal & 0xff) | unowned, own.0.into()) {
        CHANGED => KEPT,
        other => other,
    }
}

/// Searches a port among those of the own one's class, or, with `unprivileged`, among all if that one is privileged. `goal`
/// is a [`Goal`], the time in the upper half.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_search_range(skb: *mut __sk_buff, reference: u64, goal: u64, unprivileged: u32) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return NONE;
    };
    let (protocol, own) = (found.flow().proto, found.flow().reply.dport);
    let range = match unprivileged {
        0 => range(protocol, own, config.first_port, config.last_port),
        _ if has_classes(protocol) && is_privileged(own) => Some(Range::new(config.first_port, config.last_port)),
        _ => None,
    };
    let Some(range) = range else {
        return NONE;
    };
    let mut search = Search { skb, reference: FlowRef::from_bits(reference), goal, range, start: 0, found: NONE };
    search_range(&mut search);
    search.found
}

/// Toward whom all ports are taken if a search for a flow with these tuples finds none.
#[inline(always)]
fn end_of(protocol: u8, original: &Tuple, reply: &Tuple, goal: Goal) -> Destination {
    let (address, port) = match goal {
        Goal::Flow => (reply.src, reply.sport),
        Goal::Endpoint => (Addr::UNSPECIFIED, Port::NONE),
        Goal::Remote => (reply.src, Port::NONE),
    };
    Destination { address, port, proto: protocol, privileged: is_privileged(original.sport).into() }
}

#[inline(always)]
fn search_range(search: &mut Search) {
    // SAFETY: the helper has no preconditions.
    search.start = search.range.place(unsafe { bpf_get_prandom_u32() });
    let context: *mut Search = search;
    // SAFETY: the callback has the signature that the helper asks for and outlives the calls (kernel 5.17).
    unsafe {
        bpf_loop(RANDOM_ATTEMPTS, at_random as *mut c_void, context.cast(), 0);
        if (*context).found != NONE {
            return;
        }
        let now = ((*context).goal >> 32) as u32;
        if !walks::may_walk(now) {
            (*context).found = TIRED;
            return;
        }
        let steps = bpf_loop((*context).range.count, in_turn as *mut c_void, context.cast(), 0);
        walks::note(now, steps);
    }
}

extern "C" fn at_random(_nth: u64, search: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `search_range` gave it.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: the helper has no preconditions.
    let port = search.range.at(search.range.place(unsafe { bpf_get_prandom_u32() }));
    // Who has no mapping here leaves the ports alone that are others' as long as that is easy. In a pool that is nearly used
    // up that is most of them, and this is all that each costs.
    let Some(found) = lookup::by_reference(search.reference) else {
        return 1;
    };
    let flow = found.flow();
    let owner = mapping::owner_of(flow.proto, port);
    if !owner.is_free() && !owner.is(flow.original.src, flow.original.sport) {
        return 0;
    }
    search.found = xnat_try_port(search.skb, search.reference.to_bits(), search.goal | UNOWNED, port.0.into());
    i64::from(search.found != NONE)
}

extern "C" fn in_turn(nth: u64, search: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `search_range` gave it.
    let search = unsafe { &mut *search.cast::<Search>() };
    let port = search.range.at(search.start + nth as u32);
    search.found = xnat_try_port(search.skb, search.reference.to_bits(), search.goal, port.0.into());
    i64::from(search.found != NONE)
}

/// Takes a port if it is free in every respect. `goal` is a [`Goal`], the time in the upper half; `port` in network order.
/// Returns [`CHANGED`], [`NONE`] or [`RETRY`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_try_port(skb: *mut __sk_buff, reference: u64, goal: u64, port: u32) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return NONE;
    };
    let unowned = goal & UNOWNED != 0;
    let moving = found.state().has(State::MOVING);
    let (port, goal, now) = (Port(port as u16), Goal::of(goal as u32 & 0xff), Ticks((goal >> 32) as u32));
    let flow = found.flow();
    // What is taken most often is asked first.
    if goal as u32 == Goal::Endpoint as u32 || unowned {
        let owner = mapping::owner_of(flow.proto, port);
        if !owner.is_free() {
            let own = goal as u32 == Goal::Endpoint as u32 && owner.is(flow.original.src, flow.original.sport);
            return if own { RETRY } else { NONE };
        }
    }
    // Of a port that nobody has a mapping of, only flows outside of mappings could have the tuple, and those show below.
    if goal as u32 != Goal::Endpoint as u32 && xnat_is_taken(reference, port.0.into()) != 0 {
        return NONE;
    }
    // A flow of the host's own keeps the port of the socket that opens it.
    let rival = if flow.inside == 0 && port == flow.original.sport { Rival::Connected } else { Rival::Any };
    if !is_unused(Skb::from_raw(skb), &found, port, rival, now) {
        return NONE;
    }
    match mapping::claim(&found, goal, port) {
        Claimed::NO => return NONE,
        Claimed::ELSEWHERE => return RETRY,
        _ => {}
    }
    if !reserve(&found, port) {
        // The quota stays taken: for the next port that is tried.
        mapping::leave(&found, goal, port);
        return NONE;
    }
    settle(config, &found, goal);
    if goal as u32 != Goal::Flow as u32 {
        maps::count(Counter::MappingsOpened);
    } else if mapping::is_containers(flow) && !mapping::owner_of(flow.proto, port).is_free() {
        maps::count(Counter::PortsShared);
    }
    if port != flow.original.sport && !moving {
        maps::count(Counter::PortsChanged);
    }
    CHANGED
}

/// Whether nobody but flows can have the port: neither the kernel's NAT, nor a socket of the host, nor a forward, nor the
/// peer link.
#[inline(always)]
fn is_unused(skb: Skb, found: &Found, port: Port, rival: Rival, now: Ticks) -> bool {
    let rival = u64::from(rival as u32 == Rival::Any as u32);
    let port_and_time = u64::from(now.0) << 32 | rival << 16 | u64::from(port.0);
    xnat_is_unused(skb.raw(), found.reference.to_bits(), port_and_time) != 0
}

/// Whether another flow has the reply tuple of this one with the port.
///
/// A global function, whose stack is not that of the search; so are the next ones.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_is_taken(reference: u64, port: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 1;
    };
    let mut key = found.flow().key(Direction::Reply);
    key.tuple.dport = Port(port as u16);
    index::is_taken(&key).into()
}

/// As [`is_unused`]: the time in the upper half, whether any rival counts in bit 16, and the port.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_is_unused(skb: *mut __sk_buff, reference: u64, port_and_time: u64) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return 0;
    };
    let (port, now) = (Port(port_and_time as u16), Ticks((port_and_time >> 32) as u32));
    let mut key = found.flow().key(Direction::Reply);
    key.tuple.dport = port;
    let of_link = key.proto == proto::UDP && port.number() == host_port::LINK_PORT;
    if of_link || kernel_flow::knows(&key) {
        return 0;
    }
    let any = port_and_time >> 16 & 1 == 1;
    if any && socket::uses(key.proto, port, now) {
        return 0;
    }
    if let Some(forward) = maps::forward(config, &ForwardKey { port, proto: key.proto, zero: 0 }) {
        // The container to which a forward leads may well be a client on that port too.
        let original = found.flow().original;
        if forward.address != original.src || forward.port != original.sport {
            return 0;
        }
    }
    let rival = if any { Rival::Any } else { Rival::Connected };
    u32::from(!socket::takes(Skb::from_raw(skb), key.proto, &key.tuple, rival))
}

/// Takes the reply tuple with the port if no flow has it: the insertion is the reservation.
#[inline(always)]
fn reserve(found: &Found, port: Port) -> bool {
    xnat_reserve(found.reference.to_bits(), port.0.into()) != 0
}

/// As [`reserve`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_reserve(reference: u64, port: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    let port = Port(port as u16);
    let mut key = found.flow().key(Direction::Reply);
    key.tuple.dport = port;
    // Whoever hairpins to itself cannot have one tuple for both directions.
    if key == found.flow().key(Direction::Original) {
        return 0;
    }
    let backward = found.in_direction(Direction::Reply).reference;
    u32::from(index::insert_port(&key, backward, port))
}
