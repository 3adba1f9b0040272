//! Tags that come from inside, anywhere in the option list: only dataplanes make tags.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_loop;
use xnat_common::packet::{Headers, ipv4};
use xnat_common::tag;

use crate::parse::IP;
use crate::skb::Skb;

/// Longest option list in octets, and so the longest walk through one.
const OPTIONS_MAX: u32 = (ipv4::LEN_MAX - ipv4::LEN) as u32;

/// The walk through an option list.
struct Walk {
    skb: *mut __sk_buff,
    at: u32,
    len: u32,
    found: u32,
}

/// Whether the packet carries a flow tag among its options.
#[inline(always)]
pub fn carry_tag(skb: Skb, headers: &Headers) -> bool {
    xnat_carries_tag(skb.raw(), u32::from(headers.ip_len) - ipv4::LEN as u32) != 0
}

/// As [`carry_tag`], for an option list of `len` octets.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_carries_tag(skb: *mut __sk_buff, len: u32) -> u32 {
    let mut walk = Walk { skb, at: 0, len, found: 0 };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(OPTIONS_MAX, step as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.found
}

extern "C" fn step(_nth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `carry_tag` gave it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.at >= walk.len {
        return 1;
    }
    let offset = IP + ipv4::LEN + walk.at as usize;
    let skb = Skb::from_raw(walk.skb);
    let Some(octet) = skb.load::<u8>(offset) else {
        return 1;
    };
    if octet == tag::OPTION {
        walk.found = 1;
        return 1;
    }
    let length = skb.load::<u8>(offset + 1).unwrap_or(0);
    match tag::next_option(walk.at, octet, length) {
        Some(next) => {
            walk.at = next;
            0
        }
        None => 1,
    }
}
