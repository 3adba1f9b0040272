//! Whose a packet is: a flow's, or nobody's, and then what it opens.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::mark;
use xnat_common::packet::{Headers, proto};
use xnat_common::subnet::Subnet;
use xnat_common::tcp::flags;
use xnat_common::{FlowKey, Side, Ticks};

use crate::lookup::{self, Found};
use crate::skb::Skb;
use crate::stage::{self, Next};
use crate::verdict::{Step, Verdict};
use crate::{clock, fragment, hygiene, kernel_flow, maps, message, open, options, parse, receive, socket, tag};

/// From a container.
#[inline(always)]
pub fn from_container(skb: Skb) -> Step<Next> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let inside = maps::inside(skb.ifindex()).ok_or(Verdict::PASS)?;
    // Frames to other MAC addresses stay within the network.
    if parse::destination_mac(skb) != Some(inside.mac) {
        return Err(Verdict::PASS);
    }
    let ifindex = inside.ifindex;
    let mut headers = Headers::default();
    parse::read(skb, &raw mut headers)?;
    if headers.ip_len > 20 {
        options::outward(skb, &headers)?;
    }
    // What goes to this host's own address never reaches the uplink.
    if config.flags & Config::KERNEL_PATH != 0 && headers.tuple.dst != config.address {
        return Err(Verdict::PASS);
    }
    if is_unknown_fragment(skb, &mut headers) {
        return Ok(Next::FRAGMENT);
    }
    if headers.is_icmp_error() {
        return Ok(Next::ERROR);
    }
    Next::of_answer(xnat_flow_of_container(skb.raw(), &raw mut headers, ifindex))
}

/// Whether a packet that comes in is a fragment whose datagram has not been looked for. Of one that has its handle is
/// written to the headers.
#[inline(always)]
fn is_unknown_fragment(skb: Skb, headers: &mut Headers) -> bool {
    headers.datagram = stage::datagram(skb);
    headers.is_fragment() && headers.datagram == 0
}

/// The flow of a container's packet, or what it opens, or what becomes of it: a [`Next`].
///
/// A global function, which the verifier checks once by itself; so are the others of this kind.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_of_container(skb: *mut __sk_buff, headers: *mut Headers, inside: u32) -> u64 {
    Next::of(flow_of_container(Skb::from_raw(skb), headers, inside)).to_bits()
}

#[inline(always)]
fn flow_of_container(skb: Skb, headers: *mut Headers, inside: u32) -> Step<Next> {
    let (headers, now) = (&*parse::handed_over(headers)?, clock::now());
    match find(headers, Side::Inside, now) {
        Some(found) if found.flow().inside == inside || open::follow(&found, inside) => {
            Ok(Next::translate(skb, found.reference))
        }
        Some(_) => Err(Verdict::PASS),
        None if headers.is_later_fragment() => Err(Verdict::drop(Counter::FragmentUnknown)),
        None => open::from_container(skb, headers, inside, now),
    }
}

/// What the kernel sends to containers.
#[inline(always)]
pub fn to_inside(skb: Skb) -> Verdict {
    if skb.mark() == mark::DONE || skb.mark() == mark::KERNEL {
        skb.set_mark(0);
        return Verdict::PASS;
    }
    // Without a configuration nobody knows whose subnets are whose.
    if maps::config().is_none() {
        return Verdict::PASS;
    }
    // What a container has sent to the host to have it sent back is nobody's flow.
    let from_inside = maps::inside(skb.ingress_ifindex()).is_some();
    let mut headers = Headers::default();
    if parse::read(skb, &raw mut headers).is_err() {
        return Verdict::PASS;
    }
    // Answers within a subnet of ours never reach the translation, and errors and late fragments open nothing.
    if !from_inside && !is_own(&headers) && !headers.is_later_fragment() && !headers.is_icmp_error() {
        kernel_flow::remember(&headers, Side::Inside, clock::now());
    }
    Verdict::PASS
}

/// From the wire.
#[inline(always)]
pub fn from_wire(skb: Skb) -> Step<Next> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let mut headers = parse::network(skb)?;
    hygiene::from_wire(config, &headers)?;
    if headers.tuple.dst != config.address {
        return Err(Verdict::PASS);
    }
    parse::transport(skb, &mut headers)?;
    if is_unknown_fragment(skb, &mut headers) {
        return Ok(Next::FRAGMENT);
    }
    if headers.ip_len > 20
        && let Some(next) = receive::options(skb, &raw mut headers)?
    {
        return Ok(next);
    }
    if headers.is_icmp_error() {
        return Ok(Next::ERROR);
    }
    Next::of_answer(xnat_flow_from_wire(skb.raw(), &raw mut headers))
}

/// As [`xnat_flow_of_container`], for a packet from the wire that is addressed to this host.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_from_wire(skb: *mut __sk_buff, headers: *mut Headers) -> u64 {
    Next::of(flow_from_wire(Skb::from_raw(skb), headers)).to_bits()
}

#[inline(always)]
fn flow_from_wire(skb: Skb, headers: *mut Headers) -> Step<Next> {
    let headers = &*parse::handed_over(headers)?;
    match find(headers, Side::Wire, clock::now()) {
        Some(found) if receive::is_for_host(headers, &found) => {}
        Some(found) if receive::is_of_crossing(&found) => return Err(Verdict::drop(Counter::ConflictHeld)),
        Some(found) => return Ok(Next::translate(skb, found.reference)),
        None if headers.is_later_fragment() => return Err(Verdict::drop(Counter::FragmentUnknown)),
        None => {}
    }
    open::from_wire(skb)
}

/// From the host to itself.
#[inline(always)]
pub fn to_itself(skb: Skb) -> Step<Next> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let mut headers = Headers::default();
    parse::read(skb, &raw mut headers).map_err(|_| Verdict::PASS)?;
    if headers.tuple.dst != config.address || headers.is_icmp_error() {
        return Err(Verdict::PASS);
    }
    Next::of_answer(xnat_flow_to_itself(skb.raw(), &raw mut headers))
}

/// As [`xnat_flow_of_container`], for a packet from this host to itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_to_itself(skb: *mut __sk_buff, headers: *mut Headers) -> u64 {
    Next::of(flow_to_itself(Skb::from_raw(skb), headers)).to_bits()
}

#[inline(always)]
fn flow_to_itself(skb: Skb, headers: *mut Headers) -> Step<Next> {
    let headers = &*parse::handed_over(headers)?;
    match find(headers, Side::Inside, clock::now()) {
        Some(found) => Ok(Next::translate(skb, found.reference)),
        None if headers.is_later_fragment() => Err(Verdict::PASS),
        None => open::to_itself(skb),
    }
}

/// To the wire: what the kernel has routed there.
#[inline(always)]
pub fn to_wire(skb: Skb) -> Step<Next> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    if skb.mark() == mark::ANNOUNCE {
        return Err(message::announce(skb, config));
    }
    // Nobody outside has anything forwarded to the outside or to a peer, nor translated.
    if skb.ingress_ifindex() == config.uplink {
        return Err(Verdict::PASS);
    }
    let mut headers = parse::network(skb)?;
    // What the host sends in tiny fragments is its own affair; a container's would end at the gate anyway.
    parse::transport(skb, &mut headers).map_err(|drop| if is_own(&headers) { drop } else { Verdict::PASS })?;
    if headers.ip_len > 20 {
        options::outward(skb, &headers)?;
    }
    if headers.is_icmp_error() {
        return Ok(Next::ERROR);
    }
    let next = Next::of_answer(xnat_flow_at_egress(skb.raw(), &raw mut headers));
    // What opens a flow, or would if there was room, is no affair of the host's alone.
    if next.is_err() && headers.tuple.src == config.address && !headers.is_later_fragment() {
        Verdict::or_on(xnat_leave_alone(skb.raw(), &raw mut headers))?;
    }
    next
}

/// As [`xnat_flow_of_container`], for a packet that the kernel has routed to the uplink.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_at_egress(skb: *mut __sk_buff, headers: *mut Headers) -> u64 {
    Next::of(flow_at_egress(Skb::from_raw(skb), headers)).to_bits()
}

#[inline(always)]
fn flow_at_egress(skb: Skb, headers: *mut Headers) -> Step<Next> {
    let (headers, now) = (&*parse::handed_over(headers)?, clock::now());
    match find(headers, Side::Inside, now) {
        Some(found) => Ok(Next::translate(skb, found.reference)),
        None if headers.is_later_fragment() && is_own(headers) => Err(Verdict::drop(Counter::FragmentUnknown)),
        None if headers.is_later_fragment() => Err(Verdict::PASS),
        None => open::at_egress(skb, now),
    }
}

/// A packet with the host's address that is not translated here: what it uses is remembered, so that no flow gets it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_leave_alone(skb: *mut __sk_buff, headers: *mut Headers) -> u64 {
    let left_alone = |headers: &mut Headers| leave_alone(Skb::from_raw(skb), headers, clock::now());
    Verdict::answer(parse::handed_over(headers).and_then(left_alone))
}

#[inline(always)]
fn leave_alone(skb: Skb, headers: &Headers, now: Ticks) -> Step<()> {
    // A ping of the host's has no socket that could be looked up when the answer comes.
    let ping = headers.proto == proto::ICMP && headers.opens();
    if !skb.has_socket() || ping {
        // Forwarded, and translated by the kernel: the answers are the kernel's as well.
        kernel_flow::remember(headers, Side::Wire, now);
        return Ok(());
    }
    // A reset that acknowledges nothing, from no socket of its own, answers a segment in the middle of a connection that
    // nobody here knows (`tcp_v4_send_reset`, which sends from a socket of the kernel's).
    let unknown = headers.proto == proto::TCP && headers.flags & (flags::RST | flags::ACK) == flags::RST;
    if unknown && skb.socket_port() != u32::from(headers.tuple.sport.number()) {
        return tag::add_unknown_flow(skb, headers, now);
    }
    socket::stamp(skb, headers, now);
    Ok(())
}

/// Whether a packet with these headers comes from one of this host's subnets.
#[inline(always)]
fn is_own(headers: &Headers) -> bool {
    maps::subnet(headers.tuple.src).is_some_and(Subnet::is_own)
}

/// The flow of a packet seen on `side`.
#[inline(always)]
fn find(headers: &Headers, side: Side, now: Ticks) -> Option<Found> {
    if headers.is_later_fragment() {
        return fragment::find(headers, side, now);
    }
    lookup::unless_expired(lookup::find(&FlowKey::new(headers.tuple, headers.proto, side))?, now)
}
