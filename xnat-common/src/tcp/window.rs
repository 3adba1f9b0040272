//! Which segments are plausible: TCP's windows as somebody on the path between the two ends sees them.
//!
//! The bounds are those of "Real Stateful TCP Packet Filtering in IP Filter" (G. van Rooij, 2001), which Linux's
//! `tcp_in_window` (`nf_conntrack_proto_tcp.c`, v6.1) checks too. With S the sender of a segment and R its receiver:
//!
//! - S sends nothing beyond what R has allowed, and nothing older than R's largest window;
//! - S acknowledges nothing that R has not sent, and nothing older than S's own largest window.
//!
//! The upper bounds get a margin of one window. It makes up for what was missed here: data in the later fragments of an IP
//! packet, senders that overrun a window a little, and stores that lost a race (see [`Window`]). What lies within it is
//! believed, and moves the bounds on. The lower bounds get one of [`LEAST`] for segments that others have overtaken. A
//! reset has no such margin.

use bytemuck::{Pod, Zeroable};

use super::{State, flags};

/// What one end has sent and will accept.
///
/// Processors store the fields without a lock, each only when it moves. Should two do so at once, the older value may
/// stay, which is short by one packet or one acknowledgement at most, and that is no more than a window: the margin above
/// each bound still covers what comes next, which moves the field to where it should be.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Window {
    /// Highest sequence number sent, plus one.
    pub end: u32,
    /// Highest sequence number that the other end has allowed; until then, the one behind the SYN.
    pub max_end: u32,
    /// Largest window advertised, in units of 64 octets, rounded up: zero while nothing of this end has been seen. The upper
    /// byte says what is known of the scale factor: up to 14 the factor, or one of the two constants of [`Scale`].
    pub max_window: u32,
}

/// What a SYN says of the scale factor of its sender's windows (RFC 7323 §2.2), as a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale(pub u8);

impl Scale {
    /// The SYN had no such option: neither end scales.
    pub const NONE: Self = Self(0x40);
    /// No SYN has been seen.
    pub const UNKNOWN: Self = Self(0x80);
    /// Largest factor (RFC 7323 §2.3).
    pub const MAX: u8 = 14;

    /// From the option's octet; greater factors than the largest count as that (RFC 7323 §2.3).
    #[inline(always)]
    #[must_use]
    pub const fn from_option(shift: u8) -> Self {
        Self(if shift < Self::MAX { shift } else { Self::MAX })
    }
}

/// A segment, as far as it matters here. Numbers are in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Octets of payload.
    pub payload: u32,
    /// Window field.
    pub window: u16,
    /// Flags.
    pub flags: u8,
    /// The window scale option, a [`Scale`]; only looked at if this is a SYN.
    pub scale: u8,
}

impl Segment {
    /// The sequence number behind the segment: SYN and FIN take one each.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> u32 {
        let syn = (self.flags & flags::SYN != 0) as u32;
        let fin = (self.flags & flags::FIN != 0) as u32;
        self.seq.wrapping_add(self.payload).wrapping_add(syn + fin)
    }

    #[inline(always)]
    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What a segment is to its connection.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// No segment of this connection: it has no effect.
    Implausible = 0,
    /// A segment of it.
    Plausible = 1,
    /// The second SYN|ACK of a simultaneous open: both ends have acknowledged the other's SYN.
    Completes = 2,
    /// Both ends have agreed on a new connection, while this one was believed to go on.
    Restarts = 3,
}

impl Judgement {
    /// The reverse of `as u8`.
    #[inline(always)]
    #[must_use]
    pub const fn from_u8(judgement: u8) -> Self {
        match judgement {
            1 => Self::Plausible,
            2 => Self::Completes,
            3 => Self::Restarts,
            _ => Self::Implausible,
        }
    }
}

/// The least that counts as a window, in octets, as Linux's `MAXACKWINCONST`: more than the longest packet.
pub const LEAST: u32 = 66_000;
/// The most that counts as one as far as margins go, so that all bounds lie within half of the sequence space.
const MOST: u32 = 1 << 29;
/// Units of the field `max_window`, as a shift.
const UNIT: u32 = 6;
const SIZE: u32 = 0x00ff_ffff;

impl Window {
    /// Whether anything of this end has been seen.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.max_window & SIZE != 0
    }

    /// The largest window that this end has advertised, in octets, within limits.
    #[inline(always)]
    const fn largest(self) -> u32 {
        let octets = (self.max_window & SIZE) << UNIT;
        if octets < LEAST {
            LEAST
        } else if octets > MOST {
            MOST
        } else {
            octets
        }
    }

    #[inline(always)]
    const fn scale(self) -> u8 {
        (self.max_window >> 24) as u8
    }

    #[inline(always)]
    const fn is_scale_unknown(self) -> bool {
        self.scale() == Scale::UNKNOWN.0
    }

    #[inline(always)]
    const fn pack(octets: u32, scale: u8) -> u32 {
        let units = (octets + (1 << UNIT) - 1) >> UNIT;
        let least_one = if units == 0 { 1 } else { units };
        (scale as u32) << 24 | least_one
    }

    /// What a SYN says of its sender, of whom nothing is known before: so [`judge`] takes over the one that opens a connection.
    #[inline(always)]
    #[must_use]
    pub const fn of_syn(segment: &Segment) -> Self {
        let max_window = Self::pack(segment.window as u32, segment.scale);
        Self { end: segment.end(), max_end: segment.seq.wrapping_add(1), max_window }
    }

    /// Whether `ack` acknowledges the SYN of this end, which has sent nothing but that and what came with it.
    #[inline(always)]
    const fn syn_acknowledged_by(self, ack: u32) -> bool {
        self.is_known() && (ack == self.end || !after(self.max_end, ack) && !after(ack, self.end))
    }

    /// `end` or something further on.
    #[inline(always)]
    const fn raise_end(&mut self, end: u32) {
        if after(end, self.end) {
            self.end = end;
        }
    }

    /// The other end has acknowledged `ack` and takes `window` octets more.
    #[inline(always)]
    const fn allow(&mut self, ack: u32, window: u32) {
        self.raise_end(ack);
        let allowed = ack.wrapping_add(window);
        if after(allowed, self.max_end) {
            self.max_end = allowed;
        }
    }
}

/// Whether `a` comes after `b` in sequence space (RFC 9293 §3.4).
#[inline(always)]
const fn after(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() < 0
}

/// Judges a segment from `sender` to `receiver` of a connection in `state`, and learns from it.
///
/// `noted` is the number behind a SYN that `receiver` has sent without effect, or zero.
#[inline(always)]
#[must_use]
pub const fn judge(
    state: State,
    sender: &mut Window,
    receiver: &mut Window,
    noted: u32,
    segment: &Segment,
) -> Judgement {
    if segment.has(flags::RST) {
        return plausible_if(is_plausible_reset(state, *sender, *receiver, segment));
    }
    if segment.has(flags::SYN) {
        return if segment.has(flags::ACK) {
            syn_ack(state, sender, receiver, noted, segment)
        } else {
            syn(state, sender, receiver, segment)
        };
    }
    // RFC 9293 §3.10.7.4: every other segment acknowledges something, or is dropped by the end that gets it. Before
    // both ends have answered there are no others either.
    if !segment.has(flags::ACK) || matches!(state, State::SynSent | State::SynSent2) {
        return Judgement::Implausible;
    }
    if !is_in_window(*sender, *receiver, segment) {
        return Judgement::Implausible;
    }
    learn(sender, receiver, segment);
    Judgement::Plausible
}

#[inline(always)]
const fn plausible_if(condition: bool) -> Judgement {
    if condition { Judgement::Plausible } else { Judgement::Implausible }
}

/// A reset of an end that knows the connection has the number that the other end expects next, or one that is on its
/// way there; one of an end that does not know it has the number that it was sent as acknowledged (RFC 9293 §3.10.7.1).
#[inline(always)]
const fn is_plausible_reset(state: State, sender: Window, receiver: Window, segment: &Segment) -> bool {
    if !sender.is_known() && !receiver.is_known() {
        // Nothing is known that would speak against it.
        return true;
    }
    let acks = segment.has(flags::ACK);
    let opening = matches!(state, State::SynSent | State::SynSent2 | State::SynRecv);
    if opening && acks && receiver.syn_acknowledged_by(segment.ack) {
        return true;
    }
    if matches!(state, State::SynSent | State::SynSent2) {
        // The opener's own: no answer of the other end has changed its numbers yet.
        let first = sender.max_end.wrapping_sub(1);
        return sender.is_known() && !after(first, segment.seq) && !after(segment.seq, sender.end);
    }
    // Some set the flag and acknowledge nothing.
    if acks && segment.ack != 0 && receiver.is_known() && !is_ack_in_window(sender, receiver, segment.ack) {
        return false;
    }
    is_near(sender, receiver, segment.seq)
}

/// Whether `seq` lies between the oldest number that may be on its way to `receiver` and the highest that it allows.
#[inline(always)]
const fn is_near(sender: Window, receiver: Window, seq: u32) -> bool {
    let known = sender.is_known() && receiver.is_known() && !receiver.is_scale_unknown();
    let margin = if known { receiver.largest() } else { LEAST };
    let allowed = if known { sender.max_end } else { sender.end.wrapping_add(LEAST) };
    let last = if after(sender.end, allowed) { sender.end } else { allowed };
    !after(sender.end.wrapping_sub(margin), seq) && !after(seq, last)
}

#[inline(always)]
const fn is_ack_in_window(sender: Window, receiver: Window, ack: u32) -> bool {
    let margin = sender.largest();
    !after(ack, receiver.end.wrapping_add(margin)) && !after(receiver.end.wrapping_sub(margin + LEAST), ack)
}

/// The four bounds, as far as both ends are known.
#[inline(always)]
const fn is_in_window(sender: Window, receiver: Window, segment: &Segment) -> bool {
    let known = sender.is_known() && receiver.is_known();
    // Where little is known, what ends a connection is looked at as closely as a reset.
    if segment.has(flags::FIN) && (!known || receiver.is_scale_unknown()) {
        let nothing = !sender.is_known() && !receiver.is_known();
        if !nothing && !is_near(sender, receiver, segment.seq) {
            return false;
        }
    }
    if !known {
        return true;
    }
    let margin = receiver.largest();
    let too_far = after(segment.seq, sender.max_end.wrapping_add(margin));
    let too_old = after(sender.end.wrapping_sub(margin + LEAST), segment.end());
    !too_far && !too_old && (!segment.has(flags::ACK) || is_ack_in_window(sender, receiver, segment.ack))
}

/// Takes over what a plausible segment says.
#[inline(always)]
const fn learn(sender: &mut Window, receiver: &mut Window, segment: &Segment) {
    let window = (segment.window as u32) << shift(*sender, *receiver);
    if sender.is_known() {
        sender.raise_end(segment.end());
        let now = Window::pack(window, sender.scale());
        if now & SIZE > sender.max_window & SIZE {
            sender.max_window = now;
        }
    } else {
        // Taken up in the middle. What the other end has acknowledged may already be known.
        let first = !receiver.is_known();
        if first || after(segment.end(), sender.end) {
            sender.end = segment.end();
        }
        if first {
            sender.max_end = segment.end();
        }
        sender.max_window = Window::pack(window, Scale::UNKNOWN.0);
    }
    learn_ack(receiver, segment.ack, window);
}

/// Takes over what an acknowledgement says of the end that it goes to.
#[inline(always)]
const fn learn_ack(receiver: &mut Window, ack: u32, window: u32) {
    if !receiver.is_known() && receiver.end == 0 && receiver.max_end == 0 {
        receiver.end = ack;
        receiver.max_end = ack;
    }
    receiver.allow(ack, window);
}

/// How far the sender's windows are shifted.
#[inline(always)]
const fn shift(sender: Window, receiver: Window) -> u32 {
    let (own, other) = (sender.scale(), receiver.scale());
    if own == Scale::NONE.0 || other == Scale::NONE.0 {
        0
    } else if own > Scale::MAX || !sender.is_known() {
        Scale::MAX as u32
    } else {
        own as u32
    }
}

/// A SYN that acknowledges nothing.
#[inline(always)]
const fn syn(state: State, sender: &mut Window, receiver: &mut Window, segment: &Segment) -> Judgement {
    match state {
        State::None | State::SynSent | State::SynSent2 => {}
        State::LastAck | State::TimeWait | State::Close => *receiver = Window { end: 0, max_end: 0, max_window: 0 },
        // An old one, or one of an end that has forgotten the connection: the other end will tell.
        _ => return plausible_if(is_in_window(*sender, *receiver, segment)),
    }
    *sender = Window::of_syn(segment);
    Judgement::Plausible
}

#[inline(always)]
const fn syn_ack(state: State, sender: &mut Window, receiver: &mut Window, noted: u32, segment: &Segment) -> Judgement {
    let window = segment.window as u32;
    match state {
        State::None => {
            *sender = Window::of_syn(segment);
            learn_ack(receiver, segment.ack, window);
            return Judgement::Plausible;
        }
        State::SynSent | State::SynSent2 if !receiver.syn_acknowledged_by(segment.ack) => {
            return Judgement::Implausible;
        }
        // An answer that is repeated may begin elsewhere: SYN cookies do.
        State::SynSent | State::SynSent2 => {
            *sender = Window::of_syn(segment);
            receiver.allow(segment.ack, window);
            return Judgement::Plausible;
        }
        State::SynRecv if receiver.syn_acknowledged_by(segment.ack) => {
            let was_acknowledged = after(sender.max_end, sender.end);
            let acknowledges_anew = !after(receiver.max_end, receiver.end);
            let completes = sender.is_known() && was_acknowledged && acknowledges_anew;
            if segment.end() != sender.end {
                *sender = Window::of_syn(segment);
            }
            receiver.allow(segment.ack, window);
            return if completes { Judgement::Completes } else { Judgement::Plausible };
        }
        _ => {}
    }
    if is_in_window(*sender, *receiver, segment) {
        // An old one.
        return Judgement::Plausible;
    }
    if noted == 0 || segment.ack != noted {
        return Judgement::Implausible;
    }
    // The SYN that had no effect is answered: both ends have forgotten what is known here. Its options are not known.
    *receiver = Window { end: noted, max_end: noted, max_window: Window::pack(LEAST, Scale::UNKNOWN.0) };
    *sender = Window::of_syn(segment);
    receiver.allow(segment.ack, window);
    Judgement::Restarts
}

/// The window scale among a TCP header's options.
pub mod options {
    use super::Scale;
    use crate::branchless::{is_below, is_zero, select};

    /// Length of the window scale option (RFC 7323 §2.2) in octets, the factor being the last.
    const WINDOW_SCALE_LEN: usize = 3;
    /// Kind and length of that option.
    const WINDOW_SCALE: u64 = 3 | (WINDOW_SCALE_LEN as u64) << 8;
    /// The longest option list in octets (RFC 9293 §3.1).
    const MAX: usize = 40;
    /// Room for one, a power of two.
    pub const ROOM: usize = 64;

    /// What a list of `len` octets says of its sender's windows. What is behind them is zero, as is the end of a list. What
    /// comes behind a damaged option counts for nothing.
    ///
    /// What an option is, is found out without branches: the verifier would follow each of them from each place at which an
    /// option may begin.
    #[inline(always)]
    #[must_use]
    pub fn window_scale(list: &[u8; ROOM], len: usize) -> Scale {
        let mut at = 0;
        for _ in 0..MAX {
            let (kind, length) = (u64::from(list[at]), u64::from(list[at + 1]));
            // One octet alone: no operation, or the end, which is as long as it is worth.
            let is_short = is_below(kind, 2);
            let step = select(is_short, kind, length);
            let is_damaged_or_end = is_below(step + is_short, 2);
            let found = is_zero((kind | length << 8) ^ WINDOW_SCALE);
            if is_damaged_or_end | found != 0 {
                let fits = found != 0 && at + WINDOW_SCALE_LEN <= len;
                return if fits { Scale::from_option(list[at + 2]) } else { Scale::NONE };
            }
            at += step as usize;
            if at >= MAX {
                break;
            }
        }
        Scale::NONE
    }
}
