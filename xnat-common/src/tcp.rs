//! TCP as a NAT sees it (RFC 5382, RFC 7857 §2), with the state names of conntrack.

use crate::flow::{self, Direction, Kind};

pub mod window;

pub use window::{Judgement, Segment, Window};

/// Flag bits of octet 13 of the TCP header (RFC 9293 §3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field is valid.
    pub const ACK: u8 = 0x10;
}

/// The state of a TCP connection. Numbers are part of the pinned layout.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No TCP segment has been seen: not TCP, or a flow that was announced.
    #[default]
    None = 0,
    /// The opener has sent a SYN.
    SynSent = 1,
    /// The SYN has been answered.
    SynRecv = 2,
    /// The three-way handshake is complete, or the flow was taken up in the middle.
    Established = 3,
    /// One end has sent a FIN.
    FinWait = 4,
    /// That FIN has been acknowledged; the other end may still send.
    CloseWait = 5,
    /// Both ends have sent a FIN.
    LastAck = 6,
    /// Both FINs are through.
    TimeWait = 7,
    /// Reset.
    Close = 8,
    /// Both ends have sent a SYN (simultaneous open).
    SynSent2 = 9,
}

impl State {
    /// Parses the byte of a record; an unknown number is `None`.
    #[inline(always)]
    #[must_use]
    pub const fn from_u8(state: u8) -> Self {
        match state {
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            _ => Self::None,
        }
    }

    /// The name that conntrack prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::SynSent2 => "SYN_SENT2",
        }
    }

    /// Whether the connection is over, so that a SYN on the same tuple opens a new one.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close)
    }
}

/// Whether a segment with these flags opens a connection: a SYN that acknowledges nothing.
#[inline(always)]
#[must_use]
pub const fn opens(segment: u8) -> bool {
    segment & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}

/// The state of a flow of `kind` after a segment that was judged, with the flags `segment`.
#[inline(always)]
#[must_use]
pub const fn follow(
    state: flow::State,
    kind: u8,
    direction: Direction,
    judgement: Judgement,
    segment: u8,
    data: bool,
) -> flow::State {
    match judgement {
        Judgement::Implausible => state,
        Judgement::Plausible => advance(state, direction, segment, data),
        Judgement::Completes => advance(state, direction, flags::ACK, false),
        Judgement::Restarts => reopened(state, kind).with_tcp(State::SynRecv),
    }
}

/// The status of a flow that a SYN takes up anew: the connection's own bits go. What a peer must know of a flow it must be
/// told again; what the peer has opened it knows.
#[inline(always)]
#[must_use]
pub const fn reopened(state: flow::State, kind: u8) -> flow::State {
    let confirmed = if kind == Kind::Inbound as u8 { flow::State::CONFIRMED } else { 0 };
    flow::State(state.0 & (flow::State::OF_THE_FLOW | confirmed))
}

/// Whether a SYN takes a flow in this state up anew: both ends have said that they have done, or one has reset it.
#[inline(always)]
#[must_use]
pub const fn can_reopen(state: State) -> bool {
    matches!(state, State::LastAck | State::TimeWait | State::Close)
}

/// The state of a flow after a plausible segment with the flags `segment`, which carries data or does not.
///
/// A segment that does not fit leaves the state as it is: a NAT is to translate it, not to judge it.
#[inline(always)]
#[must_use]
pub const fn advance(state: flow::State, direction: Direction, segment: u8, data: bool) -> flow::State {
    let tcp = state.tcp();
    if segment & flags::RST != 0 {
        return state.with_tcp(State::Close);
    }
    let original = matches!(direction, Direction::Original);
    if segment & flags::SYN != 0 {
        return state.with_tcp(after_syn(tcp, original, segment & flags::ACK != 0));
    }
    // Data shows that no end has accepted the reset (RFC 7857 §2.2).
    let state = if data && matches!(tcp, State::Close) { revived(state) } else { state };
    if segment & flags::FIN != 0 {
        return after_fin(state, original);
    }
    if segment & flags::ACK != 0 {
        return after_ack(state, original);
    }
    state
}

/// Where a connection was before it was reset; one that was never established, or had all but ended, stays as it is.
#[inline(always)]
const fn revived(state: flow::State) -> flow::State {
    match (state.has(flow::State::FIN_ORIGINAL), state.has(flow::State::FIN_REPLY)) {
        _ if !state.has(flow::State::ASSURED) => state,
        (false, false) => state.with_tcp(State::Established),
        (true, true) => state,
        _ => state.with_tcp(State::CloseWait),
    }
}

#[inline(always)]
const fn after_syn(tcp: State, original: bool, ack: bool) -> State {
    match (tcp, original, ack) {
        // Either end may open a connection on a flow that is there.
        (State::None | State::LastAck | State::TimeWait | State::Close, _, false) => State::SynSent,
        (State::SynSent, false, false) => State::SynSent2,
        (State::SynSent | State::SynSent2, _, true) => State::SynRecv,
        _ => tcp,
    }
}

#[inline(always)]
const fn after_fin(state: flow::State, original: bool) -> flow::State {
    let (own, other) = if original {
        (flow::State::FIN_ORIGINAL, flow::State::FIN_REPLY)
    } else {
        (flow::State::FIN_REPLY, flow::State::FIN_ORIGINAL)
    };
    match state.tcp() {
        State::None | State::SynSent | State::SynSent2 | State::TimeWait | State::Close => state,
        _ => {
            let next = if state.has(other) { State::LastAck } else { State::FinWait };
            flow::State(state.0 | own).with_tcp(next)
        }
    }
}

#[inline(always)]
const fn after_ack(state: flow::State, original: bool) -> flow::State {
    match state.tcp() {
        // Taken up in the middle, or the end of the handshake.
        State::None | State::SynRecv => flow::State(state.0 | flow::State::ASSURED).with_tcp(State::Established),
        State::FinWait => {
            let other = if original { flow::State::FIN_REPLY } else { flow::State::FIN_ORIGINAL };
            if state.has(other) { state.with_tcp(State::CloseWait) } else { state }
        }
        State::LastAck => state.with_tcp(State::TimeWait),
        _ => state,
    }
}
