//! The flow record: one flow, whole, with both directions.

use bytemuck::{Pod, Zeroable};

use crate::packet::proto;
use crate::tcp;
use crate::{Addr, FlowKey, Side, Tuple};

mod counts;
mod reference;
mod state;
mod steady;
mod word;

pub use counts::Counts;
pub use reference::FlowRef;
pub use state::State;
use steady::STEADY;
pub use word::Word;

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
    /// When a packet last carried a tag, in [`Ticks`](crate::Ticks).
    pub tag_time: u32,
    /// When the flow was opened, in [`Ticks`](crate::Ticks).
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
        let is_udp = match self.proto {
            proto::TCP => false,
            proto::UDP => true,
            _ => return false,
        };
        let steady = STEADY[steady::place(self.kind, direction as usize, side as usize, is_udp as usize)];
        self.state & (steady >> 32) as u32 == steady as u32
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
            && Kind::side(self.kind, direction) as u8 == side as u8
            && self.state & State::PASSING == 0
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
    /// That of which `bit`, zero or one, is the number.
    #[inline(always)]
    #[must_use]
    pub const fn of_bit(bit: u64) -> Self {
        match bit & 1 {
            0 => Self::Original,
            _ => Self::Reply,
        }
    }

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

    /// On which side the packets of `direction` reach this host, for a flow of kind `kind`. Of a number that is no kind it says
    /// nothing.
    ///
    /// A look into a table, without a branch, which would be followed by the verifier wherever a flow is compared.
    #[inline(always)]
    #[must_use]
    pub const fn side(kind: u8, direction: Direction) -> Side {
        /// A bit for each kind whose flows are opened from the wire; above, for those whose replies come from there.
        const FROM_WIRE: u64 = Kind::Inbound.bit()
            | Kind::Forward.bit()
            | Kind::Mapped.bit()
            | (Kind::Outside.bit() | Kind::Peer.bit() | Kind::Host.bit()) << 32;
        match FROM_WIRE >> (kind & 31 | (direction as u8) << 5) & 1 {
            0 => Side::Inside,
            _ => Side::Wire,
        }
    }

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}
