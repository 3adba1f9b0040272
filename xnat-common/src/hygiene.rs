//! Which packets are dropped for what they claim, whatever flow they look like.

use crate::Addr;
use crate::checksum;
use crate::counter::Counter;

/// Longest ICMP message whose checksum is verified, in bytes: longer ones are taken as good. RFC 1812 §4.3.2.3 has errors
/// end at 576 bytes, and with extensions (RFC 4884) they are little longer.
pub const ICMP_VERIFIED_MAX: u32 = 2048;

/// Whose subnet an address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This host.
    Own,
    /// A peer.
    Peer,
    /// Neither.
    Nobody,
}

/// Whether no host can have sent from `address`: "this network", loopback, multicast and broadcast (RFC 1122 §3.2.1.3).
/// What RFC 1112 has reserved (240/4) is used here and there, and Linux takes it for an address as any
/// (`ip_route_input_slow`).
#[inline(always)]
#[must_use]
pub const fn is_martian(address: Addr) -> bool {
    let [first, ..] = address.octets();
    first == 0 || first == 127 || matches!(first, 224..=239) || address.0 == u32::MAX
}

/// Why a packet from the wire is dropped before anything else is asked, if it is. `address` is this host's on the wire.
///
/// - Nobody out there has an address of our containers. What a bridge in hairpin mode gives back to us has the address of
///   this host, because nothing leaves untranslated.
/// - What is addressed neither to this host's address, nor to a container of ours or of a peer, is left to the kernel with
///   any other source: a DHCP client asks from 0.0.0.0 by broadcast, an IGMP querier by multicast, and a bridge in hairpin
///   mode, or another port of an uplink that is a bridge, brings our own broadcasts back.
/// - A peer's container as the source is no reason here: such a packet matches no flow, and may open none. To a container
///   it is a direct one like any other.
/// - Peers address containers by this host's address and a tag. So whatever has a container's own address (or that of this
///   host among its containers) as its destination would be forwarded past translation and filtering.
/// - Destinations in 127/8 are the kernel's, which takes them from the loopback interface only.
#[inline(always)]
#[must_use]
pub const fn from_wire(src: Addr, dst: Addr, address: Addr, src_is_own: bool, dst_owner: Owner) -> Option<Counter> {
    if src_is_own {
        return Some(Counter::SpoofedSource);
    }
    if dst.0 != address.0 && matches!(dst_owner, Owner::Nobody) {
        return None;
    }
    if is_martian(src) {
        return Some(Counter::MartianSource);
    }
    if src.0 == address.0 {
        return Some(Counter::OwnSource);
    }
    if matches!(dst_owner, Owner::Own) { Some(Counter::DirectDestination) } else { None }
}

/// Whether the sum over data and its checksum field says that the checksum is right (RFC 1071).
#[inline(always)]
#[must_use]
pub const fn sums_up(sum: u32) -> bool {
    checksum::fold(sum) == 0xffff
}
