//! Packets that are dropped for what they claim, and checksums that are verified.
//!
//! Checksums are verified where a packet makes this host remember something, and of ICMP errors, which carry somebody
//! else's header. The rest is changed incrementally: what was wrong stays wrong, and the next hop drops it.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_loop, bpf_skb_load_bytes};
use xnat_common::Addr;
use xnat_common::checksum::sum32;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::hygiene::{self, ICMP_VERIFIED_MAX, Owner};
use xnat_common::packet::{Headers, ipv4};

use crate::maps;
use crate::parse::{IP, transport_offset};
use crate::skb::{Skb, bounded};
use crate::verdict::{Step, Verdict};

/// How many bytes of a message are summed up at a time: few, because the stack is 512 bytes for all calls together.
const CHUNK: usize = 32;

/// From the wire, before anything else: drops what claims to be what it cannot.
#[inline(always)]
pub fn from_wire(config: &Config, headers: &Headers) -> Step<()> {
    let (src, dst) = (headers.tuple.src, headers.tuple.dst);
    let src_is_own = owner(src) == Owner::Own;
    // Most packets are to this host's address, which is in no such subnet.
    let dst_owner = if dst == config.address { Owner::Nobody } else { owner(dst) };
    match hygiene::from_wire(src, dst, config.address, src_is_own, dst_owner) {
        Some(counter) => Err(Verdict::drop(counter)),
        None => Ok(()),
    }
}

#[inline(always)]
fn owner(address: Addr) -> Owner {
    match maps::subnet(address) {
        Some(subnet) if subnet.is_own() => Owner::Own,
        Some(_) => Owner::Peer,
        None => Owner::Nobody,
    }
}

/// Whether a packet from inside, or from the host itself, is one to translate: from a container to anywhere but to its
/// neighbours and the host, or from anybody to a peer's container.
#[inline(always)]
pub fn is_translated(headers: &Headers) -> bool {
    match owner(headers.tuple.dst) {
        Owner::Own => false,
        Owner::Peer => true,
        Owner::Nobody => owner(headers.tuple.src) == Owner::Own,
    }
}

/// A packet that is about to open a flow: nothing is remembered of one whose header is damaged.
#[inline(always)]
pub fn check_opening(skb: Skb, headers: &Headers) -> Step<()> {
    if ip_checksum_is_good(skb, IP, usize::from(headers.ip_len)) { Ok(()) } else { Err(BAD_CHECKSUM) }
}

/// Whether the checksum of an IP header without options is right, where that is in the linear part.
#[inline(always)]
pub fn plain_sum_is_good(skb: Skb) -> bool {
    let Some(header) = skb.at::<[u8; ipv4::LEN]>(IP) else {
        return false;
    };
    let mut sum = 0;
    for word in 0..ipv4::LEN / 4 {
        // SAFETY: within the header, which is in bounds; x86 and arm64 load what lies across.
        sum += sum32(unsafe { header.cast::<u32>().add(word).read() });
    }
    hygiene::sums_up(sum)
}

/// Whether the checksum of the IP header at `offset` from the Ethernet header on, `len` bytes with its options, is right.
#[inline(always)]
pub fn ip_checksum_is_good(skb: Skb, offset: usize, len: usize) -> bool {
    xnat_ip_sum(skb.raw(), offset as u32, len as u32) != 0
}

/// As [`ip_checksum_is_good`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_ip_sum(skb: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    match sum::<64>(skb, offset, len, 0) {
        Some(sum) => u32::from(hygiene::sums_up(sum)),
        None => 0,
    }
}

/// Whether the checksum of an ICMP message is right, as far as that can be said: a fragment's spans the others as well,
/// and the end of a very long one is not looked at. ICMP checksums are never left to the device (`icmp_push_reply`).
#[inline(always)]
pub fn icmp_checksum_is_good(skb: Skb, headers: &Headers) -> bool {
    let len = u32::from(headers.total_len) - u32::from(headers.ip_len);
    if headers.is_fragment() || len > ICMP_VERIFIED_MAX {
        return true;
    }
    xnat_icmp_sum(skb.raw(), transport_offset(headers) as u32, len) != 0
}

/// The walk through a message.
struct Walk {
    skb: *mut __sk_buff,
    at: u32,
    left: u32,
    sum: u32,
}

/// As [`icmp_checksum_is_good`], for the message of `len` bytes at `offset`.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_icmp_sum(skb: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let mut walk = Walk { skb, at: offset, left: len, sum: 0 };
    let chunks = ICMP_VERIFIED_MAX / CHUNK as u32;
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(chunks, step as *mut c_void, (&raw mut walk).cast(), 0) };
    u32::from(walk.left == 0 && hygiene::sums_up(walk.sum))
}

extern "C" fn step(_nth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `xnat_icmp_sum` gave it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.left == 0 {
        return 1;
    }
    let len = if walk.left < CHUNK as u32 { walk.left } else { CHUNK as u32 };
    let Some(sum) = sum::<CHUNK>(walk.skb, walk.at, len, walk.sum) else {
        return 1;
    };
    walk.sum = sum;
    walk.at += len;
    walk.left -= len;
    0
}

/// The one's complement sum over `len` bytes of the packet, 1 to `MAX`, and `seed`. `MAX` is a power of two.
#[inline(always)]
fn sum<const MAX: usize>(skb: *mut __sk_buff, offset: u32, len: u32, seed: u32) -> Option<u32> {
    const { assert!(MAX >= 4, "whole words") };
    // What the packet does not fill stays zero and adds nothing.
    let mut bytes = Chunk([0; MAX]);
    let pointer = bytes.0.as_mut_ptr();
    let len = bounded::<MAX>(len);
    // SAFETY: the destination is as long as the mask allows.
    if unsafe { bpf_skb_load_bytes(skb.cast(), offset, pointer.cast(), len) } != 0 {
        return None;
    }
    // A multiple of four, so this does not fail.
    // SAFETY: the source is as long as said.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, pointer.cast(), MAX as u32, seed) };
    Some(sum.cast_unsigned() as u32)
}

/// Bytes that the helper takes as words.
#[repr(C, align(8))]
struct Chunk<const MAX: usize>([u8; MAX]);

/// The fate of what was damaged on its way.
pub const BAD_CHECKSUM: Verdict = Verdict::drop(Counter::BadChecksum);
