//! What is among the IP options of a packet: tags, which only dataplanes make, and source routes, which nobody may use
//! through a translation (RFC 7126 §4.3, §4.4).

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_loop;
use xnat_common::counter::Counter;
use xnat_common::packet::{Headers, ipv4};
use xnat_common::tag;

use crate::hygiene;
use crate::parse::IP;
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};

/// Longest option list in octets, and so the longest walk through one.
const OPTIONS_MAX: u32 = (ipv4::LEN_MAX - ipv4::LEN) as u32;
/// A flow tag is among the options.
const TAG: u32 = 1;
/// A source route is.
const SOURCE_ROUTE: u32 = 2;

/// The walk through an option list.
struct Walk {
    skb: *mut __sk_buff,
    at: u32,
    len: u32,
    found: u32,
}

/// A packet from inside, or from the host itself, with options: drops it if it has a tag, wherever in the list, or if it
/// has a source route and would be translated. What stays inside, or is the host's own to the outside, the kernel judges.
#[inline(always)]
pub fn outward(skb: Skb, headers: &Headers) -> Step<()> {
    let found = find(skb, headers);
    if found & TAG != 0 {
        return Err(Verdict::drop(Counter::InsideTag));
    }
    if found & SOURCE_ROUTE != 0 && hygiene::is_translated(headers) {
        return Err(Verdict::drop(Counter::SourceRoute));
    }
    Ok(())
}

/// A packet from the wire to this host's address, with options. A source route would lead it on from here, for strangers
/// if the kernel was told to accept such, and past the translation. A tag is only one as the first option of its packet.
#[inline(always)]
pub fn inward(skb: Skb, headers: &Headers) -> Step<()> {
    if find(skb, headers) & SOURCE_ROUTE != 0 {
        return Err(Verdict::drop(Counter::SourceRoute));
    }
    Ok(())
}

/// Which of [`TAG`] and [`SOURCE_ROUTE`] are among the options.
#[inline(always)]
fn find(skb: Skb, headers: &Headers) -> u32 {
    xnat_find_options(skb.raw(), u32::from(headers.ip_len) - ipv4::LEN as u32)
}

/// As [`find`], for an option list of `len` octets.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_find_options(skb: *mut __sk_buff, len: u32) -> u32 {
    let mut walk = Walk { skb, at: 0, len, found: 0 };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(OPTIONS_MAX, step as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.found
}

extern "C" fn step(_nth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `xnat_find_options` gave it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.at >= walk.len {
        return 1;
    }
    let offset = IP + ipv4::LEN + walk.at as usize;
    let skb = Skb::from_raw(walk.skb);
    let Some(octet) = skb.load::<u8>(offset) else {
        return 1;
    };
    match octet {
        tag::OPTION => walk.found |= TAG,
        ipv4::LOOSE_SOURCE_ROUTE | ipv4::STRICT_SOURCE_ROUTE => walk.found |= SOURCE_ROUTE,
        _ => {}
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
