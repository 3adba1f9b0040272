//! A story on one side: its numbers become addresses and ports, which no other story has, and what is seen becomes numbers
//! again, so that the two sides can be compared.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use xnat_tests::packet::{Checksum, ICMP, IPV4, Packet, TCP, UDP};
use xnat_tests::payload;
use xnat_tests::topology::NODE1;

use crate::frame::{self, Ip, Segment};
use crate::side::{Place, Side, container};
use crate::story::{Content, Damage, End, Flow, Proto, Step, What};

/// A router out there, and one inside.
const ROUTERS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(192, 168, 110, 77)];

/// Whose addresses and ports: those of the story with this number.
#[derive(Debug, Clone, Copy)]
pub struct Cast(pub u32);

impl Cast {
    /// Two ports, or identifiers, for each story.
    pub fn port(self, n: u16) -> u16 {
        (1024 + self.0 * 2 % 64_000) as u16 + n
    }

    /// Four servers for each story, in 198.18.0.0/15.
    pub fn server(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xc612_0000 + self.0 % 0x7fff * 4 + n)
    }
}

/// What was seen after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub place: Place,
    pub packet: Packet,
    /// The packet in an ICMP error, judged by its own checksums if it is there as a whole.
    pub embedded: Option<Packet>,
}

/// A side while a story is played.
pub struct Stage<'a> {
    pub side: &'a mut Side,
    cast: Cast,
    /// The port on the wire of each flow from which something has left.
    wire: HashMap<usize, u16>,
}

impl<'a> Stage<'a> {
    pub fn new(side: &'a mut Side, cast: Cast) -> Self {
        Self { side, cast, wire: HashMap::new() }
    }

    /// Plays a step.
    pub fn play(&mut self, flows: &[Flow], step: &Step) -> Vec<Seen> {
        let flow = flows[step.flow];
        let port = self.cast.port(flow.port);
        let wire = self.wire.get(&step.flow).copied().unwrap_or(port);
        let at = match step.from {
            End::Inside => Place::Container(flow.container),
            End::Outside => Place::Far,
        };
        let packets = self.packets(flow, step, wire);
        let seen = join_fragments(self.side.inject(at, &packets));
        let leaves = |place: &Place, packet: &Packet| {
            *place == Place::Far && packet.src == NODE1 && packet.dst == self.cast.server(flow.server)
        };
        let own = step.from == End::Inside && matches!(step.what, What::Packet | What::Fragments { .. });
        let mut wire = wire;
        if own && flow.has_ports() {
            let left = seen.iter().find(|(place, packet)| leaves(place, packet) && packet.fragment_offset == 0);
            if let Some((_, packet)) = left {
                wire = packet.sport;
                self.wire.insert(step.flow, wire);
            }
        }
        let mut seen: Vec<Seen> =
            seen.into_iter().map(|(place, packet)| canonical(place, packet, wire, port)).collect();
        // What comes back is the host's own answer, which has an identification of its own.
        seen.iter_mut().filter(|seen| seen.place == at).for_each(|seen| seen.packet.id = 0);
        seen.sort_by_key(|seen| (seen.place, format!("{:?}", seen.packet)));
        seen
    }

    fn packets(&self, flow: Flow, step: &Step, wire: u16) -> Vec<Vec<u8>> {
        let server = (self.cast.server(flow.server), flow.server_port);
        let local = (container(flow.container), self.cast.port(flow.port));
        let public = (NODE1, wire);
        match &step.what {
            What::Packet => {
                let ends = if step.from == End::Inside { (local, server) } else { (server, public) };
                vec![damaged(self.packet(flow, step, ends), step.damage)]
            }
            What::Stray { server, server_port } => {
                let stranger = (self.cast.server(*server), *server_port);
                vec![damaged(self.packet(flow, step, (stranger, public)), step.damage)]
            }
            What::Fragments { ends, order } => {
                let hosts = if step.from == End::Inside { (local, server) } else { (server, public) };
                let packet = self.packet(flow, step, hosts);
                let part = |n: &usize| packet.part(if *n == 0 { 0 } else { ends[n - 1] }, ends[*n]);
                order.iter().map(part).collect()
            }
            What::Error { kind, rest, router, octets } => {
                // About a packet of the other end's, as this end has seen it.
                let (ends, own, routers) = match step.from {
                    End::Inside => ((server, local), local.0, ROUTERS[1]),
                    End::Outside => ((public, server), server.0, ROUTERS[0]),
                };
                let mut about = self.packet(flow, step, ends).octets();
                if step.damage == Some(Damage::EmbeddedIpChecksum) {
                    about[10] ^= 0x55;
                }
                let header = usize::from(about[0] & 15) * 4;
                about.truncate(header + octets);
                let body = frame::message(*kind, *rest, &about);
                let src = if *router { routers } else { own };
                let error = Ip { id: step.head.id, ..Ip::new(src, ends.0.0, ICMP, body) };
                vec![damaged(error.summed(), step.damage)]
            }
        }
    }

    fn packet(&self, flow: Flow, step: &Step, (src, dst): ((Ipv4Addr, u16), (Ipv4Addr, u16))) -> Ip {
        let ports = (src.1, dst.1);
        let octets = |len: usize| payload::pattern(u64::from(self.cast.0), len);
        // What is behind "no checksum" for `summed`.
        let mut without_sum = false;
        let (proto, body) = match (&step.content, flow.proto) {
            (Content::Tcp { flags, seq, ack, options, len }, _) => {
                let segment = Segment { seq: *seq, ack: *ack, flags: *flags, options, payload: &octets(*len) };
                (TCP, segment.octets(ports))
            }
            (Content::Udp { len, sum }, _) => {
                without_sum = !sum;
                (UDP, frame::datagram(ports, &octets(*len)))
            }
            (Content::Query { kind, seq, len }, _) => {
                // The identifier is the port of the inner end, whichever direction the message goes.
                let local = step.from == End::Inside && !matches!(step.what, What::Error { .. })
                    || step.from == End::Outside && matches!(step.what, What::Error { .. });
                let id = if local { ports.0 } else { ports.1 };
                let [a, b] = id.to_be_bytes();
                let [c, d] = seq.to_be_bytes();
                (ICMP, frame::message((*kind, 0), [a, b, c, d], &octets(*len)))
            }
            (Content::Other { len }, Proto::Other(proto)) => (proto, octets(*len)),
            (Content::Other { .. }, _) => panic!("{step:?} is not of {flow:?}"),
        };
        let head = &step.head;
        let ip = Ip {
            ttl: head.ttl,
            tos: head.tos,
            id: head.id,
            dont_fragment: head.dont_fragment,
            options: head.options.clone(),
            ..Ip::new(src.0, dst.0, proto, body)
        };
        if without_sum { ip } else { ip.summed() }
    }
}

impl Flow {
    /// Whether there are ports or identifiers that may be translated.
    pub fn has_ports(self) -> bool {
        !matches!(self.proto, Proto::Other(_))
    }
}

/// The packet's octets, with what is to be wrong with it.
fn damaged(mut packet: Ip, damage: Option<Damage>) -> Vec<u8> {
    if damage == Some(Damage::Checksum) {
        let at = match packet.proto {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        if let Some(octet) = packet.body.get_mut(at) {
            *octet ^= 0x55;
        }
    }
    let mut octets = packet.octets();
    match damage {
        Some(Damage::IpChecksum) => octets[10] ^= 0x55,
        Some(Damage::Short) => octets.truncate(octets.len() - 1),
        Some(Damage::Checksum | Damage::EmbeddedIpChecksum) | None => {}
    }
    octets
}

/// A packet with the container's own port in place of the one on the wire, and without what may differ: time, MAC addresses.
fn canonical(place: Place, mut packet: Packet, wire: u16, port: u16) -> Seen {
    packet.at = Duration::ZERO;
    packet.eth_src = [0; 6];
    packet.eth_dst = [0; 6];
    let mut embedded = packet.embedded().map(|_| {
        let ether = [&[0; 12][..], &IPV4.to_be_bytes(), &packet.payload].concat();
        Packet::parse(Duration::ZERO, &ether)
    });
    if embedded.is_some() {
        packet.payload.clear();
    }
    for packet in std::iter::once(&mut packet).chain(embedded.as_mut()) {
        if place == Place::Far {
            rename(packet, wire, port);
        }
    }
    Seen { place, packet, embedded }
}

fn rename(packet: &mut Packet, wire: u16, port: u16) {
    let query = packet.proto == ICMP && matches!(packet.icmp_type, 0 | 8 | 13 | 14);
    if query && packet.sport == wire {
        (packet.sport, packet.dport) = (port, port);
        packet.icmp_rest = u32::from(port) << 16 | packet.icmp_rest & 0xffff;
    } else if packet.src == NODE1 && packet.sport == wire {
        packet.sport = port;
    } else if packet.dst == NODE1 && packet.dport == wire {
        packet.dport = port;
    }
}

/// Puts fragments of one datagram together, whatever their sizes and their order. What is not whole stays as it is.
fn join_fragments(seen: Vec<(Place, Vec<u8>)>) -> Vec<(Place, Packet)> {
    let parse = |frame: &[u8]| Packet::parse(Duration::ZERO, frame);
    let (mut pieces, mut whole): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(_, frame)| {
        let packet = parse(frame);
        packet.is_fragment() && packet.ip_checksum == Checksum::Valid
    });
    while let Some(at) = pieces.iter().position(|(_, frame)| parse(frame).fragment_offset == 0) {
        let (place, mut frame) = pieces.swap_remove(at);
        let first = parse(&frame);
        let header = 34 + first.options.len();
        frame.truncate(14 + usize::from(first.len));
        let mut complete = false;
        while !complete {
            let next = pieces.iter().position(|(other, piece)| {
                let packet = parse(piece);
                let offset = usize::from(packet.fragment_offset);
                *other == place && packet.id == first.id && offset == frame.len() - header
            });
            let Some(next) = next else { break };
            let piece = parse(&pieces.swap_remove(next).1);
            complete = !piece.more_fragments;
            frame.extend(piece.payload);
        }
        if complete {
            frame::resize(&mut frame[14..]);
        }
        whole.push((place, frame));
    }
    whole.extend(pieces);
    whole.into_iter().map(|(place, frame)| (place, parse(&frame))).collect()
}
