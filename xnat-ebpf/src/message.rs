//! Messages between the dataplanes: headers that carry a tag and end at the receiver.

use xnat_common::checksum;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::mark;
use xnat_common::packet::{Headers, icmp_header, ipv4, proto, tcp_header, udp_header};
use xnat_common::tag::{Kind, Tag};
use xnat_common::translate::transport_checksum;
use xnat_common::{FlowKey, Side};

use crate::parse::{self, IP, transport_offset};
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};
use crate::{forward, lookup, tag};

/// At the uplink's egress hook: makes an announcement of the copy of a translated packet.
#[inline(always)]
pub fn announce(skb: Skb, config: &Config) -> Verdict {
    let (Ok(verdict) | Err(verdict)) = announced(skb, config);
    verdict
}

#[inline(always)]
fn announced(skb: Skb, config: &Config) -> Step<Verdict> {
    let headers = parse::headers(skb)?;
    let key = FlowKey::new(headers.tuple.reversed(), headers.proto, Side::Wire);
    let found = lookup::find(&key).ok_or(Verdict::drop(Counter::FlowBusy))?;
    let tag = Tag { kind: Kind::Announce, destination: found.flow().original.dst };
    header_only(skb, &headers)?;
    tag::insert(skb, tag)?;
    Ok(forward::to_uplink(skb, config))
}

/// Sends the header of a packet from a peer back with a tag: ports, addresses and MAC addresses change places.
#[inline(always)]
pub fn send_back(skb: Skb, config: &Config, headers: &Headers, tag: Tag) -> Step<Verdict> {
    swap_ends(skb, headers)?;
    let swapped = Headers { tuple: headers.tuple.reversed(), ..*headers };
    header_only(skb, &swapped)?;
    tag::insert(skb, tag)?;
    skb.set_mark(mark::DONE);
    Ok(Skb::redirect(config.uplink))
}

/// Cuts a packet to its IP header without options and the fixed part of the transport header, checksums made good.
#[inline(always)]
fn header_only(skb: Skb, headers: &Headers) -> Step<()> {
    let options = headers.ip_len - ipv4::LEN as u8;
    if options > 0 {
        skb.shrink(options)?;
    }
    let transport = match headers.proto {
        proto::TCP => tcp_header::LEN,
        _ => udp_header::LEN,
    };
    let len = ipv4::LEN + transport;
    skb.trim((IP + len) as u32)?;
    let start = IP + ipv4::LEN;
    let ip: *mut [u8; ipv4::LEN + 8] = skb.at(IP).ok_or(FAILED)?;
    let ip = ip.cast::<u8>();
    // SAFETY: 28 bytes from `ip` on are in bounds; fields are aligned to two bytes.
    unsafe {
        *ip = 0x45;
        *ip.add(ipv4::TOTAL_LEN).cast::<u16>() = (len as u16).to_be();
        *ip.add(ipv4::FRAGMENT).cast::<u16>() = ipv4::DF.to_be();
    }
    match headers.proto {
        proto::TCP => {
            let octets: *mut [u8; 2] = skb.at(start + tcp_header::DATA_OFFSET).ok_or(FAILED)?;
            // SAFETY: `at` has checked the bounds.
            unsafe { *octets.cast::<u8>() = 5 << 4 };
        }
        proto::UDP => {
            let field: *mut u16 = skb.at(start + udp_header::LENGTH).ok_or(FAILED)?;
            // SAFETY: `at` has checked the bounds.
            unsafe { *field = (udp_header::LEN as u16).to_be() };
        }
        _ => {}
    }
    mend_transport_checksum(skb, headers, transport)?;
    mend_ip_checksum(skb)
}

/// Makes the checksum of a cut transport header good.
#[inline(always)]
fn mend_transport_checksum(skb: Skb, headers: &Headers, len: usize) -> Step<()> {
    let Some(field) = transport_checksum(headers.proto) else {
        return Ok(());
    };
    let start = IP + ipv4::LEN;
    let at = start + field.offset;
    // The pseudo-header's sum, without the length, is what the device expects to find if it is to complete the checksum.
    let mut pseudo = 0;
    if field.pseudo_header {
        let tuple = headers.tuple;
        pseudo = checksum::sum32(tuple.src.0)
            + checksum::sum32(tuple.dst.0)
            + u32::from(u16::from(headers.proto).to_be())
            + u32::from((len as u16).to_be());
    }
    if holds_pseudo_sum(skb, at)?.is_some() {
        return skb.store(at, checksum::fold(pseudo));
    }
    skb.store(at, 0u16)?;
    let sum = match headers.proto {
        proto::TCP => sum_words::<{ tcp_header::LEN }>(skb, start)?,
        _ => sum_words::<{ icmp_header::LEN }>(skb, start)?,
    };
    skb.store(at, !checksum::fold(pseudo + sum))
}

/// What a checksum field holds, if the device is to complete it (`CHECKSUM_PARTIAL`). That shows in whether the kernel
/// lets a change that is not of the pseudo-header take effect (`bpf_l4_csum_replace`).
#[inline(always)]
pub fn holds_pseudo_sum(skb: Skb, at: usize) -> Step<Option<u16>> {
    let before: u16 = skb.load(at).ok_or(FAILED)?;
    skb.store(at, 0x5555_u16)?;
    skb.change_checksum(at, 0x1234, false, false)?;
    let after: u16 = skb.load(at).ok_or(FAILED)?;
    skb.store(at, before)?;
    Ok((after == 0x5555).then_some(before))
}

/// The sum over `LEN` bytes of the packet, 16 bits at a time.
#[inline(always)]
fn sum_words<const LEN: usize>(skb: Skb, start: usize) -> Step<u32> {
    let bytes: *const [u8; LEN] = skb.at(start).ok_or(FAILED)?;
    let mut sum = 0;
    let mut offset = 0;
    while offset < LEN {
        // SAFETY: `at` has checked the bounds; the headers begin at an even offset.
        sum += u32::from(unsafe { *bytes.cast::<u8>().add(offset).cast::<u16>() });
        offset += 2;
    }
    Ok(sum)
}

/// Makes the checksum of a 20-byte IP header anew.
#[inline(always)]
fn mend_ip_checksum(skb: Skb) -> Step<()> {
    let field: *mut u16 = skb.at(IP + ipv4::CHECKSUM).ok_or(FAILED)?;
    // SAFETY: `at` has checked the bounds.
    unsafe { *field = 0 };
    let sum = sum_words::<{ ipv4::LEN }>(skb, IP)?;
    let field: *mut u16 = skb.at(IP + ipv4::CHECKSUM).ok_or(FAILED)?;
    // SAFETY: `at` has checked the bounds.
    unsafe { *field = !checksum::fold(sum) };
    Ok(())
}

/// Exchanges source and destination: MAC addresses, IP addresses, ports.
#[inline(always)]
fn swap_ends(skb: Skb, headers: &Headers) -> Step<()> {
    let mac: *mut [[u16; 3]; 2] = skb.at(0).ok_or(FAILED)?;
    let ip: *mut [u8; ipv4::LEN] = skb.at(IP).ok_or(FAILED)?;
    let ip = ip.cast::<u8>();
    // SAFETY: both are in bounds.
    unsafe {
        *mac = [(*mac)[1], (*mac)[0]];
        *ip.add(ipv4::SRC).cast::<u32>() = headers.tuple.dst.0;
        *ip.add(ipv4::DST).cast::<u32>() = headers.tuple.src.0;
        *ip.add(ipv4::TTL) = 64;
    }
    if headers.proto == proto::ICMP {
        return Ok(());
    }
    let ports: *mut [u16; 2] = skb.at(transport_offset(headers)).ok_or(FAILED)?;
    // SAFETY: `at` has checked the bounds.
    unsafe { *ports = [headers.tuple.dport.0, headers.tuple.sport.0] };
    Ok(())
}

const FAILED: Verdict = Verdict::drop(Counter::RewriteFailed);
