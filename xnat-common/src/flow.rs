//! The flow record: one flow, whole, with both directions.

use bytemuck::{Pod, Zeroable};

use crate::packet::proto;
use crate::tcp;
use crate::time::Ticks;
use crate::{Addr, FlowKey, Side, Tuple};

/// One flow. The `FLOWS` array holds it; `TUPLES` holds two entries that lead to it, one a direction.
///
/// A packet that matches `original` is rewritten to the reverse of `reply`, and the other way round, as in Linux's
/// `nf_conntrack_tuple`. The first cache line is all that a packet of an established flow needs, but for TCP's windows.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Zeroable)]
pub struct Flow {
    /// A [`Word`]: generation and last-seen time, changed only by compare-and-swap.
    pub word: u64,
    /// The tuple of the packet that opened the flow, as it reached this host.
    pub original: Tuple,
    /// The tuple of the answers, as they reach this host.
    pub reply: Tuple,
    /// IP protocol number.
    pub proto: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// How many packets have carried a tag, saturating at 255.
    pub tagged: u8,
    /// Always zero; room for flags of later layouts.
    pub zero: u8,
    /// A [`State`], changed only by compare-and-swap.
    pub state: u32,
    /// The names of the remembered next hops, by [`Direction`]; see [`crate::hop::Hop`].
    pub next_hop: [u32; 2],
    /// [`Counts`] of packets translated, by [`Direction`].
    pub counts: [u64; 2],
    /// The inside interface behind which the container is; zero for the host's own flows.
    pub inside: u32,
    /// The peer host, or [`Addr::UNSPECIFIED`] for flows toward the outside.
    pub peer: Addr,
    /// When a packet last carried a tag, in [`Ticks`].
    pub tag_time: u32,
    /// When the flow was opened, in [`Ticks`].
    pub opened: u32,
    /// What [`Counts`] have carried over, by [`Direction`].
    pub carried: [u64; 2],
    /// TCP's window as seen from each end, by [`Direction`] of the sender.
    pub window: [tcp::Window; 2],
    /// The sequence number behind a SYN that had no effect, by [`Direction`]: its answer shows that both ends have begun
    /// anew.
    pub syn: [u32; 2],
}

const _: () = assert!(size_of::<Flow>() == 128, "two cache lines, and the layout has no padding");

// SAFETY: repr(C), every field is Pod, and the assertion above shows that there is no padding.
unsafe impl Pod for Flow {}

impl Flow {
    /// The key under which packets of `direction` find this flow.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self, direction: Direction) -> FlowKey {
        let tuple = match direction {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        };
        FlowKey::new(tuple, self.proto, Kind::side(self.kind, direction))
    }

    /// What the tuple of a packet of `direction` becomes.
    #[inline(always)]
    #[must_use]
    pub const fn translated(&self, direction: Direction) -> Tuple {
        match direction {
            Direction::Original => self.reply.reversed(),
            Direction::Reply => self.original.reversed(),
        }
    }

    /// Whether a packet of `direction`, seen on `side`, changes nothing of the flow but its counts, its time and what is
    /// known of TCP's windows, and leaves by way of the other side. So it may skip all steps that look for more.
    ///
    /// Of TCP that is said of segments with ACK and without SYN, FIN and RST.
    #[inline(always)]
    #[must_use]
    pub const fn is_steady(&self, direction: Direction, side: Side) -> bool {
        const ANSWERED: u32 = State::REPLIED | State::CONFIRMED;
        /// Bits of the kinds that there is nothing else to.
        const KINDS: u32 = 1 << Kind::Outside as u32
            | 1 << Kind::Peer as u32
            | 1 << Kind::Inbound as u32
            | 1 << Kind::Forward as u32
            | 1 << Kind::Mapped as u32;
        let original = matches!(direction, Direction::Original);
        // What has to be set, and what else is looked at.
        let (set, seen) = match self.proto {
            proto::TCP => (ANSWERED | tcp::State::Established as u32, 0xff),
            proto::UDP if original => (0, 0),
            proto::UDP => (ANSWERED | State::ASSURED, 0),
            _ => return false,
        };
        let set = if self.kind == Kind::Peer as u8 { set | State::CONFIRMED } else { set };
        let set = if self.kind == Kind::Mapped as u8 { set | State::REPLIED | State::MAPPED } else { set };
        let of_kind = self.kind < 32 && 1 << self.kind & KINDS != 0;
        of_kind && self.comes_from(direction, side) && self.state & (set | seen | State::PASSING) == set
    }

    /// Whether a TCP segment of `direction`, seen on `side`, changes nothing of the flow but what a steady one does and the
    /// state of the connection, and leaves by way of the other side: of the flows that containers open to the outside, which
    /// nobody else keeps a record of.
    ///
    /// That is said of segments with ACK and without RST. It is no matter whether they are plausible.
    #[inline(always)]
    #[must_use]
    pub const fn may_turn(&self, direction: Direction, side: Side) -> bool {
        self.kind == Kind::Outside as u8
            && self.proto == proto::TCP
            && self.comes_from(direction, side)
            && self.state & State::PASSING == 0
    }

    /// Whether packets of `direction` that go from one side to the other are seen on `side` first.
    #[inline(always)]
    const fn comes_from(&self, direction: Direction, side: Side) -> bool {
        let opens_outward = self.kind < Kind::Inbound as u8;
        (opens_outward == matches!(direction, Direction::Original)) == matches!(side, Side::Inside)
    }

    /// Packets translated in `direction`.
    #[inline(always)]
    #[must_use]
    pub const fn packets(&self, direction: Direction) -> u64 {
        self.volume(direction).0
    }

    /// Bytes of those packets, from the IP header on.
    #[must_use]
    pub const fn bytes(&self, direction: Direction) -> u64 {
        self.volume(direction).1
    }

    #[inline(always)]
    const fn volume(&self, direction: Direction) -> (u64, u64) {
        let at = direction as usize;
        Counts::total(self.counts[at], self.carried[at])
    }

    /// This host's address on the wire, as the flow has it.
    #[must_use]
    pub const fn wire_address(&self) -> Addr {
        match Kind::side(self.kind, Direction::Original) {
            Side::Wire => self.original.dst,
            Side::Inside => self.reply.dst,
        }
    }

    /// Whether the slot holds a flow.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        Word(self.word).is_live()
    }
}

/// How many packets of one direction have been translated, and their bytes from the IP header on, in one word that is
/// added to once a packet: bytes in the lower bits, packets above.
///
/// What becomes too much for its bits is carried over to another word, by whoever's packet has made it so, in units of the
/// highest bit: packets in the upper half, bytes in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts;

impl Counts {
    /// Bits for bytes.
    const BYTES: u32 = 36;
    /// The bit of the bytes that is carried over.
    const BYTES_CARRY: u64 = 1 << (Self::BYTES - 1);
    /// The bit of the packets that is.
    const PACKETS_CARRY: u64 = 1 << 63;

    /// What a packet of `len` bytes adds.
    #[inline(always)]
    #[must_use]
    pub const fn of_packet(len: u32) -> u64 {
        1 << Self::BYTES | len as u64
    }

    /// What has to be carried over, as it stands in the counts, after `added` was added to `before`.
    #[inline(always)]
    #[must_use]
    pub const fn carry(before: u64, added: u64) -> u64 {
        before.wrapping_add(added) & !before & (Self::BYTES_CARRY | Self::PACKETS_CARRY)
    }

    /// What that adds to the word for what was carried over.
    #[inline(always)]
    #[must_use]
    pub const fn carried(carry: u64) -> u64 {
        let packets = carry >> 63;
        let bytes = carry >> (Self::BYTES - 1) & 1;
        packets << 32 | bytes
    }

    /// Packets and bytes together.
    #[inline(always)]
    #[must_use]
    pub const fn total(counts: u64, carried: u64) -> (u64, u64) {
        let packets = (counts >> Self::BYTES) + (carried >> 32 << (63 - Self::BYTES));
        let bytes = (counts & ((1 << Self::BYTES) - 1)) + ((carried & 0xffff_ffff) << (Self::BYTES - 1));
        (packets, bytes)
    }
}

/// Which way a packet goes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The way of the packet that opened the flow.
    Original = 0,
    /// The way of the answers.
    Reply = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// What a flow is for. Numbers are part of the pinned layout.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From a container to anywhere through the uplink: masquerade.
    Outside = 1,
    /// From a container to a container behind a peer: destination and source are translated.
    Peer = 2,
    /// Opened by a peer, toward a container of ours.
    Inbound = 3,
    /// From this host itself to a container behind a peer; or one of its own connections to anywhere that had to be given
    /// another port, because a flow has the one that its socket is bound to.
    Host = 4,
    /// From the outside to a container, by a forward or as the default for what comes in: the destination is translated.
    Forward = 5,
    /// From the outside to a container, through a mapping that the container has opened: the destination is translated.
    Mapped = 6,
    /// From a container or this host to a container by this host's address on the wire: source and destination are
    /// translated, and both are seen inside.
    Hairpin = 7,
}

impl Kind {
    /// Parses the byte of a record.
    #[must_use]
    pub const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Outside,
            2 => Self::Peer,
            3 => Self::Inbound,
            4 => Self::Host,
            5 => Self::Forward,
            6 => Self::Mapped,
            7 => Self::Hairpin,
            _ => return None,
        })
    }

    /// The name that the command line and the JSON output use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Peer => "peer",
            Self::Inbound => "inbound",
            Self::Host => "host",
            Self::Forward => "forward",
            Self::Mapped => "mapped",
            Self::Hairpin => "hairpin",
        }
    }

    /// On which side the packets of `direction` reach this host, for a flow of kind `kind`.
    #[inline(always)]
    #[must_use]
    pub const fn side(kind: u8, direction: Direction) -> Side {
        let original = matches!(direction, Direction::Original);
        let from_wire = kind == Self::Inbound as u8 || kind == Self::Forward as u8 || kind == Self::Mapped as u8;
        if kind != Self::Hairpin as u8 && from_wire == original { Side::Wire } else { Side::Inside }
    }
}

/// Generation (upper half) and last-seen time (lower half) of a slot.
///
/// An odd generation means that the slot holds a flow. A packet refreshes and the collector ends a flow by
/// compare-and-swap on this one word, so neither can undo what the other has just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// Puts the two halves together.
    #[must_use]
    pub const fn new(generation: u32, last_seen: Ticks) -> Self {
        Self((generation as u64) << 32 | last_seen.0 as u64)
    }

    /// How often the slot has been taken and freed.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// When a packet last refreshed the flow.
    #[must_use]
    pub const fn last_seen(self) -> Ticks {
        Ticks(self.0 as u32)
    }

    /// Whether the slot holds a flow.
    #[must_use]
    pub const fn is_live(self) -> bool {
        self.generation() & 1 == 1
    }

    /// Whether the slot may be taken: it holds no flow, and nobody is filling or emptying it.
    #[inline(always)]
    #[must_use]
    pub const fn is_free(self) -> bool {
        !self.is_live() && self.0 as u32 != Self::BUSY
    }

    /// The word of a slot without a flow that nobody may take, because it is being filled or emptied.
    #[inline(always)]
    #[must_use]
    pub const fn busy(self) -> Self {
        Self::new(self.generation(), Ticks(Self::BUSY))
    }

    /// The word of a slot that may be taken.
    #[inline(always)]
    #[must_use]
    pub const fn free(self) -> Self {
        Self::new(self.generation(), Ticks(0))
    }

    /// The word of a flow that has ended: nobody may take its slot before everything that leads to it has gone.
    #[inline(always)]
    #[must_use]
    pub const fn ended(self) -> Self {
        Self::new(self.generation().wrapping_add(1), Ticks(Self::BUSY))
    }

    /// Stands in place of the time in a slot without a flow that nobody may take.
    const BUSY: u32 = u32::MAX;

    /// The word with the next generation: a free slot becomes live, a live one free.
    #[must_use]
    pub const fn next(self, now: Ticks) -> Self {
        Self::new(self.generation().wrapping_add(1), now)
    }
}

/// A reference from a tuple to its flow: the value of the `TUPLES` map.
///
/// The lower half is the slot in the `FLOWS` array, the upper half the generation, whose lowest bit (always one in a live
/// slot) is replaced by the [`Direction`]. One word, because the verifier follows words best.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowRef(u64);

impl FlowRef {
    /// A reference to the flow of `generation` in slot `index`.
    #[inline(always)]
    #[must_use]
    pub const fn new(index: u32, generation: u32, direction: Direction) -> Self {
        Self(((generation & !1 | direction as u32) as u64) << 32 | index as u64)
    }

    /// The word, for passing it on where only numbers go.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The reverse of [`Self::to_bits`].
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The same flow as packets of `direction` find it.
    #[inline(always)]
    #[must_use]
    pub const fn in_direction(self, direction: Direction) -> Self {
        Self::new(self.index(), self.generation(), direction)
    }

    /// The slot in the `FLOWS` array.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 as u32
    }

    /// The generation that the slot had when the reference was made.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 | 1
    }

    /// The direction of the packets that find the flow by this reference.
    #[inline(always)]
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.0 >> 32 & 1 == 0 { Direction::Original } else { Direction::Reply }
    }
}

/// TCP state (lowest byte) and status bits of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(pub u32);

impl State {
    /// A packet has been seen in reply direction.
    pub const REPLIED: u32 = 1 << 8;
    /// The peer knows the flow: nothing needs to be tagged any more.
    pub const CONFIRMED: u32 = 1 << 9;
    /// Original direction has sent a FIN.
    pub const FIN_ORIGINAL: u32 = 1 << 10;
    /// Reply direction has sent a FIN.
    pub const FIN_REPLY: u32 = 1 << 11;
    /// The flow carries a conversation (as conntrack's ASSURED): answered UDP, established TCP.
    pub const ASSURED: u32 = 1 << 12;
    /// The peer announced the flow ahead of its first packet, which has not come yet. On a flow of this host's own: the
    /// peer announced one that crosses it.
    pub const ANNOUNCED: u32 = 1 << 13;
    /// The peer has opened the same conversation from its end, on the mirrored wire tuple. Neither end tags it.
    pub const CROSSED: u32 = 1 << 14;

    /// User space wants the flow ended; the collector does it when it comes by, however busy the flow is.
    pub const DOOMED: u32 = 1 << 15;
    /// The flow is a session of the mapping that owns its port on the wire, and ends with leaving it.
    pub const MAPPED: u32 = 1 << 16;
    /// The flow is being moved to another port.
    pub const MOVING: u32 = 1 << 17;
    /// The flow is counted among those of its mapping with its remote address, in the mapping's own record.
    pub const REMOTE_NEAR: u32 = 1 << 18;
    /// The same, in `REMOTES`.
    pub const REMOTE_FAR: u32 = 1 << 19;
    /// A hairpin whose receiver's mapping does not let the sender in before it has sent something itself.
    pub const HELD: u32 = 1 << 20;

    /// Both tuples have their entries in the index: whoever comes upon the record may use it.
    pub const PUBLISHED: u32 = 1 << 21;
    /// The slot is on the list of free ones, or was when it was taken without that. Not the flow's, but the slot's.
    pub const LISTED: u32 = 1 << 22;

    /// The flow lets its remote address in by an entry of its own in the index.
    pub const REMOTE_INDEXED: u32 = 1 << 23;

    /// What is being decided about the flow, or about to happen to it.
    const PASSING: u32 = Self::ANNOUNCED | Self::CROSSED | Self::DOOMED | Self::MOVING | Self::HELD;

    /// What belongs to the flow rather than to the connection on it: it stays when the connection is another.
    pub const OF_THE_FLOW: u32 = Self::ANNOUNCED
        | Self::DOOMED
        | Self::MAPPED
        | Self::MOVING
        | Self::REMOTE_NEAR
        | Self::REMOTE_FAR
        | Self::REMOTE_INDEXED
        | Self::PUBLISHED
        | Self::LISTED;

    /// The TCP state; meaningless for other protocols.
    #[inline(always)]
    #[must_use]
    pub const fn tcp(self) -> tcp::State {
        tcp::State::from_u8(self.0 as u8)
    }

    /// The same status bits with another TCP state.
    #[inline(always)]
    #[must_use]
    pub const fn with_tcp(self, state: tcp::State) -> Self {
        Self(self.0 & !0xff | state as u32)
    }

    /// Whether all of `bits` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// Whether a packet has been seen in reply direction.
    #[inline(always)]
    #[must_use]
    pub const fn replied(self) -> bool {
        self.has(Self::REPLIED)
    }
}
