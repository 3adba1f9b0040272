//! Last step: send the packet on, or leave it to the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
    BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use xnat_common::Addr;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::mark;
use xnat_common::packet::{Headers, proto, tcp_header, udp_header};

use crate::claim::Opening;
use crate::maps;
use crate::open::Place;
use crate::skb::{Skb, zeroed};
use crate::verdict::{Step, Verdict};

/// Length of the parameters of the route look-up in bytes.
#[expect(clippy::cast_possible_wrap, reason = "64 bytes")]
const PARAMETERS_LEN: i32 = size_of::<FibLookup>() as i32;
/// 224.0.0.0: from here on no address is one host's.
const FIRST_MULTICAST: u32 = 224 << 24;
/// The loopback interface's number in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;
/// `AF_INET`.
const FAMILY_IPV4: u8 = 2;

/// Whether this step is a hop (RFC 1812 §5.3.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// The packet is forwarded here.
    Decrement,
    /// The kernel forwards it, or it comes from or goes to the host itself.
    Keep,
}

/// Leaves a packet from inside to the kernel, untranslated, if the kernel has to answer or fragment it.
#[inline(always)]
pub fn check_outward(skb: Skb, config: &Config, headers: &Headers) -> Step<()> {
    if headers.ttl <= 1 {
        maps::count(Counter::ToKernelTtl);
        return Err(Verdict::PASS);
    }
    if wire_len(skb, headers) > config.uplink_mtu {
        maps::count(Counter::ToKernelMtu);
        return Err(Verdict::PASS);
    }
    Ok(())
}

/// Leaves a packet from inside to the kernel, untranslated, if no route leads through the uplink to `dst`, where it is to go
/// once it is translated.
#[inline(always)]
pub fn check_route(skb: Skb, headers: &Headers, dst: Addr) -> Step<()> {
    if xnat_has_route(skb.raw(), dst.0, headers.proto.into()) == 0 {
        maps::count(Counter::ToKernelRoute);
        return Err(Verdict::PASS);
    }
    Ok(())
}

/// Whether a route leads through the uplink to `dst` from this host's address on the wire. Where there is none
/// `bpf_redirect_neigh` takes the destination to be on the wire itself (`ip_route_output_key_hash_rcu`), and asks there for
/// the MAC address of each.
///
/// A global function, whose stack is not that of the programs.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_has_route(skb: *mut __sk_buff, dst: u32, proto: u32) -> u32 {
    let Some(config) = maps::config() else {
        return 0;
    };
    let skb = Skb::from_raw(skb);
    let mut place = MaybeUninit::uninit();
    let (result, _) = look_up(skb, [config.address, Addr(dst)], proto as u8, skb.tos(), config.uplink, &mut place);
    let none = [
        BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_BLACKHOLE,
        BPF_FIB_LKUP_RET_UNREACHABLE,
        BPF_FIB_LKUP_RET_PROHIBIT,
    ];
    u32::from(!none.iter().any(|code| result == i64::from(*code)))
}

/// Asks the kernel for the way of packets between `ends`, the source and the destination, that leave through an interface, as
/// `bpf_redirect_neigh` does: by addresses, protocol, DSCP and mark (`__bpf_redirect_neigh_v4`). Only the mark is missing.
#[inline(always)]
pub fn look_up(
    skb: Skb,
    ends: [Addr; 2],
    proto: u8,
    tos: u8,
    ifindex: u32,
    place: &mut MaybeUninit<FibLookup>,
) -> (i64, &FibLookup) {
    // SAFETY: a plain C structure for which all zeroes are valid.
    let parameters = unsafe { zeroed(place) };
    parameters.family = FAMILY_IPV4;
    parameters.l4_protocol = proto;
    parameters.ifindex = ifindex;
    parameters.__bindgen_anon_2.tos = tos;
    parameters.__bindgen_anon_3.ipv4_src = ends[0].0;
    parameters.__bindgen_anon_4.ipv4_dst = ends[1].0;
    // SAFETY: the structure is as long as said.
    let result =
        unsafe { bpf_fib_lookup(skb.raw().cast(), &raw mut *parameters, PARAMETERS_LEN, BPF_FIB_LOOKUP_OUTPUT) };
    (result, parameters)
}

/// Whether the kernel has to answer a packet toward the container at `place` instead of its being delivered.
#[inline(always)]
pub fn kernel_must_answer(skb: Skb, headers: &Headers, place: Place) -> bool {
    if headers.ttl <= 1 {
        maps::count(Counter::ToKernelTtl);
        return true;
    }
    let too_long = wire_len(skb, headers) > place.mtu;
    if too_long {
        maps::count(Counter::ToKernelMtu);
    }
    too_long
}

/// The length of the longest IP packet that will leave: of a segment, where the packet will be cut into them.
#[inline(always)]
fn wire_len(skb: Skb, headers: &Headers) -> u32 {
    let segment = skb.gso_size();
    if segment == 0 {
        return u32::from(headers.total_len);
    }
    let transport = match headers.proto {
        proto::TCP => tcp_header_len(skb, headers),
        _ => udp_header::LEN as u32,
    };
    u32::from(headers.ip_len) + transport + segment
}

#[inline(always)]
fn tcp_header_len(skb: Skb, headers: &Headers) -> u32 {
    let at = crate::parse::transport_offset(headers) + tcp_header::DATA_OFFSET;
    match skb.at::<[u8; 2]>(at) {
        // SAFETY: `at` has checked the bounds.
        Some(octets) => u32::from(unsafe { *octets.cast::<u8>() } >> 4) << 2,
        None => tcp_header::LEN as u32,
    }
}

/// Sends a translated packet out of the uplink.
#[inline(always)]
pub fn to_uplink(skb: Skb, config: &Config) -> Verdict {
    skb.set_mark(mark::DONE);
    Skb::redirect_neighbour(config.uplink)
}

/// Sends a translated packet to the containers.
#[inline(always)]
pub fn to_inside(skb: Skb, inside: u32) -> Verdict {
    skb.set_mark(mark::DONE);
    Skb::redirect_neighbour(inside)
}

/// Gives a translated packet to this host itself. On the loopback interface with a route attached, it is not refused for
/// coming from an address of this host's (`fib_validate_source`), as it would be from a container's interface.
#[inline(always)]
pub fn to_loopback(skb: Skb) -> Verdict {
    // At a bridge's port the frame was for another host, the bridge, and nothing on the way to here corrects that.
    skb.set_for_us();
    skb.set_mark(mark::DONE);
    Skb::redirect_neighbour(LOOPBACK)
}

/// Whether the first packet of what has been noted, which came in on an inside interface, leaves through the uplink. To the
/// host's own addresses, multicast and broadcast it does not.
#[inline(always)]
pub fn leads_to_uplink(skb: Skb, opening: &Opening) -> bool {
    // The look-up takes every destination for a unicast one, and finds the default route.
    opening.reply.src.to_host() < FIRST_MULTICAST && xnat_leads_to_uplink(skb.raw()) != 0
}

/// As [`leads_to_uplink`].
///
/// A global function, whose stack is not that of the programs.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_leads_to_uplink(skb: *mut __sk_buff) -> u32 {
    let (Some(config), Ok(opening)) = (maps::config(), Opening::noted()) else {
        return 0;
    };
    let mut place = MaybeUninit::<FibLookup>::uninit();
    // SAFETY: a plain C structure for which all zeroes are valid.
    let parameters = unsafe { zeroed(&mut place) };
    parameters.family = FAMILY_IPV4;
    parameters.l4_protocol = opening.proto;
    parameters.sport = opening.original.sport.0;
    parameters.dport = opening.original.dport.0;
    parameters.ifindex = opening.inside;
    parameters.__bindgen_anon_2.tos = Skb::from_raw(skb).tos();
    parameters.__bindgen_anon_3.ipv4_src = opening.original.src.0;
    parameters.__bindgen_anon_4.ipv4_dst = opening.reply.src.0;
    // SAFETY: the structure is as long as said.
    let result = unsafe { bpf_fib_lookup(skb.cast(), &raw mut *parameters, PARAMETERS_LEN, 0) };
    // Whether a packet is too long for the route is not asked here.
    let found = [BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_FRAG_NEEDED];
    let routed = found.iter().any(|code| result == i64::from(*code));
    u32::from(routed && parameters.ifindex == config.uplink)
}
