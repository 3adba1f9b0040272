//! Packets that no socket would send.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Namespace;
use crate::packet::{ICMP, Packet, TCP, UDP};
use crate::wait;

/// An IPv4 packet to be made by hand. The kernel fills in length and header checksum.
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
    /// Identification; the kernel chooses one for zero.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// IP options, a multiple of four octets.
    pub options: Vec<u8>,
    /// What follows the header.
    pub body: Vec<u8>,
}

impl Raw {
    /// A packet of a protocol with neither ports nor checksum.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, body: &[u8]) -> Self {
        Self { src, dst, proto, ttl: 64, id: 0, fragment: 0, options: Vec::new(), body: body.to_vec() }
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

    /// With the right checksum of TCP or UDP, which the body has room for, and of ICMP.
    #[must_use]
    pub fn summed(mut self) -> Self {
        let at = match self.proto {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        self.body[at..at + 2].fill(0);
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        let mut sum: u32 = self.body.chunks(2).map(word).sum();
        if self.proto != ICMP {
            let ends = [self.src.octets(), self.dst.octets()].concat();
            sum += ends.chunks(2).map(word).sum::<u32>();
            sum += u32::from(self.proto) + u32::try_from(self.body.len()).expect("a packet");
        }
        let once = (sum & 0xffff) + (sum >> 16);
        let checksum = !(((once & 0xffff) + (once >> 16)) as u16);
        self.body[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        self
    }

    /// The fragment that carries `len` octets of the body from `start` on; whether more follow is said as it is.
    #[must_use]
    pub fn part(&self, id: u16, start: usize, len: usize) -> Self {
        let end = (start + len).min(self.body.len());
        let more = if end < self.body.len() { 0x2000 } else { 0 };
        let fragment = u16::try_from(start / 8).expect("an offset") | more;
        Self { id, fragment, body: self.body[start..end].to_vec(), ..self.clone() }
    }

    /// All fragments, of `len` octets each but the last.
    #[must_use]
    pub fn parts(&self, id: u16, len: usize) -> Vec<Self> {
        (0..self.body.len()).step_by(len).map(|start| self.part(id, start, len)).collect()
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
        send_all(ns, std::slice::from_ref(self));
    }

    fn octets(&self) -> Vec<u8> {
        let words = 5 + u8::try_from(self.options.len() / 4).expect("an IP header");
        let ([id0, id1], [part0, part1]) = (self.id.to_be_bytes(), self.fragment.to_be_bytes());
        let mut bytes = vec![0x40 | words, 0, 0, 0, id0, id1, part0, part1, self.ttl, self.proto, 0, 0];
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        bytes.extend(&self.body);
        let length = u16::try_from(bytes.len()).expect("a packet").to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        bytes
    }
}

/// Sends packets one after the other from inside a namespace, by that namespace's routes.
#[track_caller]
pub fn send_all(ns: &Namespace, packets: &[Raw]) {
    let sent = ns.within(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        socket.set_header_included_v4(true)?;
        for packet in packets {
            socket.send_to(&packet.octets(), &SocketAddr::from((packet.dst, 0)).into())?;
        }
        std::io::Result::Ok(())
    });
    sent.unwrap_or_else(|error| panic!("{} packets to {:?}: {error}", packets.len(), packets.first().map(|it| it.dst)));
}

/// Hears everything of one protocol that reaches a namespace, datagrams put together again.
#[derive(Debug)]
pub struct Ear(Socket);

impl Ear {
    /// Listens from now on.
    #[track_caller]
    pub fn new(ns: &Namespace, proto: u8) -> Self {
        let socket = ns.within(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(proto))))?;
            socket.set_recv_buffer_size(4 << 20)?;
            std::io::Result::Ok(socket)
        });
        Self(socket.unwrap_or_else(|error| panic!("a raw socket of protocol {proto}: {error}")))
    }

    /// The next packet that comes within this time.
    pub fn next(&self, within: Duration) -> Option<Packet> {
        self.0.set_read_timeout(Some(within)).expect("a valid timeout");
        let mut buffer = vec![0; 66_000];
        let length = (&self.0).read(&mut buffer).ok()?;
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend(&buffer[..length]);
        Some(Packet::parse(Duration::ZERO, &frame))
    }

    /// Awaits a packet that `wanted` accepts; the others are forgotten.
    #[track_caller]
    pub fn expect(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let mut others = Vec::new();
        while let Some(packet) = self.next(wait::SOON) {
            if wanted(&packet) {
                return packet;
            }
            others.push(packet);
        }
        panic!("{what} was not heard, but {others:?}");
    }
}
