//! Ports on the wire: finding one that nobody has, and taking it.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::packet::proto;
use xnat_common::port::{ATTEMPTS, candidate};
use xnat_common::{Direction, FlowRef, Port, Ticks, host_port};

use crate::lookup::{self, Found};
use crate::maps::{self, TUPLES};
use crate::skb::Skb;
use crate::socket::{self, Rival};
use crate::{account, kernel_flow};

/// Takes a port on the wire for a flow that is being opened: the one in its reply tuple, or another if that is taken.
#[inline(always)]
pub fn take(skb: Skb, found: &Found, now: Ticks) -> bool {
    let tried = xnat_search_port(skb.raw(), found.reference.to_bits(), 0, now.0);
    if tried > 1 {
        maps::count(Counter::PortsChanged);
    }
    tried != 0
}

/// Moves a flow to another port on the wire; false if there is none.
#[inline(always)]
pub fn change(skb: Skb, found: &Found, now: Ticks) -> bool {
    // Two messages about the same flow would both give up the port that it has.
    let state = found.state();
    if state.has(State::MOVING) || !found.change_state(state, State(state.0 | State::MOVING)) {
        return false;
    }
    let old = found.flow().key(Direction::Reply);
    // The first candidate is the port that the flow has; from the second on they are random.
    let moved = xnat_search_port(skb.raw(), found.reference.to_bits(), 1, now.0) != 0;
    if moved {
        let _ = TUPLES.remove(&old);
    }
    account::mark(found, 0, State::MOVING);
    moved
}

/// The search for a port.
struct Search {
    skb: *mut __sk_buff,
    reference: FlowRef,
    wanted: Port,
    first: u32,
    now: Ticks,
    /// How many candidates it took; zero while none was free.
    tried: u32,
}

/// Finds a free port from candidate number `first` on and takes it. Returns how many candidates that took, or zero.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_search_port(skb: *mut __sk_buff, reference: u64, first: u32, now: u32) -> u32 {
    let reference = FlowRef::from_bits(reference);
    let Some(found) = lookup::by_reference(reference) else {
        return 0;
    };
    let wanted = found.flow().reply.dport;
    let mut search = Search { skb, reference, wanted, first, now: Ticks(now), tried: 0 };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(ATTEMPTS, attempt as *mut c_void, (&raw mut search).cast(), 0) };
    search.tried
}

extern "C" fn attempt(nth: u64, search: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `xnat_search_port` gave it.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Some(found) = lookup::by_reference(search.reference) else {
        return 1;
    };
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    let nth = nth as u32 + search.first;
    let Some(candidate) = candidate(found.flow().proto, search.wanted, nth, random) else {
        return 1;
    };
    if !is_free(Skb::from_raw(search.skb), &found, candidate, search.now) || !reserve(&found, candidate) {
        return 0;
    }
    search.tried = nth + 1;
    1
}

/// Whether neither the kernel's NAT nor a socket of the host has the port.
#[inline(always)]
fn is_free(skb: Skb, found: &Found, candidate: Port, now: Ticks) -> bool {
    let mut key = found.flow().key(Direction::Reply);
    key.tuple.dport = candidate;
    let of_link = key.proto == proto::UDP && candidate.number() == host_port::LINK_PORT;
    if of_link || kernel_flow::knows(&key) {
        return false;
    }
    // A flow of the host's own keeps the port of the socket that opens it.
    if found.flow().kind == Kind::Host as u8 {
        return !socket::takes(skb, key.proto, &key.tuple, Rival::Connected);
    }
    !socket::uses(key.proto, candidate, now) && !socket::takes(skb, key.proto, &key.tuple, Rival::Any)
}

/// Takes the port if no flow has it: the insertion is the reservation.
#[inline(always)]
fn reserve(found: &Found, candidate: Port) -> bool {
    let mut key = found.flow().key(Direction::Reply);
    key.tuple.dport = candidate;
    if TUPLES.insert(&key, &found.in_direction(Direction::Reply).reference, u64::from(BPF_NOEXIST)).is_err() {
        return false;
    }
    // The flow that is being moved may have ended in the meantime, and the slot have another one.
    if found.word().generation() != found.reference.generation() {
        let _ = TUPLES.remove(&key);
        return false;
    }
    // SAFETY: one aligned store of two bytes; nobody can read a half of it.
    unsafe { (&raw mut (*found.flow).reply.dport).write_volatile(candidate) };
    true
}
