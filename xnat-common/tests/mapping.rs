//! The words of a mapping.

use proptest::prelude::*;
use xnat_common::mapping::{Class, Dependence, ENTRIES, Owner, Remote, index};
use xnat_common::packet::proto;
use xnat_common::{Addr, Port};

proptest! {
    #[test]
    fn a_word_says_who_and_how_many(address in any::<u32>(), port in any::<u16>(), sessions in 1..u16::MAX) {
        let owner = Owner::new(Addr(address), Port(port), sessions);
        prop_assert_eq!((owner.address(), owner.port(), owner.sessions()), (Addr(address), Port(port), sessions));
        prop_assert!(owner.is(Addr(address), Port(port)));
        prop_assert!(!owner.is(Addr(address ^ 1), Port(port)) && !owner.is(Addr(address), Port(port ^ 0x100)));
        prop_assert!(!owner.is_free() && !owner.is_leaving());
    }

    #[test]
    fn who_comes_and_goes_leaves_the_rest_as_it_was(address in any::<u32>(), port in any::<u16>(), sessions in 1..u16::MAX - 1) {
        let owner = Owner::new(Addr(address), Port(port), sessions);
        let more = owner.joined().expect("room");
        prop_assert_eq!(more.sessions(), sessions + 1);
        prop_assert_eq!(more.left(), owner);
    }

    #[test]
    fn the_last_one_leaves_a_mark(address in any::<u32>(), port in any::<u16>()) {
        let left = Owner::new(Addr(address), Port(port), 1).left();
        prop_assert!(left.is_leaving() && !left.is_free());
        prop_assert!(left.is(Addr(address), Port(port)));
    }

    #[test]
    fn a_remote_counts(address in any::<u32>(), sessions in any::<u32>()) {
        let remote = Remote::new(Addr(address), sessions);
        prop_assert_eq!((remote.address(), remote.sessions()), (Addr(address), sessions));
    }
}

#[test]
fn a_full_mapping_takes_no_more() {
    let full = Owner::new(Addr(1), Port(1), u16::MAX - 1);
    assert_eq!(full.joined(), None, "the next count would be the mark");
    assert!(!full.is_leaving());
}

#[test]
fn every_port_of_every_class_has_an_entry_of_its_own() {
    let classes = [proto::TCP, proto::UDP, proto::ICMP].map(|protocol| Class::of(protocol).expect("a class"));
    let mut all = std::collections::BTreeSet::new();
    for class in classes {
        all.extend((0..=u16::MAX).map(|port| index(class, Port::new(port))));
    }
    assert_eq!((all.len() as u32, all.last().copied()), (ENTRIES, Some(ENTRIES - 1)));
    assert_eq!(Class::of(proto::SCTP), None);
}

#[test]
fn dependences_are_ordered_by_strictness_and_an_unknown_one_is_the_strictest() {
    assert!(Dependence::Endpoint < Dependence::Address && Dependence::Address < Dependence::AddressAndPort);
    for dependence in Dependence::ALL {
        assert_eq!(Dependence::from_u8(dependence as u8), dependence);
    }
    assert_eq!(Dependence::from_u8(99), Dependence::AddressAndPort);
}
