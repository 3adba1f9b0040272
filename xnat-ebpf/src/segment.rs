//! What of a TCP segment matters to its connection.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_loop;
use xnat_common::packet::{Headers, ipv4, tcp_header};
use xnat_common::tcp::Segment;
use xnat_common::tcp::window::{Scale, options};

use crate::parse::{IP, transport_offset};
use crate::skb::Skb;

/// Longest option list in octets, and so the longest walk through one.
const OPTIONS_MAX: u32 = 40;

/// Reads the header of a segment in an IP packet: of `lengths` the upper half is the total length, the next octet the
/// length of the IP header, and the last one what `scale` has found. None if the header claims more than the packet has.
#[inline(always)]
pub fn read(skb: Skb, lengths: u32) -> Option<Segment> {
    // The verifier has not seen where this number comes from.
    let ip_len = lengths >> 8 & ipv4::LEN_MAX as u32;
    let header: *const [u8; tcp_header::LEN] = skb.at(IP + ip_len as usize)?;
    let header = header.cast::<u8>();
    // SAFETY: 20 bytes from `header` on are in bounds.
    let (seq, ack, data_offset, flags, window) = unsafe {
        (
            u32::from_be(*header.add(tcp_header::SEQUENCE).cast::<u32>()),
            u32::from_be(*header.add(tcp_header::ACKNOWLEDGEMENT).cast::<u32>()),
            data_offset(*header.add(tcp_header::DATA_OFFSET)),
            *header.add(tcp_header::FLAGS),
            u16::from_be(*header.add(tcp_header::WINDOW).cast::<u16>()),
        )
    };
    let (headers, total_len) = (ip_len + data_offset, lengths >> 16);
    if data_offset < tcp_header::LEN as u32 || headers > total_len {
        return None;
    }
    Some(Segment { seq, ack, payload: total_len - headers, window, flags, scale: lengths as u8 })
}

/// Where the data begin, from the TCP header on.
#[inline(always)]
const fn data_offset(octet: u8) -> u32 {
    (octet as u32 >> 4) << 2
}

/// What a SYN says of its window's scale.
#[inline(always)]
pub fn scale(skb: Skb, headers: &Headers) -> Scale {
    let start = transport_offset(headers);
    let octet = skb.load(start + tcp_header::DATA_OFFSET).unwrap_or(0);
    let options = data_offset(octet).saturating_sub(tcp_header::LEN as u32);
    if options == 0 {
        return Scale::NONE;
    }
    Scale(xnat_window_scale(skb.raw(), (start + tcp_header::LEN) as u32, options) as u8)
}

/// The walk through an option list.
struct Walk {
    skb: *mut __sk_buff,
    start: u32,
    at: u32,
    len: u32,
    scale: u32,
}

/// The window scale among the TCP options, `len` octets from `start` on, as a [`Scale`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_window_scale(skb: *mut __sk_buff, start: u32, len: u32) -> u32 {
    let mut walk = Walk { skb, start, at: 0, len, scale: u32::from(Scale::NONE.0) };
    // SAFETY: the callback has the signature that the helper asks for and outlives the call (kernel 5.17).
    unsafe { bpf_loop(OPTIONS_MAX, step as *mut c_void, (&raw mut walk).cast(), 0) };
    walk.scale
}

extern "C" fn step(_nth: u64, walk: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `xnat_window_scale` gave it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    if walk.at >= walk.len {
        return 1;
    }
    let skb = Skb::from_raw(walk.skb);
    let offset = (walk.start + walk.at) as usize;
    let Some((kind, length)) = kind_and_length(skb, offset) else {
        return 1;
    };
    if kind == options::WINDOW_SCALE && length == options::WINDOW_SCALE_LEN {
        if walk.at + u32::from(length) <= walk.len
            && let Some(shift) = skb.load::<u8>(offset + 2)
        {
            walk.scale = u32::from(Scale::from_option(shift).0);
        }
        return 1;
    }
    match options::next(walk.at, kind, length) {
        Some(next) => {
            walk.at = next;
            0
        }
        None => 1,
    }
}

/// The two octets at `offset`; behind the packet's end is zero. Looked at where they lie, if that is in the linear part.
#[inline(always)]
fn kind_and_length(skb: Skb, offset: usize) -> Option<(u8, u8)> {
    if let Some(octets) = skb.at::<[u8; 2]>(offset & FAR) {
        // SAFETY: `at` has checked the bounds.
        let [kind, length] = unsafe { *octets };
        return Some((kind, length));
    }
    Some((skb.load(offset)?, skb.load(offset + 1).unwrap_or(0)))
}

/// No TCP header ends beyond; the verifier wants to know how far a pointer may go.
const FAR: usize = 0xff;
