//! Mappings: the port on the wire that an endpoint inside has toward everybody, or toward one remote address.
//!
//! Every word that several packets change at once is changed by compare-and-swap. A mapping is as many sessions as there
//! are flows that use it; the flow that leaves last takes it apart.

use aya_ebpf::bindings::BPF_NOEXIST;
use xnat_common::config::Config;
use xnat_common::flow::{Kind, State};
use xnat_common::mapping::{self, Class, Dependence, Endpoint, Mapping, Owner, Remote, RemoteEntry, RemoteKey};
use xnat_common::{Addr, Flow, FlowRef, Port};

use crate::lookup::{self, Found};
use crate::maps::{self, PORTS, REMOTES};
use crate::{account, atomic, index, quota};

/// How often a word is looked at again that another processor has changed in between.
const RETRIES: u32 = 8;

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
fn remote(flow: &Flow) -> Addr {
    flow.original.dst
}

/// The key under which an endpoint's port is found if it is not its own.
#[inline(always)]
pub fn endpoint(flow: &Flow, goal: Goal) -> Endpoint {
    let remote = if goal as u32 == Goal::Remote as u32 { remote(flow) } else { Addr::UNSPECIFIED };
    Endpoint { address: flow.original.src, remote, port: flow.original.sport, proto: flow.proto, zero: 0 }
}

/// The record of a port.
#[inline(always)]
pub fn of_port(protocol: u8, port: Port) -> Option<*mut Mapping> {
    PORTS.get_ptr_mut(mapping::index(Class::of(protocol)?, port))
}

/// Who has a port.
#[inline(always)]
pub fn owner_of(protocol: u8, port: Port) -> Owner {
    match of_port(protocol, port) {
        // SAFETY: a value of an array.
        Some(mapping) => unsafe { (&raw const (*mapping).owner).read_volatile() },
        None => Owner::NONE,
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
    of_port(flow.proto, own).is_some_and(|mapping| {
        // SAFETY: a field of a map value.
        unsafe {
            let word = (&raw mut (*mapping).owner).cast();
            atomic::compare_and_swap(word, Owner::NONE.0, Owner::new(address, own, 1).0)
        }
    })
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

/// Takes a port that nobody has for the flow's endpoint.
#[inline(always)]
pub fn claim(found: &Found, goal: Goal, port: Port) -> Claimed {
    match goal {
        Goal::Flow => Claimed::YES,
        Goal::Endpoint => Claimed(xnat_claim(found.reference.to_bits(), port.0.into(), 0)),
        Goal::Remote => Claimed(xnat_claim(found.reference.to_bits(), port.0.into(), 1)),
    }
}

/// As [`claim`]: toward everybody, or toward the remote address alone.
///
/// A global function, which the verifier checks once by itself, and whose stack is not that of the search.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_claim(reference: u64, port: u32, by_remote: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return Claimed::NO.0;
    };
    let (flow, port) = (found.flow(), Port(port as u16));
    let goal = if by_remote == 0 { Goal::Endpoint } else { Goal::Remote };
    let (address, own) = (flow.original.src, flow.original.sport);
    let owner = Owner::new(address, own, 1);
    if by_remote == 0 {
        let Some(mapping) = of_port(flow.proto, port) else {
            return Claimed::NO.0;
        };
        // SAFETY: a field of a map value.
        let before = unsafe {
            let word = &raw mut (*mapping).owner;
            if atomic::compare_and_swap(word.cast(), Owner::NONE.0, owner.0) {
                Owner::NONE
            } else {
                word.read_volatile()
            }
        };
        if !before.is_free() {
            return if before.is(address, own) { Claimed::ELSEWHERE.0 } else { Claimed::NO.0 };
        }
    } else {
        let key = remote_key(remote(flow), port, flow.proto);
        if !insert_remote(&key, owner) {
            let entry = REMOTES.get_ptr(&key);
            // SAFETY: read at once.
            let own = entry.is_some_and(|it| unsafe { (&raw const (*it).owner).read_volatile() }.is(address, own));
            return if own { Claimed::ELSEWHERE.0 } else { Claimed::NO.0 };
        }
    }
    if port == own || maps::move_endpoint(&endpoint(flow, goal), port) {
        return Claimed::YES.0;
    }
    vacate(flow, goal, port);
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
            maps::forget_endpoint(&endpoint(flow, goal));
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
        // SAFETY: a field of a map value. Nobody else writes it while a session of ours or the mark of its leaving is in it.
        unsafe { (&raw mut (*mapping).owner).write_volatile(Owner::NONE) };
    }
}

/// Notes that a session of a mapping toward everybody is with its remote address, so that filtering lets that in. Returns
/// the bit of [`State`] that says where it was noted, or none.
#[inline(always)]
pub fn permit(config: &Config, found: &Found) -> u32 {
    let flow = found.flow();
    let by_address = |class| config.filtering(class) as u8 == Dependence::Address as u8;
    if !Class::of(flow.proto).is_some_and(by_address) {
        return 0;
    }
    let Some(mapping) = of_port(flow.proto, flow.reply.dport) else {
        return 0;
    };
    // SAFETY: a field of a map value.
    let word = unsafe { (&raw mut (*mapping).remote).cast::<u64>() };
    // SAFETY: as above. Nobody is noted yet of most ports.
    let first = unsafe { atomic::compare_and_swap(word, Remote::default().0, Remote::new(remote(flow), 1).0) };
    if first { State::REMOTE_NEAR } else { xnat_permit(found.reference.to_bits()) }
}

/// As [`permit`], where filtering is by address, for a port of which somebody is noted.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_permit(reference: u64) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    let flow = found.flow();
    let port = flow.reply.dport;
    let Some(mapping) = of_port(flow.proto, port) else {
        return 0;
    };
    // SAFETY: a field of a map value.
    let word = unsafe { (&raw mut (*mapping).remote).cast::<u64>() };
    for _ in 0..RETRIES {
        // SAFETY: as above.
        let old = Remote(unsafe { word.read_volatile() });
        if old.sessions() != 0 && old.address() != remote(flow) {
            break;
        }
        let new = Remote::new(remote(flow), old.sessions() + 1);
        // SAFETY: as above.
        if unsafe { atomic::compare_and_swap(word, old.0, new.0) } {
            return State::REMOTE_NEAR;
        }
    }
    // The first of several sessions with one address has its own entry in the index, which is all that most have.
    if index::admitted(remote(flow), port, flow.proto).is_free() && index::admit(found.reference) {
        return State::REMOTE_INDEXED;
    }
    let key = remote_key(remote(flow), port, flow.proto);
    let (address, own) = (flow.original.src, flow.original.sport);
    if insert_remote(&key, Owner::new(address, own, 1)) || join_remote(&key, address, own) {
        return State::REMOTE_FAR;
    }
    0
}

/// Whether a mapping of ours lets a remote address in at a port, and to whom. `Owner::NONE` if nobody has the port, or
/// not toward it.
#[inline(always)]
pub fn admits(config: &Config, protocol: u8, port: Port, remote: Addr) -> Owner {
    let Some(class) = Class::of(protocol) else {
        return Owner::NONE;
    };
    if config.filtering(class) as u8 == Dependence::AddressAndPort as u8 {
        return Owner::NONE;
    }
    let by_remote = || {
        let entry = REMOTES.get_ptr(&remote_key(remote, port, protocol));
        // SAFETY: read at once.
        let owner = entry.map_or(Owner::NONE, |entry| unsafe { (&raw const (*entry).owner).read_volatile() });
        if owner.is_leaving() { Owner::NONE } else { owner }
    };
    if config.mapping(class) as u8 != Dependence::Endpoint as u8 {
        return by_remote();
    }
    let Some(mapping) = of_port(protocol, port) else {
        return Owner::NONE;
    };
    // SAFETY: fields of a map value.
    let (owner, near) =
        unsafe { ((&raw const (*mapping).owner).read_volatile(), (&raw const (*mapping).remote).read_volatile()) };
    if owner.is_free() || owner.is_leaving() {
        return Owner::NONE;
    }
    let anybody = config.filtering(class) as u8 == Dependence::Endpoint as u8;
    if anybody || near.sessions() != 0 && near.address() == remote {
        return owner;
    }
    let indexed = index::admitted(remote, port, protocol);
    let far = if indexed.is_free() { by_remote() } else { indexed };
    if far.is(owner.address(), owner.port()) { far } else { Owner::NONE }
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
        retract(flow, slot, state);
    }
    release_port(flow, goal);
}

/// Takes a flow off the sessions that its mapping has with its remote address: the reverse of [`permit`].
#[inline(always)]
fn retract(flow: &Flow, slot: u32, state: State) {
    let port = flow.reply.dport;
    if state.has(State::REMOTE_INDEXED) {
        index::expel(flow, slot);
    }
    if state.has(State::REMOTE_NEAR)
        && let Some(mapping) = of_port(flow.proto, port)
    {
        // SAFETY: a field of a map value. The address stays as long as any session is counted, so this takes one off.
        unsafe { atomic::add((&raw mut (*mapping).remote).cast(), u64::MAX) };
    }
    if state.has(State::REMOTE_FAR) {
        let key = remote_key(remote(flow), port, flow.proto);
        // SAFETY: a map value, which stays this key's as long as our session is counted.
        if REMOTES.get_ptr_mut(&key).is_some_and(|it| unsafe { exit(&raw mut (*it).owner) }) {
            let _ = REMOTES.remove(&key);
        }
    }
}

/// Gives a flow's port back, and takes it off its container's quota if nobody has it any more.
#[inline(always)]
fn release_port(flow: &Flow, goal: Goal) {
    if depart(flow, goal, flow.reply.dport) || goal as u32 == Goal::Flow as u32 {
        quota::give_back(flow.original.src);
    }
}

/// One session more, if the word is still the endpoint's.
///
/// # Safety
/// `word` is a field of a map value.
#[inline(always)]
unsafe fn enter(word: *mut Owner, address: Addr, port: Port) -> bool {
    xnat_enter(word, address.0, port.0.into()) != 0
}

/// As [`enter`].
///
/// A global function, which the verifier checks once by itself; so is [`xnat_exit`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_enter(word: *mut Owner, address: u32, port: u32) -> u32 {
    if word.is_null() {
        return 0;
    }
    for _ in 0..RETRIES {
        // SAFETY: the verifier lets nothing pass but memory of the type's size, or a null pointer.
        let old = unsafe { word.read_volatile() };
        if !old.is(Addr(address), Port(port as u16)) {
            return 0;
        }
        if old.is_leaving() {
            continue;
        }
        let Some(new) = old.joined() else {
            return 0;
        };
        // SAFETY: as above.
        if unsafe { atomic::compare_and_swap(word.cast(), old.0, new.0) } {
            return 1;
        }
    }
    0
}

/// One session less. True if it was the last one: then the word is marked, and the caller has to finish.
///
/// # Safety
/// As [`enter`].
#[inline(always)]
unsafe fn exit(word: *mut Owner) -> bool {
    xnat_exit(word) != 0
}

/// As [`exit`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_exit(word: *mut Owner) -> u32 {
    if word.is_null() {
        return 0;
    }
    for _ in 0..RETRIES * 2 {
        // SAFETY: the verifier lets nothing pass but memory of the type's size, or a null pointer.
        let old = unsafe { word.read_volatile() };
        if old.sessions() == 0 || old.is_leaving() {
            return 0;
        }
        let new = old.left();
        // SAFETY: as above.
        if unsafe { atomic::compare_and_swap(word.cast(), old.0, new.0) } {
            return u32::from(new.is_leaving());
        }
    }
    0
}

#[inline(always)]
fn remote_key(remote: Addr, port: Port, protocol: u8) -> RemoteKey {
    RemoteKey { remote, port, proto: protocol, zero: 0 }
}

#[inline(always)]
fn insert_remote(key: &RemoteKey, owner: Owner) -> bool {
    REMOTES.insert(key, &RemoteEntry { owner, key: *key }, u64::from(BPF_NOEXIST)).is_ok()
}

#[inline(always)]
fn join_remote(key: &RemoteKey, address: Addr, own: Port) -> bool {
    let Some(entry) = REMOTES.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a map value; elements are used again, but only for the same map.
    unsafe {
        if !enter(&raw mut (*entry).owner, address, own) {
            return false;
        }
        // The element may have become another key's in the meantime, of the same endpoint.
        if (&raw const (*entry).key).read_volatile() == *key {
            return true;
        }
        let _ = exit(&raw mut (*entry).owner);
    }
    false
}
