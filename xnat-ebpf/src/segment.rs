//! What of a TCP segment matters to its connection.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use xnat_common::packet::{Headers, ipv4, tcp_header};
use xnat_common::tcp::Segment;
use xnat_common::tcp::window::{Scale, options};

use crate::parse::{IP, transport_offset};
use crate::skb::{Skb, bounded, zeroed};

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
    scale_in(skb, start, data_offset(octet))
}

/// As [`scale`], of a TCP header of `len` octets from `start` on.
#[inline(always)]
pub fn scale_in(skb: Skb, start: usize, len: u32) -> Scale {
    let options = len.saturating_sub(tcp_header::LEN as u32);
    if options == 0 {
        return Scale::NONE;
    }
    Scale(xnat_window_scale(skb.raw(), (start + tcp_header::LEN) as u32, options) as u8)
}

/// The window scale among the TCP options, `len` octets from `start` on, as a [`Scale`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_window_scale(skb: *mut __sk_buff, start: u32, len: u32) -> u32 {
    let mut place = MaybeUninit::<[u8; options::ROOM]>::uninit();
    // SAFETY: all zeroes are a valid list.
    let list = unsafe { zeroed(&mut place) };
    let len = bounded::<{ options::ROOM }>(len);
    // SAFETY: the list is no shorter than that; of one beyond the packet's end the helper makes zeroes.
    unsafe { bpf_skb_load_bytes(skb.cast(), start, list.as_mut_ptr().cast(), len) };
    options::window_scale(list, len as usize).0.into()
}
