//! The identification of packets that leave with an address that many share (RFC 3022 §6.3, RFC 6864 §4.3, §5.3).
//!
//! The fragments of two containers' datagrams to one destination must not be taken for one datagram there. A fragmented
//! datagram keeps its identification unless another one of ours has it on the wire; what may be fragmented later gets a
//! random one; an atomic datagram's means nothing and stays.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use xnat_common::checksum;
use xnat_common::fragment::{Handle, LIFETIME, Sent, SentKey};
use xnat_common::packet::{Headers, ipv4};
use xnat_common::{Addr, FlowRef, Side, Ticks};

use crate::fragment::{headers_of, numbers};
use crate::lookup::{self, Found};
use crate::maps::{FRAGMENTS, SENT};
use crate::skb::Skb;
use crate::verdict::Step;
use crate::{datagram, rewrite};

/// Identifications that are tried for a datagram, its own first.
const TRIES: u32 = 8;

/// Gives a packet that leaves in a flow the identification that it has on the wire.
#[inline(always)]
pub fn change(skb: Skb, headers: &Headers, reference: FlowRef, now: Ticks) -> Step<()> {
    if !headers.is_fragment() && !headers.may_be_fragmented() {
        return Ok(());
    }
    let ends = u64::from(headers.tuple.src.0) << 32 | u64::from(headers.tuple.dst.0);
    let id = xnat_leaving_id(headers.datagram, ends, numbers(headers), reference.to_bits(), now.0);
    rewrite::identification(skb, headers.id, id as u16)
}

/// The identification for [`change`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_leaving_id(handle: u32, ends: u64, numbers: u64, flow: u64, now: u32) -> u32 {
    let headers = headers_of(ends, numbers);
    if !headers.is_fragment() {
        return u32::from(random());
    }
    let in_order = headers.fragment_key(Side::Inside);
    if headers.is_later_fragment() {
        let id = if handle == 0 {
            // SAFETY: the value is copied at once.
            unsafe { FRAGMENTS.get(&in_order) }.map(|fragment| fragment.wire_id)
        } else {
            // SAFETY: a field of a map value, which the first fragment has set.
            datagram::record(Handle(handle)).map(|datagram| unsafe { (*datagram).wire_id } as u16)
        };
        return u32::from(id.unwrap_or(headers.id));
    }
    let flow = FlowRef::from_bits(flow);
    let Some(found) = lookup::by_reference(flow) else {
        return u32::from(headers.id);
    };
    let dst = found.flow().translated(flow.direction()).dst;
    let id = reserve(&headers, dst, flow, Ticks(now));
    if handle == 0 {
        if let Some(fragment) = FRAGMENTS.get_ptr_mut(&in_order) {
            // SAFETY: a field of a map value.
            unsafe { (*fragment).wire_id = id };
        }
    } else if let Some(datagram) = datagram::record(Handle(handle)) {
        // SAFETY: a field of a map value. Nobody reads it before the fate is known, which this fragment decides.
        unsafe { (*datagram).wire_id = u32::from(id) };
    }
    u32::from(id)
}

/// An identification that no other datagram of ours had on the wire of late, toward this destination.
#[inline(always)]
fn reserve(headers: &Headers, dst: Addr, flow: FlowRef, now: Ticks) -> u16 {
    let sent = Sent { flow, time: now.0, id: headers.id, zero: 0 };
    let mut key = SentKey { dst, id: headers.id, proto: headers.proto, zero: 0 };
    for _ in 0..TRIES {
        if SENT.insert(&key, &sent, u64::from(BPF_NOEXIST)).is_ok() {
            return key.id;
        }
        // SAFETY: the value is read at once.
        let time = unsafe { SENT.get(&key) }.map_or(0, |other| other.time);
        if now.since(Ticks(time)).0 > LIFETIME.0 {
            break;
        }
        key.id = random();
    }
    let _ = SENT.insert(&key, &sent, u64::from(BPF_ANY));
    key.id
}

#[inline(always)]
pub fn random() -> u16 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_prandom_u32() as u16 }
}

/// The flow of a fragment that has left with our address, in the direction of errors about it, which need not carry ports.
/// `ip` is where the fragment's header is in such an error; there it gets the identification back that it had inside.
#[inline(always)]
pub fn of_embedded(skb: Skb, ip: usize, now: Ticks) -> Option<Found> {
    let reference = xnat_embedded_fragment(skb.raw(), ip as u32, now.0);
    if reference == NOTHING { None } else { lookup::by_reference(FlowRef::from_bits(reference)) }
}

/// No flow.
const NOTHING: u64 = u64::MAX;

/// As [`of_embedded`]: a reference or [`NOTHING`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_embedded_fragment(skb: *mut __sk_buff, ip: u32, now: u32) -> u64 {
    let (skb, ip) = (Skb::from_raw(skb), ip as usize);
    let Some([_, _, id, fragment, ttl_proto, sum, _, _, dst0, dst1]) = skb.load::<[u16; ipv4::LEN / 2]>(ip) else {
        return NOTHING;
    };
    if u16::from_be(fragment) & (ipv4::OFFSET | ipv4::MF) == 0 {
        return NOTHING;
    }
    let [a, b] = dst0.to_ne_bytes();
    let [c, d] = dst1.to_ne_bytes();
    let key = SentKey { dst: Addr::new([a, b, c, d]), id, proto: ttl_proto.to_ne_bytes()[1], zero: 0 };
    // SAFETY: the value is copied at once.
    let Some(sent) = (unsafe { SENT.get(&key) }) else {
        return NOTHING;
    };
    if Ticks(now).since(Ticks(sent.time)).0 > LIFETIME.0 {
        return NOTHING;
    }
    let (inside_id, flow) = (sent.id, sent.flow);
    let Some(found) = lookup::by_reference(flow) else {
        return NOTHING;
    };
    // The header's sum stays what it was, and so does that of the error around it.
    let mended = checksum::update(sum, checksum::delta16(id, inside_id));
    if skb.store(ip + ipv4::ID, inside_id).is_err() || skb.store(ip + ipv4::CHECKSUM, mended).is_err() {
        return NOTHING;
    }
    found.in_direction(flow.direction().opposite()).reference.to_bits()
}
