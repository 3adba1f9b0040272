//! Filtering: which remote addresses a mapping has sessions with, and so whom it lets in.

use xnat_common::config::Config;
use xnat_common::flow::State;
use xnat_common::mapping::{Class, Dependence, Owner, Remote};
use xnat_common::{Addr, Flow, FlowRef, Port};

use crate::lookup::{self, Found};
use crate::mapping::{of_port, remote};
use crate::maps::REMOTES;
use crate::session::{RETRIES, exit, insert_remote, join_remote, remote_key};
use crate::{admission, atomic};

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
    if admission::find(remote(flow), port, flow.proto).is_free() && admission::enter(found.reference) {
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
    let indexed = admission::find(remote, port, protocol);
    let far = if indexed.is_free() { by_remote() } else { indexed };
    if far.is(owner.address(), owner.port()) { far } else { Owner::NONE }
}

/// Takes a flow off the sessions that its mapping has with its remote address: the reverse of [`permit`].
#[inline(always)]
pub fn retract(flow: &Flow, slot: u32, state: State) {
    let port = flow.reply.dport;
    if state.has(State::REMOTE_INDEXED) {
        admission::remove(flow, slot);
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
