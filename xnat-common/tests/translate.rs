//! Translating a packet and translating it back is the identity, and both leave checksums that are right.
//!
//! The reference here applies a [`Translation`] to the octets of a packet, as the dataplane does with the kernel's
//! helpers; the checksums are judged by computing them from nothing.

use proptest::prelude::*;
use xnat_common::checksum::{self, fold};
use xnat_common::packet::{icmp_header, ipv4, proto};
use xnat_common::translate::{Translation, transport_checksum};
use xnat_common::{Addr, Direction, Flow, FlowKey, Kind, Port, Side, Tuple};

fn addr() -> impl Strategy<Value = Addr> {
    prop_oneof![
        4 => any::<[u8; 4]>().prop_map(Addr::new),
        1 => Just(Addr::new([0; 4])),
        1 => Just(Addr::new([255; 4])),
    ]
}

fn port() -> impl Strategy<Value = Port> {
    prop_oneof![4 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff)].prop_map(Port::new)
}

fn tuple() -> impl Strategy<Value = Tuple> {
    (addr(), addr(), port(), port()).prop_map(|(src, dst, sport, dport)| Tuple { src, dst, sport, dport })
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(proto::TCP), Just(proto::UDP), Just(proto::ICMP), Just(proto::SCTP), Just(47)]
}

/// A tuple as a packet of `protocol` has it: an ICMP request has no destination port, other protocols have none at all.
fn of_protocol(tuple: Tuple, protocol: u8) -> Tuple {
    match protocol {
        proto::ICMP => Tuple { dport: Port::NONE, ..tuple },
        proto::TCP | proto::UDP | proto::SCTP => tuple,
        _ => Tuple { sport: Port::NONE, dport: Port::NONE, ..tuple },
    }
}

/// A packet: IPv4 header and body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet(Vec<u8>);

impl Packet {
    /// A packet with right checksums. `body` is at least as long as the longest transport header.
    fn new(tuple: Tuple, protocol: u8, body: &[u8], without_checksum: bool) -> Self {
        let mut bytes = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0];
        bytes.extend(tuple.src.octets());
        bytes.extend(tuple.dst.octets());
        bytes.extend(body);
        let total = u16::try_from(bytes.len()).expect("a packet").to_be_bytes();
        bytes[ipv4::TOTAL_LEN..ipv4::TOTAL_LEN + 2].copy_from_slice(&total);
        let mut packet = Self(bytes);
        packet.set_ports(tuple);
        if let Some(field) = transport_checksum(protocol) {
            let at = ipv4::LEN + field.offset;
            packet.store(at, if without_checksum && field.optional { 0 } else { packet.right_transport_checksum() });
        }
        packet.store(ipv4::CHECKSUM, packet.right_ip_checksum());
        packet
    }

    fn protocol(&self) -> u8 {
        self.0[ipv4::PROTO]
    }

    fn load(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    fn store(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }

    fn set_ports(&mut self, tuple: Tuple) {
        match self.protocol() {
            proto::ICMP => {
                self.0[ipv4::LEN] = icmp_header::ECHO;
                self.store(ipv4::LEN + icmp_header::ID, tuple.sport.0);
            }
            proto::TCP | proto::UDP | proto::SCTP => {
                self.store(ipv4::LEN, tuple.sport.0);
                self.store(ipv4::LEN + 2, tuple.dport.0);
            }
            _ => {}
        }
    }

    fn right_ip_checksum(&self) -> u16 {
        let mut header = self.0[..ipv4::LEN].to_vec();
        header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
        checksum::compute(&header)
    }

    fn right_transport_checksum(&self) -> u16 {
        let field = transport_checksum(self.protocol()).expect("a protocol with a checksum");
        let body = &self.0[ipv4::LEN..];
        let mut covered = Vec::new();
        if field.pseudo_header {
            covered.extend(&self.0[ipv4::SRC..ipv4::LEN]);
            covered.extend([0, self.protocol()]);
            covered.extend(u16::try_from(body.len()).expect("a packet").to_be_bytes());
        }
        let start = covered.len();
        covered.extend(body);
        covered[start + field.offset..start + field.offset + 2].fill(0);
        let sum = checksum::compute(&covered);
        // RFC 768: a sum of zero is sent as all ones, because zero says that there is none.
        if field.optional && sum == 0 { 0xffff } else { sum }
    }

    fn apply(&mut self, translation: &Translation) {
        let ip = checksum::update(self.load(ipv4::CHECKSUM), translation.addresses);
        self.store(ipv4::CHECKSUM, ip);
        if let Some(field) = transport_checksum(self.protocol()) {
            let at = ipv4::LEN + field.offset;
            let old = self.load(at);
            if !(field.optional && old == 0) {
                let addresses = if field.pseudo_header { u32::from(fold(translation.addresses)) } else { 0 };
                let new = checksum::update(old, addresses + u32::from(fold(translation.ports)));
                self.store(at, if field.optional && new == 0 { 0xffff } else { new });
            }
        }
        self.0[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(&translation.to.src.octets());
        self.0[ipv4::DST..ipv4::DST + 4].copy_from_slice(&translation.to.dst.octets());
        self.set_ports(translation.to);
    }
}

proptest! {
    #[test]
    fn a_translated_packet_is_the_packet_made_anew(
        from in tuple(), to in tuple(), protocol in protocol(),
        body in prop::collection::vec(any::<u8>(), 20..64), without_checksum in any::<bool>(),
    ) {
        let (from, to) = (of_protocol(from, protocol), of_protocol(to, protocol));
        let original = Packet::new(from, protocol, &body, without_checksum);
        let mut translated = original.clone();
        translated.apply(&Translation::new(from, to));
        prop_assert_eq!(&translated, &Packet::new(to, protocol, &body, without_checksum));
        translated.apply(&Translation::new(to, from));
        prop_assert_eq!(translated, original);
    }

    #[test]
    fn a_flow_translates_there_and_back(original in tuple(), reply in tuple(), protocol in protocol(), kind in 1_u8..=4) {
        let flow = Flow { original, reply, proto: protocol, kind, ..bytemuck::Zeroable::zeroed() };
        for (direction, other) in [(Direction::Original, Direction::Reply), (Direction::Reply, Direction::Original)] {
            let seen = flow.key(direction);
            // The answer to the translated packet finds the flow, and is translated to the answer of the packet.
            let answer = flow.translated(direction).reversed();
            prop_assert_eq!(flow.key(other).tuple, answer);
            prop_assert_eq!(flow.translated(other), seen.tuple.reversed());
            prop_assert_ne!(flow.key(other).side, seen.side);
            prop_assert_eq!(seen.proto, protocol);
        }
    }

    #[test]
    fn reversing_twice_is_nothing(tuple in tuple()) {
        prop_assert_eq!(tuple.reversed().reversed(), tuple);
    }

    #[test]
    fn keys_of_different_sides_or_protocols_differ(tuple in tuple(), protocol in any::<u8>(), other in any::<u8>()) {
        let key = FlowKey::new(tuple, protocol, Side::Inside);
        prop_assert_ne!(key, FlowKey::new(tuple, protocol, Side::Wire));
        prop_assert_eq!(key == FlowKey::new(tuple, other, Side::Inside), protocol == other);
    }
}

#[test]
fn flows_are_opened_on_the_side_that_their_kind_says() {
    let sides = |kind: Kind| [Direction::Original, Direction::Reply].map(|direction| Kind::side(kind as u8, direction));
    for kind in [Kind::Outside, Kind::Peer, Kind::Host] {
        assert_eq!(sides(kind), [Side::Inside, Side::Wire], "{kind:?}");
    }
    for kind in [Kind::Inbound, Kind::Forward, Kind::Mapped] {
        assert_eq!(sides(kind), [Side::Wire, Side::Inside], "{kind:?}");
    }
    assert_eq!(sides(Kind::Hairpin), [Side::Inside; 2]);
    for number in 0..=u8::MAX {
        assert!(Kind::from_u8(number).is_none_or(|kind| kind as u8 == number));
    }
}
