//! The flow tag: what is written is read, and nothing else is.

use proptest::prelude::*;
use xnat_common::flow::State;
use xnat_common::packet::{Headers, ipv4};
use xnat_common::tag::{self, Kind, Tag, TagError};
use xnat_common::{Addr, Flow, Ticks};

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Open), Just(Kind::Announce), Just(Kind::UnknownFlow), Just(Kind::Conflict)]
}

#[test]
fn the_octets_are_those_of_the_design() {
    let tag = Tag { kind: Kind::Conflict, destination: Addr::new([192, 168, 220, 11]) };
    assert_eq!(tag.encode(), [0x9e, 8, 0x13, 0, 192, 168, 220, 11]);
    assert_eq!(tag::OPTION & 0x80, 0x80, "the copy bit: fragments carry it as well");
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(kind in kind(), octets in any::<[u8; 4]>()) {
        let tag = Tag { kind, destination: Addr::new(octets) };
        prop_assert_eq!(Tag::decode(tag.encode()), Ok(tag));
    }

    #[test]
    fn an_option_is_decoded_to_what_encodes_it_or_refused(octets in any::<[u8; 8]>()) {
        let mut option = octets;
        option[0] = tag::OPTION;
        match Tag::decode(option) {
            Ok(tag) => {
                // The key id is not looked at yet.
                option[3] = 0;
                prop_assert_eq!(tag.encode(), option);
            }
            Err(TagError::Length) => prop_assert_ne!(usize::from(option[1]), tag::LEN),
            Err(TagError::Version) => {
                prop_assert_eq!(usize::from(option[1]), tag::LEN);
                prop_assert!(option[2] >> 4 != tag::VERSION || option[2] & 0xf > 3);
            }
        }
    }

    #[test]
    fn a_walk_through_options_ends(options in prop::collection::vec(any::<u8>(), 0..=40)) {
        let octet = |at: u32| options.get(at as usize).copied().unwrap_or(0);
        let (mut at, mut steps) = (0, 0);
        while let Some(next) = tag::next_option(at, octet(at), octet(at + 1)) {
            prop_assert!(next > at, "a step goes forward");
            steps += 1;
            prop_assert!(steps <= 40, "no list of 40 octets has more options");
            if next as usize >= options.len() {
                break;
            }
            at = next;
        }
    }

    #[test]
    fn a_tag_fits_where_it_needs_nothing_but_room(
        ip_len in 5_u8..=15, fragment in any::<u16>(), total_len in prop_oneof![20_u16..700, 20_u16..], segmented in any::<bool>(), mtu in 68_u32..9000,
    ) {
        let headers = Headers { ip_len: ip_len << 2, fragment, total_len, ..Headers::default() };
        let plain = ip_len == 5 && fragment & (ipv4::OFFSET | ipv4::MF) == 0 && !segmented;
        let room = u32::from(total_len) + 8 <= mtu.min(576);
        prop_assert_eq!(tag::fits(&headers, segmented, mtu), plain && room);
    }
}

#[test]
fn every_malformed_octet_is_refused() {
    let good = Tag { kind: Kind::Open, destination: Addr::new([10, 0, 0, 1]) }.encode();
    for length in (0..=u8::MAX).filter(|length| *length != 8) {
        assert_eq!(Tag::decode([good[0], length, good[2], 0, 10, 0, 0, 1]), Err(TagError::Length));
    }
    for version_kind in (0..=u8::MAX).filter(|octet| !(0x10..=0x13).contains(octet)) {
        assert_eq!(Tag::decode([good[0], 8, version_kind, 0, 10, 0, 0, 1]), Err(TagError::Version));
    }
}

#[test]
fn walks_step_over_padding_and_stop_at_nonsense() {
    assert_eq!(tag::next_option(3, 1, 77), Some(4), "no operation is one octet");
    assert_eq!(tag::next_option(3, 0, 77), None, "the end");
    assert_eq!(tag::next_option(3, 7, 11), Some(14), "record route");
    assert_eq!(tag::next_option(3, 7, 2), Some(5), "an option without data");
    assert_eq!(tag::next_option(3, 7, 1), None, "a length that would stand still");
    assert_eq!(tag::next_option(3, 7, 0), None, "a length that would stand still");
}

#[test]
fn a_flow_is_tagged_until_it_is_confirmed() {
    let now = Ticks::from_secs(100);
    let flow = |state: u32, tagged: u8, ago: u32| Flow {
        state,
        tagged,
        tag_time: now.0 - Ticks::from_secs(ago).0,
        ..bytemuck::Zeroable::zeroed()
    };
    let table = [
        ("a new flow", flow(0, 0, 100), true),
        ("the sixteenth packet", flow(0, tag::EAGER - 1, 0), true),
        ("the seventeenth, at once", flow(0, tag::EAGER, 0), false),
        ("the seventeenth, 4 seconds later", flow(0, tag::EAGER, 4), false),
        ("the seventeenth, 5 seconds later", flow(0, tag::EAGER, 5), true),
        ("one of very many, 6 seconds later", flow(0, u8::MAX, 6), true),
        ("answered", flow(State::CONFIRMED | State::REPLIED, 1, 0), false),
        ("answered long ago", flow(State::CONFIRMED | State::REPLIED, tag::EAGER, 99), false),
        ("answered, then forgotten by the peer", flow(State::REPLIED, 0, 99), true),
    ];
    for (what, flow, due) in table {
        assert_eq!(tag::is_due(&flow, now), due, "{what}");
    }
}
