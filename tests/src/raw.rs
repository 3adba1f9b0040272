//! Packets that no socket would send.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Namespace;
use crate::packet::{ICMP, TCP, UDP};

/// An IPv4 packet to be made by hand. The kernel fills in length, identification and header checksum.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// IP protocol.
    pub proto: u8,
    /// Time to live.
    pub ttl: u8,
    /// IP options, a multiple of four octets.
    pub options: Vec<u8>,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Raw {
    /// A packet of a protocol with neither ports nor checksum.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, body: &[u8]) -> Self {
        Self { src, dst, proto, ttl: 64, options: Vec::new(), body: body.to_vec() }
    }

    /// A UDP datagram without a checksum.
    pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Self {
        let length = u16::try_from(payload.len() + 8).expect("a datagram");
        let mut body = [src.1.to_be_bytes(), dst.1.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        body.extend(payload);
        Self::new(src.0, dst.0, UDP, &body)
    }

    /// A TCP segment without options and payload.
    pub fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8, seq: u32, ack: u32) -> Self {
        let mut body = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
        body.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        // Five words of header, a window of 65535, no checksum yet.
        body.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let pseudo = [src.0.octets(), dst.0.octets(), [0, TCP, 0, 20]].concat();
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        let sum: u32 = pseudo.chunks(2).chain(body.chunks(2)).map(word).sum();
        let once = (sum & 0xffff) + (sum >> 16);
        let checksum = !(((once & 0xffff) + (once >> 16)) as u16);
        body[16..18].copy_from_slice(&checksum.to_be_bytes());
        Self::new(src.0, dst.0, TCP, &body)
    }

    /// An echo request.
    pub fn echo_request(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Self {
        let id = id.to_be_bytes();
        // Type 8, sequence 1: with no payload the sum is over three words.
        let sum = 0x0800_u32 + u32::from(u16::from_be_bytes(id)) + 1;
        let checksum = (!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes();
        Self::new(src, dst, ICMP, &[8, 0, checksum[0], checksum[1], id[0], id[1], 0, 1])
    }

    /// With a flow tag of version 1 (DESIGN §2.1).
    #[must_use]
    pub fn tagged(mut self, kind: u8, address: Ipv4Addr) -> Self {
        self.options = vec![0x9e, 8, 1 << 4 | kind, 0];
        self.options.extend(address.octets());
        self
    }

    /// With this time to live.
    #[must_use]
    pub fn with_ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sends it from inside a namespace, by that namespace's routes.
    #[track_caller]
    pub fn send(&self, ns: &Namespace) {
        let words = 5 + u8::try_from(self.options.len() / 4).expect("an IP header");
        let mut bytes = vec![0x40 | words, 0, 0, 0, 0, 0, 0, 0, self.ttl, self.proto, 0, 0];
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        bytes.extend(&self.body);
        let length = u16::try_from(bytes.len()).expect("a packet").to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        let sent = ns.within(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
            socket.set_header_included_v4(true)?;
            socket.send_to(&bytes, &SocketAddr::from((self.dst, 0)).into())
        });
        sent.unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }
}
