//! What a translated packet leaves behind in its flow: time, counters, state.

use aya_ebpf::bindings::{__sk_buff, BPF_EXIST};
use xnat_common::counter::Counter;
use xnat_common::flow::{Counts, Kind, State};
use xnat_common::packet::{Headers, proto};
use xnat_common::tcp::window::{self, Scale};
use xnat_common::tcp::{Judgement, Segment, Window, flags};
use xnat_common::{Direction, FlowRef, Side, Ticks, tcp, timeout};

use crate::lookup::{self, Found};
use crate::maps::CLOSED;
use crate::skb::Skb;
use crate::{atomic, maps, segment};

/// Stamps, counts and advances the state; false if the flow has been collected in the meantime.
#[inline(always)]
pub fn account(skb: Skb, reference: FlowRef, headers: &Headers, now: Ticks) -> bool {
    let reference = reference.to_bits();
    // What is not a TCP header has neither numbers nor flags.
    let effect = if headers.proto == proto::TCP && !headers.is_later_fragment() {
        let opens = headers.flags & flags::SYN != 0;
        let scale = if opens { segment::scale(skb, headers) } else { Scale::NONE };
        Effect(xnat_take_segment(skb.raw(), reference, lengths(headers, scale)))
    } else {
        Effect::without_segment(headers.proto)
    };
    xnat_account(reference, effect.0, u32::from(headers.total_len), now.0) != 0
}

/// What the judge has to know of a segment's lengths, and of its scale.
#[inline(always)]
fn lengths(headers: &Headers, scale: Scale) -> u32 {
    u32::from(headers.total_len) << 16 | u32::from(headers.ip_len) << 8 | u32::from(scale.0)
}

/// What a packet means for its flow, in one word: a [`Judgement`] in the lowest octet, the segment's flags in the next,
/// and two bits above.
#[derive(Clone, Copy)]
struct Effect(u32);

impl Effect {
    /// The segment carries data.
    const DATA: u32 = 1 << 16;
    /// The packet has no TCP header.
    const NO_SEGMENT: u32 = 1 << 17;
    /// It is of a protocol in which an answer makes a conversation.
    const ASSURES: u32 = 1 << 18;
    /// It is a later fragment of TCP, of which nobody can say whether it is plausible.
    const ONLY_COUNTS: u32 = 1 << 19;

    #[inline(always)]
    fn without_segment(protocol: u8) -> Self {
        Self(Self::NO_SEGMENT | if protocol == proto::TCP { Self::ONLY_COUNTS } else { Self::ASSURES })
    }

    #[inline(always)]
    fn of(judgement: Judgement, segment: &Segment) -> Self {
        let data = if segment.payload == 0 { 0 } else { Self::DATA };
        Self(judgement as u32 | u32::from(segment.flags) << 8 | data)
    }

    #[inline(always)]
    const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    #[inline(always)]
    const fn is_reset(self) -> bool {
        self.0 >> 8 & flags::RST as u32 != 0
    }

    /// Whether the packet has no effect on its flow.
    #[inline(always)]
    const fn is_none(self) -> bool {
        !self.has(Self::NO_SEGMENT) && self.0 & 0xff == Judgement::Implausible as u32
    }

    /// The state of a flow of `kind` after the packet.
    #[inline(always)]
    fn on(self, state: State, kind: u8, direction: Direction) -> State {
        State(xnat_follow(state.0, self.0, u32::from(kind) << 8 | direction as u32))
    }

    /// As [`Self::on`], in place.
    #[inline(always)]
    fn follow(self, state: State, kind: u8, direction: Direction) -> State {
        // From the wire: the packet that an announcement was for has come, whatever it is.
        let from_wire = Kind::side(kind, direction) == Side::Wire;
        let state = if from_wire { State(state.0 & !State::ANNOUNCED) } else { state };
        if self.is_none() || self.has(Self::ONLY_COUNTS) {
            return state;
        }
        let state = if self.has(Self::NO_SEGMENT) {
            state
        } else {
            tcp::follow(
                state,
                kind,
                direction,
                Judgement::from_u8(self.0 as u8),
                (self.0 >> 8) as u8,
                self.has(Self::DATA),
            )
        };
        if direction == Direction::Original {
            return state;
        }
        let assured = if self.has(Self::ASSURES) { State::ASSURED } else { 0 };
        State(state.0 | State::REPLIED | State::CONFIRMED | assured)
    }
}

/// The state after a packet with this [`Effect`] on a flow whose kind is in the second octet of `whose`, above the direction.
///
/// A global function, of whose answer the verifier knows nothing: the many ways to it would multiply all that asks for the
/// state afterwards.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_follow(state: u32, effect: u32, whose: u32) -> u32 {
    let direction = if whose & 1 == 0 { Direction::Original } else { Direction::Reply };
    Effect(effect).follow(State(state), (whose >> 8) as u8, direction).0
}

/// Judges a TCP segment and takes over what it says of the windows; returns its [`Effect`]. `lengths` are the total length
/// (upper half), the length of the IP header (next octet) and, of a SYN, its [`Scale`].
///
/// A global function, which the verifier checks once by itself: inlined, the branches for all that a segment may be would
/// multiply everything that comes after it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_judge(skb: *mut __sk_buff, reference: u64, lengths: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    // A header that claims to be longer than its packet is no segment of anything.
    let Some(segment) = segment::read(Skb::from_raw(skb), lengths) else {
        return 0;
    };
    Effect::of(judge(&found, &segment), &segment).0
}

/// Judges a TCP segment and takes over what it says of the windows.
#[inline(always)]
pub fn judge(found: &Found, segment: &Segment) -> Judgement {
    let direction = found.direction();
    // SAFETY: fields of a map value; the directions are 0 and 1. What becomes of stores that lose a race is said at
    // `Window`.
    let (sender, receiver) = unsafe {
        let windows = (&raw mut (*found.flow).window).cast::<Window>();
        (&mut *windows.add(direction as usize), &mut *windows.add(direction.opposite() as usize))
    };
    // SAFETY: as above.
    let noted = unsafe { noted_syn(found, direction.opposite()).read_volatile() };
    window::judge(found.state().tcp(), sender, receiver, noted, segment)
}

/// Where the number behind a SYN without effect of one direction stands.
#[inline(always)]
fn noted_syn(found: &Found, direction: Direction) -> *mut u32 {
    // SAFETY: a field of a map value; the direction is 0 or 1.
    unsafe { (&raw mut (*found.flow).syn).cast::<u32>().add(direction as usize) }
}

/// As [`xnat_judge`], and notes the number behind a SYN that had no effect, or forgets that of the other end when its answer
/// has had one.
///
/// A global function of its own, because what it needs would take the judge's stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_take_segment(skb: *mut __sk_buff, reference: u64, lengths: u32) -> u32 {
    let effect = Effect(xnat_judge(skb, reference, lengths));
    let restarts = effect.0 & 0xff == Judgement::Restarts as u32;
    let opens_in_vain = effect.is_none() && tcp::opens((effect.0 >> 8) as u8);
    if !restarts && !opens_in_vain {
        return effect.0;
    }
    if let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) {
        let direction = if restarts { found.direction().opposite() } else { found.direction() };
        let end = if restarts { 0 } else { segment::read(Skb::from_raw(skb), lengths).map_or(0, |it| it.end()) };
        // SAFETY: a field of a map value.
        unsafe { noted_syn(&found, direction).write_volatile(end) };
    }
    effect.0
}

/// Stamps and counts a packet of `len` octets and advances the state by its `effect`; zero if the flow has been collected
/// in the meantime. A global function as well.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_account(reference: u64, effect: u32, len: u32, now: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    advance(&found, Effect(effect), len, Ticks(now)).into()
}

/// As [`xnat_account`].
#[inline(always)]
fn advance(found: &Found, effect: Effect, len: u32, now: Ticks) -> bool {
    let (kind, direction) = (found.flow().kind, found.direction());
    let from_wire = Kind::side(kind, direction) == Side::Wire;
    let old = found.state();
    let new = effect.on(old, kind, direction);
    let idle_reset = effect.is_reset() && new.tcp() as u8 == old.tcp() as u8;
    let says_nothing = effect.is_none() || effect.has(Effect::ONLY_COUNTS) || idle_reset;
    let refreshes = !says_nothing && timeout::refreshes(kind, old, from_wire);
    if refreshes && !found.refresh(now) {
        return false;
    }
    if effect.is_none() {
        maps::count(Counter::TcpImplausible);
    } else if effect.0 & 0xff == Judgement::Restarts as u32 {
        maps::count(Counter::FlowsReopened);
    }
    count(found, len);
    change(found, old, new, |old| effect.on(old, kind, direction));
    if new.tcp().is_over() && !old.tcp().is_over() {
        // Whoever runs short of ports or records ends it. The longest closed makes room for it if it must.
        let _ = CLOSED.push(&found.reference.to_bits(), u64::from(BPF_EXIST));
    }
    true
}

/// Counts a packet of `len` octets.
#[inline(always)]
pub fn count(found: &Found, len: u32) {
    let (direction, added) = (found.direction() as usize, Counts::of_packet(len));
    // SAFETY: fields of a map value; the direction is 0 or 1.
    unsafe {
        let counts = (&raw mut (*found.flow).counts).cast::<u64>().add(direction);
        let carry = Counts::carry(atomic::fetch_add(counts, added), added);
        if carry != 0 {
            // In this order, who reads in between sees too much for a moment rather than too little.
            atomic::add((&raw mut (*found.flow).carried).cast::<u64>().add(direction), Counts::carried(carry));
            atomic::add(counts, carry.wrapping_neg());
        }
    }
}

/// Changes the state from `old` to `new`. Another processor may be at the same flow; whoever loses looks again what comes
/// `next`.
#[inline(always)]
fn change(found: &Found, mut old: State, mut new: State, next: impl Fn(State) -> State) {
    for _ in 0..4 {
        if new == old || found.change_state(old, new) {
            return;
        }
        old = found.state();
        new = next(old);
    }
}

/// Takes up a closed TCP flow anew when `headers` open a connection on it.
#[inline(always)]
pub fn reopen(found: &Found, headers: &Headers) {
    // Later fragments have no flags.
    if headers.proto != proto::TCP || !tcp::opens(headers.flags) {
        return;
    }
    let old = found.state();
    if !tcp::can_reopen(old.tcp()) {
        return;
    }
    if found.change_state(old, tcp::reopened(old, found.flow().kind)) {
        // SAFETY: fields of a map value. Whoever has changed the state does this; a segment that is judged in between is
        // at worst one of the connection that is over.
        unsafe {
            (*found.flow).tagged = 0;
            (*found.flow).window = [Window { end: 0, max_end: 0, max_window: 0 }; 2];
            (*found.flow).syn = [0; 2];
        }
        maps::count(Counter::FlowsReopened);
    }
}

/// Sets status bits, and clears others.
#[inline(always)]
pub fn mark(found: &Found, set: u32, clear: u32) {
    // SAFETY: a field of a map value.
    unsafe {
        let state = &raw mut (*found.flow).state;
        if set != 0 {
            atomic::set32(state, set);
        }
        if clear != 0 {
            atomic::keep32(state, !clear);
        }
    }
}
