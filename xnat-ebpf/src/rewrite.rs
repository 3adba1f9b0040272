//! Third step: rewrite addresses, ports and checksums.

use xnat_common::checksum;
use xnat_common::counter::Counter;
use xnat_common::packet::{Headers, Icmp, icmp_header, ipv4, proto};
use xnat_common::translate::{Translation, transport_checksum};
use xnat_common::{Port, Tuple};

use crate::forward::Ttl;
use crate::parse::{IP, transport_offset};
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};

/// Gives the packet the tuple `to`. Nothing has been stored if this fails before the first store; a failure later drops
/// the packet, so nobody sees half a translation.
#[inline(always)]
pub fn packet(skb: Skb, headers: &Headers, to: Tuple, ttl: Ttl) -> Step<()> {
    let translation = Translation::new(headers.tuple, to);
    if !headers.is_later_fragment() {
        transport(skb, headers, &translation)?;
    }
    ip_header(skb, &translation, ttl)
}

/// Gives the packet another identification.
#[inline(always)]
pub fn identification(skb: Skb, old: u16, new: u16) -> Step<()> {
    let ip: *mut [u8; ipv4::LEN] = skb.at(IP).ok_or(FAILED)?;
    let ip = ip.cast::<u8>();
    // SAFETY: 20 bytes from `ip` on are in bounds.
    unsafe {
        *ip.add(ipv4::ID).cast::<u16>() = new;
        let field = ip.add(ipv4::CHECKSUM).cast::<u16>();
        *field = checksum::update(*field, checksum::delta16(old, new));
    }
    Ok(())
}

#[inline(always)]
fn transport(skb: Skb, headers: &Headers, translation: &Translation) -> Step<()> {
    let start = transport_offset(headers);
    let new_ports = headers.tuple.sport != translation.to.sport || headers.tuple.dport != translation.to.dport;
    // The helper first: it may move the packet, after which pointers into it must be taken anew.
    if let Some(field) = transport_checksum(headers.proto) {
        let at = start + field.offset;
        if field.pseudo_header {
            skb.change_checksum(at, translation.addresses, true, field.optional)?;
        }
        if new_ports {
            skb.change_checksum(at, translation.ports, false, field.optional)?;
        }
    }
    if !new_ports {
        return Ok(());
    }
    if headers.proto == proto::ICMP {
        let id = match Icmp::of(headers.flags) {
            Icmp::Query => translation.to.sport,
            Icmp::Answer => translation.to.dport,
            Icmp::Error | Icmp::Other => return Ok(()),
        };
        let field: *mut Port = skb.at(start + icmp_header::ID).ok_or(FAILED)?;
        // SAFETY: `at` has checked the bounds.
        unsafe { *field = id };
        return Ok(());
    }
    let ports: *mut [Port; 2] = skb.at(start).ok_or(FAILED)?;
    // SAFETY: `at` has checked the bounds.
    unsafe { *ports = [translation.to.sport, translation.to.dport] };
    Ok(())
}

/// Gives the IP header its new addresses, TTL and checksum.
#[inline(always)]
pub fn ip_header(skb: Skb, translation: &Translation, ttl: Ttl) -> Step<()> {
    let ip: *mut [u8; ipv4::LEN] = skb.at(IP).ok_or(FAILED)?;
    let ip = ip.cast::<u8>();
    let mut delta = translation.addresses;
    // SAFETY: 20 bytes from `ip` on are in bounds.
    unsafe {
        if let Ttl::Decrement = ttl {
            let word = ip.add(ipv4::TTL).cast::<u16>();
            let old = *word;
            *ip.add(ipv4::TTL) = (*ip.add(ipv4::TTL)).wrapping_sub(1);
            delta += checksum::delta16(old, *word);
        }
        let field = ip.add(ipv4::CHECKSUM).cast::<u16>();
        *field = checksum::update(*field, delta);
        *ip.add(ipv4::SRC).cast::<u32>() = translation.to.src.0;
        *ip.add(ipv4::DST).cast::<u32>() = translation.to.dst.0;
    }
    Ok(())
}

const FAILED: Verdict = Verdict::drop(Counter::RewriteFailed);
