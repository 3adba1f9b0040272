//! The index of the flow table, as seen from outside of the programs.

use aya::Ebpf;
use aya::maps::Array;
use xnat_common::Flow;
use xnat_common::index::{self, Bucket, Entry, Place};
use xnat_common::names::map as names;
use xnat_common::{Direction, FlowKey};

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
