//! The index of the flow table, as seen from outside of the programs.

use aya::Ebpf;
use aya::maps::Array;
use xnat_common::Flow;
use xnat_common::index::{self, Bucket, Entry, Place};
use xnat_common::names::map as names;
use xnat_common::{Addr, Direction, FlowKey};

use crate::dataplane::map;
use crate::world::MAX_FLOWS;

/// What the table's seed is in these tests.
pub const SEED: u64 = 0x0123_4567_89ab_cdef;
/// One less than its number of buckets.
pub const MASK: u32 = index::buckets(MAX_FLOWS) - 1;

fn place(key: &FlowKey) -> Place {
    Place::of(key.words(), SEED, MASK)
}

fn buckets(ebpf: &mut Ebpf) -> Array<&mut aya::maps::MapData, Bucket> {
    map(ebpf, names::TUPLES)
}

/// Empties the index.
pub fn clear(ebpf: &mut Ebpf) {
    let mut buckets = buckets(ebpf);
    for at in 0..=MASK {
        buckets.set(at, &Bucket::default(), 0).expect("a bucket");
    }
}

/// Inserts both tuples of a flow.
pub fn insert(ebpf: &mut Ebpf, slot: u32, flow: &Flow) {
    let mut buckets = buckets(ebpf);
    for direction in [Direction::Original, Direction::Reply] {
        let place = place(&flow.key(direction));
        let mut bucket = buckets.get(&place.first, 0).expect("a bucket");
        let free = bucket.entries.iter_mut().find(|entry| **entry == 0).expect("room in the bucket");
        *free = Entry::new(place.tag, direction, slot).0;
        buckets.set(place.first, &bucket, 0).expect("a bucket");
    }
}

/// All entries.
pub fn entries(ebpf: &mut Ebpf) -> Vec<(u32, Entry)> {
    let buckets = buckets(ebpf);
    let mut entries = Vec::new();
    for at in 0..=MASK {
        let bucket = buckets.get(&at, 0).expect("a bucket");
        assert_eq!(bucket.version & Bucket::LOCKED, 0, "bucket {at} is locked");
        entries.extend(bucket.entries.into_iter().filter(|&entry| entry != 0).map(|entry| (at, Entry(entry))));
    }
    entries
}

/// Takes the entry of a live flow's tuple out of the list; false if it is not there, or not where it belongs.
pub fn take(entries: &mut Vec<(u32, Entry)>, slot: u32, flow: &Flow, direction: Direction) -> bool {
    let place = place(&flow.key(direction));
    let wanted = Entry::new(place.tag, direction, slot);
    let at = entries.iter().position(|&(bucket, it)| it == wanted && [place.first, place.second].contains(&bucket));
    at.map(|at| entries.swap_remove(at)).is_some()
}

/// Takes the entry out of the list by which a live flow lets its remote address in; false as for [`take`].
pub fn take_admission(entries: &mut Vec<(u32, Entry)>, slot: u32, flow: &Flow) -> bool {
    let place = Place::of(index::admission(flow.original.dst, flow.reply.dport, flow.proto), SEED, MASK);
    let wanted = Entry::admitting(place.tag, slot);
    let at = entries.iter().position(|&(bucket, it)| it == wanted && [place.first, place.second].contains(&bucket));
    at.map(|at| entries.swap_remove(at)).is_some()
}

/// The entries by which endpoints find their ports on the wire, with their numbers in `PORTS`.
pub fn moved(ebpf: &mut Ebpf) -> Vec<(u32, Entry, u32)> {
    entries(ebpf).into_iter().filter_map(|(bucket, entry)| Some((bucket, entry, entry.port()?))).collect()
}

/// Whether an entry of this bucket is that of the endpoint with this address and port toward a remote address, and lies
/// where it belongs.
pub fn is_of_endpoint(bucket: u32, entry: Entry, address: Addr, remote: Addr, own: u32) -> bool {
    let place = Place::of(index::moved(address, remote, own), SEED, MASK);
    entry.has_tag(place.tag) && [place.first, place.second].contains(&bucket)
}
