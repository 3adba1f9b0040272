//! What changes in a packet, and by how much its checksums do.

use crate::Tuple;
use crate::checksum::{delta16, delta32};
use crate::packet::{icmp_header, proto, tcp_header, udp_header};

/// The change from one tuple to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The tuple after the change.
    pub to: Tuple,
    /// Change of the sum over both addresses: of the IP header, and of the pseudo-header of TCP's and UDP's checksum.
    pub addresses: u32,
    /// Change of the sum over both ports.
    pub ports: u32,
}

impl Translation {
    /// The change that makes `to` of `from`.
    #[inline(always)]
    #[must_use]
    pub const fn new(from: Tuple, to: Tuple) -> Self {
        Self {
            to,
            addresses: delta32(from.src.0, to.src.0) + delta32(from.dst.0, to.dst.0),
            ports: delta16(from.sport.0, to.sport.0) + delta16(from.dport.0, to.dport.0),
        }
    }
}

/// Where a protocol keeps its checksum and whether that covers the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportChecksum {
    /// Offset from the start of the transport header in bytes.
    pub offset: usize,
    /// The checksum covers a pseudo-header with the addresses.
    pub pseudo_header: bool,
    /// Zero means that there is none, and stays zero.
    pub optional: bool,
}

/// The checksum of `protocol`, if translation changes one.
#[inline(always)]
#[must_use]
pub const fn transport_checksum(protocol: u8) -> Option<TransportChecksum> {
    let (offset, pseudo_header, optional) = match protocol {
        proto::TCP => (tcp_header::CHECKSUM, true, false),
        proto::UDP => (udp_header::CHECKSUM, true, true),
        proto::ICMP => (icmp_header::CHECKSUM, false, false),
        _ => return None,
    };
    Some(TransportChecksum { offset, pseudo_header, optional })
}
