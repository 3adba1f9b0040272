//! The buckets of the index: looking one over, putting an entry in, taking one away.

use core::arch::asm;

use xnat_common::branchless::is_zero;
use xnat_common::index::{Bucket, CROWDED, ENTRIES, Entry, Place};

use crate::maps::TUPLES;
use crate::{atomic, maps};

/// The two buckets of a tuple.
pub struct Buckets {
    pub first: *mut Bucket,
    /// Its number alone, because it is seldom looked at.
    pub second: u32,
}

impl Buckets {
    #[inline(always)]
    pub fn second(&self) -> Option<*mut Bucket> {
        TUPLES.get_ptr_mut(self.second)
    }
}

#[inline(always)]
pub fn look(a: u64, b: u64) -> Option<(Place, Buckets)> {
    let config = maps::config()?;
    let place = Place::of([a, b], config.seed, config.bucket_mask);
    let buckets = Buckets { first: TUPLES.get_ptr_mut(place.first)?, second: place.second };
    Some((place, buckets))
}

#[inline(always)]
pub fn version(bucket: *mut Bucket) -> u64 {
    // SAFETY: a map value.
    unsafe { (&raw const (*bucket).version).read_volatile() }
}

/// Locks a bucket whose version was `before`, for an insertion; false if another processor inserts into it, or has done so
/// since. The version is another one afterwards, whatever was inserted.
#[inline(always)]
pub fn lock(bucket: *mut Bucket, before: u64) -> bool {
    // SAFETY: a field of a map value.
    before & Bucket::LOCKED == 0
        && unsafe { atomic::compare_and_swap(&raw mut (*bucket).version, before, before | Bucket::LOCKED) }
}

/// The reverse of [`lock`].
#[inline(always)]
pub fn unlock(bucket: *mut Bucket) {
    // SAFETY: a field of a map value. An atomic operation that fetches: it orders what comes before it for other processors.
    unsafe { atomic::fetch_add(&raw mut (*bucket).version, Bucket::STEP - Bucket::LOCKED) };
}

#[inline(always)]
pub fn read(bucket: *mut Bucket, at: usize) -> Entry {
    // SAFETY: a map value; the callers count to ENTRIES.
    Entry(unsafe { (&raw const (*bucket).entries).cast::<u64>().add(at).read_volatile() })
}

#[inline(always)]
fn swap(bucket: *mut Bucket, at: usize, old: Entry, new: Entry) -> bool {
    // SAFETY: as in read.
    unsafe { atomic::compare_and_swap((&raw mut (*bucket).entries).cast::<u64>().add(at), old.0, new.0) }
}

/// What one look over a bucket has seen, in one word: a bit for each entry that has the tag looked for, from bit 8 on one
/// for each place that is free, and from bit 16 on how many those are.
#[derive(Clone, Copy)]
pub struct Survey(u64);

impl Survey {
    /// Whether any entry has the tag.
    #[inline(always)]
    pub const fn has_any_tag(self) -> bool {
        self.0 as u8 != 0
    }

    #[inline(always)]
    pub const fn has_tag(self, at: usize) -> bool {
        self.0 >> at & 1 != 0
    }

    #[inline(always)]
    const fn is_free(self, at: usize) -> bool {
        self.0 >> (8 + at) & 1 != 0
    }

    #[inline(always)]
    const fn used(self) -> usize {
        ENTRIES - (self.0 >> 16) as usize
    }
}

/// Looks over a bucket, without a branch: the verifier would follow both sides of each.
#[inline(always)]
pub fn survey(bucket: *mut Bucket, tag: u32) -> Survey {
    let (mut at, mut seen) = (0, 0);
    while at < ENTRIES {
        let entry = read(bucket, at);
        seen |= is_zero(entry.tag_difference(tag)) << at;
        seen += is_zero(entry.upper_half()) * (0x100 << at | 1 << 16);
        at = next(at);
    }
    Survey(seen)
}

/// The number after `at`, without the compiler's knowing: it would unroll the loop, and the stack is short.
#[inline(always)]
pub fn next(mut at: usize) -> usize {
    // SAFETY: nothing but the number changes.
    unsafe { asm!("{0} += 1", inout(reg) at) };
    at
}

/// Puts an entry into a tuple's first bucket, which has been looked over, or into the second if the first is crowded; false if
/// there is no room.
#[inline(always)]
pub fn put(buckets: &Buckets, here: Survey, entry: Entry) -> bool {
    if here.used() < CROWDED && put_into(buckets.first, here, entry) {
        return true;
    }
    let Some(second) = buckets.second() else {
        return false;
    };
    let there = survey(second, 0);
    let spills = there.used() < here.used();
    if !spills && put_into(buckets.first, here, entry) {
        return true;
    }
    // Before the entry is there: who looks for it looks into the first bucket first.
    // SAFETY: a field of a map value.
    unsafe { atomic::fetch_or(&raw mut (*buckets.first).version, Bucket::SPILLED) };
    put_into(second, there, entry) || spills && put_into(buckets.first, here, entry)
}

/// Puts an entry where the look over the bucket has seen room, unless others have taken that since.
#[inline(always)]
fn put_into(bucket: *mut Bucket, seen: Survey, entry: Entry) -> bool {
    let mut at = 0;
    while at < ENTRIES {
        if seen.is_free(at) && swap(bucket, at, Entry::default(), entry) {
            return true;
        }
        at = next(at);
    }
    false
}

/// Puts `new` in the place of `old`, if the bucket has that.
#[inline(always)]
fn replace(bucket: *mut Bucket, old: Entry, new: Entry) -> bool {
    let mut at = 0;
    while at < ENTRIES {
        if read(bucket, at) == old && swap(bucket, at, old, new) {
            return true;
        }
        at = next(at);
    }
    false
}

#[inline(always)]
pub fn take_away(buckets: &Buckets, entry: Entry) -> bool {
    if replace(buckets.first, entry, Entry::default()) {
        return true;
    }
    match buckets.second() {
        Some(second) => replace(second, entry, Entry::default()),
        None => false,
    }
}
