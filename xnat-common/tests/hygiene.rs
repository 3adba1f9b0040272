//! What is dropped for what it claims, over all addresses.

use proptest::prelude::*;
use xnat_common::Addr;
use xnat_common::counter::Counter;
use xnat_common::hygiene::{Owner, from_wire, is_martian, sums_up};

const ADDRESS: Addr = Addr::new([172, 29, 0, 4]);

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(Owner::Own), Just(Owner::Peer), Just(Owner::Nobody)]
}

proptest! {
    #[test]
    fn no_source_of_ours_comes_from_the_wire(src: [u8; 4], dst: [u8; 4], owner in owner()) {
        let why = from_wire(Addr::new(src), Addr::new(dst), ADDRESS, true, owner);
        prop_assert_eq!(why, Some(Counter::SpoofedSource));
    }

    #[test]
    fn what_is_for_others_is_the_kernels(src: [u8; 4], dst: [u8; 4]) {
        prop_assume!(Addr::new(dst) != ADDRESS);
        prop_assert_eq!(from_wire(Addr::new(src), Addr::new(dst), ADDRESS, false, Owner::Nobody), None);
    }

    #[test]
    fn nothing_reaches_a_container_directly(src: [u8; 4], dst: [u8; 4], own: bool) {
        prop_assert!(from_wire(Addr::new(src), Addr::new(dst), ADDRESS, own, Owner::Own).is_some());
    }

    #[test]
    fn whoever_can_exist_may_speak_to_the_host(first in 1_u8..224, rest: [u8; 3]) {
        let src = Addr::new([first, rest[0], rest[1], rest[2]]);
        prop_assume!(src != ADDRESS && src.octets()[0] != 127);
        prop_assert!(!is_martian(src));
        prop_assert_eq!(from_wire(src, ADDRESS, ADDRESS, false, Owner::Nobody), None);
    }

    #[test]
    fn a_sum_with_its_checksum_is_right_and_no_other(sum: u32, wrong: u16) {
        let folded = u32::from(xnat_common::checksum::fold(sum));
        let checksum = u32::from(!xnat_common::checksum::fold(sum));
        prop_assert!(sums_up(folded + checksum));
        let other = u32::from(wrong);
        // The two forms of zero are one (RFC 1071).
        prop_assume!(other != checksum && !(folded % 0xffff == 0 && other % 0xffff == 0));
        prop_assert!(!sums_up(folded + other));
    }
}

#[test]
fn every_block_without_hosts_is_known() {
    for first in 0..=255 {
        for rest in [[0; 3], [0, 0, 1], [255; 3]] {
            let expected = matches!(first, 0 | 127 | 224..=239) || first == 255 && rest == [255; 3];
            assert_eq!(is_martian(Addr::new([first, rest[0], rest[1], rest[2]])), expected, "{first}");
        }
    }
    assert_eq!(from_wire(ADDRESS, ADDRESS, ADDRESS, false, Owner::Nobody), Some(Counter::OwnSource));
}
