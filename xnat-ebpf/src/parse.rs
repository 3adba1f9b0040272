//! First step: read the headers.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::counter::Counter;
use xnat_common::packet::{Headers, Icmp, ethernet, icmp_header, ipv4, proto, tcp_header, udp_header};
use xnat_common::{Addr, Port, Tuple};

use crate::skb::Skb;
use crate::verdict::{Step, Verdict};

/// Where the IP header begins.
pub const IP: usize = ethernet::LEN;
/// Enough for Ethernet, the longest IP header and a TCP header.
const HEADERS_MAX: u32 = (IP + ipv4::LEN_MAX + tcp_header::LEN) as u32;

/// Reads the headers of an IPv4 packet; anything else passes, and so does what the kernel's own checks will drop.
#[inline(always)]
pub fn headers(skb: Skb) -> Step<Headers> {
    let mut headers = Headers::default();
    read(skb, &raw mut headers)?;
    Ok(headers)
}

/// As [`headers`], into `place`.
#[inline(always)]
pub fn read(skb: Skb, place: *mut Headers) -> Step<()> {
    Verdict::or_on(xnat_read(skb.raw(), place))
}

/// As [`read`].
///
/// A global function, of whose answer the verifier knows nothing: what it had learnt of a packet here would multiply all that
/// comes after.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_read(skb: *mut __sk_buff, place: *mut Headers) -> u64 {
    let skb = Skb::from_raw(skb);
    let read = |place: &mut Headers| {
        let mut headers = network(skb)?;
        transport(skb, &mut headers)?;
        *place = headers;
        Ok(())
    };
    Verdict::answer(handed_over(place).and_then(read))
}

/// The headers that a program hands over to a global function, which may change them.
///
/// The verifier knows nothing of what lies there but that it may be read and written.
#[inline(always)]
pub fn handed_over<'a>(headers: *mut Headers) -> Step<&'a mut Headers> {
    // SAFETY: of the program's stack, which the verifier holds every caller to.
    unsafe { headers.as_mut() }.ok_or(Verdict::PASS)
}

/// Reads the IP header alone.
#[inline(always)]
pub fn network(skb: Skb) -> Step<Headers> {
    if skb.has_vlan() {
        return Err(Verdict::PASS);
    }
    if skb.at::<[u8; IP + ipv4::LEN + tcp_header::LEN]>(0).is_none() {
        skb.pull(HEADERS_MAX);
    }
    let ether_type: *const u16 = skb.at(ethernet::TYPE).ok_or(Verdict::PASS)?;
    // SAFETY: `at` has checked the bounds; so for every dereference below.
    if unsafe { *ether_type } != ethernet::IPV4.to_be() {
        return Err(Verdict::PASS);
    }
    let ip: *const [u8; ipv4::LEN] = skb.at(IP).ok_or(Verdict::PASS)?;
    let ip = ip.cast::<u8>();
    // SAFETY: 20 bytes from `ip` on are in bounds; the packet's IP header is aligned to two bytes and x86 and arm64
    // load what lies across.
    let (version, total_len, id, fragment, ttl, protocol, src, dst) = unsafe {
        (
            *ip,
            u16::from_be(*ip.add(ipv4::TOTAL_LEN).cast::<u16>()),
            *ip.add(ipv4::ID).cast::<u16>(),
            u16::from_be(*ip.add(ipv4::FRAGMENT).cast::<u16>()),
            *ip.add(ipv4::TTL),
            *ip.add(ipv4::PROTO),
            Addr(*ip.add(ipv4::SRC).cast::<u32>()),
            Addr(*ip.add(ipv4::DST).cast::<u32>()),
        )
    };
    let ip_len = (version & 0xf) << 2;
    let too_long = IP as u32 + u32::from(total_len) > skb.len();
    if version >> 4 != 4 || usize::from(ip_len) < ipv4::LEN || total_len < u16::from(ip_len) || too_long {
        return Err(Verdict::PASS);
    }
    let tuple = Tuple { src, dst, sport: Port::NONE, dport: Port::NONE };
    Ok(Headers { tuple, proto: protocol, ttl, flags: 0, ip_len, total_len, fragment, id, zero: 0, datagram: 0 })
}

/// Source and destination of an IPv4 packet, whatever else is wrong with it. Frames of other VLANs are other networks'.
#[inline(always)]
pub fn ends(skb: Skb) -> Option<[Addr; 2]> {
    if skb.has_vlan() {
        return None;
    }
    let ether_type: u16 = skb.load(ethernet::TYPE)?;
    if ether_type != ethernet::IPV4.to_be() {
        return None;
    }
    skb.load(IP + ipv4::SRC)
}

/// Reads ports, TCP flags and ICMP type, of a packet that is ours to translate.
#[inline(always)]
pub fn transport(skb: Skb, headers: &mut Headers) -> Step<()> {
    if headers.is_later_fragment() {
        return Ok(());
    }
    match headers.proto {
        proto::TCP => {
            let tcp = transport_header::<{ tcp_header::LEN }>(skb, headers)?;
            ports(tcp.cast(), headers);
            // SAFETY: the whole header is in bounds.
            let (offset, flags) = unsafe { (*tcp.add(tcp_header::DATA_OFFSET) >> 4, *tcp.add(tcp_header::FLAGS)) };
            headers.flags = flags;
            let len = u16::from(offset) << 2;
            if len < tcp_header::LEN as u16 || u16::from(headers.ip_len) + len > headers.total_len {
                return Err(SHORT);
            }
        }
        proto::UDP | proto::SCTP => {
            let udp = transport_header::<{ udp_header::LEN }>(skb, headers)?;
            ports(udp.cast(), headers);
        }
        proto::ICMP => {
            let icmp = transport_header::<{ icmp_header::LEN }>(skb, headers)?;
            // SAFETY: the whole header is in bounds.
            let (kind, id) = unsafe { (*icmp, Port(*icmp.add(icmp_header::ID).cast::<u16>())) };
            headers.flags = kind;
            match Icmp::of(kind) {
                Icmp::Query => headers.tuple.sport = id,
                Icmp::Answer => headers.tuple.dport = id,
                Icmp::Error | Icmp::Other => {}
            }
        }
        _ => {}
    }
    Ok(())
}

/// The transport header, if the packet has all of its `LEN` octets. One that has not is dropped: the kernel would forward
/// it, untranslated.
#[inline(always)]
fn transport_header<const LEN: usize>(skb: Skb, headers: &Headers) -> Step<*const u8> {
    let start = transport_offset(headers);
    // Behind options it may lie further out than what was looked for at first.
    if skb.at::<[u8; LEN]>(start).is_none() {
        skb.pull(HEADERS_MAX);
    }
    let header: *const [u8; LEN] = skb.at(start).ok_or(SHORT)?;
    // What lies behind the packet's end is Ethernet's padding.
    if usize::from(headers.total_len) < usize::from(headers.ip_len) + LEN {
        return Err(SHORT);
    }
    Ok(header.cast())
}

const SHORT: Verdict = Verdict::drop(Counter::Malformed);

#[inline(always)]
fn ports(transport: *const u16, headers: &mut Headers) {
    // SAFETY: the callers have checked that both ports are in bounds.
    unsafe {
        headers.tuple.sport = Port(*transport);
        headers.tuple.dport = Port(*transport.add(1));
    }
}

/// Where the transport header begins, from the Ethernet header on.
#[inline(always)]
pub fn transport_offset(headers: &Headers) -> usize {
    IP + usize::from(headers.ip_len)
}

/// The destination MAC address.
#[inline(always)]
pub fn destination_mac(skb: Skb) -> Option<[u8; 6]> {
    let mac: *const [u8; 6] = skb.at(0)?;
    // SAFETY: `at` has checked the bounds.
    Some(unsafe { *mac })
}
