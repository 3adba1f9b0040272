//! The index of the flow table: where tuples lie, and that a full table has room for all of its own.

use proptest::prelude::*;
use xnat_common::index::{Bucket, CROWDED, Entry, Place, admission, buckets, homes, moved, slots};
use xnat_common::{Addr, Direction, FlowKey, Port, Side, Tuple};

fn key(src: u32, dst: u32, sport: u16, dport: u16, side: Side) -> FlowKey {
    FlowKey::new(Tuple { src: Addr(src), dst: Addr(dst), sport: Port(sport), dport: Port(dport) }, 17, side)
}

/// Inserts as the dataplane does; whether it went into the second bucket, or none if both are full.
fn insert(table: &mut [Bucket], place: Place, entry: Entry) -> Option<bool> {
    let used = |bucket: &Bucket| bucket.entries.iter().filter(|&&entry| entry != 0).count();
    let [first, second] = [place.first as usize, place.second as usize];
    let in_first = used(&table[first]);
    let spills = in_first >= CROWDED && used(&table[second]) < in_first;
    let order = if spills { [second, first] } else { [first, second] };
    for bucket in order {
        if let Some(free) = table[bucket].entries.iter_mut().find(|entry| **entry == 0) {
            *free = entry.0;
            return Some(bucket == second);
        }
    }
    None
}

/// Both tuples of flows of one container, port by port, to one server after the other: as alike as tuples can be.
fn alike(number: u32) -> [FlowKey; 2] {
    let (server, port) = (0x0909_0909 + (number >> 16 << 24), number as u16);
    [
        key(0x0b6e_a8c0, server, port.to_be(), 0x5000, Side::Inside),
        key(server, 0x0400_1dac, 0x5000, port.to_be(), Side::Wire),
    ]
}

#[test]
fn a_full_table_has_room_for_all_tuples() {
    for (flows, seed) in [(64, 1), (1000, 2), (4096, 3), (65_536, 4), (262_144, 0x1234_5678_9abc_def0)] {
        let mut table = vec![Bucket::default(); buckets(flows) as usize];
        let mut spilled = 0;
        for number in 0..flows {
            for (direction, key) in [Direction::Original, Direction::Reply].into_iter().zip(alike(number)) {
                let place = Place::of(key.words(), seed, buckets(flows) - 1);
                let entry = Entry::new(place.tag, direction, number);
                let second = insert(&mut table, place, entry);
                spilled += u32::from(second.unwrap_or_else(|| panic!("no room for {key:?} of {flows} flows")));
            }
        }
        assert!(spilled * 10 < 2 * flows, "{spilled} of {} tuples lie in their second buckets", 2 * flows);
    }
}

#[test]
fn another_seed_puts_tuples_elsewhere() {
    let mask = buckets(262_144) - 1;
    let place = |seed| Place::of(alike(7)[0].words(), seed, mask);
    assert_ne!(place(1), place(2));
    // Tuples that lie together by one seed do not by another.
    let together: Vec<FlowKey> =
        (0..1 << 20).map(|number| alike(number)[0]).filter(|key| Place::of(key.words(), 1, 63).first == 0).collect();
    assert!(together.len() > 10_000);
    let there = together.iter().filter(|key| Place::of(key.words(), 2, 63).first == 0).count();
    let expected = together.len() / 64;
    assert!(there.abs_diff(expected) < expected / 3, "{there} of {}, not {expected}", together.len());
}

#[test]
fn the_number_of_buckets() {
    assert_eq!([1, 64, 65, 262_144, 262_145, 1 << 20].map(buckets), [64, 64, 128, 262_144, 524_288, 1 << 20]);
}

proptest! {
    #[test]
    fn an_entry_tells_what_it_was_made_of(
        tag in 0_u32..1 << 31,
        slot in 0_u32..1 << 31,
        reply: bool,
        admits: bool,
        other in 0_u32..1 << 31,
    ) {
        let direction = if reply && !admits { Direction::Reply } else { Direction::Original };
        let entry = if admits { Entry::admitting(tag, slot) } else { Entry::new(tag, direction, slot) };
        prop_assert_ne!(entry, Entry::default());
        prop_assert_ne!(entry.upper_half(), 0);
        prop_assert_eq!((entry.slot(), entry.direction(), entry.admits()), (slot, direction, admits));
        prop_assert_eq!(entry.tag_difference(other) == 0, entry.has_tag(other));
        prop_assert!(entry.has_tag(tag));
        prop_assert_eq!(entry.has_tag(other), tag.max(1) == other.max(1));
    }

    #[test]
    fn the_two_buckets_are_two(a: u64, b: u64, seed: u64, shift in 6_u32..24) {
        let mask = (1 << shift) - 1;
        let place = Place::of([a, b], seed, mask);
        prop_assert!(place.first != place.second && place.first <= mask && place.second <= mask);
        prop_assert!(place.tag < 1 << 31);
    }

    #[test]
    fn a_key_is_all_in_its_words(src: u32, dst: u32, sport: u16, dport: u16, at in 0_usize..14, bit in 0_u32..8) {
        let one = key(src, dst, sport, dport, Side::Inside);
        let mut bytes = bytemuck::bytes_of(&one).to_vec();
        bytes[at] ^= 1 << bit;
        let other: FlowKey = *bytemuck::from_bytes(&bytes);
        prop_assert_ne!(one.words(), other.words());
    }
}

#[test]
fn a_flow_that_has_kept_its_port_is_at_home_in_both_directions() {
    for number in 0..10_000 {
        let [inside, wire] = alike(number);
        assert_eq!(homes(inside.words(), 5, 100_000), homes(wire.words(), 5, 100_000), "{inside:?}");
    }
}

#[test]
fn there_are_no_more_slots_than_numbers() {
    for flows in [0, 1, 64, 100_000, u32::MAX / 3 * 2, u32::MAX / 3 * 2 + 1, u32::MAX / 3 * 2 + 2, u32::MAX] {
        assert_eq!(slots(flows), flows.saturating_add(flows / 2), "{flows}");
    }
}

#[test]
fn few_flows_of_a_full_table_are_away_from_home() {
    const FLOWS: u32 = 100_000;
    let mut taken = vec![false; slots(FLOWS) as usize];
    let mut take = |slot: u32| !std::mem::replace(&mut taken[slot as usize], true);
    let away = (0..FLOWS).filter(|&number| {
        let [one, other] = homes(alike(number)[0].words(), 9, slots(FLOWS));
        !take(one) && !take(other)
    });
    let away = away.count();
    assert!((11_500..13_500).contains(&away), "{away} of {FLOWS}: one in eight is expected");
}

#[test]
fn kinds_of_entries_are_told_apart() {
    let (tag, slot) = (0x7fff_fffe, 196_607);
    let tuple = Entry::new(tag, Direction::Reply, slot);
    let (admitting, moving) = (Entry::admitting(tag, slot), Entry::moving(tag, slot));
    for (entry, admits, port) in [(tuple, false, None), (admitting, true, None), (moving, true, Some(slot))] {
        assert_eq!((entry.admits(), entry.port()), (admits, port), "{entry:x?}");
        for other in [0, 1, tag] {
            let tagged = entry.tagged(other);
            assert!(tagged.has_tag(other) && tagged.tagged(tag) == entry, "{entry:x?} with {other:x}");
        }
    }
    assert_eq!((tuple.slot(), admitting.slot()), (slot, slot));
    // No record lies in the slot that an endpoint's entry would name.
    assert!(moving.slot() >= slots(u32::MAX >> 3));
}

#[test]
fn endpoints_lie_elsewhere_than_tuples_and_than_each_other() {
    let (address, remote) = (Addr(0x0b6e_a8c0), Addr(0x0909_0909));
    let words = [
        moved(address, Addr::UNSPECIFIED, 40000),
        moved(address, Addr::UNSPECIFIED, (1 << 16) + 40000),
        moved(address, remote, 40000),
        moved(remote, address, 40000),
        admission(address, Port(40000), 6),
        key(0x0b6e_a8c0, 0, 40000, 0, Side::Inside).words(),
    ];
    for (nth, one) in words.iter().enumerate() {
        assert!(!words[..nth].contains(one), "{one:x?}");
    }
}
