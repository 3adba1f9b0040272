//! Remembered next hops: when they may be used, and their names.

use proptest::prelude::*;
use xnat_common::Ticks;
use xnat_common::hop::{Hop, Watch};

#[test]
fn hops_are_trusted_while_somebody_watches() {
    let watch = Watch { epoch: 7, until: 1000 };
    assert!(watch.trusts(7, Ticks(999)) && !watch.trusts(7, Ticks(1000)) && !watch.trusts(7, Ticks(5000)));
    assert!(!watch.trusts(6, Ticks(999)), "something has changed since");
    assert!(!Watch::default().trusts(0, Ticks(u32::MAX)), "nobody has watched yet");
    let next_year = Ticks(1001 + (1 << 31));
    assert!(!watch.trusts(7, next_year) && !watch.trusts(7, Ticks(u32::MAX)), "a word is not good again later");
    let longest = Watch { epoch: 7, until: 1000 + Ticks::from_secs(Watch::SECONDS).0 };
    assert!(longest.trusts(7, Ticks(1000)) && longest.trusts(7, Ticks(999)), "the clock of the programs lags behind");
    assert!(!longest.trusts(7, Ticks(998)), "nobody gives his word for longer");
    let wrapped = Watch { epoch: 1, until: 5 };
    assert!(wrapped.trusts(1, Ticks(u32::MAX - 3)), "the clock wraps");
}

proptest! {
    #[test]
    fn names_are_never_zero_and_never_the_one_before(slot in 0..Hop::SLOTS, before: u32) {
        let before = before & !(Hop::SLOTS - 1) | slot;
        let name = Hop::next_name(slot, before);
        prop_assert_eq!(Hop::slot(name), slot);
        prop_assert!(name != 0 && name != before);
    }

    #[test]
    fn every_neighbour_has_a_slot(ifindex: u32, mac: [u8; 6]) {
        prop_assert!(Hop::slot_for(ifindex, mac) < Hop::SLOTS);
    }
}
