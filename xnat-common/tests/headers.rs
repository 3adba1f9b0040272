//! What is asked of headers: any of them gives an answer, and the answers agree with each other.

use proptest::prelude::*;
use xnat_common::packet::{Headers, Icmp, ipv4, proto};
use xnat_common::{Addr, Port, Side, Tuple};

fn headers() -> impl Strategy<Value = Headers> {
    let protocol = prop_oneof![Just(proto::ICMP), Just(proto::TCP), Just(proto::UDP), any::<u8>()];
    let tuple = any::<(u32, u32, u16, u16)>().prop_map(|(src, dst, sport, dport)| Tuple {
        src: Addr(src),
        dst: Addr(dst),
        sport: Port::new(sport),
        dport: Port::new(dport),
    });
    (tuple, protocol, any::<(u8, u8, u16, u16, u16)>()).prop_map(
        |(tuple, proto, (ttl, flags, total_len, fragment, id))| Headers {
            datagram: 0,
            zero: 0,
            tuple,
            proto,
            ttl,
            flags,
            ip_len: 20,
            total_len,
            fragment,
            id,
        },
    )
}

proptest! {
    #[test]
    fn a_later_fragment_is_a_fragment_and_neither_error_nor_whole(headers in headers()) {
        if headers.is_later_fragment() {
            prop_assert!(headers.is_fragment());
            prop_assert!(!headers.is_icmp_error(), "what is there is no ICMP header");
        }
        let whole = headers.fragment & (ipv4::OFFSET | ipv4::MF) == 0;
        prop_assert_eq!(headers.is_fragment(), !whole, "don't-fragment and the reserved bit do not matter");
    }

    #[test]
    fn an_error_never_opens_anything(headers in headers()) {
        prop_assert!(!(headers.is_icmp_error() && headers.opens()));
    }

    #[test]
    fn each_icmp_type_is_one_thing(kind in any::<u8>()) {
        let expected = match kind {
            8 | 13 => Icmp::Query,
            0 | 14 => Icmp::Answer,
            3 | 4 | 11 | 12 => Icmp::Error,
            _ => Icmp::Other,
        };
        prop_assert_eq!(Icmp::of(kind), expected);
    }

    #[test]
    fn fragments_of_one_datagram_have_one_key_and_those_of_another_have_not(one in headers(), fragment in any::<u16>(), other in headers()) {
        let sibling = Headers { fragment, ttl: 1, total_len: 28, ..one };
        prop_assert_eq!(one.fragment_key(Side::Wire), sibling.fragment_key(Side::Wire));
        prop_assert_ne!(one.fragment_key(Side::Wire), one.fragment_key(Side::Inside));
        let same = (one.tuple.src, one.tuple.dst, one.id, one.proto) == (other.tuple.src, other.tuple.dst, other.id, other.proto);
        prop_assert_eq!(one.fragment_key(Side::Wire) == other.fragment_key(Side::Wire), same);
    }
}
