//! The index of the flow table: where the two tuples of each flow lie in the `TUPLES` array.
//!
//! A bucket is one cache line, and a tuple may lie in either of two. An entry names the record and carries a part of the
//! tuple's hash; the tuple itself stands in the record alone. So finding a flow touches two lines of memory: a bucket and
//! the record.
//!
//! Entries come and go by compare-and-swap. Who inserts a tuple's, or an endpoint's, holds the version of its first bucket
//! meanwhile: of several who would insert the same one, one does. Entries by which flows let their remote addresses in need no
//! such care.

use bytemuck::{Pod, Zeroable};

use crate::branchless::{is_zero, select};
use crate::flow::Direction;
use crate::tuple::{FlowKey, Tuple};
use crate::{Addr, Port};

/// Entries of a bucket.
pub const ENTRIES: usize = 7;
/// A bucket that holds so many is left alone if the other one holds fewer.
pub const CROWDED: usize = 5;
/// Least number of buckets.
const BUCKETS_MIN: u32 = 64;

/// One bucket of the index.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Zeroable)]
pub struct Bucket {
    /// Bits of [`Bucket::LOCKED`] and [`Bucket::SPILLED`], and above them how often something was inserted whose first
    /// bucket this is.
    pub version: u64,
    /// The [`Entry`]s; zero where there is none.
    pub entries: [u64; ENTRIES],
}

const _: () = assert!(size_of::<Bucket>() == 64, "one cache line");

// SAFETY: repr(C), every field is Pod, and the assertion above shows that there is no padding.
unsafe impl Pod for Bucket {}

impl Bucket {
    /// Somebody inserts a tuple whose first bucket this is.
    pub const LOCKED: u64 = 1;
    /// Some tuple whose first bucket this is was put into its second one. Stays set.
    pub const SPILLED: u64 = 2;
    /// One insertion.
    pub const STEP: u64 = 4;
}

/// How many buckets a table of `max_flows` flows has: one a flow at least, for its two tuples and for the two entries that
/// some have beside. With the tuples alone about one in ten of a full table lies in its second bucket, and none finds both full
/// (it would take some 10^10 of them).
#[must_use]
pub const fn buckets(max_flows: u32) -> u32 {
    let buckets = if max_flows < BUCKETS_MIN { BUCKETS_MIN } else { max_flows };
    buckets.next_power_of_two()
}

/// Where a tuple lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first bucket.
    pub first: u32,
    /// Its second one.
    pub second: u32,
    /// What its entry carries of the hash: 31 bits.
    pub tag: u32,
}

impl Place {
    /// The place of the tuple with these [`FlowKey::words`], by the table's `seed`, among `mask` + 1 buckets.
    #[inline(always)]
    #[must_use]
    pub const fn of(words: [u64; 2], seed: u64, mask: u32) -> Self {
        let hash = hash(words, seed);
        let first = hash as u32 & mask;
        // Never the same one: there are at least two.
        let second = first ^ ((hash >> 24) as u32 & mask | 1);
        Self { first, second, tag: (hash >> 33) as u32 }
    }
}

/// A hash of 128 bits that depends on `seed` in a way that whoever does not know that cannot use. Multiplications by odd
/// numbers and shifts, as in the finalisers of `MurmurHash3` and its kin; the numbers are those of splitmix64.
#[inline(always)]
const fn hash([a, b]: [u64; 2], seed: u64) -> u64 {
    let mut hash = (a ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 32 ^ b).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 29).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 32
}

/// How many records the table of so many flows has room for: half as many again, so that few flows find both their homes
/// taken. No more than there are numbers; the sum saturates without a branch.
#[inline(always)]
#[must_use]
pub const fn slots(max_flows: u32) -> u32 {
    let slots = max_flows as u64 + (max_flows / 2) as u64;
    (slots | (slots >> 32).wrapping_neg()) as u32
}

/// The two slots in which the record of a flow with such a tuple lies if one of them was free: its homes, among `slots`.
///
/// They depend on the other end and on the port at this end. So a flow that has kept its port is at home for packets of both
/// directions, which find it there without the index; in the second home only where many are.
#[inline(always)]
#[must_use]
pub const fn homes([a, b]: [u64; 2], seed: u64, slots: u32) -> [u32; 2] {
    // One seen on the wire comes from the other end.
    let from_wire = b >> 40 & 1;
    let (src, dst, sport, dport) = (a & 0xffff_ffff, a >> 32, b & 0xffff, b >> 16 & 0xffff);
    let [remote, remote_port] = [select(from_wire, src, dst), select(from_wire, sport, dport)];
    let port = select(from_wire, dport, sport);
    let hash = hash([remote | remote_port << 32 | port << 48, b >> 32 & 0xff], seed);
    let other = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    [(((hash >> 32) * slots as u64) >> 32) as u32, (((other >> 32) * slots as u64) >> 32) as u32]
}

/// What stands where the side would be in the words of a [`FlowKey`], for a port on the wire and a remote address.
const ADMISSION: u64 = 2;

/// The words, as a hash takes them, of a port on the wire (of this protocol) toward a remote address: the place of the entry
/// that lets that address in.
#[inline(always)]
#[must_use]
pub const fn admission(remote: Addr, port: Port, proto: u8) -> [u64; 2] {
    [remote.0 as u64, port.0 as u64 | (proto as u64) << 32 | ADMISSION << 40]
}

/// What stands where the side would be in the words of a [`FlowKey`], for an endpoint.
const MOVED: u64 = 3;

/// The words, as a hash takes them, of an endpoint inside: the place of the entry that says which port it has on the wire,
/// if that is not its `own`, which is given by [`mapping::index`](crate::mapping::index); toward a remote address, or toward
/// everybody.
#[inline(always)]
#[must_use]
pub const fn moved(address: Addr, remote: Addr, own: u32) -> [u64; 2] {
    [address.0 as u64 | (remote.0 as u64) << 32, own as u64 | MOVED << 40]
}

/// An entry of a bucket: the record's slot in the lower half, or an endpoint's port, above it the direction and the tag.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Entry(pub u64);

impl Entry {
    /// The entry of a tuple by which packets of `direction` find the flow in `slot`. No entry is zero.
    #[inline(always)]
    #[must_use]
    pub fn new(tag: u32, direction: Direction, slot: u32) -> Self {
        Self((Self::upper(tag) | direction as u64) << 32 | u64::from(slot))
    }

    /// The entry by which the flow in `slot` lets its remote address in at its port; `tag` is that of [`admission`].
    #[inline(always)]
    #[must_use]
    pub fn admitting(tag: u32, slot: u32) -> Self {
        Self(Self::new(tag, Direction::Original, slot).0 | Self::ADMITS)
    }

    /// Whether it is such an entry, or that of an endpoint, and not of a tuple.
    #[inline(always)]
    #[must_use]
    pub const fn admits(self) -> bool {
        self.0 & Self::ADMITS != 0
    }

    /// The highest bit of the lower half; no table has so many slots.
    const ADMITS: u64 = 1 << 31;

    /// The entry by which an endpoint finds its port on the wire, by [`mapping::index`]; `tag` is that of [`moved`].
    ///
    /// [`mapping::index`]: crate::mapping::index
    #[inline(always)]
    #[must_use]
    pub fn moving(tag: u32, port: u32) -> Self {
        Self(Self::admitting(tag, port).0 | Self::MOVES)
    }

    /// The port, if it is such an entry.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> Option<u32> {
        const WHICH: u64 = Entry::ADMITS | Entry::MOVES;
        if self.0 & WHICH == WHICH { Some((self.0 & (Self::MOVES - 1)) as u32) } else { None }
    }

    /// The next lower bit.
    const MOVES: u64 = 1 << 30;

    /// The same entry with another tag.
    #[inline(always)]
    #[must_use]
    pub fn tagged(self, tag: u32) -> Self {
        const REST: u64 = (1 << 33) - 1;
        Self(self.0 & REST | Self::upper(tag) << 32)
    }

    /// Whether the entry may be of a tuple with this tag, in either direction.
    #[inline(always)]
    #[must_use]
    pub fn has_tag(self, tag: u32) -> bool {
        self.tag_difference(tag) == 0
    }

    /// Zero if the entry may be of a tuple with this tag, in either direction; of no more than 31 bits.
    #[inline(always)]
    #[must_use]
    pub fn tag_difference(self, tag: u32) -> u64 {
        (self.0 >> 32 ^ Self::upper(tag)) >> 1
    }

    /// Zero if there is no entry; of no more than 32 bits.
    #[inline(always)]
    #[must_use]
    pub const fn upper_half(self) -> u64 {
        self.0 >> 32
    }

    /// The record's slot in the `FLOWS` array.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 as u32 & !(Self::ADMITS as u32)
    }

    /// The direction as a number.
    #[inline(always)]
    #[must_use]
    pub const fn direction_bit(self) -> usize {
        (self.0 >> 32 & 1) as usize
    }

    /// The direction of packets that find the flow by this tuple.
    #[inline(always)]
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.direction_bit() == 0 { Direction::Original } else { Direction::Reply }
    }

    /// One tag stands for two, so that no entry is zero.
    #[inline(always)]
    fn upper(tag: u32) -> u64 {
        let tag = u64::from(tag);
        (tag | is_zero(tag)) << 1
    }
}

impl FlowKey {
    /// The key as two words, as the hash takes it.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        let [addresses, ports] = self.tuple.words();
        [addresses, ports | (self.proto as u64) << 32 | (self.side as u64) << 40]
    }
}

impl Tuple {
    /// The tuple as two words: the addresses, and the ports in the lower half.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        [self.src.0 as u64 | (self.dst.0 as u64) << 32, self.sport.0 as u64 | (self.dport.0 as u64) << 16]
    }
}
