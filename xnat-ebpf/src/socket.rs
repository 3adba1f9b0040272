//! The host's own sockets, whose ports are never given to a flow.
//!
//! `HOST_PORTS` tells which ports the host uses at all, toward whomever: the dataplane notes there from where the host sends
//! and to what its sockets are bound, the daemon what there is. Where binding is not noted, the kernel is asked who would get
//! a packet.

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::bindings::{__sk_buff, BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use xnat_common::config::Config;
use xnat_common::packet::{Headers, proto};
use xnat_common::{Addr, Port, Ticks, Tuple, host_port};

use crate::maps::{self, HOST_PORTS};
use crate::skb::{Skb, zeroed};
use crate::{atomic, clock, collect};

/// `TCP_LISTEN` of `include/net/tcp_states.h`.
const LISTEN: u32 = 10;

/// Which of the host's sockets stand in the way.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// Any socket that would get the packet.
    Any = 0,
    /// Only one that is connected to exactly this other end: the flow is the host's own, and the socket bound to the
    /// port is the one that opens it.
    Connected = 1,
}

/// Stamps the port from which the host has just sent a packet.
#[inline(always)]
pub fn stamp(skb: Skb, headers: &Headers, now: Ticks) {
    if skb.socket_port() == u32::from(headers.tuple.sport.number()) {
        stamp_port(headers.proto, headers.tuple.sport, now);
    }
}

/// The network namespace that the programs are for.
#[unsafe(no_mangle)]
static NAMESPACE: Global<u64> = Global::new(0);

/// Stamps the port to which a socket has been bound, if that is one of the host's that receives what is addressed to the
/// host on the wire. `receives` says so of the address that the socket is bound to.
#[inline(always)]
pub fn bound(socket: *mut bpf_sock, receives: impl Fn(Addr) -> bool) {
    // SAFETY: the context of the program (kernel 5.8).
    if unsafe { bpf_get_netns_cookie(socket.cast()) } != NAMESPACE.load() {
        return;
    }
    let Some(config) = maps::config() else {
        return;
    };
    // SAFETY: fields of the context that may be read in such a program, of four bytes each.
    let (protocol, port) =
        unsafe { ((&raw const (*socket).protocol).read_volatile(), (&raw const (*socket).src_port).read_volatile()) };
    if receives(config.address) {
        stamp_port(protocol as u8, Port::new(port as u16), clock::now());
    }
}

/// The address that a socket of IPv4 is bound to.
#[inline(always)]
pub fn address4(socket: *mut bpf_sock) -> Addr {
    // SAFETY: as above.
    Addr(unsafe { (&raw const (*socket).src_ip4).read_volatile() })
}

/// The address that a socket of IPv6 is bound to, by words.
#[inline(always)]
pub fn address6(socket: *mut bpf_sock) -> [u32; 4] {
    // SAFETY: as above.
    let word = |nth| unsafe { (&raw const (*socket).src_ip6).cast::<u32>().add(nth).read_volatile() };
    [word(0), word(1), word(2), word(3)]
}

#[inline(always)]
fn stamp_port(protocol: u8, port: Port, now: Ticks) {
    let Some(index) = host_port::index(protocol, port) else {
        return;
    };
    let (word, bit) = host_port::bit(index);
    let (Some(stamp), Some(word)) = (HOST_PORTS.get_ptr_mut(index), HOST_PORTS.get_ptr_mut(word)) else {
        return;
    };
    // SAFETY: values of an array; stores of the same time by several processors do no harm. The bit comes after the stamp:
    // user space takes it away only to look at the stamp once more.
    unsafe {
        if *stamp != u64::from(now.0) {
            stamp.write_volatile(now.0.into());
            atomic::fetch_or(word, bit);
        }
    }
}

/// Whether the host uses a port at all.
#[inline(always)]
pub fn uses(protocol: u8, port: Port, now: Ticks) -> bool {
    let Some(index) = host_port::index(protocol, port) else {
        return false;
    };
    let (word, bit) = host_port::bit(index);
    HOST_PORTS.get(word).is_some_and(|word| word & bit != 0)
        && HOST_PORTS.get(index).is_some_and(|stamp| host_port::in_use(*stamp, now))
}

/// Whether what [`uses`] says of a port is all that there is to know: every socket that has been bound was noted in that
/// moment. One that gets its port by connecting or sending is when its first packet leaves. One that listens without having
/// been bound, or long after, is within seconds, and gets what comes to it in any case, unless that is of a flow.
#[inline(always)]
pub fn are_all_noted(config: &Config, now: Ticks) -> bool {
    config.flags & (Config::BINDS_STAMPED | Config::SLOW_PATH) == Config::BINDS_STAMPED
        && collect::is_done_by_daemon(now)
}

/// Whether a packet with `incoming` would reach a socket of the host.
#[inline(always)]
pub fn takes(skb: Skb, protocol: u8, incoming: &Tuple, rival: Rival) -> bool {
    if protocol != proto::TCP && protocol != proto::UDP {
        return false;
    }
    let ([ends, ports], how) = (incoming.words(), u32::from(protocol) | (rival as u32) << 8);
    xnat_socket_takes(skb.raw(), ends, ports as u32, how) != 0
}

/// As [`takes`]: the words of the tuple, and the protocol below the rival.
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_socket_takes(skb: *mut __sk_buff, ends: u64, ports: u32, how: u32) -> u32 {
    let (protocol, connected) = (how as u8, how >> 8 == Rival::Connected as u32);
    let mut place = MaybeUninit::<bpf_sock_tuple>::uninit();
    // SAFETY: a plain C union for which all zeroes are valid.
    let tuple = unsafe { zeroed(&mut place) };
    tuple.__bindgen_anon_1.ipv4.saddr = ends as u32;
    tuple.__bindgen_anon_1.ipv4.daddr = (ends >> 32) as u32;
    tuple.__bindgen_anon_1.ipv4.sport = ports as u16;
    tuple.__bindgen_anon_1.ipv4.dport = (ports >> 16) as u16;
    // The size of the tuple tells the helper the address family: 12 bytes for IPv4.
    let size = 12;
    let namespace = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
    // SAFETY: the tuple outlives the call; a socket that is found is released below on every path.
    unsafe {
        let context = skb.cast();
        let socket = if protocol == proto::TCP {
            bpf_skc_lookup_tcp(context, &raw mut *tuple, size, namespace, 0)
        } else {
            bpf_sk_lookup_udp(context, &raw mut *tuple, size, namespace, 0)
        };
        if socket.is_null() {
            return 0;
        }
        let is_connected = if protocol == proto::TCP { (*socket).state != LISTEN } else { (*socket).dst_port != 0 };
        bpf_sk_release(socket.cast());
        u32::from(!connected || is_connected)
    }
}
