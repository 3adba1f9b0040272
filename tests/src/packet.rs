//! A captured frame, taken apart. Written for judging xnat, so it shares no code with it.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;

/// TCP's FIN flag.
pub const FIN: u8 = 0x01;
/// TCP's SYN flag.
pub const SYN: u8 = 0x02;
/// TCP's RST flag.
pub const RST: u8 = 0x04;
/// TCP's PSH flag.
pub const PSH: u8 = 0x08;
/// TCP's ACK flag.
pub const ACK: u8 = 0x10;

/// The Ethernet type of IPv4.
pub const IPV4: u16 = 0x0800;

/// What a checksum field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The right sum.
    Valid,
    /// The sum of the pseudo header only: a device further on is to finish it (checksum offload).
    Partial,
    /// UDP without a checksum, a fragment, or a protocol that has none that we know.
    None,
    /// Anything else.
    Wrong,
}

/// The tag that carries a container's address to a peer (DESIGN §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Length of the option.
    pub length: u8,
    /// Version, the upper half of octet 2.
    pub version: u8,
    /// Kind, the lower half: 0 open, 1 announce, 2 unknown-flow, 3 conflict.
    pub kind: u8,
    /// Key id.
    pub key: u8,
    /// The destination that DNAT overwrote.
    pub address: Ipv4Addr,
}

/// A frame. Fields that it does not have are zero or empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// When it was captured, since the epoch.
    pub at: Duration,
    /// Ethernet source.
    pub eth_src: [u8; 6],
    /// Ethernet destination.
    pub eth_dst: [u8; 6],
    /// Ethernet type.
    pub eth_type: u16,
    /// IP source.
    pub src: Ipv4Addr,
    /// IP destination.
    pub dst: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// IP protocol.
    pub proto: u8,
    /// IP identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Offset of this fragment in octets.
    pub fragment_offset: u16,
    /// IP options as they stand, padding included.
    pub options: Vec<u8>,
    /// IP total length.
    pub len: u16,
    /// State of the IP header's checksum.
    pub ip_checksum: Checksum,
    /// State of the checksum of TCP, UDP or ICMP.
    pub l4_checksum: Checksum,
    /// Source port; for ICMP queries the identifier.
    pub sport: u16,
    /// Destination port; for ICMP queries the identifier.
    pub dport: u16,
    /// TCP flags.
    pub flags: u8,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// TCP window.
    pub window: u16,
    /// TCP options as they stand.
    pub tcp_options: Vec<u8>,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// ICMP's last 32 bits of header: identifier and sequence, or the next-hop MTU in the lower half.
    pub icmp_rest: u32,
    /// What follows the headers of TCP, UDP and ICMP, or the IP header of anything else.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Takes an Ethernet frame apart; frames that are cut short keep what they have.
    pub fn parse(at: Duration, frame: &[u8]) -> Self {
        let mut packet = Self::empty(at);
        if frame.len() < 14 {
            return packet;
        }
        packet.eth_dst.copy_from_slice(&frame[..6]);
        packet.eth_src.copy_from_slice(&frame[6..12]);
        packet.eth_type = be16(frame, 12);
        if packet.eth_type == IPV4 {
            packet.parse_ip(&frame[14..]);
        } else {
            packet.payload = frame[14..].to_vec();
        }
        packet
    }

    /// The packet that an ICMP error carries, cut short as it is: its transport checksum is not judged.
    pub fn embedded(&self) -> Option<Self> {
        let error = self.proto == ICMP && matches!(self.icmp_type, 3 | 4 | 5 | 11 | 12);
        if !error || self.payload.len() < 20 {
            return None;
        }
        let mut inner = Self::empty(self.at);
        inner.eth_type = IPV4;
        inner.parse_ip(&self.payload);
        inner.l4_checksum = Checksum::None;
        Some(inner)
    }

    /// The flow tag among the IP options.
    pub fn tag(&self) -> Option<Tag> {
        let mut rest = self.options.as_slice();
        while let [kind, tail @ ..] = rest {
            match (*kind, tail) {
                (0, _) => return None,
                (1, _) => rest = tail,
                (0x9e, [length, octet, key, a, b, c, d, ..]) => {
                    return Some(Tag {
                        length: *length,
                        version: octet >> 4,
                        kind: octet & 0x0f,
                        key: *key,
                        address: Ipv4Addr::new(*a, *b, *c, *d),
                    });
                }
                (_, [length, ..]) if (2..=rest.len()).contains(&usize::from(*length)) => {
                    rest = &rest[usize::from(*length)..];
                }
                _ => return None,
            }
        }
        None
    }

    /// Whether it goes from here to there.
    pub fn goes(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        self.src == src && self.dst == dst
    }

    /// Whether it goes between these ports.
    pub fn ports(&self, sport: u16, dport: u16) -> bool {
        self.sport == sport && self.dport == dport
    }

    /// Whether exactly these of TCP's flags are set.
    pub fn has_flags(&self, flags: u8) -> bool {
        self.proto == TCP && self.flags == flags
    }

    /// Whether it is a fragment, first ones included.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset > 0
    }

    /// Whether no checksum in it is wrong.
    pub fn checksums_right(&self) -> bool {
        self.ip_checksum != Checksum::Wrong && self.l4_checksum != Checksum::Wrong
    }

    fn empty(at: Duration) -> Self {
        Self {
            at,
            eth_src: [0; 6],
            eth_dst: [0; 6],
            eth_type: 0,
            src: Ipv4Addr::UNSPECIFIED,
            dst: Ipv4Addr::UNSPECIFIED,
            ttl: 0,
            tos: 0,
            proto: 0,
            id: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            options: Vec::new(),
            len: 0,
            ip_checksum: Checksum::None,
            l4_checksum: Checksum::None,
            sport: 0,
            dport: 0,
            flags: 0,
            seq: 0,
            ack: 0,
            window: 0,
            tcp_options: Vec::new(),
            icmp_type: 0,
            icmp_code: 0,
            icmp_rest: 0,
            payload: Vec::new(),
        }
    }

    fn parse_ip(&mut self, ip: &[u8]) {
        if ip.len() < 20 {
            return;
        }
        let header = usize::from(ip[0] & 0x0f) * 4;
        if header < 20 || ip.len() < header {
            self.ip_checksum = Checksum::Wrong;
            return;
        }
        self.tos = ip[1];
        self.len = be16(ip, 2);
        self.id = be16(ip, 4);
        let fragment = be16(ip, 6);
        self.dont_fragment = fragment & 0x4000 != 0;
        self.more_fragments = fragment & 0x2000 != 0;
        self.fragment_offset = (fragment & 0x1fff) * 8;
        self.ttl = ip[8];
        self.proto = ip[9];
        self.src = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]);
        self.dst = Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]);
        self.options = ip[20..header].to_vec();
        self.ip_checksum = if fold(sum(&ip[..header])) == 0xffff { Checksum::Valid } else { Checksum::Wrong };
        // Ethernet pads short frames; what is beyond the total length is not the packet's.
        let end = usize::from(self.len).clamp(header, ip.len());
        let body = &ip[header..end];
        let whole = end == usize::from(self.len) && !self.is_fragment();
        if self.fragment_offset > 0 {
            self.payload = body.to_vec();
            return;
        }
        match self.proto {
            TCP => self.parse_tcp(body, whole),
            UDP => self.parse_udp(body, whole),
            ICMP => self.parse_icmp(body, whole),
            _ => self.payload = body.to_vec(),
        }
    }

    fn parse_tcp(&mut self, tcp: &[u8], whole: bool) {
        self.parse_ports(tcp);
        if tcp.len() < 20 {
            return;
        }
        self.seq = be32(tcp, 4);
        self.ack = be32(tcp, 8);
        let header = (usize::from(tcp[12] >> 4) * 4).clamp(20, tcp.len());
        self.flags = tcp[13];
        self.window = be16(tcp, 14);
        self.tcp_options = tcp[20..header].to_vec();
        self.payload = tcp[header..].to_vec();
        if whole {
            self.l4_checksum = self.judge(tcp, be16(tcp, 16));
        }
    }

    fn parse_udp(&mut self, udp: &[u8], whole: bool) {
        self.parse_ports(udp);
        if udp.len() < 8 {
            return;
        }
        self.payload = udp[8..].to_vec();
        if whole && be16(udp, 6) != 0 {
            self.l4_checksum = self.judge(udp, be16(udp, 6));
        }
    }

    fn parse_icmp(&mut self, icmp: &[u8], whole: bool) {
        if icmp.len() < 8 {
            return;
        }
        self.icmp_type = icmp[0];
        self.icmp_code = icmp[1];
        self.icmp_rest = be32(icmp, 4);
        if matches!(self.icmp_type, 0 | 8 | 13 | 14) {
            self.sport = be16(icmp, 4);
            self.dport = self.sport;
        }
        self.payload = icmp[8..].to_vec();
        if whole {
            let right = fold(sum(icmp)) == 0xffff;
            self.l4_checksum = if right { Checksum::Valid } else { Checksum::Wrong };
        }
    }

    fn parse_ports(&mut self, l4: &[u8]) {
        if l4.len() >= 4 {
            self.sport = be16(l4, 0);
            self.dport = be16(l4, 2);
        }
    }

    /// Judges the checksum of TCP or UDP, whose field holds `field`.
    fn judge(&self, l4: &[u8], field: u16) -> Checksum {
        let length = u32::try_from(l4.len()).expect("an IP packet");
        let pseudo = sum(&self.src.octets()) + sum(&self.dst.octets()) + u32::from(self.proto) + length;
        if fold(pseudo + sum(l4)) == 0xffff {
            Checksum::Valid
        } else if fold(pseudo) == field {
            Checksum::Partial
        } else {
            Checksum::Wrong
        }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.eth_type != IPV4 {
            return write!(f, "type {:#06x}, {} octets", self.eth_type, self.payload.len());
        }
        write!(f, "{}:{} > {}:{} ", self.src, self.sport, self.dst, self.dport)?;
        match self.proto {
            TCP => {
                let letter = |(flag, letter)| if self.flags & flag != 0 { letter } else { "" };
                let flags = [(SYN, "S"), (ACK, "A"), (FIN, "F"), (RST, "R"), (PSH, "P")].map(letter).concat();
                write!(f, "tcp {flags} seq {}", self.seq)?;
            }
            UDP => write!(f, "udp")?,
            ICMP => write!(f, "icmp {}/{} {:#010x}", self.icmp_type, self.icmp_code, self.icmp_rest)?,
            other => write!(f, "proto {other}")?,
        }
        write!(f, " ttl {} id {} len {} payload {}", self.ttl, self.id, self.len, self.payload.len())?;
        if self.dont_fragment {
            write!(f, " DF")?;
        }
        if self.is_fragment() {
            write!(f, " fragment {}{}", self.fragment_offset, if self.more_fragments { "+" } else { "" })?;
        }
        if let Some(tag) = self.tag() {
            write!(f, " tag kind {} {}", tag.kind, tag.address)?;
        } else if !self.options.is_empty() {
            write!(f, " options {:02x?}", self.options)?;
        }
        write!(f, " ip {:?} l4 {:?}", self.ip_checksum, self.l4_checksum)
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo request of tcpdump's documentation, made by hand.
    fn echo_request() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 32, 0x12, 0x34, 0x40, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([8, 0, 0, 0, 0x0a, 0x0b, 0, 1, 1, 2, 3, 4]);
        let ip = !fold(sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&ip.to_be_bytes());
        let icmp = !fold(sum(&frame[34..]));
        frame[36..38].copy_from_slice(&icmp.to_be_bytes());
        frame
    }

    #[test]
    fn an_echo_request_is_taken_apart() {
        let packet = Packet::parse(Duration::ZERO, &echo_request());
        assert!(packet.goes(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!((packet.ttl, packet.proto, packet.sport, packet.id), (64, ICMP, 0x0a0b, 0x1234));
        assert!(packet.dont_fragment && !packet.is_fragment());
        assert_eq!((packet.ip_checksum, packet.l4_checksum), (Checksum::Valid, Checksum::Valid));
        assert_eq!(packet.payload, [1, 2, 3, 4]);
    }

    #[test]
    fn a_flipped_bit_makes_checksums_wrong() {
        let mut frame = echo_request();
        frame[22] ^= 1;
        frame[44] ^= 1;
        let packet = Packet::parse(Duration::ZERO, &frame);
        assert_eq!((packet.ip_checksum, packet.l4_checksum), (Checksum::Wrong, Checksum::Wrong));
    }

    #[test]
    fn a_tag_is_found_behind_other_options() {
        let mut packet = Packet::empty(Duration::ZERO);
        packet.options = vec![1, 0x44, 4, 5, 0, 0, 0x9e, 8, 0x11, 0, 192, 168, 220, 11];
        assert_eq!(packet.tag(), None, "what follows the end of the list is not an option");
        packet.options[5] = 1;
        let tag = packet.tag().expect("a tag");
        assert_eq!((tag.version, tag.kind, tag.length), (1, 1, 8));
        assert_eq!(tag.address, Ipv4Addr::new(192, 168, 220, 11));
    }
}
