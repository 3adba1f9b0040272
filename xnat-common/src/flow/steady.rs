//! Which state a flow has to be in to be steady: a table, because each packet asks, and the verifier would follow every branch.

use super::{Direction, Kind, State};
use crate::{Side, tcp};

/// A word for each kind, direction, side and protocol, at its [`place`]: in the lower half what of the state has to be set, in
/// the upper half what is looked at.
pub static STEADY: [u64; PLACES] = table();

const PLACES: usize = 1 << 7;
/// No state fits: something would have to be set that is not looked at.
const NEVER: u64 = 1;

/// Where the word of a [`Kind`] is; of `protocol`, TCP is 0, UDP 1.
#[inline(always)]
pub const fn place(kind: u8, direction: usize, side: usize, protocol: usize) -> usize {
    ((kind as usize) << 3 | direction << 2 | side << 1 | protocol) % PLACES
}

const fn table() -> [u64; PLACES] {
    /// Those that there is nothing else to than both ends of a conversation.
    const KINDS: [Kind; 5] = [Kind::Outside, Kind::Peer, Kind::Inbound, Kind::Forward, Kind::Mapped];
    let mut table = [NEVER; PLACES];
    let mut nth = 0;
    while nth < KINDS.len() * 4 {
        let (kind, protocol) = (KINDS[nth / 4], nth & 1);
        let direction = if nth & 2 == 0 { Direction::Original } else { Direction::Reply };
        // Elsewhere its packets are seen when they have been translated.
        let side = Kind::side(kind as u8, direction);
        table[place(kind as u8, direction as usize, side as usize, protocol)] = word(kind, direction, protocol == 1);
        nth += 1;
    }
    table
}

const fn word(kind: Kind, direction: Direction, is_udp: bool) -> u64 {
    const ANSWERED: u32 = State::REPLIED | State::CONFIRMED;
    let (set, seen) = match (is_udp, direction) {
        (false, _) => (ANSWERED | tcp::State::Established as u32, 0xff),
        (true, Direction::Original) => (0, 0),
        (true, Direction::Reply) => (ANSWERED | State::ASSURED, 0),
    };
    let set = match kind {
        Kind::Peer => set | State::CONFIRMED,
        Kind::Mapped => set | State::REPLIED | State::MAPPED,
        _ => set,
    };
    ((set | seen | State::PASSING) as u64) << 32 | set as u64
}

const _: () = assert!(Side::Wire as usize == 1 && Direction::Reply as usize == 1, "a bit each");
