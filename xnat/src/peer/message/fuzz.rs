//! Datagrams of any kind, as whoever reaches the port may send them: none does harm, and what is read is what was said.

use proptest::prelude::*;

use super::{MAX_LEN, MAX_SUBNETS, Message, MessageError};
use crate::cidr::Cidr;

fn subnet() -> impl Strategy<Value = Cidr> {
    (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(octets, len)| Cidr::around(octets.into(), len))
}

fn message() -> impl Strategy<Value = Message> {
    let subnets = prop::collection::vec(subnet(), 0..=MAX_SUBNETS);
    (1_u64.., prop::option::of(1_u64..), any::<bool>(), subnets).prop_map(|(boot, heard, goodbye, subnets)| Message {
        boot,
        heard,
        goodbye,
        subnets,
    })
}

proptest! {
    #[test]
    fn any_message_is_read_as_it_was_said(message in message()) {
        let bytes = message.encode();
        prop_assert!(bytes.len() <= MAX_LEN);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn noise_is_refused_or_read_and_never_more(bytes in prop::collection::vec(any::<u8>(), 0..=MAX_LEN)) {
        prop_assert!(Message::decode(&bytes).is_err(), "noise does not begin as a message does");
    }

    #[test]
    fn noise_behind_the_right_beginning_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        let bytes = [b"xnat\x01".as_slice(), &noise].concat();
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert!(message.boot != 0 && message.subnets.len() <= MAX_SUBNETS);
            // What was understood is said again in the same octets, as far as they mean anything.
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_damaged_message_is_refused_or_means_something(message in message(), at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(read) = Message::decode(&bytes) {
            prop_assert!(read.boot != 0 && read.subnets.len() <= MAX_SUBNETS);
        }
        let whole = message.encode();
        let short = &whole[..cut.index(whole.len())];
        let expected = if short.len() < 4 { MessageError::Magic } else { MessageError::Truncated };
        prop_assert_eq!(Message::decode(short), Err(expected));
    }
}
