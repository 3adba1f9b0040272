//! Ports on the wire: whether one is free, and taking it.
//!
//! A flow keeps its own port if that is free. Else one is looked for by `search`, unless `full` says that there is none.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::mapping::ForwardKey;
use xnat_common::packet::proto;
use xnat_common::port::may_keep;
use xnat_common::{Direction, Flow, FlowRef, Port, Ticks, host_port};

use crate::full::{xnat_is_full, xnat_note_full};
use crate::lookup::{self, Found};
use crate::mapping::{self, Goal};
use crate::maps;
use crate::search::{CHANGED, CLASH, KEPT, NONE, OTHER, RETRY, TIRED, find};
use crate::skb::{Skb, forgotten};
use crate::socket::{self, Rival};
use crate::{account, collect, filtering, index, kernel_flow, moved, quota};

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
    let (skb, goal, now) = (Skb::from_raw(skb), Goal::of(goal as u32), Ticks((goal >> 32) as u32));
    let flow = found.flow();
    let own = flow.original.sport;
    let (mut port, mut is_new) = (own, false);
    if !mapping::join(flow, goal, own) {
        match moved::find(&mapping::endpoint(flow, goal)) {
            Some(moved) if mapping::join(flow, goal, moved) => port = moved,
            None if may_begin(config, flow, goal) => is_new = true,
            _ => return NONE,
        }
    }
    // One way on for all of these.
    (port, is_new) = (Port(forgotten(port.0.into()) as u16), forgotten(is_new.into()) != 0);
    // If somebody else has the port toward this end, the flow needs another, for itself. Asked before a mapping begins:
    // others would join it meanwhile.
    let is_unused = is_unused_here(skb, config, &found, port, Rival::Any, now);
    if is_new && !(is_unused && mapping::begin(flow)) {
        return NONE;
    }
    if is_unused && reserve(&found, port) {
        settle(config, &found, goal);
        if is_new {
            maps::count_here(Counter::MappingsOpened);
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

/// Whether a mapping may begin with the flow's own port without a search. That somebody has the port is found out here, and
/// not after all that is asked besides.
#[inline(always)]
fn may_begin(config: &Config, flow: &Flow, goal: Goal) -> bool {
    goal as u32 == Goal::Endpoint as u32
        && config.max_ports == 0
        && may_keep(flow.proto, flow.reply.dport, config.first_port, config.last_port)
        && mapping::owner_of(flow.proto, flow.original.sport).is_free()
}

/// Notes what the flow, which has its port now, holds of a mapping.
#[inline(always)]
pub fn settle(config: &Config, found: &Found, goal: Goal) {
    match goal {
        Goal::Flow => {}
        Goal::Endpoint => account::mark(found, State::MAPPED | filtering::permit(config, found), 0),
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

/// Whether nobody but flows can have the port: neither the kernel's NAT, nor a socket of the host, nor a forward, nor the
/// peer link.
#[inline(always)]
pub fn is_unused(skb: Skb, found: &Found, port: Port, rival: Rival, now: Ticks) -> bool {
    let rival = u64::from(rival as u32 == Rival::Any as u32);
    let port_and_time = u64::from(now.0) << 32 | rival << 16 | u64::from(port.0);
    xnat_is_unused(skb.raw(), found.reference.to_bits(), port_and_time) != 0
}

/// Whether another flow has the reply tuple of this one with the port.
///
/// A global function, whose stack is not that of the search; so are the next ones.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_is_taken(reference: u64, port: u32) -> u32 {
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
    let rival = if port_and_time >> 16 & 1 == 1 { Rival::Any } else { Rival::Connected };
    is_unused_here(Skb::from_raw(skb), config, &found, port, rival, now).into()
}

#[inline(always)]
fn is_unused_here(skb: Skb, config: &Config, found: &Found, port: Port, rival: Rival, now: Ticks) -> bool {
    let mut key = found.flow().key(Direction::Reply);
    key.tuple.dport = port;
    let of_link = key.proto == proto::UDP && port.number() == host_port::LINK_PORT;
    if of_link || kernel_flow::knows(&key) {
        return false;
    }
    let any = rival as u32 == Rival::Any as u32;
    if any && socket::uses(key.proto, port, now) {
        return false;
    }
    if let Some(forward) = maps::forward(config, &ForwardKey { port, proto: key.proto, zero: 0 }) {
        // The container to which a forward leads may well be a client on that port too.
        let original = found.flow().original;
        if forward.address != original.src || forward.port != original.sport {
            return false;
        }
    }
    any && socket::are_all_noted(config, now) || !socket::takes(skb, key.proto, &key.tuple, rival)
}

/// Takes the reply tuple with the port if no flow has it: the insertion is the reservation.
#[inline(always)]
pub fn reserve(found: &Found, port: Port) -> bool {
    index::insert_port(found.in_direction(Direction::Reply).reference, port)
}
