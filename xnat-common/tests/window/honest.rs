//! Two honest ends and a network that loses, repeats and reorders; and somebody who sees nothing of it.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

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
