//! Telling a container that its opening was refused (RFC 5508 REQ-8): destination unreachable, administratively prohibited.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::checksum;
use xnat_common::counter::Counter;
use xnat_common::mark;
use xnat_common::packet::{Headers, ethernet, icmp_header, ipv4, proto, tcp_header, udp_header};
use xnat_common::translate::transport_checksum;
use xnat_common::{Addr, Ticks};

use crate::maps::{self, CURSORS};
use crate::message::holds_pseudo_sum;
use crate::parse::IP;
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};
use crate::{atomic, forward};

/// Code "communication administratively prohibited" (RFC 1812 §5.2.7.1).
const PROHIBITED: u8 = 13;
/// How many refusals are told in a tick (about 16.8 ms), to all containers together.
const A_TICK: u64 = 16;
/// What an error puts before the packet that it is about, in octets.
const ADDED: usize = ipv4::LEN + icmp_header::LEN;

/// Refuses an opening, under the name of `counter`. If it is a container's, it is told so instead of being left to wait.
#[inline(always)]
pub fn opening(skb: Skb, headers: &Headers, inside: u32, counter: Counter, now: Ticks) -> Verdict {
    if worth_telling(counter) { conclude(counter, tell(skb, headers, inside, now)) } else { Verdict::drop(counter) }
}

/// Whether who was refused so should know: a race is over when the packet is repeated.
#[inline(always)]
pub fn worth_telling(counter: Counter) -> bool {
    counter as u32 != Counter::FlowBusy as u32
}

/// The fate of a packet that was refused: that of the answer, if there is one.
#[inline(always)]
pub fn conclude(counter: Counter, answer: Option<Verdict>) -> Verdict {
    let Some(verdict) = answer else {
        return Verdict::drop(counter);
    };
    maps::count(counter);
    maps::count(Counter::Refusals);
    verdict
}

/// Tells the container that has sent the packet that it is refused. None if it cannot be told now.
#[inline(always)]
pub fn tell(skb: Skb, headers: &Headers, inside: u32, now: Ticks) -> Option<Verdict> {
    let place = maps::inside(inside)?;
    let (address, ifindex) = (place.address, place.ifindex);
    let tellable = address != Addr::UNSPECIFIED && skb.gso_size() == 0 && !headers.is_later_fragment();
    if !tellable
        || !may_tell(now)
        || xnat_refuse(skb.raw(), address.0, headers.ip_len.into(), headers.proto.into()) == 0
    {
        return None;
    }
    Some(forward::to_inside(skb, ifindex))
}

/// Whether this tick has room for one more.
#[inline(always)]
fn may_tell(now: Ticks) -> bool {
    let Some(cursors) = CURSORS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a field of a map value.
    unsafe {
        let word = &raw mut (*cursors).refusals;
        let old = word.read_volatile();
        let told = if old >> 32 == u64::from(now.0) { old & 0xffff_ffff } else { 0 };
        told < A_TICK && atomic::compare_and_swap(word, old, u64::from(now.0) << 32 | (told + 1))
    }
}

/// Makes the error of the packet. Zero if that failed: then the packet is spoilt.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_refuse(skb: *mut __sk_buff, source: u32, ip_len: u32, protocol: u32) -> u32 {
    u32::from(make_error(Skb::from_raw(skb), Addr(source), ip_len as usize, protocol as u8).is_ok())
}

#[inline(always)]
fn make_error(skb: Skb, source: Addr, ip_len: usize, protocol: u8) -> Step<()> {
    if !(ipv4::LEN..=ipv4::LEN_MAX).contains(&ip_len) {
        return Err(FAILED);
    }
    // Of the packet stay its IP header and what RFC 792 asks for; of TCP's header all, because a checksum that the device
    // is to complete has to be there.
    let kept = if protocol == proto::TCP { tcp_header::LEN } else { udp_header::LEN };
    let pseudo = match transport_checksum(protocol) {
        Some(field) if field.pseudo_header => holds_pseudo_sum(skb, IP + ip_len + field.offset)?,
        _ => None,
    };
    skb.trim((IP + ip_len + kept) as u32)?;
    let header: [u16; ipv4::LEN / 2] = skb.load(IP).ok_or(FAILED)?;
    let transport_sum = match pseudo {
        // Completed, it makes the sum over what it covers the complement of what is in it now.
        Some(sum) => u32::from(!sum),
        None => sum_transport(skb, IP + ip_len, protocol)?,
    };
    let options_sum = sum_options(skb, ip_len)?;
    skb.grow(ADDED as u8)?;
    skb.store(IP + ADDED, header)?;
    let type_code = u16::from_be_bytes([icmp_header::UNREACHABLE, PROHIBITED]).to_be();
    let sum = u32::from(type_code) + u32::from(checksum::fold(sum_words(&header))) + options_sum + transport_sum;
    skb.store(IP + ipv4::LEN, [type_code, !checksum::fold(sum), 0, 0])?;
    let [_, _, _, _, _, _, src0, src1, _, _] = header;
    let [src_a, src_b] = halves(source);
    let total = (ADDED + ip_len + kept) as u16;
    // Precedence "internetwork control" (RFC 1812 §4.3.2.5).
    let first = u16::from_be_bytes([0x45, 0xc0]).to_be();
    let ttl_proto = u16::from_be_bytes([64, proto::ICMP]).to_be();
    let mut outer = [first, total.to_be(), 0, 0, ttl_proto, 0, src_a, src_b, src0, src1];
    let sum = !checksum::fold(sum_words(&outer));
    outer = [first, total.to_be(), 0, 0, ttl_proto, sum, src_a, src_b, src0, src1];
    skb.store(IP, outer)?;
    // What has become of the packet is this host's, and nobody's of another mark.
    skb.set_mark(mark::DONE);
    skb.store(ethernet::TYPE, ethernet::IPV4.to_be())
}

#[inline(always)]
fn halves(address: Addr) -> [u16; 2] {
    let [a, b, c, d] = address.octets();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The sum over 20 octets.
#[inline(always)]
fn sum_words(words: &[u16; ipv4::LEN / 2]) -> u32 {
    let [a, b, c, d, e, f, g, h, i, j] = *words;
    [a, b, c, d, e, f, g, h, i, j].into_iter().map(u32::from).sum()
}

/// The sum over the transport header that is kept.
#[inline(always)]
fn sum_transport(skb: Skb, at: usize, protocol: u8) -> Step<u32> {
    if protocol == proto::TCP {
        let words: [u32; tcp_header::LEN / 4] = skb.load(at).ok_or(FAILED)?;
        return Ok(words.into_iter().map(checksum::sum32).sum());
    }
    let words: [u32; udp_header::LEN / 4] = skb.load(at).ok_or(FAILED)?;
    Ok(words.into_iter().map(checksum::sum32).sum())
}

/// The sum over the IP options.
#[inline(always)]
fn sum_options(skb: Skb, ip_len: usize) -> Step<u32> {
    let mut sum = 0;
    let mut at = ipv4::LEN;
    while at < ipv4::LEN_MAX {
        if at < ip_len {
            let word: u32 = skb.load(IP + at).ok_or(FAILED)?;
            sum += checksum::sum32(word);
        }
        at += 4;
    }
    Ok(sum)
}

const FAILED: Verdict = Verdict::drop(Counter::RewriteFailed);
