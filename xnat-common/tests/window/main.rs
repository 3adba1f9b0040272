//! TCP's windows as a NAT sees them: every segment of two honest ends is plausible, whatever the network does to it, and
//! what somebody who sees nothing sends is not.

mod connections;
mod honest;
mod scale;

use xnat_common::Direction::{self, Original, Reply};
use xnat_common::Kind;
use xnat_common::flow;
use xnat_common::tcp::flags::{ACK, FIN, RST, SYN};
use xnat_common::tcp::window::{LEAST, Scale};
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
