//! Fragments of IPv4 datagrams (RFC 791 §3.2, RFC 815): what has been seen of one, where it goes, and what is kept of it.

use bytemuck::{Pod, Zeroable};

use crate::flow::FlowRef;
use crate::packet::{Headers, ipv4, proto};
use crate::{Addr, Ticks};

/// How long the fragments of a datagram may follow each other: Linux's `ipfrag_time`.
pub const LIFETIME: Ticks = Ticks::from_secs(30);
/// Datagrams whose fragments are followed at a time; a power of two, and what a [`Handle`] has room for.
pub const DATAGRAMS: u32 = 1 << SLOT_BITS;
/// Fragments that can be kept at a time; a power of two.
pub const HELD: u32 = 512;
/// The longest frame that is kept, in bytes: a jumbo frame.
pub const HELD_LEN: usize = 16_384;
/// Datagrams of which a source may have us await the rest.
pub const DATAGRAMS_A_SOURCE: u64 = 256;
/// Fragments that are kept for a source: more than the 45 of the longest datagram, twice.
pub const HELD_A_SOURCE: u64 = 128;
/// Fragment offsets count in units of this many octets.
pub const UNIT: u32 = 8;
/// Words of a datagram's bitmap, one bit a unit.
pub const WORDS: u32 = 65_536 / UNIT / u64::BITS;

const SLOT_BITS: u32 = 12;
const GENERATION_BITS: u32 = 12;

/// What identifies a datagram among its sender's, at a place where its fragments come in their order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FragmentKey {
    /// Source address, as seen on `side`.
    pub src: Addr,
    /// Destination address, as seen on `side`.
    pub dst: Addr,
    /// Identification, as it lies in the packet.
    pub id: u16,
    /// IP protocol number.
    pub proto: u8,
    /// A [`crate::Side`].
    pub side: u8,
}

/// Where the fragments of a datagram go that come in their order: the flow that the first one belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Fragment {
    /// The flow and the direction.
    pub flow: FlowRef,
    /// When the first fragment passed, in ticks.
    pub time: u32,
    /// The datagram's identification on the wire, as it lies in the packet.
    pub wire_id: u16,
    /// Always zero.
    pub zero: u16,
}

/// What identifies a datagram whose fragments come in any order. The interface is part of it: a packet that is left to
/// the kernel at a bridge's port comes by again at the bridge, and nobody at another port has a say in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DatagramKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification, as it lies in the packet.
    pub id: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub zero: u8,
    /// The interface on which the fragments come in.
    pub ifindex: u32,
}

impl DatagramKey {
    /// Whose datagram this is.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> Source {
        Source { address: self.src, ifindex: self.ifindex }
    }
}

/// Who sends datagrams, and so whose quota they count against.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Source {
    /// The source address.
    pub address: Addr,
    /// The interface on which it is seen: what pretends to be somebody else's at another one takes nothing from him.
    pub ifindex: u32,
}

/// What a source has of us. The numbers may fall below zero for a moment, or when the record had been lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SourceUse {
    /// Datagrams of which the rest is awaited.
    pub datagrams: u64,
    /// Fragments that are kept.
    pub held: u64,
    /// When it was last looked for what has expired on this source's account, in ticks.
    pub swept: u64,
}

/// Whether a number of [`SourceUse`] leaves room below `quota`.
#[inline(always)]
#[must_use]
pub const fn within_quota(number: u64, quota: u64) -> bool {
    number.cast_signed() < quota.cast_signed()
}

/// A datagram whose fragments come in any order. The `DATAGRAMS` array holds it, `DATAGRAM_KEYS` a [`Handle`] of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Zeroable)]
pub struct Datagram {
    /// A [`crate::flow::Word`]: generation, and when the first of the fragments came. Live while the rest is awaited.
    pub word: u64,
    /// A [`Fate`].
    pub fate: u64,
    /// The flow and direction of its first fragment, if that is its fate.
    pub flow: FlowRef,
    /// The fragment that was kept last, a [`Link`].
    pub chain: u64,
    /// How many units have been seen.
    pub seen: u64,
    /// How many units there are, once the last fragment has been seen; else zero.
    pub end: u64,
    /// What identifies it.
    pub key: DatagramKey,
    /// Its identification on the wire, as it lies in the packet.
    pub wire_id: u32,
    /// One if `flow` is set, or [`Datagram::BY_KERNEL`].
    pub has_flow: u32,
    /// Which units have been seen.
    pub bitmap: [u64; WORDS as usize],
}

impl Datagram {
    /// `flow` is set, and the kernel gets the fragments once they are translated.
    pub const BY_KERNEL: u32 = 2;
}

const _: () = assert!(size_of::<Datagram>() == 72 + 1024, "the layout has no padding");

// SAFETY: repr(C), every field is Pod, and the assertion above shows that there is no padding.
unsafe impl Pod for Datagram {}

/// What becomes of the fragments of a datagram.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The first one has not come yet.
    Unknown = 0,
    /// They are left to the kernel.
    Kernel = 1,
    /// The first one was dropped, and so are the others.
    Dropped = 2,
    /// Some overlap: no more of them pass.
    Poisoned = 3,
    /// They follow a flow.
    Flow = 4,
}

impl Fate {
    /// Parses the word of a record.
    #[inline(always)]
    #[must_use]
    pub const fn from_u64(fate: u64) -> Self {
        match fate {
            0 => Self::Unknown,
            1 => Self::Kernel,
            3 => Self::Poisoned,
            4 => Self::Flow,
            _ => Self::Dropped,
        }
    }
}

/// A reference to a datagram: its slot, and the generation that this had. It is also the mark of the fragments that were
/// kept and are received again, and never one of the other marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u32);

impl Handle {
    /// The upper octet of every handle.
    const PREFIX: u32 = 0x79;

    /// Refers to the datagram in a slot, whose [`crate::flow::Word`] has this generation.
    #[inline(always)]
    #[must_use]
    pub const fn new(slot: u32, generation: u32) -> Self {
        let generation = generation >> 1 & ((1 << GENERATION_BITS) - 1);
        Self(Self::PREFIX << 24 | generation << SLOT_BITS | slot & (DATAGRAMS - 1))
    }

    /// Whether this is one.
    #[inline(always)]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 >> 24 == Self::PREFIX
    }

    /// The slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 & (DATAGRAMS - 1)
    }

    /// Whether the slot still holds the datagram, live or complete, when its word has this generation.
    #[inline(always)]
    #[must_use]
    pub const fn matches(self, generation: u32) -> bool {
        // A datagram that is complete has the even generation that follows its odd one.
        Self::new(self.slot(), generation.wrapping_sub(1) | 1).0 == self.0
    }
}

/// A fragment that is kept. The `HELD` array holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Zeroable)]
pub struct Held {
    /// A [`Slot`].
    pub word: u64,
    /// The fragment of the same datagram that was kept before, a [`Link`].
    pub next: u64,
    /// Whose it is.
    pub source: Source,
    /// Where it came in.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// When it came, in ticks.
    pub time: u32,
    /// Always zero.
    pub zero: u32,
    /// The frame, from the Ethernet header on.
    pub frame: [u8; HELD_LEN],
}

const _: () = assert!(size_of::<Held>() == 40 + HELD_LEN, "the layout has no padding");

// SAFETY: repr(C), every field is Pod, and the assertion above shows that there is no padding.
unsafe impl Pod for Held {}

/// State (lowest two bits) and generation of a slot for a fragment, changed by compare-and-swap, and by nobody but him
/// who has it while it is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u64);

impl Slot {
    const BUSY: u64 = 1;
    const FULL: u64 = 2;
    const STATES: u64 = 3;

    /// Somebody writes or reads the slot.
    #[inline(always)]
    #[must_use]
    pub const fn is_busy(self) -> bool {
        self.0 & Self::STATES == Self::BUSY
    }

    /// The slot holds a fragment.
    #[inline(always)]
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.0 & Self::STATES == Self::FULL
    }

    /// Taken, for another fragment.
    #[inline(always)]
    #[must_use]
    pub const fn taken_anew(self) -> Self {
        Self((self.0 | Self::STATES).wrapping_add(1) | Self::BUSY)
    }

    /// Taken, for what is in it.
    #[inline(always)]
    #[must_use]
    pub const fn taken(self) -> Self {
        Self(self.0 & !Self::STATES | Self::BUSY)
    }

    /// Written.
    #[inline(always)]
    #[must_use]
    pub const fn full(self) -> Self {
        Self(self.0 & !Self::STATES | Self::FULL)
    }

    /// Given back.
    #[inline(always)]
    #[must_use]
    pub const fn free(self) -> Self {
        Self(self.0 & !Self::STATES)
    }
}

/// A reference to a fragment that is kept: its slot and what [`Slot`] that had. Zero refers to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(pub u64);

impl Link {
    /// Refers to none.
    pub const NONE: Self = Self(0);

    /// Refers to the fragment in a slot whose word this is.
    #[inline(always)]
    #[must_use]
    pub const fn new(index: u32, slot: Slot) -> Self {
        Self(slot.full().0 << 32 | index as u64 & (HELD as u64 - 1))
    }

    /// The slot's number.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 as u32 & (HELD - 1)
    }

    /// Whether a slot with this word still holds the fragment.
    #[inline(always)]
    #[must_use]
    pub const fn matches(self, slot: Slot) -> bool {
        slot.0 as u32 == (self.0 >> 32) as u32
    }
}

/// A datagram's identification on the wire, toward one destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SentKey {
    /// Destination address on the wire.
    pub dst: Addr,
    /// Identification on the wire, as it lies in the packet.
    pub id: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub zero: u8,
}

/// Whose datagram has an identification on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Sent {
    /// The flow and the direction of its packets.
    pub flow: FlowRef,
    /// When its first fragment left, in ticks.
    pub time: u32,
    /// Its identification inside, as it lies in the packet.
    pub id: u16,
    /// Always zero.
    pub zero: u16,
}

/// Which units of its datagram a fragment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first one.
    pub start: u32,
    /// The one behind the last.
    pub end: u32,
    /// Whether the datagram ends with it.
    pub last: bool,
}

impl Piece {
    /// Reads it from the headers of a fragment. None if no honest sender makes such a fragment: longer than a datagram
    /// can be, empty, cut elsewhere than between units, or so that it could overlap TCP's flags (RFC 1858 §3, §4).
    #[inline(always)]
    #[must_use]
    pub const fn of(headers: &Headers) -> Option<Self> {
        let start = (headers.fragment & ipv4::OFFSET) as u32;
        let last = headers.fragment & ipv4::MF == 0;
        let header = headers.ip_len as u32;
        let total = headers.total_len as u32;
        if total <= header {
            return None;
        }
        let octets = total - header;
        if start * UNIT + octets + header > u16::MAX as u32 {
            return None;
        }
        if !last && !octets.is_multiple_of(UNIT) || headers.proto == proto::TCP && start == 1 {
            return None;
        }
        Some(Self { start, end: start + octets.div_ceil(UNIT), last })
    }

    /// The number of units.
    #[inline(always)]
    #[must_use]
    pub const fn units(self) -> u32 {
        self.end - self.start
    }

    /// The word of the bitmap in which it begins.
    #[inline(always)]
    #[must_use]
    pub const fn first_word(self) -> u32 {
        self.start / u64::BITS
    }

    /// In how many words of the bitmap it lies.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> u32 {
        (self.end - 1) / u64::BITS - self.first_word() + 1
    }

    /// Its bits in a word of the bitmap.
    #[inline(always)]
    #[must_use]
    pub const fn mask(self, word: u32) -> u64 {
        below(self.end, word) & !below(self.start, word)
    }

    /// The bits in a word of the bitmap that lie behind it.
    #[inline(always)]
    #[must_use]
    pub const fn behind(self, word: u32) -> u64 {
        !below(self.end, word)
    }
}

/// The bits of a word for units below `unit`.
#[inline(always)]
const fn below(unit: u32, word: u32) -> u64 {
    let first = word * u64::BITS;
    if unit <= first {
        0
    } else if unit - first >= u64::BITS {
        u64::MAX
    } else {
        (1 << (unit - first)) - 1
    }
}

/// What a fragment is among those of its datagram that were seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// It has nothing in common with them.
    New,
    /// All of it was seen before.
    Duplicate,
    /// Some of it was, or it does not agree with them about where the datagram ends.
    Overlap,
}

/// What the words of the bitmap have said about a fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Some of it is new.
    pub new: bool,
    /// Some of it was seen before.
    pub known: bool,
}

impl Comparison {
    /// Adds a word: the fragment's bits in it, and what the word was before they were set.
    #[inline(always)]
    pub const fn add(&mut self, mask: u64, before: u64) {
        self.new |= mask & !before != 0;
        self.known |= mask & before != 0;
    }

    /// What all words together say.
    #[inline(always)]
    #[must_use]
    pub const fn novelty(self) -> Novelty {
        match (self.new, self.known) {
            (true, false) => Novelty::New,
            (true, true) => Novelty::Overlap,
            (false, _) => Novelty::Duplicate,
        }
    }
}

/// Whether a fragment agrees with the number of units that its datagram is known to have, zero being unknown.
#[inline(always)]
#[must_use]
pub const fn agrees(piece: Piece, end: u64) -> bool {
    end == 0 || if piece.last { piece.end as u64 == end } else { piece.end as u64 <= end }
}
