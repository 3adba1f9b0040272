//! Port candidates, and which packets open flows at all.

use std::collections::BTreeSet;

use proptest::prelude::*;
use xnat_common::host_port::{self, ENTRIES, LIFETIME, STAMPS};
use xnat_common::packet::{Headers, Icmp, ipv4, proto};
use xnat_common::port::{Range, is_privileged, may_keep, pick, range};
use xnat_common::tcp::flags::{ACK, FIN, RST, SYN};
use xnat_common::{Port, Ticks};

proptest! {
    #[test]
    fn another_port_is_of_the_same_class(original in any::<u16>(), place in any::<u32>(), random in any::<u32>()) {
        for protocol in [proto::TCP, proto::UDP] {
            let range = range(protocol, Port::new(original), 1, u16::MAX).expect("ports");
            for port in [range.at(place % range.count), range.at(range.place(random))] {
                prop_assert_ne!(port, Port::NONE);
                prop_assert_eq!(is_privileged(port), original < 1024);
            }
        }
        let ids = range(proto::ICMP, Port::new(original), 5000, 6000).expect("identifiers");
        prop_assert_eq!(ids, Range::new(1, u16::MAX), "identifiers have no classes and no bounds");
    }

    #[test]
    fn the_bounds_are_kept(original in any::<u16>(), first in 1..=u16::MAX, count in 0..2000_u16, random in any::<u32>()) {
        let last = first.saturating_add(count);
        let range = range(proto::UDP, Port::new(original), first, last).expect("ports");
        prop_assert!(range.count > 0);
        let port = range.at(range.place(random)).number();
        prop_assert!((first..=last).contains(&port));
        prop_assert_eq!(may_keep(proto::UDP, Port::new(original), first, last), (first..=last).contains(&original));
    }

    #[test]
    fn a_walk_visits_every_port_once(first in any::<u16>(), count in 1..300_u32, start in any::<u32>()) {
        let range = Range { first, count };
        let visited: BTreeSet<u16> = (0..count).map(|nth| range.at(start % count + nth).number()).collect();
        prop_assert_eq!(visited.len() as u32, count);
    }

    #[test]
    fn what_has_no_port_to_change_keeps_it(protocol in any::<u8>(), original in any::<u16>()) {
        prop_assume!(![proto::TCP, proto::UDP, proto::ICMP].contains(&protocol));
        prop_assert_eq!(range(protocol, Port::new(original), 1, u16::MAX), None);
        prop_assert!(may_keep(protocol, Port::new(original), 5000, 6000));
    }
}

#[test]
fn every_port_of_a_class_can_be_chosen() {
    for (original, count) in [(80, 1023), (40000, 64_512)] {
        let range = range(proto::TCP, Port::new(original), 1, u16::MAX).expect("ports");
        let all: BTreeSet<_> = (0..=0xffff).map(|random| range.at(range.place(random)).number()).collect();
        assert_eq!((all.len(), range.count), (count as usize, count));
    }
}

#[test]
fn every_port_of_the_host_has_an_entry_of_its_own() {
    let of = |protocol| (0..=u16::MAX).map(move |port| host_port::index(protocol, Port::new(port)).expect("an index"));
    let all: BTreeSet<u32> = of(proto::TCP).chain(of(proto::UDP)).collect();
    assert_eq!((all.len() as u32, all.last().copied()), (STAMPS, Some(STAMPS - 1)));
    let bits: BTreeSet<(u32, u64)> = all.into_iter().map(host_port::bit).collect();
    assert_eq!(bits.len() as u32, STAMPS);
    assert!(bits.iter().all(|(entry, bit)| (STAMPS..ENTRIES).contains(entry) && bit.is_power_of_two()));
    assert_eq!(host_port::index(proto::ICMP, Port::new(5)), None);
}

#[test]
fn a_port_of_the_host_is_in_use_for_a_while() {
    let now = Ticks::from_secs(1000);
    let stamp = |ago: u32| u64::from(now.0 - ago);
    assert!(host_port::in_use(stamp(0), now));
    assert!(host_port::in_use(stamp(LIFETIME.0), now));
    assert!(!host_port::in_use(stamp(LIFETIME.0 + 1), now));
    assert!(!host_port::in_use(0, Ticks(1)), "never stamped");
}

#[test]
fn what_opens_a_flow() {
    let headers = |proto, flags| Headers { proto, flags, ..Headers::default() };
    for segment in 0..=u8::MAX {
        let opens = segment & SYN != 0 && segment & (ACK | RST | FIN) == 0;
        assert_eq!(headers(proto::TCP, segment).opens(), opens, "TCP {segment:#04x}");
        assert!(headers(proto::UDP, segment).opens(), "UDP has no flags");
        assert!(headers(47, segment).opens(), "nor do others");
    }
    let queries: Vec<u8> = (0..=u8::MAX).filter(|kind| headers(proto::ICMP, *kind).opens()).collect();
    assert_eq!(queries, [8, 13]);
    let of = |wanted| (0..=u8::MAX).filter(|kind| Icmp::of(*kind) == wanted).collect::<Vec<u8>>();
    assert_eq!(of(Icmp::Answer), [0, 14]);
    assert_eq!(of(Icmp::Error), [3, 4, 11, 12]);
}

#[test]
fn fragments_are_told_apart() {
    let headers = |fragment| Headers { proto: proto::ICMP, flags: 3, fragment, ..Headers::default() };
    let kinds = |fragment| {
        let headers = headers(fragment);
        (headers.is_fragment(), headers.is_later_fragment(), headers.is_icmp_error())
    };
    assert_eq!(kinds(0), (false, false, true));
    assert_eq!(kinds(ipv4::DF), (false, false, true));
    assert_eq!(kinds(ipv4::MF), (true, false, true));
    assert_eq!(kinds(ipv4::MF | 0xb9), (true, true, false), "what lies in its place is payload");
    assert_eq!(kinds(0xb9), (true, true, false));
}

#[test]
fn ports_of_a_range_are_told_by_their_bits() {
    for range in [
        Range::new(1, 65535),
        Range::new(32_768, 65535),
        Range::new(1000, 1040),
        Range::new(63, 64),
        Range::new(7, 7),
        Range::new(2, 1),
    ] {
        for first in (0..=u16::MAX).step_by(64) {
            let among = range.among(first);
            for nth in 0..64 {
                assert_eq!(among >> nth & 1 != 0, range.contains(Port::new(first + nth)), "{range:?}: {}", first + nth);
            }
        }
    }
}

#[test]
fn the_next_set_bit_is_picked() {
    assert_eq!(pick(0, 17), 64);
    for bits in [1, 1 << 63, u64::MAX, 0x8000_0000_0000_0001, 0x00f0_0000_0a00_0000] {
        for start in 0..64 {
            let expected = (start..start + 64).map(|place| place % 64).find(|place| bits >> place & 1 != 0);
            assert_eq!(Some(pick(bits, start)), expected, "{bits:x} from {start} on");
        }
    }
}
