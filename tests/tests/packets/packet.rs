//! Packets made from nothing: every checksum is etherparse's, so a packet that equals one of these is right.

use std::net::Ipv4Addr;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, TcpHeader, UdpHeader};

/// An address and a port.
pub type End = (Ipv4Addr, u16);

/// A destination and a source MAC address, as they lie in a frame.
pub type Macs = [[u8; 6]; 2];

/// A packet that the kernel hands to a program, with what it knows of it besides its octets.
#[derive(Clone, Debug)]
pub struct Packet {
    ip: Ipv4Header,
    body: Body,
    /// MAC addresses, if not those that the hook suggests.
    macs: Option<Macs>,
    /// The part of the body that this fragment carries.
    part: Option<(usize, usize)>,
    /// Octets behind the IP packet.
    trailer: usize,
    /// Octets to overwrite at last, by offset from the Ethernet header on.
    edits: Vec<(usize, Vec<u8>)>,
    /// Where the frame is cut off.
    cut: Option<usize>,
    /// The mark.
    pub mark: u32,
    /// The size of the segments that the packet will be cut into.
    pub gso_size: u32,
}

#[derive(Clone, Debug)]
enum Body {
    Tcp {
        header: Box<TcpHeader>,
        payload: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
        checksum: bool,
        payload: Vec<u8>,
    },
    /// Type, code, the second word of the header, and what follows.
    Icmp {
        kind: (u8, u8),
        rest: [u8; 4],
        payload: Vec<u8>,
    },
    Other(Vec<u8>),
    /// A frame that is no IPv4 packet.
    Frame {
        ether_type: u16,
        payload: Vec<u8>,
    },
}

/// The first sequence number of every connection, in both directions.
pub const ISN: u32 = 0x0102_0304;

/// A TCP segment, of a connection in which nothing has been sent yet: it has the next number after the SYN and
/// acknowledges that of the other end.
pub fn tcp(src: End, dst: End, flags: u8) -> Packet {
    let mut header = TcpHeader::new(src.1, dst.1, if flags & 0x02 != 0 { ISN } else { ISN + 1 }, 64_240);
    header.fin = flags & 0x01 != 0;
    header.syn = flags & 0x02 != 0;
    header.rst = flags & 0x04 != 0;
    header.psh = flags & 0x08 != 0;
    header.ack = flags & 0x10 != 0;
    header.ece = flags & 0x40 != 0;
    header.cwr = flags & 0x80 != 0;
    if header.ack {
        header.acknowledgment_number = ISN + 1;
    }
    new(src.0, dst.0, IpNumber::TCP, Body::Tcp { header: Box::new(header), payload: Vec::new() })
}

/// A UDP datagram with a few octets of payload.
pub fn udp(src: End, dst: End) -> Packet {
    let payload = b"a datagram".to_vec();
    new(src.0, dst.0, IpNumber::UDP, Body::Udp { ports: (src.1, dst.1), checksum: true, payload })
}

/// An ICMP echo request.
pub fn echo(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Packet {
    query(src, dst, 8, id)
}

/// An ICMP echo reply.
pub fn echo_reply(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Packet {
    query(src, dst, 0, id)
}

/// An ICMP query or its answer, by its type.
pub fn query(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, id: u16) -> Packet {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, (kind, 0), [a, b, 0, 7], b"abcdefgh".to_vec())
}

/// An ICMP error of this type and code about `about`, of which it carries the IP header and `octets` of what follows.
pub fn icmp_error(src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), about: &Packet, octets: usize) -> Packet {
    // The MTU of "fragmentation needed"; zero elsewhere.
    let rest = if kind == (3, 4) { [0, 0, 0x05, 0x78] } else { [0; 4] };
    let mut embedded = about.ip_packet();
    embedded.truncate(about.ip_len() + octets);
    icmp(src, dst, kind, rest, embedded)
}

/// An ICMP message.
pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), rest: [u8; 4], payload: Vec<u8>) -> Packet {
    new(src, dst, IpNumber::ICMP, Body::Icmp { kind, rest, payload })
}

/// A packet of any other protocol.
pub fn other(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, body: &[u8]) -> Packet {
    new(src, dst, IpNumber(protocol), Body::Other(body.to_vec()))
}

/// A frame that is no IPv4 packet.
pub fn frame(ether_type: u16, payload: Vec<u8>) -> Packet {
    new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, IpNumber(0), Body::Frame { ether_type, payload })
}

fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpNumber, body: Body) -> Packet {
    let ip = Ipv4Header {
        identification: 0x4321,
        dont_fragment: true,
        time_to_live: 64,
        protocol,
        source: src.octets(),
        destination: dst.octets(),
        ..Ipv4Header::default()
    };
    Packet { ip, body, macs: None, part: None, trailer: 0, edits: Vec::new(), cut: None, mark: 0, gso_size: 0 }
}

impl Packet {
    /// With this time to live.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ip.time_to_live = ttl;
        self
    }

    /// With this identification.
    pub fn id(mut self, id: u16) -> Self {
        self.ip.identification = id;
        self
    }

    /// May be fragmented.
    pub fn may_fragment(mut self) -> Self {
        self.ip.dont_fragment = false;
        self
    }

    /// With this type of service, to see that it stays.
    pub fn tos(mut self, tos: u8) -> Self {
        self.ip.dscp = (tos >> 2).try_into().expect("six bits");
        self.ip.ecn = (tos & 3).try_into().expect("two bits");
        self
    }

    /// With these IP options, a multiple of four octets.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.ip.options = options.try_into().expect("an option list");
        self
    }

    /// With a flow tag of this version's, first of its options.
    pub fn tagged(self, kind: Tag, destination: Ipv4Addr) -> Self {
        self.options(&tag_octets(kind, destination))
    }

    /// Carries this many octets of payload.
    pub fn carrying(mut self, octets: usize) -> Self {
        let new: Vec<u8> = (0..octets).map(|n| (n * 7 % 251) as u8).collect();
        match &mut self.body {
            Body::Tcp { payload, .. } | Body::Udp { payload, .. } | Body::Icmp { payload, .. } => *payload = new,
            Body::Other(body) => *body = new,
            Body::Frame { .. } => panic!("no IPv4 packet"),
        }
        self
    }

    /// Carries this payload.
    pub fn with_payload(mut self, new: Vec<u8>) -> Self {
        match &mut self.body {
            Body::Tcp { payload, .. } | Body::Udp { payload, .. } | Body::Icmp { payload, .. } => *payload = new,
            Body::Other(_) | Body::Frame { .. } => panic!("no payload"),
        }
        self
    }

    /// With these sequence and acknowledgement numbers, from [`ISN`] on.
    pub fn numbers(mut self, seq: u32, ack: u32) -> Self {
        let Body::Tcp { header, .. } = &mut self.body else { panic!("not TCP") };
        header.sequence_number = ISN.wrapping_add(seq);
        header.acknowledgment_number = if header.ack { ISN.wrapping_add(ack) } else { 0 };
        self
    }

    /// With this window field.
    pub fn window(mut self, window: u16) -> Self {
        let Body::Tcp { header, .. } = &mut self.body else { panic!("not TCP") };
        header.window_size = window;
        self
    }

    /// With these TCP options, a multiple of four octets.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        let Body::Tcp { header, .. } = &mut self.body else { panic!("not TCP") };
        header.set_options_raw(options).expect("an option list");
        self
    }

    /// UDP without a checksum.
    pub fn without_checksum(mut self) -> Self {
        let Body::Udp { checksum, .. } = &mut self.body else { panic!("not UDP") };
        *checksum = false;
        self
    }

    /// The fragment that carries `len` octets of the IP packet's body from `start` on; what is left out follows.
    pub fn fragment(mut self, start: usize, len: usize) -> Self {
        self.ip.dont_fragment = false;
        self.part = Some((start, len));
        self
    }

    /// With octets behind the IP packet, as Ethernet pads short frames.
    pub fn padded(mut self, octets: usize) -> Self {
        self.trailer = octets;
        self
    }

    /// With other MAC addresses than the hook suggests.
    pub fn macs(mut self, macs: Macs) -> Self {
        self.macs = Some(macs);
        self
    }

    /// With octets at `offset` from the Ethernet header overwritten, checksums left as they are.
    pub fn edited(mut self, offset: usize, octets: &[u8]) -> Self {
        self.edits.push((offset, octets.to_vec()));
        self
    }

    /// Cut off after this many octets of the frame.
    pub fn cut(mut self, octets: usize) -> Self {
        self.cut = Some(octets);
        self
    }

    /// With this mark.
    pub fn marked(mut self, mark: u32) -> Self {
        self.mark = mark;
        self
    }

    /// Will be cut into segments of this size.
    pub fn segmented(mut self, size: u32) -> Self {
        self.gso_size = size;
        self
    }

    /// The frame, with `macs` unless the packet has its own.
    pub fn frame(&self, macs: Macs) -> Vec<u8> {
        let mut bytes = self.macs.unwrap_or(macs).concat();
        if let Body::Frame { ether_type, payload } = &self.body {
            bytes.extend(ether_type.to_be_bytes());
            bytes.extend(payload);
        } else {
            bytes.extend([0x08, 0x00]);
            bytes.extend(self.ip_packet());
        }
        bytes.extend(vec![0x5a; self.trailer]);
        for (offset, octets) in &self.edits {
            bytes[*offset..offset + octets.len()].copy_from_slice(octets);
        }
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }

    /// Whether its checksums are meant to be right.
    pub fn is_intact(&self) -> bool {
        self.edits.is_empty() && self.cut.is_none() && !matches!(self.body, Body::Frame { .. })
    }

    fn ip_len(&self) -> usize {
        self.ip.header_len()
    }

    fn ip_packet(&self) -> Vec<u8> {
        let mut body = self.body_octets();
        let mut ip = self.ip.clone();
        if let Some((start, len)) = self.part {
            assert!(start % 8 == 0, "fragments begin at multiples of eight");
            ip.more_fragments = start + len < body.len();
            ip.fragment_offset = IpFragOffset::try_new((start / 8) as u16).expect("an offset");
            body = body[start..(start + len).min(body.len())].to_vec();
        }
        ip.set_payload_len(body.len()).expect("an IP packet");
        ip.header_checksum = ip.calc_header_checksum();
        let mut bytes = ip.to_bytes().to_vec();
        bytes.extend(body);
        bytes
    }

    fn body_octets(&self) -> Vec<u8> {
        match &self.body {
            Body::Tcp { header, payload } => {
                let mut header = header.clone();
                header.checksum = header.calc_checksum_ipv4(&self.ip, payload).expect("a segment");
                [&header.to_bytes()[..], payload].concat()
            }
            Body::Udp { ports: (sport, dport), checksum, payload } => {
                let make = if *checksum {
                    UdpHeader::with_ipv4_checksum(*sport, *dport, &self.ip, payload).expect("a datagram")
                } else {
                    UdpHeader::without_ipv4_checksum(*sport, *dport, payload.len()).expect("a datagram")
                };
                [&make.to_bytes()[..], payload].concat()
            }
            Body::Icmp { kind: (kind, code), rest, payload } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                bytes.extend(payload);
                let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes).ones_complement();
                bytes[2..4].copy_from_slice(&sum.to_ne_bytes());
                bytes
            }
            Body::Other(body) => body.clone(),
            Body::Frame { .. } => Vec::new(),
        }
    }
}

/// A tag's kind on the wire (DESIGN §2.1).
#[derive(Clone, Copy, Debug)]
pub enum Tag {
    Open = 0,
    Announce = 1,
    UnknownFlow = 2,
    Conflict = 3,
}

/// The option, written by hand from the design.
pub fn tag_octets(kind: Tag, destination: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = destination.octets();
    [0x9e, 8, 1 << 4 | kind as u8, 0, a, b, c, d]
}
