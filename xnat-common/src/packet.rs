//! Where the fields of a packet are, and what the dataplane reads from its headers.

use crate::Tuple;
use crate::fragment::{DatagramKey, FragmentKey};

/// IP protocol numbers that are treated each in its own way.
pub mod proto {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}

/// Ethernet II.
pub mod ethernet {
    /// Length of the header in bytes.
    pub const LEN: usize = 14;
    /// Offset of the `EtherType`.
    pub const TYPE: usize = 12;
    /// `EtherType` of IPv4, in host order.
    pub const IPV4: u16 = 0x0800;
}

/// IPv4 (RFC 791 §3.1), offsets from the start of the IP header.
pub mod ipv4 {
    /// Length of the header without options in bytes.
    pub const LEN: usize = 20;
    /// Longest header in bytes.
    pub const LEN_MAX: usize = 60;
    /// Total length.
    pub const TOTAL_LEN: usize = 2;
    /// Identification.
    pub const ID: usize = 4;
    /// Flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTO: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
    /// Don't fragment, in host order.
    pub const DF: u16 = 0x4000;
    /// More fragments, in host order.
    pub const MF: u16 = 0x2000;
    /// The bits of the fragment offset, in host order.
    pub const OFFSET: u16 = 0x1fff;
    /// The option "loose source and record route".
    pub const LOOSE_SOURCE_ROUTE: u8 = 0x83;
    /// The option "strict source and record route".
    pub const STRICT_SOURCE_ROUTE: u8 = 0x89;
}

/// TCP (RFC 9293 §3.1), offsets from the start of its header.
pub mod tcp_header {
    /// Length without options in bytes.
    pub const LEN: usize = 20;
    /// Sequence number, with the acknowledgement number behind it.
    pub const SEQUENCE: usize = 4;
    /// Acknowledgement number.
    pub const ACKNOWLEDGEMENT: usize = 8;
    /// Data offset in the upper four bits.
    pub const DATA_OFFSET: usize = 12;
    /// Flags.
    pub const FLAGS: usize = 13;
    /// Window.
    pub const WINDOW: usize = 14;
    /// Checksum.
    pub const CHECKSUM: usize = 16;
}

/// UDP (RFC 768), offsets from the start of its header.
pub mod udp_header {
    /// Length in bytes.
    pub const LEN: usize = 8;
    /// Length field.
    pub const LENGTH: usize = 4;
    /// Checksum; zero when the sender made none.
    pub const CHECKSUM: usize = 6;
}

/// ICMP (RFC 792), offsets from the start of its header.
pub mod icmp_header {
    /// Length in bytes.
    pub const LEN: usize = 8;
    /// Checksum.
    pub const CHECKSUM: usize = 2;
    /// Identifier of a query.
    pub const ID: usize = 4;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench.
    pub const SOURCE_QUENCH: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp request.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;
}

/// What an ICMP message is to a NAT (RFC 5508).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// A query, which opens a flow.
    Query,
    /// The answer to a query.
    Answer,
    /// An error, which carries the head of the packet that it is about.
    Error,
    /// Anything else: redirects, router discovery.
    Other,
}

impl Icmp {
    /// Sorts a message by its type.
    #[inline(always)]
    #[must_use]
    pub const fn of(kind: u8) -> Self {
        match kind {
            icmp_header::ECHO | icmp_header::TIMESTAMP => Self::Query,
            icmp_header::ECHO_REPLY | icmp_header::TIMESTAMP_REPLY => Self::Answer,
            icmp_header::UNREACHABLE
            | icmp_header::SOURCE_QUENCH
            | icmp_header::TIME_EXCEEDED
            | icmp_header::PARAMETER_PROBLEM => Self::Error,
            _ => Self::Other,
        }
    }
}

/// What the dataplane has read from a packet's headers. Without gaps: the verifier of kernel 6.1 lets nothing be handed over
/// that has octets which were never written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Addresses, and ports where the packet carries them.
    pub tuple: Tuple,
    /// IP protocol number.
    pub proto: u8,
    /// Time to live.
    pub ttl: u8,
    /// TCP flags, or the ICMP type.
    pub flags: u8,
    /// Length of the IP header in bytes, 20 to 60.
    pub ip_len: u8,
    /// Total length of the IP packet in bytes.
    pub total_len: u16,
    /// Flags and fragment offset, in host order.
    pub fragment: u16,
    /// Identification, as it lies in the packet.
    pub id: u16,
    /// Nothing.
    pub zero: u16,
    /// The datagram of a fragment that came in, a [`crate::fragment::Handle`]; else zero.
    pub datagram: u32,
}

impl Headers {
    /// Whether the packet is a fragment that is not the first: it carries no ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & ipv4::OFFSET != 0
    }

    /// Whether the packet is a fragment, the first or another.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (ipv4::OFFSET | ipv4::MF) != 0
    }

    /// Whether the packet is an ICMP error.
    #[inline(always)]
    #[must_use]
    pub const fn is_icmp_error(&self) -> bool {
        self.proto == proto::ICMP && !self.is_later_fragment() && matches!(Icmp::of(self.flags), Icmp::Error)
    }

    /// Whether the packet may open a flow by itself: a TCP SYN, an ICMP query, or any packet of other protocols.
    #[inline(always)]
    #[must_use]
    pub const fn opens(&self) -> bool {
        match self.proto {
            proto::TCP => crate::tcp::opens(self.flags),
            proto::ICMP => matches!(Icmp::of(self.flags), Icmp::Query),
            _ => true,
        }
    }

    /// Whether the packet may be fragmented on its way.
    #[inline(always)]
    #[must_use]
    pub const fn may_be_fragmented(&self) -> bool {
        self.fragment & ipv4::DF == 0
    }

    /// The key of the datagram whose fragment has come in on an interface.
    #[inline(always)]
    #[must_use]
    pub const fn datagram_key(&self, ifindex: u32) -> DatagramKey {
        DatagramKey { src: self.tuple.src, dst: self.tuple.dst, id: self.id, proto: self.proto, zero: 0, ifindex }
    }

    /// The key of the datagram whose fragment this is, where they come in their order.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_key(&self, side: crate::Side) -> FragmentKey {
        FragmentKey { src: self.tuple.src, dst: self.tuple.dst, id: self.id, proto: self.proto, side: side as u8 }
    }
}
