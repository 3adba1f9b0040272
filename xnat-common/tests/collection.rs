//! What a run of the collector says.

use proptest::prelude::*;
use xnat_common::Ticks;
use xnat_common::collection::{FRAGMENTS, Look, SLICE, places};

proptest! {
    #[test]
    fn a_look_says_what_was_put_into_it(count in 0..=SLICE, left in 0_u32..1 << 21) {
        let look = Look::new(count, Ticks(left));
        prop_assert_eq!((look.places(), look.left()), (count, Ticks(left)));
    }

    #[test]
    fn a_long_time_is_not_taken_for_a_short_one(count in 0..=SLICE, left in 1_u32 << 21..) {
        let look = Look::new(count, Ticks(left));
        prop_assert_eq!(look.places(), count);
        prop_assert!(look.left().0 == (1 << 21) - 1);
    }
}

#[test]
fn places_are_those_of_flows_and_of_fragments() {
    assert_eq!(places(64), 96 + FRAGMENTS);
    assert_eq!(places(u32::MAX), u32::MAX);
}
