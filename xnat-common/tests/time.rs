//! Ticks, and the words of a record that carry them.

use proptest::prelude::*;
use xnat_common::flow::{State, Word};
use xnat_common::packet::proto;
use xnat_common::time::Noted;
use xnat_common::timeout::Timeouts;
use xnat_common::{Direction, Flow, FlowRef, Ticks};

proptest! {
    #[test]
    fn a_span_is_the_same_across_the_wrap(earlier in any::<u32>(), span in 0..=u32::MAX / 2) {
        prop_assert_eq!(Ticks(earlier.wrapping_add(span)).since(Ticks(earlier)), Ticks(span));
    }

    #[test]
    fn what_lies_in_the_future_was_just_now(now in any::<u32>(), ahead in 1..=u32::MAX / 2) {
        prop_assert_eq!(Ticks(now).since(Ticks(now.wrapping_add(ahead))), Ticks(0));
    }

    #[test]
    fn spans_are_rounded_up_by_less_than_a_tick(seconds in 0_u32..30_000_000) {
        let exact = u64::from(seconds) * 1_000_000_000;
        let ticks = Ticks::from_secs(seconds).as_ns();
        prop_assert!(ticks >= exact && ticks - exact < 1 << xnat_common::time::TICK_SHIFT);
    }

    #[test]
    fn moments_are_rounded_down(ns in 0_u64..1 << 56) {
        let tick = Ticks::from_ns(ns).as_ns();
        prop_assert!(tick <= ns && ns - tick < 1 << xnat_common::time::TICK_SHIFT);
    }

    #[test]
    fn a_word_keeps_both_halves(generation in any::<u32>(), seen in any::<u32>(), later in any::<u32>()) {
        let word = Word::new(generation, Ticks(seen));
        prop_assert_eq!((word.generation(), word.last_seen()), (generation, Ticks(seen)));
        let next = word.next(Ticks(later));
        prop_assert_eq!((next.generation(), next.last_seen()), (generation.wrapping_add(1), Ticks(later)));
        prop_assert_ne!(word.is_live(), next.is_live(), "live and free take turns");
    }

    #[test]
    fn a_reference_keeps_slot_generation_and_direction(index in any::<u32>(), generation in any::<u32>(), back in any::<bool>()) {
        // References are made to live slots only, whose generation is odd.
        let generation = generation | 1;
        let direction = if back { Direction::Reply } else { Direction::Original };
        let reference = FlowRef::new(index, generation, direction);
        prop_assert_eq!((reference.index(), reference.generation()), (index, generation));
        prop_assert_eq!(reference.direction(), direction);
        prop_assert_eq!(FlowRef::from_bits(reference.to_bits()), reference);
    }

    #[test]
    fn a_flow_has_its_timeout_minus_what_has_passed(opened in any::<u32>(), spent in 0_u32..20_000) {
        let timeouts = Timeouts::default();
        let state = State(State::REPLIED);
        let flow = Flow {
            word: Word::new(1, Ticks(opened)).0,
            proto: proto::UDP,
            state: state.0,
            ..bytemuck::Zeroable::zeroed()
        };
        let left = timeouts.left(&flow, Ticks(opened.wrapping_add(spent)));
        prop_assert_eq!(left.0, timeouts.idle(proto::UDP, state).0.saturating_sub(spent));
    }
}

#[test]
fn generations_go_round() {
    let last = Word::new(u32::MAX, Ticks(5));
    assert!(last.is_live());
    assert_eq!(last.next(Ticks(6)), Word::new(0, Ticks(6)));
    assert!(!last.next(Ticks(6)).is_live());
}

#[test]
fn a_noted_time_holds_for_its_jiffy() {
    for jiffy in [0, 1, u32::MAX] {
        let noted = Noted::new(jiffy, Ticks(1000));
        assert_eq!(noted.at(jiffy), Some(Ticks(1000)));
        assert_eq!((noted.at(jiffy.wrapping_add(1)), noted.at(jiffy.wrapping_sub(1))), (None, None), "{jiffy}");
        assert_eq!(Noted(0).at(jiffy), None, "nobody has asked yet");
    }
}

#[test]
fn a_later_answer_of_another_processor_stays() {
    let noted = Noted::new(7, Ticks(1000));
    for (asked, now) in [(999, 1000), (998, 1000), (1000, 1000), (1001, 1001), (5000, 5000)] {
        assert_eq!(noted.or_later(Ticks(asked)), Ticks(now), "{asked}");
    }
    assert_eq!(noted.or_later(Ticks(997)), Ticks(997), "so far ahead is nobody: that is from before the last wrap");
    assert_eq!(Noted::new(7, Ticks(1)).or_later(Ticks(u32::MAX)), Ticks(1), "across the wrap");
    assert_eq!(Noted(0).or_later(Ticks(u32::MAX)), Ticks(u32::MAX), "nobody has asked yet");
}
