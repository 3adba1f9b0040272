//! Flow tags: which packet carries one, and how it gets into the header and out of it.

use xnat_common::checksum;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::mark;
use xnat_common::packet::{Headers, ipv4, proto};
use xnat_common::subnet::Peer;
use xnat_common::tag::{self, Tag};
use xnat_common::{Addr, Direction, Ticks, tcp};

use crate::lookup::Found;
use crate::maps::{self, count};
use crate::parse::IP;
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};

/// How the peer learns of the flow from a packet, as a number that global functions can hand on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Plan(pub u32);

impl Plan {
    /// It knows, or does not understand.
    pub const NOTHING: Self = Self(0);
    /// The packet carries the tag.
    const ATTACH: Self = Self(1);
    /// A header of its own carries it ahead.
    const ANNOUNCE: Self = Self(2);
}

/// Decides how the peer learns of the flow from this packet.
#[inline(always)]
pub fn plan(skb: Skb, config: &Config, headers: &Headers, found: &Found, now: Ticks) -> Plan {
    let flow = found.flow();
    let to_peer = flow.kind == Kind::Peer as u8 || flow.kind == Kind::Host as u8 && flow.peer != Addr::UNSPECIFIED;
    if !to_peer || found.direction() != Direction::Original || headers.is_later_fragment() {
        return Plan::NOTHING;
    }
    // A SYN without a tag is for the peer's host itself, so one that is repeated carries the tag again, whatever has been
    // seen in between.
    let opens = headers.proto == proto::TCP && tcp::opens(headers.flags) && !found.state().has(State::CROSSED);
    if !opens && !tag::is_due(flow, now) || maps::speaking_peer(flow.peer).is_none() {
        return Plan::NOTHING;
    }
    if tag::fits(headers, skb.gso_size() != 0, config.uplink_mtu) { Plan::ATTACH } else { Plan::ANNOUNCE }
}

/// Does what was planned, which is something, to the translated packet.
#[inline(always)]
pub fn carry_out(skb: Skb, config: &Config, found: &Found, plan: Plan, now: Ticks) -> Step<()> {
    // SAFETY: fields of a map value; a lost race repeats a tag.
    unsafe {
        (*found.flow).tagged = (*found.flow).tagged.saturating_add(1);
        (*found.flow).tag_time = now.0;
    }
    if plan == Plan::ATTACH {
        count(Counter::TagsSent);
        let tag = Tag { kind: tag::Kind::Open, destination: found.flow().original.dst };
        return insert(skb, tag);
    }
    count(Counter::AnnouncesSent);
    skb.set_mark(mark::ANNOUNCE);
    let sent = skb.send_copy(config.uplink);
    skb.set_mark(0);
    sent
}

/// Adds to an error that this host sends to a peer's host that the flow may be unknown here, if the peer runs xnat.
#[inline(always)]
pub fn add_unknown_flow(skb: Skb, headers: &Headers, now: Ticks) -> Step<()> {
    let Some(peer) = maps::speaking_peer(headers.tuple.dst) else {
        return Ok(());
    };
    if headers.ip_len as usize != ipv4::LEN {
        return Ok(());
    }
    // SAFETY: fields of a map value; a lost race lets one message more or less out.
    unsafe {
        if (*peer).unknown_flow_time != now.0 {
            (*peer).unknown_flow_time = now.0;
            (*peer).unknown_flow_count = 0;
        }
        // Without the tag the error would end a container's connection.
        if (*peer).unknown_flow_count >= Peer::UNKNOWN_FLOW_A_TICK {
            return Err(Verdict::drop(Counter::UnknownFlowLimited));
        }
        (*peer).unknown_flow_count += 1;
    }
    count(Counter::UnknownFlowSent);
    insert(skb, Tag::UNKNOWN_FLOW)
}

/// Puts a tag behind the first 20 bytes of an IP header that has no options.
#[inline(always)]
pub fn insert(skb: Skb, tag: Tag) -> Step<()> {
    let option = tag.encode();
    skb.grow(tag::LEN as u8)?;
    skb.store(IP + ipv4::LEN, option)?;
    let added = octets_sum(option);
    change_length(skb, added, |header, total| (header + tag::LEN as u8 / 4, total + tag::LEN as u16))
}

/// Takes away the first option, which is a tag.
#[inline(always)]
pub fn strip(skb: Skb, headers: &mut Headers, option: [u8; tag::LEN]) -> Step<()> {
    // The kernel takes what goes off the network card's sum (`CHECKSUM_COMPLETE`), although the header around it sums up
    // to the same as before. So what goes is made nothing first.
    skb.store(IP + ipv4::LEN, [0_u8; tag::LEN])?;
    skb.shrink(tag::LEN as u8)?;
    headers.ip_len -= tag::LEN as u8;
    headers.total_len -= tag::LEN as u16;
    let removed = u32::from(!checksum::fold(octets_sum(option)));
    change_length(skb, removed, |header, total| (header - tag::LEN as u8 / 4, total - tag::LEN as u16))
}

/// Changes header length (in units of four bytes, lower half of the first octet) and total length as `change` says, and
/// the checksum by that and by `delta` for the option.
#[inline(always)]
fn change_length(skb: Skb, delta: u32, change: impl FnOnce(u8, u16) -> (u8, u16)) -> Step<()> {
    let ip: *mut [u8; ipv4::LEN] = skb.at(IP).ok_or(FAILED)?;
    let ip = ip.cast::<u8>();
    // SAFETY: 20 bytes from `ip` on are in bounds; all fields are aligned to two bytes.
    unsafe {
        let first = ip.cast::<u16>();
        let total = ip.add(ipv4::TOTAL_LEN).cast::<u16>();
        let (old_first, old_total) = (*first, *total);
        let (new_octet, new_total) = change(*ip, u16::from_be(old_total));
        *ip = new_octet;
        *total = new_total.to_be();
        let delta = delta + checksum::delta16(old_first, *first) + checksum::delta16(old_total, *total);
        let field = ip.add(ipv4::CHECKSUM).cast::<u16>();
        *field = checksum::update(*field, delta);
    }
    Ok(())
}

/// The sum over a tag, 16 bits at a time.
#[inline(always)]
fn octets_sum(option: [u8; tag::LEN]) -> u32 {
    let [a, b, c, d, e, f, g, h] = option;
    u32::from(u16::from_ne_bytes([a, b]))
        + u32::from(u16::from_ne_bytes([c, d]))
        + u32::from(u16::from_ne_bytes([e, f]))
        + u32::from(u16::from_ne_bytes([g, h]))
}

const FAILED: Verdict = Verdict::drop(Counter::RewriteFailed);
