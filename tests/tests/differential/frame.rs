//! IPv4 packets octet by octet, every checksum right unless something else is asked for.

use std::net::Ipv4Addr;

use xnat_tests::packet::{ICMP, TCP, UDP};

/// A packet before its checksums.
#[derive(Debug, Clone)]
pub struct Ip {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    /// A multiple of four octets.
    pub options: Vec<u8>,
    /// Transport header and payload.
    pub body: Vec<u8>,
}

impl Ip {
    /// An ordinary packet.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, body: Vec<u8>) -> Self {
        Self { src, dst, proto, ttl: 64, tos: 0, id: 0, dont_fragment: false, options: Vec::new(), body }
    }

    /// The packet.
    pub fn octets(&self) -> Vec<u8> {
        self.part(0, self.body.len())
    }

    /// The packet that carries the body's octets from `start` to `end`: the whole one, or a fragment.
    pub fn part(&self, start: usize, end: usize) -> Vec<u8> {
        let body = &self.body[start..end];
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, self.tos];
        bytes.extend(((header + body.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        let flags = if self.dont_fragment { 0x4000 } else { 0 } | if end < self.body.len() { 0x2000 } else { 0 };
        bytes.extend((flags | (start / 8) as u16).to_be_bytes());
        bytes.extend([self.ttl, self.proto, 0, 0]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        let sum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(body);
        bytes
    }

    /// Puts the checksum of TCP, UDP or ICMP into the body.
    pub fn summed(mut self) -> Self {
        let (at, pseudo) = match self.proto {
            TCP => (16, true),
            UDP => (6, true),
            ICMP => (2, false),
            _ => return self,
        };
        let length = (self.body.len() as u32).to_be_bytes();
        let head = [&self.src.octets()[..], &self.dst.octets(), &[0, self.proto, length[2], length[3]]].concat();
        self.body[at..at + 2].fill(0);
        let sum = checksum(&[if pseudo { &head } else { &[] }, &self.body]);
        // Zero says "no checksum" in UDP.
        let sum = if self.proto == UDP && sum == 0 { 0xffff } else { sum };
        self.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }
}

/// A TCP segment's header and payload.
pub struct Segment<'a> {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub options: &'a [u8],
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Its octets, without a checksum.
    pub fn octets(&self, (sport, dport): (u16, u16)) -> Vec<u8> {
        let mut body = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
        body.extend([self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat());
        body.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        body.extend(self.options);
        body.extend(self.payload);
        body
    }
}

/// A UDP datagram's octets, without a checksum.
pub fn datagram((sport, dport): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = ((payload.len() + 8) as u16).to_be_bytes();
    let mut body = [sport.to_be_bytes(), dport.to_be_bytes(), length, [0, 0]].concat();
    body.extend(payload);
    body
}

/// An ICMP message's octets, without a checksum.
pub fn message((kind, code): (u8, u8), rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest);
    body.extend(payload);
    body
}

/// Makes the header of a packet that has been put together from fragments that of a whole one.
pub fn resize(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[6..8].fill(0);
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..header]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
