//! Whom ports let in: entries in the index by which flows let their remote addresses in.

use xnat_common::branchless::is_zero;
use xnat_common::index::{Bucket, ENTRIES, Entry, admission};
use xnat_common::mapping::Owner;
use xnat_common::{Addr, Flow, FlowRef, Port};

use crate::bucket::{look, next, put, read, survey, version};
use crate::index;
use crate::maps::FLOWS;

/// Enters that a flow lets its remote address in at its port; false if there is no room.
#[inline(always)]
pub fn enter(reference: FlowRef) -> bool {
    xnat_admit(reference.to_bits()) != 0
}

/// As [`enter`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_admit(reference: u64) -> u32 {
    let reference = FlowRef::from_bits(reference);
    let Some(flow) = FLOWS.get(reference.index()) else {
        return 0;
    };
    let [a, b] = admission(flow.original.dst, flow.reply.dport, flow.proto);
    // Without the lock: two flows may enter the same at once, and each takes its own entry away.
    match look(a, b) {
        Some((place, buckets)) => {
            let here = survey(buckets.first, place.tag);
            put(&buckets, here, Entry::admitting(place.tag, reference.index())).into()
        }
        None => 0,
    }
}

/// Takes away what [`enter`] has entered for the flow in a slot.
#[inline(always)]
pub fn remove(flow: &Flow, slot: u32) {
    index::remove_entry(admission(flow.original.dst, flow.reply.dport, flow.proto), Entry::admitting(0, slot));
}

/// The endpoint whose flow lets a remote address in at a port, with one session; [`Owner::NONE`] if no flow does.
#[inline(always)]
pub fn find(remote: Addr, port: Port, proto: u8) -> Owner {
    Owner(xnat_admitted(remote.0, port.0.into(), proto.into()))
}

/// As [`find`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_admitted(remote: u32, port: u32, proto: u32) -> u64 {
    let (remote, port, proto) = (Addr(remote), Port(port as u16), proto as u8);
    let [a, b] = admission(remote, port, proto);
    let Some((place, buckets)) = look(a, b) else {
        return Owner::NONE.0;
    };
    let first = scan(buckets.first, place.tag, remote, port, proto);
    if first != Owner::NONE || version(buckets.first) & Bucket::SPILLED == 0 {
        return first.0;
    }
    match buckets.second() {
        Some(second) => scan(second, place.tag, remote, port, proto).0,
        None => Owner::NONE.0,
    }
}

#[inline(always)]
fn scan(bucket: *mut Bucket, tag: u32, remote: Addr, port: Port, proto: u8) -> Owner {
    let (seen, mut at) = (survey(bucket, tag), 0);
    while at < ENTRIES && seen.has_any_tag() {
        let entry = read(bucket, at);
        if seen.has_tag(at)
            && entry.admits()
            && let Some(flow) = FLOWS.get(entry.slot())
            && is_of(flow, remote, port, proto)
        {
            return Owner::new(flow.original.src, flow.original.sport, 1);
        }
        at = next(at);
    }
    Owner::NONE
}

/// Whether a record is that of a live flow at this port, with this remote address.
#[inline(always)]
fn is_of(flow: &Flow, remote: Addr, port: Port, proto: u8) -> bool {
    let word = index::word((&raw const *flow).cast_mut());
    let another = u64::from(flow.original.dst.0 ^ remote.0)
        | u64::from(flow.reply.dport.0 ^ port.0) << 32
        | u64::from(flow.proto ^ proto) << 48;
    // One question in place of four.
    is_zero(another) & u64::from(word.is_live()) != 0
}
