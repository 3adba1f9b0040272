//! What is known of a flow beside its tuples: the TCP state, and status bits.

use crate::tcp;

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
    pub(super) const PASSING: u32 = Self::ANNOUNCED | Self::CROSSED | Self::DOOMED | Self::MOVING | Self::HELD;

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
