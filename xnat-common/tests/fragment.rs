//! What a datagram's bitmap says of its fragments, against a model that keeps a list of octets.

use proptest::prelude::*;
use xnat_common::fragment::{
    Comparison, DATAGRAMS, DATAGRAMS_A_SOURCE, HELD, Handle, Link, Novelty, Piece, Slot, WORDS, agrees, within_quota,
};
use xnat_common::packet::{Headers, ipv4, proto};

/// The headers of a fragment of `octets` octets, from octet `offset` on.
fn headers(protocol: u8, offset: u32, octets: u32, more: bool) -> Headers {
    let fragment = (offset / 8) as u16 | if more { ipv4::MF } else { 0 };
    Headers { proto: protocol, ip_len: 20, total_len: (20 + octets) as u16, fragment, ..Headers::default() }
}

fn piece(offset: u32, octets: u32, more: bool) -> Piece {
    Piece::of(&headers(proto::UDP, offset, octets, more)).expect("a sound fragment")
}

/// A record as the dataplane keeps it, changed by one fragment after the other.
struct Record {
    bitmap: [u64; WORDS as usize],
    end: u64,
    seen: u64,
}

impl Record {
    fn new() -> Self {
        Self { bitmap: [0; WORDS as usize], end: 0, seen: 0 }
    }

    fn cover(&mut self, piece: Piece) -> Novelty {
        let mut comparison = Comparison::default();
        for word in piece.first_word()..piece.first_word() + piece.words() {
            let before = self.bitmap[word as usize];
            self.bitmap[word as usize] |= piece.mask(word);
            comparison.add(piece.mask(word), before);
        }
        if comparison.novelty() != Novelty::New {
            return comparison.novelty();
        }
        if piece.last && self.end == 0 {
            self.end = piece.end.into();
        }
        self.seen += u64::from(piece.units());
        let behind = piece.last && (0..WORDS).any(|word| self.bitmap[word as usize] & piece.behind(word) != 0);
        if behind || !agrees(piece, self.end) { Novelty::Overlap } else { Novelty::New }
    }

    fn is_complete(&self) -> bool {
        self.seen == self.end
    }
}

/// A datagram's length, cut at these units, and an order in which the pieces come.
fn cut_and_shuffled() -> impl Strategy<Value = Vec<Piece>> {
    (16_u32..65_000, prop::collection::btree_set(1_u32..8000, 1..40))
        .prop_map(|(octets, cuts)| {
            let mut edges: Vec<u32> = cuts.into_iter().map(|unit| unit * 8).filter(|edge| *edge < octets).collect();
            edges.insert(0, 0);
            edges.push(octets);
            edges.windows(2).map(|pair| piece(pair[0], pair[1] - pair[0], pair[1] != octets)).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn a_datagram_is_complete_with_its_last_piece_whatever_the_order(pieces in cut_and_shuffled()) {
        let mut record = Record::new();
        for (nth, piece) in pieces.iter().enumerate() {
            prop_assert_eq!(record.cover(*piece), Novelty::New);
            prop_assert_eq!(record.is_complete(), nth + 1 == pieces.len());
            prop_assert_eq!(record.cover(*piece), Novelty::Duplicate);
        }
    }

    #[test]
    fn every_overlap_is_found_and_nothing_else(
        pieces in prop::collection::vec((0_u32..300, 1_u32..200), 1..12),
    ) {
        let mut record = Record::new();
        let mut model = vec![false; 1024];
        for (start, units) in pieces {
            let novelty = record.cover(piece(start * 8, units * 8, true));
            let range = &mut model[start as usize..(start + units) as usize];
            let known = range.iter().filter(|unit| **unit).count();
            let expected = match known {
                0 => Novelty::New,
                all if all == range.len() => Novelty::Duplicate,
                _ => Novelty::Overlap,
            };
            prop_assert_eq!(novelty, expected);
            range.fill(true);
        }
    }

    #[test]
    fn a_mask_has_one_bit_a_unit(start in 0_u32..8190, units in 1_u32..8190) {
        prop_assume!(start * 8 + units * 8 <= 65_515);
        let piece = piece(start * 8, units * 8, true);
        let bits: u32 = (0..WORDS).map(|word| piece.mask(word).count_ones()).sum();
        prop_assert_eq!(bits, units);
        let within: u32 = (piece.first_word()..piece.first_word() + piece.words()).map(|word| piece.mask(word).count_ones()).sum();
        prop_assert_eq!(within, units, "the words that are walked are the words that matter");
        let behind: u32 = (0..WORDS).map(|word| piece.behind(word).count_ones()).sum();
        prop_assert_eq!(behind, WORDS * 64 - start - units);
    }

    #[test]
    fn what_no_honest_sender_makes_is_refused(
        protocol in prop::sample::select(vec![proto::TCP, proto::UDP, proto::ICMP]),
        unit in 0_u32..8192, octets in 0_u32..65_515, more in any::<bool>(),
    ) {
        let refused = octets == 0
            || unit * 8 + octets + 20 > 65_535
            || more && octets % 8 != 0
            || protocol == proto::TCP && unit == 1;
        prop_assert_eq!(Piece::of(&headers(protocol, unit * 8, octets, more)).is_none(), refused);
    }

    #[test]
    fn a_handle_means_one_generation_of_one_slot(slot in 0..DATAGRAMS, generation in any::<u32>(), later in 2_u32..8192) {
        let live = generation | 1;
        let handle = Handle::new(slot, live);
        prop_assert!(handle.is_valid() && handle.slot() == slot);
        prop_assert!(handle.matches(live), "while fragments are missing");
        prop_assert!(handle.matches(live.wrapping_add(1)), "when all have come");
        prop_assert!(!handle.matches(live.wrapping_add(later)), "when another has the slot");
    }

    #[test]
    fn a_link_means_one_fragment(index in 0..HELD, word in any::<u64>()) {
        let slot = Slot(word).taken_anew();
        let link = Link::new(index, slot);
        prop_assert!(slot.is_busy() && link != Link::NONE && link.index() == index);
        prop_assert!(!link.matches(slot), "not while it is written");
        prop_assert!(link.matches(slot.full()) && slot.full().is_full());
        prop_assert_eq!(slot.full().taken(), slot);
        prop_assert!(!link.matches(slot.free()));
        prop_assert!(!link.matches(slot.full().taken_anew().full()), "nor when another is there");
    }
}

#[test]
fn ends_that_disagree_are_overlaps() {
    let table = [
        ("two ends", piece(800, 100, false), piece(1600, 100, false)),
        ("more behind the end", piece(800, 100, false), piece(1600, 800, true)),
        ("an end before what was seen", piece(1600, 800, true), piece(800, 100, false)),
        ("an end that more follow", piece(800, 96, false), piece(896, 8, true)),
    ];
    for (what, first, second) in table {
        let mut record = Record::new();
        assert_eq!(record.cover(first), Novelty::New, "{what}");
        assert_eq!(record.cover(second), Novelty::Overlap, "{what}");
    }
}

#[test]
fn the_teardrop_overlaps() {
    // Linux 2.0's: 36 octets, then 4 that lie within them.
    let mut record = Record::new();
    assert_eq!(record.cover(piece(0, 40, true)), Novelty::New);
    assert_eq!(record.cover(piece(24, 4, false)), Novelty::Duplicate, "all of it was seen: nothing is gained by it");
    assert!(!record.is_complete());
    let mut record = Record::new();
    assert_eq!(record.cover(piece(0, 40, true)), Novelty::New);
    assert_eq!(record.cover(piece(24, 28, false)), Novelty::Overlap);
}

#[test]
fn numbers_below_zero_are_within_a_quota() {
    let table = [(0, true), (255, true), (256, false), (1 << 40, false), (u64::MAX, true)];
    for (number, within) in table {
        assert_eq!(within_quota(number, DATAGRAMS_A_SOURCE), within, "{number}");
    }
}
