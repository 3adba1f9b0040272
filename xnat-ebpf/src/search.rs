//! Searching a port: the flow's own, a few at random, then all of them, one after the other from a random place on. The search
//! ends only when there is none.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::mapping::Class;
use xnat_common::port::{RANDOM_ATTEMPTS, Range, has_classes, is_privileged, may_keep, pick, range};
use xnat_common::{Direction, FlowKey, FlowRef, Port, Ticks, Tuple};

use crate::lookup;
use crate::mapping::{self, Claimed, Goal};
use crate::port::{is_unused, reserve, settle, xnat_is_taken};
use crate::skb::{Skb, forgotten};
use crate::socket::Rival;
use crate::{index, maps, walks};

/// Nothing was found.
pub const NONE: u32 = 0;
/// The flow has its own port.
pub const KEPT: u32 = 1;
/// The flow has another port.
pub const CHANGED: u32 = 2;
/// The port of the flow's mapping is somebody else's toward its other end.
pub const CLASH: u32 = 3;
/// Another packet of the endpoint has just got it a mapping.
pub const RETRY: u32 = 4;
/// Nothing was found at random, and enough walks have been made for the moment.
pub const TIRED: u32 = 5;

/// A flag beside the goal: the flow's own port is not wanted.
pub const OTHER: u32 = 1 << 8;
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
pub fn find(skb: Skb, reference: u64, goal: u32, now: u32) -> u32 {
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
    let Some(Range { first, count }) = range else {
        return NONE;
    };
    // Otherwise the verifier would follow the search for each way to this range.
    let range = Range { first: forgotten(first.into()) as u16, count: forgotten(count.into()) as u32 };
    let mut search = Search { skb, reference: FlowRef::from_bits(reference), goal, range, start: 0, found: NONE };
    search_range(&mut search);
    search.found
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
    let at_random = search.range.at(search.range.place(unsafe { bpf_get_prandom_u32() })).number();
    let Some(found) = lookup::by_reference(search.reference) else {
        return 1;
    };
    let flow = found.flow();
    let Some(class) = Class::of(flow.proto) else {
        return 1;
    };
    // Who has no mapping here leaves the ports alone that are others' as long as that is easy. In a pool that is nearly used
    // up that is most of them, and this is all that they cost.
    let first = at_random & !63;
    let free = !mapping::taken(class, first) & search.range.among(first);
    let place = xnat_pick(free, u32::from(at_random & 63));
    if place >= u64::BITS {
        return 0;
    }
    let port = Port::new(first | place as u16);
    search.found = xnat_try_port(search.skb, search.reference.to_bits(), search.goal | UNOWNED, port.0.into());
    i64::from(search.found != NONE)
}

/// As [`pick`].
///
/// A global function, because the verifier would follow all its ways for each class and range.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_pick(bits: u64, start: u32) -> u32 {
    pick(bits, start % u64::BITS)
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
    // The processor does not wait for the record's answer, which is foreseen: so where the tuple's entry goes is fetched
    // together with it, and not for ports that are somebody's, of which a walk may meet all.
    index::prefetch(config, &FlowKey { tuple: Tuple { dport: port, ..flow.reply }, ..flow.key(Direction::Reply) });
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
    if port != flow.original.sport && !found.state().has(State::MOVING) {
        maps::count(Counter::PortsChanged);
    }
    CHANGED
}
