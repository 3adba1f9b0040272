//! ICMP errors in both directions: addresses, ports and checksums of the packet inside are translated like its own.

mod flows;
mod layers;
mod ways;

use std::net::Ipv4Addr;

use xnat_common::counter::Counter::{BadChecksum, IcmpErrorUntranslatable, PrivateSource, ToKernelTtl};
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE};

use crate::fixture::Fate::{Gone, Pass, PassAs, Redirect};
use crate::fixture::Given::{InsideMtu, Known};
use crate::fixture::{self, Fixture, REDIRECT, forwarded, from_host, hairpin, inbound, mapped, outside, run, to_peer};
use crate::packet::{Packet, Tag, echo, echo_reply, icmp, icmp_error, other, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn, UplinkOut};
use crate::world::{GATEWAY, World};

const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const TOO_BIG: (u8, u8) = (3, 4);
const TIME_EXCEEDED: (u8, u8) = (11, 0);
const ALL: usize = usize::MAX >> 8;

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);
/// The container on the wire, on another port.
const MOVED: (Ipv4Addr, u16) = (NODE1, 61234);

/// An error with the packet inside cut to this many octets, IP header included.
fn error_cut(src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), about: &Packet, octets: usize) -> Packet {
    let mut embedded = about.frame([[0; 6]; 2])[14..].to_vec();
    embedded.truncate(octets);
    icmp(src, dst, kind, [0; 4], embedded)
}
