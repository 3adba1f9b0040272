//! Layouts and numbers that pins, other versions and other hosts rely on. A failure here means that `names::LAYOUT` is
//! to be raised, or that a number was given to something else.

use std::collections::BTreeSet;
use std::mem::{align_of, offset_of, size_of};

use xnat_common::config::{Config, Cursors};
use xnat_common::counter::{CAPACITY, Counter};
use xnat_common::fragment::{Datagram, DatagramKey, Fragment, FragmentKey, Held, Sent, SentKey, Source, SourceUse};
use xnat_common::hop::{Hop, Route, Station, StationKey, Watch};
use xnat_common::index::Bucket;
use xnat_common::mapping::{Destination, Forward, ForwardKey, Full, Mapping, RemoteEntry, RemoteKey};
use xnat_common::subnet::{Inside, Peer, Subnet};
use xnat_common::timeout::Timeouts;
use xnat_common::{Addr, Flow, FlowKey, FlowRef, Port, Tuple, tcp};

#[test]
fn the_flow_record() {
    let offsets = [
        offset_of!(Flow, word),
        offset_of!(Flow, original),
        offset_of!(Flow, reply),
        offset_of!(Flow, proto),
        offset_of!(Flow, kind),
        offset_of!(Flow, tagged),
        offset_of!(Flow, state),
        offset_of!(Flow, next_hop),
        offset_of!(Flow, counts),
        offset_of!(Flow, inside),
        offset_of!(Flow, peer),
        offset_of!(Flow, tag_time),
        offset_of!(Flow, opened),
        offset_of!(Flow, carried),
        offset_of!(Flow, window),
        offset_of!(Flow, syn),
    ];
    assert_eq!(offsets, [0, 8, 20, 32, 33, 34, 36, 40, 48, 64, 68, 72, 76, 80, 96, 120]);
    assert_eq!((size_of::<Flow>(), align_of::<Flow>()), (128, 64), "two cache lines");
    assert!(offset_of!(Flow, inside) == 64, "what every packet needs is in the first");
}

#[test]
fn the_other_maps() {
    assert_eq!(size_of::<Tuple>(), 12);
    assert_eq!(size_of::<FlowKey>(), 16);
    assert_eq!(size_of::<FlowRef>(), 8);
    assert_eq!(size_of::<tcp::Window>(), 12);
    assert_eq!(size_of::<Timeouts>(), 24);
    assert_eq!(size_of::<Config>(), 80);
    assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (64, 64), "a cache line");
    assert_eq!(size_of::<Watch>(), 8);
    assert_eq!(size_of::<Hop>(), 32);
    assert_eq!(size_of::<StationKey>(), 12);
    assert_eq!(size_of::<Station>(), 8);
    assert_eq!(size_of::<Cursors>(), 80);
    assert_eq!(size_of::<Route>(), 32);
    assert_eq!(size_of::<Subnet>(), 8);
    assert_eq!(size_of::<Peer>(), 16);
    assert_eq!(size_of::<Inside>(), 20);
    assert_eq!(size_of::<Mapping>(), 16);
    assert_eq!(size_of::<RemoteKey>(), 8);
    assert_eq!(size_of::<RemoteEntry>(), 16);
    assert_eq!(size_of::<ForwardKey>(), 4);
    assert_eq!(size_of::<Forward>(), 8);
    assert_eq!(size_of::<Destination>(), 8);
    assert_eq!(size_of::<Full>(), 8);
    assert_eq!(size_of::<FragmentKey>(), 12);
    assert_eq!(size_of::<Fragment>(), 16);
    assert_eq!(size_of::<DatagramKey>(), 16);
    assert_eq!(size_of::<Datagram>(), 1096);
    assert_eq!(size_of::<Held>(), 16_424);
    assert_eq!(size_of::<Source>(), 8);
    assert_eq!(size_of::<SourceUse>(), 24);
    assert_eq!(size_of::<SentKey>(), 8);
    assert_eq!(size_of::<Sent>(), 16);
    assert_eq!((offset_of!(FlowKey, proto), offset_of!(FlowKey, side)), (12, 13));
}

#[test]
fn addresses_and_ports_lie_as_in_a_packet() {
    let tuple = Tuple {
        src: Addr::new([192, 168, 110, 11]),
        dst: Addr::new([172, 29, 0, 17]),
        sport: Port::new(40000),
        dport: Port::new(80),
    };
    let octets: &[u8] = bytemuck::bytes_of(&tuple);
    assert_eq!(octets, [192, 168, 110, 11, 172, 29, 0, 17, 0x9c, 0x40, 0, 80]);
    assert_eq!(tuple.src.to_host(), 0xc0a8_6e0b);
    assert_eq!(format!("{:?} {:?}", tuple.src, tuple.sport), "192.168.110.11 40000");
}

/// Every counter there ever was, at its number. New ones are added at the end; a line never moves.
const COUNTERS: [&str; 55] = [
    "flows_opened",
    "flows_expired",
    "flows_reopened",
    "flows_replaced",
    "ports_changed",
    "tags_sent",
    "tags_received",
    "announces_sent",
    "announces_received",
    "unknown_flow_sent",
    "unknown_flow_received",
    "conflict_sent",
    "conflict_received",
    "kernel_flows",
    "to_kernel_ttl",
    "to_kernel_mtu",
    "to_kernel_route",
    "unknown_flow_limited",
    "malformed",
    "private_source",
    "inside_tag",
    "tag_stranger",
    "tag_subnet",
    "tag_version",
    "tag_malformed",
    "table_full",
    "ports_exhausted",
    "flow_busy",
    "fragment_unknown",
    "rewrite_failed",
    "conflict_held",
    "flow_released",
    "icmp_error_untranslatable",
    "flows_crossed",
    "private_destination",
    "message_unmatched",
    "mappings_opened",
    "ports_shared",
    "ports_reclaimed",
    "quota_exceeded",
    "refusals",
    "filtered",
    "host_translated",
    "spoofed_source",
    "martian_source",
    "own_source",
    "direct_destination",
    "source_route",
    "bad_checksum",
    "fragments_held",
    "fragment_overlap",
    "fragment_quota",
    "fragment_expired",
    "tcp_implausible",
    "stage_missing",
];

#[test]
fn counters_keep_their_numbers() {
    let names: Vec<&str> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    assert_eq!(names, COUNTERS);
    for (number, counter) in (0_u32..).zip(Counter::ALL) {
        assert_eq!(*counter as u32, number, "{}", counter.name());
        assert!(number < CAPACITY);
        assert!(!counter.help().is_empty());
    }
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "names are unique");
    let metric = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    assert!(names.iter().all(|name| metric(name)), "names are names of metrics as well");
}
