//! TCP's windows as a NAT sees them: every segment of two honest ends is plausible, whatever the network does to it, and
//! what somebody who sees nothing sends is not.

use std::collections::VecDeque;

use proptest::prelude::*;
use xnat_common::Direction::{self, Original, Reply};
use xnat_common::Kind;
use xnat_common::flow;
use xnat_common::tcp::flags::{ACK, FIN, RST, SYN};
use xnat_common::tcp::window::{LEAST, Scale, options};
use xnat_common::tcp::{self, Judgement, Segment, State, Window, window};

/// What a NAT keeps of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Nat {
    state: flow::State,
    windows: [Window; 2],
    syn: [u32; 2],
}

impl Nat {
    /// As the dataplane does it.
    fn see(&mut self, direction: Direction, segment: &Segment) -> Judgement {
        if tcp::opens(segment.flags) && tcp::can_reopen(self.state.tcp()) {
            *self = Self { state: tcp::reopened(self.state, Kind::Outside as u8), ..Self::default() };
        }
        let [original, reply] = &mut self.windows;
        let (sender, receiver, here, there) =
            if direction == Original { (original, reply, 0, 1) } else { (reply, original, 1, 0) };
        let judgement = window::judge(self.state.tcp(), sender, receiver, self.syn[there], segment);
        match judgement {
            Judgement::Implausible if tcp::opens(segment.flags) => self.syn[here] = segment.end(),
            Judgement::Restarts => self.syn[there] = 0,
            _ => {}
        }
        let data = segment.payload != 0;
        self.state = tcp::follow(self.state, Kind::Outside as u8, direction, judgement, segment.flags, data);
        judgement
    }

    #[track_caller]
    fn expect(&mut self, direction: Direction, segment: Segment, state: State) {
        let judgement = self.see(direction, &segment);
        assert_ne!(judgement, Judgement::Implausible, "{direction:?} {segment:?} in {self:?}");
        assert_eq!(self.state.tcp(), state, "{direction:?} {segment:?}");
    }

    /// A segment that has no effect.
    #[track_caller]
    fn refuse(&mut self, direction: Direction, segment: Segment) {
        let before = *self;
        assert_eq!(self.see(direction, &segment), Judgement::Implausible, "{direction:?} {segment:?} in {before:?}");
        assert_eq!((self.state, self.windows), (before.state, before.windows));
    }

    /// In the middle of a connection of which both ends have sent nothing but their SYNs.
    fn established(scale: Scale) -> Self {
        let mut nat = Self::default();
        nat.expect(Original, syn(0, scale), State::SynSent);
        nat.expect(Reply, Segment { ack: A + 1, flags: SYN | ACK, ..syn(B.wrapping_sub(A), scale) }, State::SynRecv);
        nat.expect(Original, segment(ACK, 1, 1), State::Established);
        nat
    }
}

/// The opener's first number, just before the numbers wrap around.
const A: u32 = u32::MAX - 1000;
/// The other end's.
const B: u32 = 7;

/// A segment of the opener's, with numbers from the two first ones on.
fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    let ack = if flags & ACK == 0 { 0 } else { B.wrapping_add(ack) };
    Segment { seq: A.wrapping_add(seq), ack, payload: 0, window: 64_240, flags, scale: Scale::NONE.0 }
}

/// One of the other end's.
fn answer(flags: u8, seq: u32, ack: u32) -> Segment {
    let ack = if flags & ACK == 0 { 0 } else { A.wrapping_add(ack) };
    Segment { seq: B.wrapping_add(seq), ack, payload: 0, window: 64_240, flags, scale: Scale::NONE.0 }
}

fn syn(seq: u32, scale: Scale) -> Segment {
    Segment { scale: scale.0, ..segment(SYN, seq, 0) }
}

fn carrying(payload: u32, segment: Segment) -> Segment {
    Segment { payload, ..segment }
}

#[test]
fn a_reset_ends_an_opening_only_if_it_acknowledges_the_syn() {
    let mut nat = Nat::default();
    nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
    nat.refuse(Reply, answer(RST, 0, 0));
    nat.refuse(Reply, answer(RST | ACK, 0, 0));
    nat.refuse(Reply, answer(RST | ACK, 0, 2));
    // Nor does an answer that is for another connection.
    nat.refuse(Reply, answer(SYN | ACK, 0, 5000));
    nat.refuse(Reply, answer(ACK, 77, 5000));
    nat.refuse(Original, segment(RST, 5000, 0));
    nat.expect(Reply, answer(RST | ACK, 0, 1), State::Close);
}

#[test]
fn a_syn_may_carry_data() {
    let mut nat = Nat::default();
    nat.expect(Original, carrying(500, segment(SYN, 0, 0)), State::SynSent);
    nat.refuse(Reply, answer(SYN | ACK, 0, 502));
    for ack in [1, 300, 501] {
        let mut nat = nat;
        nat.expect(Reply, carrying(700, answer(SYN | ACK, 0, ack)), State::SynRecv);
        nat.expect(Reply, carrying(700, answer(SYN | ACK, 0, ack)), State::SynRecv);
        nat.expect(Reply, carrying(1400, answer(ACK, 701, ack)), State::Established);
    }
}

#[test]
fn an_answer_that_is_repeated_may_begin_elsewhere() {
    let mut nat = Nat::default();
    nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
    nat.expect(Reply, answer(SYN | ACK, 0, 1), State::SynRecv);
    nat.expect(Reply, answer(SYN | ACK, 3_000_000_000, 1), State::SynRecv);
    nat.refuse(Reply, answer(SYN | ACK, 0, 90_000));
    nat.expect(Original, segment(ACK, 1, 3_000_000_001), State::Established);
}

#[test]
fn either_end_completes_the_handshake() {
    for direction in [Original, Reply] {
        let mut nat = Nat::default();
        nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
        nat.expect(Reply, answer(SYN | ACK, 0, 1), State::SynRecv);
        let ack = if direction == Original { segment(ACK, 1, 1) } else { answer(ACK, 1, 1) };
        nat.expect(direction, ack, State::Established);
    }
}

#[test]
fn a_simultaneous_open_is_complete_with_the_second_answer() {
    let both = [(Original, segment(SYN | ACK, 0, 1)), (Reply, answer(SYN | ACK, 0, 1))];
    for order in [[0, 1], [1, 0]] {
        let mut nat = Nat::default();
        nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
        nat.expect(Reply, answer(SYN, 0, 0), State::SynSent2);
        let [first, second] = order.map(|index| both[index]);
        nat.expect(first.0, first.1, State::SynRecv);
        // Repeated, it completes nothing.
        nat.expect(first.0, first.1, State::SynRecv);
        nat.expect(second.0, second.1, State::Established);
        nat.expect(Original, carrying(1000, segment(ACK, 1, 1)), State::Established);
        nat.expect(Reply, carrying(1000, answer(ACK, 1, 1001)), State::Established);
    }
}

#[test]
fn resets_that_hosts_send_count() {
    let mut connection = Nat::established(Scale::NONE);
    connection.expect(Original, carrying(1000, segment(ACK, 1, 1)), State::Established);
    connection.expect(Reply, carrying(3000, answer(ACK, 1, 1001)), State::Established);
    let table = [
        ("of an end that gives up", Original, segment(RST | ACK, 1001, 1)),
        ("of an end whose last data have not come by", Reply, answer(RST | ACK, 9001, 1001)),
        ("of a host that knows nothing of it", Reply, answer(RST, 1, 0)),
        ("of one that acknowledges zero", Original, Segment { ack: 0, ..segment(RST | ACK, 1001, 0) }),
        ("from the middle of what is on its way", Reply, answer(RST, 1500, 0)),
    ];
    for (what, direction, reset) in table {
        let mut nat = connection;
        nat.see(direction, &reset);
        assert_eq!(nat.state.tcp(), State::Close, "{what}");
        assert_eq!(nat.windows, connection.windows, "{what}");
    }
}

#[test]
fn resets_that_guess_do_not() {
    let mut nat = Nat::established(Scale::NONE);
    let before = nat;
    for (seq, ack) in [(65_000, 1), (1 << 31, 1), (0_u32.wrapping_sub(LEAST), 1), (1, 1 << 30)] {
        nat.refuse(Reply, answer(RST | ACK, seq, ack));
        nat.refuse(Original, segment(RST | ACK, seq, ack));
        if seq != 1 {
            nat.refuse(Reply, answer(RST, seq, 0));
            nat.refuse(Original, segment(RST, seq, 0));
        }
    }
    assert_eq!(nat, before);
}

#[test]
fn data_bring_a_reset_connection_back() {
    let mut reset = Nat::established(Scale::NONE);
    reset.expect(Reply, answer(RST, 1, 0), State::Close);
    for (direction, data) in [(Original, segment(ACK, 1, 1)), (Reply, answer(ACK, 1, 1))] {
        let mut nat = reset;
        nat.expect(direction, data, State::Close);
        nat.refuse(direction, carrying(10, Segment { seq: data.seq.wrapping_add(1 << 25), ..data }));
        nat.expect(direction, carrying(10, data), State::Established);
    }
    // Half-closed it was, half-closed it is.
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, segment(FIN | ACK, 1, 1), State::FinWait);
    nat.expect(Reply, answer(RST, 1, 0), State::Close);
    nat.expect(Reply, carrying(10, answer(ACK, 1, 2)), State::CloseWait);
    // What was never established has nothing to come back to.
    let mut nat = Nat::default();
    nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
    nat.expect(Reply, answer(RST | ACK, 0, 1), State::Close);
    nat.expect(Original, carrying(10, segment(ACK, 1, 1)), State::Close);
}

#[test]
fn a_half_closed_connection_goes_on_for_as_long_as_there_is_something_to_send() {
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, segment(FIN | ACK, 1, 1), State::FinWait);
    nat.expect(Reply, answer(ACK, 1, 2), State::CloseWait);
    for round in 0..100 {
        nat.expect(Reply, carrying(50_000, answer(ACK, 1 + 50_000 * round, 2)), State::CloseWait);
        nat.expect(Original, segment(ACK, 2, 1 + 50_000 * (round + 1)), State::CloseWait);
    }
    nat.expect(Reply, answer(FIN | ACK, 5_000_001, 2), State::LastAck);
    nat.expect(Original, segment(ACK, 2, 5_000_002), State::TimeWait);
}

#[test]
fn a_fin_counts_only_where_it_belongs() {
    let mut nat = Nat::established(Scale::NONE);
    nat.refuse(Reply, answer(FIN | ACK, 1 << 20, 1));
    nat.refuse(Reply, answer(FIN | ACK, 1, 1 << 20));
    nat.refuse(Reply, answer(FIN, 1, 0));
    nat.expect(Reply, answer(FIN | ACK, 1, 1), State::FinWait);
}

#[test]
fn a_syn_takes_a_connection_that_is_over_up_anew_from_either_end() {
    let mut closing = Nat::established(Scale::NONE);
    closing.expect(Original, segment(FIN | ACK, 1, 1), State::FinWait);
    closing.expect(Reply, answer(FIN | ACK, 1, 2), State::LastAck);
    let mut closed = closing;
    closed.expect(Original, segment(ACK, 2, 2), State::TimeWait);
    let mut reset = Nat::established(Scale::NONE);
    reset.expect(Original, segment(RST, 1, 0), State::Close);
    for over in [closing, closed, reset] {
        let mut nat = over;
        nat.expect(Original, segment(SYN, 1 << 30, 0), State::SynSent);
        nat.expect(Reply, answer(SYN | ACK, 1 << 30, (1 << 30) + 1), State::SynRecv);
        nat.expect(Original, segment(ACK, (1 << 30) + 1, (1 << 30) + 1), State::Established);
        let mut nat = over;
        nat.expect(Reply, answer(SYN, 1 << 30, 0), State::SynSent);
        nat.expect(Original, segment(SYN | ACK, 1 << 30, (1 << 30) + 1), State::SynRecv);
        nat.expect(Reply, answer(ACK, (1 << 30) + 1, (1 << 30) + 1), State::Established);
        assert!(!nat.state.has(flow::State::FIN_ORIGINAL) && !nat.state.has(flow::State::FIN_REPLY));
    }
}

#[test]
fn a_syn_in_a_connection_that_goes_on_changes_nothing() {
    let mut nat = Nat::established(Scale(7));
    let before = nat;
    nat.refuse(Original, syn(1 << 30, Scale(2)));
    nat.refuse(Reply, Segment { flags: SYN, ..answer(SYN, 1 << 30, 0) });
    nat.expect(Original, syn(0, Scale(7)), State::Established);
    nat.expect(Reply, Segment { scale: 7, ..answer(SYN | ACK, 0, 1) }, State::Established);
    assert_eq!((nat.state, nat.windows), (before.state, before.windows));
}

#[test]
fn two_ends_that_have_both_forgotten_the_connection_open_another() {
    let mut nat = Nat::established(Scale::NONE);
    nat.refuse(Original, segment(SYN, 1 << 30, 0));
    // Of the same direction it is nobody's answer.
    nat.refuse(Original, Segment { ack: A.wrapping_add((1 << 30) + 1), ..segment(SYN | ACK, 1 << 29, 0) });
    nat.refuse(Reply, answer(SYN | ACK, 1 << 30, 1 << 30));
    nat.expect(Reply, answer(SYN | ACK, 1 << 30, (1 << 30) + 1), State::SynRecv);
    nat.expect(Original, segment(ACK, (1 << 30) + 1, (1 << 30) + 1), State::Established);
    nat.expect(Reply, carrying(1000, answer(ACK, (1 << 30) + 1, (1 << 30) + 1)), State::Established);
    nat.refuse(Original, carrying(1000, segment(ACK, 1, 1)));
}

#[test]
fn an_end_of_which_only_the_other_knows_is_reset_as_ever() {
    // The opener has forgotten the connection, and the other end tells it by acknowledging what it last got.
    let mut nat = Nat::established(Scale::NONE);
    nat.refuse(Original, segment(SYN, 1 << 30, 0));
    nat.expect(Reply, answer(ACK, 1, 1), State::Established);
    nat.expect(Original, segment(RST, 1, 0), State::Close);
    nat.expect(Original, segment(SYN, 1 << 30, 0), State::SynSent);
}

#[test]
fn a_connection_is_learnt_in_the_middle() {
    let mut nat = Nat::default();
    nat.expect(Original, carrying(60_000, segment(ACK, 1, 1)), State::Established);
    // Until the other end says something, nobody knows how much it takes.
    for round in 1..100 {
        nat.expect(Original, carrying(60_000, segment(ACK, 1 + round * 60_000, 1)), State::Established);
    }
    nat.expect(Reply, Segment { window: 501, ..answer(ACK, 1, 6_000_001) }, State::Established);
    nat.expect(Original, carrying(60_000, segment(ACK, 6_000_001, 1)), State::Established);
    nat.refuse(Reply, answer(ACK, 1, 2_000_000_000));
    // What would end it is looked at more closely.
    nat.refuse(Reply, answer(RST, 1_000_000, 0));
    nat.refuse(Reply, answer(FIN | ACK, 1_000_000, 6_060_001));
    nat.expect(Reply, answer(FIN | ACK, 1, 6_060_001), State::FinWait);
    // Of one end alone.
    let mut nat = Nat::default();
    nat.expect(Reply, answer(ACK, 1, 1), State::Established);
    nat.refuse(Original, segment(RST, 1_000_000, 0));
    nat.expect(Original, segment(RST, 1, 0), State::Close);
}

#[test]
fn what_was_missed_is_made_up_for() {
    // The later fragments of a packet carry no header: the data in them show when they are acknowledged.
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, carrying(1000, segment(ACK, 1, 1)), State::Established);
    nat.expect(Reply, answer(ACK, 1, 60_001), State::Established);
    nat.expect(Original, carrying(1000, segment(ACK, 60_001, 1)), State::Established);
    // Two processors store at the same time, and the older value stays, in each field.
    for field in 0..3 {
        let mut nat = Nat::established(Scale(9));
        let mut sent = 1;
        for round in 0..50 {
            let old = nat.windows;
            nat.expect(
                Original,
                Segment { window: 30_000, ..carrying(64_000, segment(ACK, sent, 1)) },
                State::Established,
            );
            nat.expect(Reply, Segment { window: 30_000, ..answer(ACK, 1, sent + 64_000) }, State::Established);
            sent += 64_000;
            if round % 3 == 0 {
                match field {
                    0 => nat.windows[0].end = old[0].end,
                    1 => nat.windows[0].max_end = old[0].max_end,
                    _ => nat.windows[1].max_window = old[1].max_window,
                }
            }
        }
    }
}

#[test]
fn keep_alives_and_probes_of_a_closed_window_are_plausible() {
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, segment(ACK, 0, 1), State::Established);
    nat.expect(Original, carrying(1, segment(ACK, 0, 1)), State::Established);
    nat.expect(Reply, Segment { window: 0, ..answer(ACK, 1, 1) }, State::Established);
    nat.expect(Original, carrying(1, segment(ACK, 1, 1)), State::Established);
    nat.expect(Reply, Segment { window: 0, ..answer(ACK, 1, 1) }, State::Established);
}

#[test]
fn scale_factors_count_only_if_both_ends_offer_them() {
    for (own, other, shift) in [(Scale(7), Scale(3), 7), (Scale(7), Scale::NONE, 0), (Scale::NONE, Scale(3), 0)] {
        let mut nat = Nat::default();
        nat.expect(Original, syn(0, own), State::SynSent);
        nat.expect(Reply, Segment { scale: other.0, ..answer(SYN | ACK, 0, 1) }, State::SynRecv);
        // The window of a SYN is never scaled.
        assert_eq!(nat.windows[0].max_end, A.wrapping_add(1 + 64_240));
        nat.expect(Original, Segment { window: 50_000, ..segment(ACK, 1, 1) }, State::Established);
        let allowed = if shift == 0 { 64_240 } else { 50_000 << shift };
        assert_eq!(nat.windows[1].max_end.wrapping_sub(B + 1), if shift == 0 { 50_000 } else { allowed });
        assert_eq!((nat.windows[0].max_window & 0x00ff_ffff) * 64, allowed.next_multiple_of(64));
    }
    assert_eq!(Scale::from_option(200), Scale(14));
}

#[test]
fn option_lists_are_walked() {
    assert_eq!(options::next(3, 0, 9), None);
    assert_eq!(options::next(3, 1, 0), Some(4));
    assert_eq!(options::next(3, 2, 4), Some(7));
    assert_eq!(options::next(3, 2, 1), None);
}

/// An honest end.
#[derive(Clone, Debug)]
struct End {
    iss: u32,
    shift: u8,
    /// Octets sent, and acknowledged by the other end; the SYN and the FIN count.
    sent: u32,
    acked: u32,
    /// Octets still to send.
    left: u32,
    /// As the other end has said: up to where it may send.
    allowed: u32,
    /// The other end's numbers: its first, what has come in order, and what has come beyond it.
    irs: u32,
    received: u32,
    beyond: Vec<(u32, u32)>,
    /// Octets that are not read yet, and room for them.
    unread: u32,
    room: u32,
    fin_sent: bool,
    fin_received: bool,
}

impl End {
    fn new(iss: u32, shift: u8, room: u32, left: u32) -> Self {
        Self {
            iss,
            shift,
            sent: 1,
            acked: 0,
            left,
            allowed: 1,
            irs: 0,
            received: 1,
            beyond: Vec::new(),
            unread: 0,
            room,
            fin_sent: false,
            fin_received: false,
        }
    }

    fn window(&self) -> u16 {
        ((self.room - self.unread) >> self.shift).min(65_535) as u16
    }

    fn segment(&self, flags: u8, from: u32, payload: u32) -> Segment {
        let syn = flags & SYN != 0;
        Segment {
            seq: self.iss.wrapping_add(from),
            ack: if flags & ACK == 0 { 0 } else { self.irs.wrapping_add(self.received) },
            payload,
            window: if syn { (self.room - self.unread).min(65_535) as u16 } else { self.window() },
            flags,
            scale: if syn { self.shift } else { Scale::NONE.0 },
        }
    }

    /// Something new, if there is anything and the window allows it.
    fn send(&mut self, most: u32) -> Option<Segment> {
        let payload = most.min(self.left).min(self.allowed.saturating_sub(self.sent));
        if payload > 0 {
            let segment = self.segment(ACK, self.sent, payload);
            self.sent += payload;
            self.left -= payload;
            return Some(segment);
        }
        if self.left == 0 && !self.fin_sent && self.allowed > self.sent {
            let segment = self.segment(FIN | ACK, self.sent, 0);
            self.fin_sent = true;
            self.sent += 1;
            return Some(segment);
        }
        None
    }

    /// What is not acknowledged yet, again.
    fn repeat(&self, most: u32) -> Option<Segment> {
        let data = self.sent - u32::from(self.fin_sent) - self.acked.min(self.sent - u32::from(self.fin_sent));
        match (data, self.sent > self.acked) {
            (0, true) => Some(self.segment(FIN | ACK, self.acked, 0)),
            (0, false) => None,
            _ => Some(self.segment(ACK, self.acked, data.min(most))),
        }
    }

    fn probe(&self) -> Segment {
        self.segment(ACK, self.acked.saturating_sub(1).max(1), 0)
    }

    fn receive(&mut self, segment: &Segment, other_shift: u8) {
        if segment.flags & ACK != 0 {
            let ack = segment.ack.wrapping_sub(self.iss);
            let window = u32::from(segment.window) << if segment.flags & SYN == 0 { other_shift } else { 0 };
            self.acked = self.acked.max(ack);
            self.allowed = self.allowed.max(ack + window);
        }
        let from = segment.seq.wrapping_sub(self.irs);
        if segment.payload > 0 && from < self.received + self.room - self.unread {
            self.beyond.push((from, from + segment.payload));
        }
        self.beyond.sort_unstable();
        let before = self.received;
        for (start, end) in &self.beyond {
            if *start <= self.received {
                self.received = self.received.max(*end);
            }
        }
        self.beyond.retain(|(_, end)| *end > before);
        self.beyond.retain(|(_, end)| *end > self.received);
        self.unread = (self.unread + self.received - before).min(self.room);
        if segment.flags & FIN != 0 && from + segment.payload == self.received && !self.fin_received {
            self.fin_received = true;
            self.received += 1;
        }
    }
}

/// What happens next in a network.
#[derive(Clone, Debug)]
enum Event {
    Send(bool, u32),
    Repeat(bool, u32),
    Probe(bool),
    Ack(bool),
    Read(bool, u32),
    /// Arrives at the NAT: which of those on their way.
    ToNat(bool, u8),
    FromNat(bool, u8),
    Lose(bool, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let which = any::<bool>();
    prop_oneof![
        6 => (which, 1..9000_u32).prop_map(|(end, most)| Event::Send(end, most)),
        1 => (which, 1..9000_u32).prop_map(|(end, most)| Event::Repeat(end, most)),
        1 => which.prop_map(Event::Probe),
        4 => which.prop_map(Event::Ack),
        3 => (which, 1..60_000_u32).prop_map(|(end, octets)| Event::Read(end, octets)),
        8 => (which, 0..4_u8).prop_map(|(way, nth)| Event::ToNat(way, nth)),
        8 => (which, 0..4_u8).prop_map(|(way, nth)| Event::FromNat(way, nth)),
        1 => (which, any::<bool>()).prop_map(|(way, far)| Event::Lose(way, far)),
    ]
}

/// Most packets that are on their way on either side of the NAT.
const ON_THEIR_WAY: usize = 6;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_segment_of_honest_ends_is_plausible(
        isns in any::<[u32; 2]>(),
        shifts in prop::array::uniform2(0..=14_u8),
        rooms in prop::array::uniform2(prop_oneof![1..3000_u32, 30_000..4_000_000_u32]),
        left in prop::array::uniform2(0..2_000_000_u32),
        events in prop::collection::vec(event(), 1..600),
    ) {
        let mut ends = [End::new(isns[0], shifts[0], rooms[0], left[0]), End::new(isns[1], shifts[1], rooms[1], left[1])];
        for end in &mut ends {
            // A window that cannot be said in units of its scale is none.
            end.room = end.room.max(1 << end.shift);
        }
        let mut nat = Nat::default();
        let opening = ends[0].segment(SYN, 0, 0);
        nat.expect(Original, opening, State::SynSent);
        ends[1].irs = isns[0];
        let answer = ends[1].segment(SYN | ACK, 0, 0);
        nat.expect(Reply, answer, State::SynRecv);
        ends[0].irs = isns[1];
        ends[0].receive(&answer, shifts[1]);
        let complete = ends[0].segment(ACK, 1, 0);
        nat.expect(Original, complete, State::Established);
        ends[1].receive(&complete, shifts[0]);
        // By the sending end, before the NAT and behind it.
        let mut near: [VecDeque<Segment>; 2] = Default::default();
        let mut far: [VecDeque<Segment>; 2] = Default::default();
        for event in events {
            let (end, segment) = match event {
                Event::Send(end, most) => (end, ends[usize::from(end)].send(most)),
                Event::Repeat(end, most) => (end, ends[usize::from(end)].repeat(most)),
                Event::Probe(end) => (end, Some(ends[usize::from(end)].probe())),
                Event::Ack(end) => (end, Some(ends[usize::from(end)].segment(ACK, ends[usize::from(end)].sent, 0))),
                Event::Read(end, octets) => {
                    let end = &mut ends[usize::from(end)];
                    end.unread -= octets.min(end.unread);
                    continue;
                }
                Event::ToNat(way, nth) => {
                    let way = usize::from(way);
                    let Some(segment) = near[way].remove(usize::from(nth) % near[way].len().max(1)) else { continue };
                    // What others have overtaken by more than this is as good as lost.
                    let late = ends[way].received.saturating_sub(segment.ack.wrapping_sub(ends[way].irs));
                    let old = ends[way].acked.saturating_sub(segment.seq.wrapping_sub(isns[way]));
                    if late > LEAST || old > LEAST {
                        continue;
                    }
                    let before = nat;
                    let judgement = nat.see(if way == 0 { Original } else { Reply }, &segment);
                    prop_assert_eq!(judgement, Judgement::Plausible, "{:?} in {:?}", segment, before);
                    if far[way].len() < ON_THEIR_WAY {
                        far[way].push_back(segment);
                    }
                    continue;
                }
                Event::FromNat(way, nth) => {
                    let way = usize::from(way);
                    let Some(segment) = far[way].remove(usize::from(nth) % far[way].len().max(1)) else { continue };
                    ends[1 - way].receive(&segment, shifts[way]);
                    continue;
                }
                Event::Lose(way, is_far) => {
                    let queue = if is_far { &mut far } else { &mut near };
                    queue[usize::from(way)].pop_front();
                    continue;
                }
            };
            let way = usize::from(end);
            if let Some(segment) = segment && near[way].len() < ON_THEIR_WAY {
                near[way].push_back(segment);
            }
        }
        // In the end nothing that was judged has led astray.
        prop_assert!(!matches!(nat.state.tcp(), State::None | State::SynSent | State::SynSent2 | State::Close));
    }

    #[test]
    fn what_is_blindly_sent_has_no_effect(
        isns in any::<[u32; 2]>(),
        scale in 0..=8_u8,
        sent in 0..60_000_u32,
        direction in prop_oneof![Just(Original), Just(Reply)],
        flags in prop::sample::select(vec![RST, RST | ACK, SYN, SYN | ACK, FIN | ACK, FIN, ACK, FIN | SYN, RST | SYN]),
        seq in any::<u32>(),
        ack in any::<u32>(),
        payload in prop_oneof![Just(0_u32), 0..1400_u32],
        window in any::<u16>(),
    ) {
        let mut nat = Nat::default();
        let of = |flags, seq: u32, ack: u32, payload| {
            Segment { seq, ack, payload, window: 8000, flags, scale }
        };
        nat.expect(Original, of(SYN, isns[0], 0, 0), State::SynSent);
        nat.expect(Reply, of(SYN | ACK, isns[1], isns[0].wrapping_add(1), 0), State::SynRecv);
        nat.expect(Original, of(ACK, isns[0].wrapping_add(1), isns[1].wrapping_add(1), sent), State::Established);
        let guess = Segment { seq, ack, payload, window, flags, scale: 0 };
        let isn = isns[direction as usize];
        // What is allowed, and the margins.
        let reach = 3 * LEAST.max(8000 << scale) + LEAST + 60_000;
        let distance = seq.wrapping_sub(isn).cast_signed().unsigned_abs();
        prop_assume!(distance > reach);
        let before = nat;
        prop_assert_eq!(nat.see(direction, &guess), Judgement::Implausible);
        prop_assert_eq!((nat.state, nat.windows), (before.state, before.windows));
    }
}
