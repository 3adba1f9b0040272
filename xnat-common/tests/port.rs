//! Port candidates, and which packets open flows at all.

use proptest::prelude::*;
use xnat_common::host_port::{self, ENTRIES, LIFETIME};
use xnat_common::packet::{Headers, Icmp, ipv4, proto};
use xnat_common::port::{self, candidate};
use xnat_common::tcp::flags::{ACK, FIN, RST, SYN};
use xnat_common::{Port, Ticks};

proptest! {
    #[test]
    fn the_first_candidate_is_the_original(protocol in any::<u8>(), original in any::<u16>(), random in any::<u32>()) {
        prop_assert_eq!(candidate(protocol, Port::new(original), 0, random), Some(Port::new(original)));
    }

    #[test]
    fn later_candidates_stay_in_their_class(original in any::<u16>(), attempt in 1..port::ATTEMPTS, random in any::<u32>()) {
        for protocol in [proto::TCP, proto::UDP] {
            let chosen = candidate(protocol, Port::new(original), attempt, random).expect("a port").number();
            prop_assert_ne!(chosen, 0);
            prop_assert_eq!(chosen < 1024, original < 1024);
        }
        let id = candidate(proto::ICMP, Port::new(original), attempt, random).expect("an identifier");
        prop_assert_ne!(id, Port::NONE);
    }

    #[test]
    fn what_has_no_port_to_change_has_one_candidate(protocol in any::<u8>(), original in any::<u16>(), random in any::<u32>()) {
        prop_assume!(![proto::TCP, proto::UDP, proto::ICMP].contains(&protocol));
        prop_assert_eq!(candidate(protocol, Port::new(original), 1, random), None);
    }
}

#[test]
fn both_ends_of_each_class_can_be_chosen() {
    let chosen = |original, random| candidate(proto::TCP, Port::new(original), 1, random).map(Port::number);
    assert_eq!((chosen(80, 0), chosen(80, 0xffff)), (Some(1), Some(1023)));
    assert_eq!((chosen(40000, 0), chosen(40000, 0xffff)), (Some(1024), Some(65535)));
    let all: std::collections::BTreeSet<_> = (0..=0xffff).filter_map(|random| chosen(40000, random)).collect();
    assert_eq!(all.len(), 64_512, "every port of the class is somebody's candidate");
}

#[test]
fn every_port_of_the_host_has_an_entry_of_its_own() {
    let of = |protocol| (0..=u16::MAX).map(move |port| host_port::index(protocol, Port::new(port)).expect("an index"));
    let all: std::collections::BTreeSet<u32> = of(proto::TCP).chain(of(proto::UDP)).collect();
    assert_eq!((all.len() as u32, all.last().copied()), (ENTRIES, Some(ENTRIES - 1)));
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
