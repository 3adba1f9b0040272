//! Endpoints whose port on the wire is not their own: which one it is.
//!
//! It is found by an entry in the index, which says no more than the port; whose that is `PORTS` says, or, toward a remote
//! address alone, `REMOTES`. Ports go by their number in `PORTS`.

use xnat_common::index::{Bucket, ENTRIES, Entry, moved};
use xnat_common::mapping::{self, Class, Endpoint, is_same_class, port_at};
use xnat_common::{Addr, FlowRef, Port};

use crate::bucket::{Survey, lock, look, next, put, read, survey, unlock, version};
use crate::index::{self, BUSY, INSERTED, TAKEN};
use crate::mapping::{Goal, endpoint, owner_toward};
use crate::skb::forgotten;
use crate::{lookup, maps};

/// No port.
const NONE: u32 = u32::MAX;
/// How often an insertion begins anew because another processor inserts into the same bucket: often enough that it has gone
/// on by then, because who gives up gets a port outside of its mapping.
const PATIENCE: u32 = 64;

/// The port on the wire of an endpoint that does not have its own.
#[inline(always)]
pub fn find(endpoint: &Endpoint) -> Option<Port> {
    // A look where nothing is would be one at a line of memory that nobody has looked at of late.
    if !maps::has_moved() {
        return None;
    }
    let port = xnat_find_moved(endpoint.address.0, endpoint.remote.0, number(endpoint)?, endpoint.proto.into());
    (port != NONE).then(|| port_at(port))
}

/// Remembers that the endpoint of a flow has a `port` that is not its own; false if it has another one. `goal` is a [`Goal`],
/// `port` in network order.
#[inline(always)]
pub fn enter(reference: u64, goal: u32, port: u32) -> bool {
    // Before it is there, so that nobody overlooks it.
    maps::count_moved(1);
    for _ in 0..PATIENCE {
        match xnat_insert_moved(reference, goal, port) {
            BUSY => {}
            INSERTED => return true,
            _ => break,
        }
    }
    maps::count_moved(u64::MAX);
    false
}

/// The reverse of [`enter`].
#[inline(always)]
pub fn forget(endpoint: &Endpoint, port: Port) {
    if take_out(endpoint, port).unwrap_or(false) {
        maps::count_moved(u64::MAX);
    }
}

/// The number of an endpoint's own port.
#[inline(always)]
fn number(endpoint: &Endpoint) -> Option<u32> {
    Some(mapping::index(Class::of(endpoint.proto)?, endpoint.port))
}

#[inline(always)]
fn take_out(endpoint: &Endpoint, port: Port) -> Option<bool> {
    let own = number(endpoint)?;
    let entry = Entry::moving(0, mapping::index_beside(own, port));
    Some(index::remove_entry(moved(endpoint.address, endpoint.remote, own), entry))
}

/// The port that the endpoint with this address and port has toward a remote address, or toward everybody, if that is
/// [`Addr::UNSPECIFIED`]; or [`NONE`].
///
/// A global function, which the verifier checks once by itself; so are the others.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_find_moved(address: u32, remote: u32, own: u32, proto: u32) -> u32 {
    let whose = Endpoint { address: Addr(address), remote: Addr(remote), port: port_at(own), proto: proto as u8 };
    let [a, b] = moved(whose.address, whose.remote, own);
    let Some((place, buckets)) = look(a, b) else {
        return NONE;
    };
    let found = scan(buckets.first, survey(buckets.first, place.tag), &whose, own);
    if found != NONE || version(buckets.first) & Bucket::SPILLED == 0 {
        return found;
    }
    buckets.second().map_or(NONE, |second| scan(second, survey(second, place.tag), &whose, own))
}

/// Puts the entry of a flow's endpoint where it belongs, for this port. Returns [`INSERTED`]; [`TAKEN`] if the endpoint has an
/// entry, if there is no room, or if the flow has ended or has no ports; or [`BUSY`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_insert_moved(reference: u64, goal: u32, port: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return TAKEN;
    };
    let whose = endpoint(found.flow(), Goal::of(goal));
    let Some(own) = number(&whose) else {
        return TAKEN;
    };
    // One way on for all classes.
    let own = forgotten(own.into()) as u32;
    let [a, b] = moved(whose.address, whose.remote, own);
    let Some((place, buckets)) = look(a, b) else {
        return TAKEN;
    };
    let before = version(buckets.first);
    if before & Bucket::LOCKED != 0 {
        return BUSY;
    }
    let here = survey(buckets.first, place.tag);
    if scan(buckets.first, here, &whose, own) != NONE {
        return TAKEN;
    }
    if before & Bucket::SPILLED != 0
        && let Some(second) = buckets.second()
        && scan(second, survey(second, place.tag), &whose, own) != NONE
    {
        return TAKEN;
    }
    // As for a tuple: whoever has inserted anything with this first bucket since the look has changed the version.
    if !lock(buckets.first, before) {
        return BUSY;
    }
    let port = mapping::index_beside(own, Port(port as u16));
    let placed = put(&buckets, here, Entry::moving(place.tag, port));
    unlock(buckets.first);
    if placed { INSERTED } else { TAKEN }
}

/// The port that an entry of a bucket, which has been looked over, leads to, if it is the endpoint's with this `own` one.
#[inline(always)]
fn scan(bucket: *mut Bucket, seen: Survey, whose: &Endpoint, own: u32) -> u32 {
    let mut at = 0;
    while at < ENTRIES && seen.has_any_tag() {
        if seen.has_tag(at)
            && let Some(port) = read(bucket, at).port()
            && is_same_class(port, own)
            && owner_toward(whose.remote, whose.proto, port).is(whose.address, whose.port)
        {
            return port;
        }
        at = next(at);
    }
    NONE
}
