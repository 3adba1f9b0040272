//! Mappings: the port on the wire that an endpoint inside has toward everybody, or toward one remote address.
//!
//! Every word that several packets change at once is changed by compare-and-swap. A mapping is as many sessions as there
//! are flows that use it; the flow that leaves last takes it apart.

use xnat_common::config::Config;
use xnat_common::flow::{Kind, State};
use xnat_common::mapping::{self, Class, Dependence, Endpoint, Mapping, Owner};
use xnat_common::{Addr, Flow, FlowRef, Port};

use crate::lookup::{self, Found};
use crate::maps::{PORTS, REMOTES, TAKEN};
use crate::session::{enter, exit, insert_remote, join_remote, remote_key};
use crate::{account, atomic, filtering, moved, quota};

/// What a flow's port on the wire is to belong to.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// To the flow alone: nobody else has it toward the same other end.
    Flow = 0,
    /// To the endpoint, toward everybody.
    Endpoint = 1,
    /// To the endpoint, toward the remote address.
    Remote = 2,
}

impl Goal {
    /// From its number.
    #[inline(always)]
    pub fn of(number: u32) -> Self {
        match number {
            0 => Self::Flow,
            1 => Self::Endpoint,
            _ => Self::Remote,
        }
    }
}

/// Whether a flow's port on the wire stands for a container. The host's own hairpins keep the port of their socket.
#[inline(always)]
pub fn is_containers(flow: &Flow) -> bool {
    flow.kind == Kind::Outside as u8 || flow.kind == Kind::Hairpin as u8 && flow.inside != 0
}

/// What the port of a flow is to belong to.
#[inline(always)]
pub fn goal(config: &Config, flow: &Flow) -> Goal {
    let Some(class) = Class::of(flow.proto) else {
        return Goal::Flow;
    };
    if !is_containers(flow) {
        return Goal::Flow;
    }
    match config.mapping(class) {
        Dependence::Endpoint => Goal::Endpoint,
        Dependence::Address => Goal::Remote,
        Dependence::AddressAndPort => Goal::Flow,
    }
}

/// The remote address as the container knows it: of a hairpin, this host's own.
#[inline(always)]
pub fn remote(flow: &Flow) -> Addr {
    flow.original.dst
}

/// The key under which an endpoint's port is found if it is not its own.
#[inline(always)]
pub fn endpoint(flow: &Flow, goal: Goal) -> Endpoint {
    let remote = if goal as u32 == Goal::Remote as u32 { remote(flow) } else { Addr::UNSPECIFIED };
    Endpoint { address: flow.original.src, remote, port: flow.original.sport, proto: flow.proto }
}

/// The record of a port.
#[inline(always)]
pub fn of_port(protocol: u8, port: Port) -> Option<*mut Mapping> {
    PORTS.get_ptr_mut(mapping::index(Class::of(protocol)?, port))
}

/// Who has a port.
#[inline(always)]
pub fn owner_of(protocol: u8, port: Port) -> Owner {
    Class::of(protocol).and_then(|class| owner_at(mapping::index(class, port))).unwrap_or(Owner::NONE)
}

/// Who has the port of a protocol with this number in `PORTS`, toward a remote address, or toward everybody.
#[inline(always)]
pub fn owner_toward(remote: Addr, protocol: u8, index: u32) -> Owner {
    Owner(xnat_owner_toward(remote.0, protocol.into(), index))
}

/// As [`owner_toward`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_owner_toward(remote: u32, protocol: u32, index: u32) -> u64 {
    let (remote, protocol) = (Addr(remote), protocol as u8);
    let owner = if remote == Addr::UNSPECIFIED {
        owner_at(index)
    } else {
        let entry = REMOTES.get_ptr(&remote_key(remote, mapping::port_at(index), protocol));
        // SAFETY: read at once.
        entry.map(|entry| unsafe { (&raw const (*entry).owner).read_volatile() })
    };
    owner.unwrap_or(Owner::NONE).0
}

#[inline(always)]
fn owner_at(index: u32) -> Option<Owner> {
    // SAFETY: a value of an array.
    PORTS.get_ptr(index).map(|mapping| unsafe { (&raw const (*mapping).owner).read_volatile() })
}

/// Which of the 64 ports from `first` on, a multiple of 64, somebody has: the lowest bit is that of the first. A look at
/// their records would be one at 16 lines of memory. It is a hint: who takes a port sets the bit a moment later, and who
/// frees one takes it away a moment before.
#[inline(always)]
pub fn taken(class: Class, first: u16) -> u64 {
    let (word, _) = mapping::taken_bit(mapping::index(class, Port::new(first)));
    TAKEN.get(word).map_or(u64::MAX, |word| *word)
}

/// Notes whether somebody has a port.
#[inline(always)]
fn note_taken(protocol: u8, port: Port, is_taken: bool) {
    let Some(class) = Class::of(protocol) else {
        return;
    };
    let (word, bit) = mapping::taken_bit(mapping::index(class, port));
    if let Some(word) = TAKEN.get_ptr_mut(word) {
        // SAFETY: a value of an array.
        unsafe {
            if is_taken {
                atomic::set(word, bit);
            } else {
                atomic::fetch_and(word, !bit);
            }
        }
    }
}

/// Makes the flow a session of the mapping that has `port`, if that is its endpoint's.
#[inline(always)]
pub fn join(flow: &Flow, goal: Goal, port: Port) -> bool {
    let (address, own) = (flow.original.src, flow.original.sport);
    if goal as u32 == Goal::Endpoint as u32 {
        return match of_port(flow.proto, port) {
            // SAFETY: a field of a map value.
            Some(mapping) => unsafe {
                let word = &raw mut (*mapping).owner;
                word.read_volatile().is(address, own) && enter(word, address, own)
            },
            None => false,
        };
    }
    join_remote(&remote_key(remote(flow), port, flow.proto), address, own)
}

/// Begins a mapping of the flow's endpoint, toward everybody, with the endpoint's own port; false if somebody has that.
#[inline(always)]
pub fn begin(flow: &Flow) -> bool {
    let (address, own) = (flow.original.src, flow.original.sport);
    let begun = of_port(flow.proto, own).is_some_and(|mapping| {
        // SAFETY: a field of a map value.
        unsafe {
            let word = (&raw mut (*mapping).owner).cast();
            atomic::compare_and_swap(word, Owner::NONE.0, Owner::new(address, own, 1).0)
        }
    });
    if begun {
        note_taken(flow.proto, own, true);
    }
    begun
}

/// What has become of a claim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Claimed(u32);

impl Claimed {
    /// Somebody else has the port.
    pub const NO: Self = Self(0);
    /// The endpoint has it.
    pub const YES: Self = Self(1);
    /// Another packet of the endpoint has found it a port in this moment, this one or another.
    pub const ELSEWHERE: Self = Self(2);
}

/// Takes a port that nobody has for the flow's endpoint, and notes where the endpoint finds it.
#[inline(always)]
pub fn claim(found: &Found, goal: Goal, port: Port) -> Claimed {
    let claimed = match goal {
        Goal::Flow => return Claimed::YES,
        Goal::Endpoint => Claimed(xnat_claim(found.reference.to_bits(), port.0.into())),
        Goal::Remote => Claimed(xnat_claim_toward(found.reference.to_bits(), port.0.into())),
    };
    if claimed != Claimed::YES || port == found.flow().original.sport {
        return claimed;
    }
    Claimed(xnat_note_moved(found.reference.to_bits(), goal as u32, port.0.into()))
}

/// Takes the port, as [`claim`], toward everybody.
///
/// A global function, which the verifier checks once by itself, and whose stack is not that of the search; so is the next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_claim(reference: u64, port: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return Claimed::NO.0;
    };
    let (flow, port) = (found.flow(), Port(port as u16));
    let (address, own) = (flow.original.src, flow.original.sport);
    let Some(mapping) = of_port(flow.proto, port) else {
        return Claimed::NO.0;
    };
    // SAFETY: a field of a map value.
    let before = unsafe {
        let word = &raw mut (*mapping).owner;
        if atomic::compare_and_swap(word.cast(), Owner::NONE.0, Owner::new(address, own, 1).0) {
            Owner::NONE
        } else {
            word.read_volatile()
        }
    };
    if !before.is_free() {
        return if before.is(address, own) { Claimed::ELSEWHERE.0 } else { Claimed::NO.0 };
    }
    note_taken(flow.proto, port, true);
    Claimed::YES.0
}

/// As [`xnat_claim`], toward the remote address alone.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_claim_toward(reference: u64, port: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return Claimed::NO.0;
    };
    let (flow, port) = (found.flow(), Port(port as u16));
    let (address, own) = (flow.original.src, flow.original.sport);
    let key = remote_key(remote(flow), port, flow.proto);
    if !insert_remote(&key, Owner::new(address, own, 1)) {
        let entry = REMOTES.get_ptr(&key);
        // SAFETY: read at once.
        let own = entry.is_some_and(|it| unsafe { (&raw const (*it).owner).read_volatile() }.is(address, own));
        return if own { Claimed::ELSEWHERE.0 } else { Claimed::NO.0 };
    }
    Claimed::YES.0
}

/// Notes where the endpoint of a flow finds the port that it has taken, or gives it up for the one that it has. Returns a
/// [`Claimed`].
///
/// A global function of its own, because its stack would be one too many on that of a claim.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_note_moved(reference: u64, goal: u32, port: u32) -> u32 {
    if moved::enter(reference, goal, port) {
        return Claimed::YES.0;
    }
    // Nobody else ends a flow that is being opened.
    if let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) {
        vacate(found.flow(), Goal::of(goal), Port(port as u16));
    }
    Claimed::ELSEWHERE.0
}

/// Gives back what a flow that got no port after all has taken by [`join`] or [`claim`]; true if that was the end of the
/// mapping.
#[inline(always)]
pub fn leave(found: &Found, goal: Goal, port: Port) -> bool {
    xnat_leave(found.reference.to_bits(), goal as u32, port.0.into()) != 0
}

/// As [`leave`].
///
/// A global function, whose stack is not that of the search.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_leave(reference: u64, goal: u32, port: u32) -> u32 {
    match lookup::by_reference(FlowRef::from_bits(reference)) {
        Some(found) => u32::from(depart(found.flow(), Goal::of(goal), Port(port as u16))),
        None => 0,
    }
}

/// Takes a session off a mapping; true if that was the end of it.
#[inline(always)]
fn depart(flow: &Flow, goal: Goal, port: Port) -> bool {
    let last = match goal {
        Goal::Flow => false,
        // SAFETY: a field of a map value.
        Goal::Endpoint => of_port(flow.proto, port).is_some_and(|it| unsafe { exit(&raw mut (*it).owner) }),
        // SAFETY: a map value, which stays this key's as long as our session is counted.
        Goal::Remote => REMOTES
            .get_ptr_mut(&remote_key(remote(flow), port, flow.proto))
            .is_some_and(|it| unsafe { exit(&raw mut (*it).owner) }),
    };
    if last {
        // The way to it first: whoever comes from now on gets a new one.
        if port != flow.original.sport {
            moved::forget(&endpoint(flow, goal), port);
        }
        vacate(flow, goal, port);
    }
    last
}

/// Frees a port that is ours to free.
#[inline(always)]
fn vacate(flow: &Flow, goal: Goal, port: Port) {
    if goal as u32 == Goal::Remote as u32 {
        let _ = REMOTES.remove(&remote_key(remote(flow), port, flow.proto));
    } else if let Some(mapping) = of_port(flow.proto, port) {
        note_taken(flow.proto, port, false);
        // SAFETY: a field of a map value. Nobody else writes it while a session of ours or the mark of its leaving is in it.
        unsafe { (&raw mut (*mapping).owner).write_volatile(Owner::NONE) };
    }
}

/// What a flow that came in through a mapping does when its container answers: it becomes a session of it, so that the
/// port stays. Before, an outsider alone could keep it (RFC 4787 REQ-6).
#[inline(always)]
pub fn hold(found: &Found) {
    let flow = found.flow();
    let port = flow.original.dport;
    let Some(mapping) = of_port(flow.proto, port) else {
        return;
    };
    // Whoever sets the bit enters, so that two answers at once are one session.
    let state = found.state();
    if state.has(State::MAPPED) || !found.change_state(state, State(state.0 | State::MAPPED)) {
        return;
    }
    // SAFETY: a field of a map value.
    if !unsafe { enter(&raw mut (*mapping).owner, flow.reply.src, flow.reply.sport) } {
        account::mark(found, 0, State::MAPPED);
    }
}

/// Lets go of everything that the flow in `slot` has held, which has just ended and whose slot is not free yet.
#[inline(always)]
pub fn release(flow: &Flow, slot: u32) {
    let state = State(flow.state);
    if flow.kind == Kind::Mapped as u8 {
        if state.has(State::MAPPED) {
            // As if the container had opened it.
            let outward = Flow { original: flow.reply, reply: flow.original, ..*flow };
            release_port(&outward, Goal::Endpoint);
        }
        return;
    }
    if !is_containers(flow) {
        return;
    }
    let goal = match (state.has(State::MAPPED), state.has(State::REMOTE_FAR)) {
        (true, _) => Goal::Endpoint,
        (false, true) => Goal::Remote,
        (false, false) => Goal::Flow,
    };
    if goal as u32 == Goal::Endpoint as u32 {
        filtering::retract(flow, slot, state);
    }
    release_port(flow, goal);
}

/// Gives a flow's port back, and takes it off its container's quota if nobody has it any more.
#[inline(always)]
fn release_port(flow: &Flow, goal: Goal) {
    if depart(flow, goal, flow.reply.dport) || goal as u32 == Goal::Flow as u32 {
        quota::give_back(flow.original.src);
    }
}
