//! The word that says who has a port: what is put in is read, and a count neither spills nor goes below nothing.

use proptest::prelude::*;
use xnat_common::mapping::{self, Class, Dependence, Owner, Remote};
use xnat_common::packet::proto;
use xnat_common::{Addr, Port};

/// The count at which a mapping is being taken apart.
const LEAVING: u16 = u16::MAX;

fn owner(sessions: impl Strategy<Value = u16>) -> impl Strategy<Value = Owner> {
    (any::<u32>(), any::<u16>(), sessions)
        .prop_map(|(address, port, sessions)| Owner::new(Addr(address), Port::new(port), sessions))
}

proptest! {
    #[test]
    fn what_is_put_into_a_word_is_read(address in any::<u32>(), port in any::<u16>(), sessions in any::<u16>()) {
        let owner = Owner::new(Addr(address), Port::new(port), sessions);
        prop_assert_eq!((owner.address(), owner.port(), owner.sessions()), (Addr(address), Port::new(port), sessions));
        prop_assert_eq!(owner.is_free(), address == 0 && port == 0 && sessions == 0);
        prop_assert_eq!(owner.is_leaving(), sessions == LEAVING);
    }

    #[test]
    fn an_owner_is_itself_and_nobody_else(one in owner(any::<u16>()), other in owner(any::<u16>())) {
        prop_assert!(one.is(one.address(), one.port()));
        prop_assert_eq!(
            one.is(other.address(), other.port()),
            (one.address(), one.port()) == (other.address(), other.port())
        );
    }

    #[test]
    fn a_session_that_joins_and_leaves_leaves_the_word_as_it_was(before in owner(1..LEAVING - 1)) {
        let joined = before.joined().expect("room for one more");
        prop_assert_eq!(joined.sessions(), before.sessions() + 1);
        prop_assert!(joined.is(before.address(), before.port()));
        prop_assert!(!joined.is_leaving());
        prop_assert_eq!(joined.left(), before);
    }

    #[test]
    fn the_last_session_leaves_a_mapping_that_is_being_taken_apart(owner in owner(Just(1))) {
        let left = owner.left();
        prop_assert!(left.is_leaving() && !left.is_free());
        prop_assert!(left.is(owner.address(), owner.port()));
        prop_assert_eq!(left.joined(), None, "nobody joins it");
    }

    #[test]
    fn a_full_count_takes_nobody_in(owner in owner(LEAVING - 1..=LEAVING)) {
        prop_assert_eq!(owner.joined(), None);
    }

    /// Any order of coming and going counts as it should.
    #[test]
    fn coming_and_going_is_counted(comings in prop::collection::vec(any::<bool>(), 0..200)) {
        let (address, port) = (Addr::new([192, 168, 110, 11]), Port::new(40000));
        let (mut owner, mut count) = (Owner::new(address, port, 1), 1_u16);
        for comes in comings {
            if comes {
                owner = owner.joined().expect("room");
                count += 1;
            } else {
                owner = owner.left();
                count -= 1;
            }
            if count == 0 {
                prop_assert!(owner.is_leaving());
                return Ok(());
            }
            prop_assert_eq!(owner, Owner::new(address, port, count));
        }
    }

    #[test]
    fn a_remote_word_is_read_as_it_was_written(address in any::<u32>(), sessions in any::<u32>()) {
        let remote = Remote::new(Addr(address), sessions);
        prop_assert_eq!((remote.address(), remote.sessions()), (Addr(address), sessions));
    }

    #[test]
    fn no_two_ports_have_one_index(one in any::<(bool, u16)>(), other in any::<(bool, u16)>()) {
        let index = |(tcp, port)| mapping::index(if tcp { Class::Tcp } else { Class::Udp }, Port::new(port));
        prop_assert_eq!(index(one) == index(other), one == other);
        prop_assert!(index(one) < mapping::ENTRIES);
        prop_assert!(mapping::index(Class::Icmp, Port::new(one.1)) < mapping::ENTRIES);
    }

    #[test]
    fn an_unknown_number_is_the_strictest_dependence(number in any::<u8>()) {
        let dependence = Dependence::from_u8(number);
        prop_assert_eq!(Dependence::ALL.get(usize::from(number)).copied().unwrap_or(Dependence::AddressAndPort), dependence);
    }

    #[test]
    fn only_protocols_with_ports_have_a_class(protocol in any::<u8>()) {
        let has = matches!(protocol, proto::TCP | proto::UDP | proto::ICMP);
        prop_assert_eq!(Class::of(protocol).is_some(), has);
    }
}
