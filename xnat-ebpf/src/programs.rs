//! The programs, one for each hook.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::packet::{Headers, proto};
use xnat_common::subnet::Subnet;
use xnat_common::tcp::flags;
use xnat_common::{FlowKey, FlowRef, Side, Ticks};

use crate::icmp_error::Place;
use crate::lookup::{self, Found};
use crate::maps;
use crate::skb::{MARK_ANNOUNCE, MARK_DONE, MARK_KERNEL, Skb};
use crate::verdict::{Step, Verdict};
use crate::{
    collect, express, fragment, hold, hygiene, icmp_error, kernel_flow, message, open, options, parse, receive, socket,
    tag, translate,
};

/// From the containers: at each port of the bridge, at the bridge, and at plain interfaces.
#[classifier]
#[inline(always)]
pub fn xnat_inside_in(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if let Some(verdict) = express::from_inside(skb) {
        return verdict.finish();
    }
    match from_inside(skb) {
        Ok(verdict) | Err(verdict) => verdict.finish(),
    }
}

#[inline(always)]
fn from_inside(skb: Skb) -> Step<Verdict> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let inside = maps::inside(skb.ifindex()).ok_or(Verdict::PASS)?;
    // Frames to other MAC addresses stay within the network.
    if parse::destination_mac(skb) != Some(inside.mac) {
        return Err(Verdict::PASS);
    }
    let mut headers = Headers::default();
    parse::read(skb, &raw mut headers)?;
    if headers.ip_len > 20 {
        options::outward(skb, &headers)?;
    }
    // What goes to this host's own address never reaches the uplink.
    if config.flags & Config::KERNEL_PATH != 0 && headers.tuple.dst != config.address {
        return Err(Verdict::PASS);
    }
    let now = maps::now();
    fragment::arrive(skb, &mut headers, now)?;
    let fate = from_container(skb, config, inside.ifindex, &mut headers, now);
    fragment::settle(skb, &headers, fate)
}

#[inline(always)]
fn from_container(skb: Skb, config: &Config, inside: u32, headers: &mut Headers, now: Ticks) -> Step<Verdict> {
    if headers.is_icmp_error() {
        return Ok(icmp_error::translate(skb, headers, Place::Inside, now));
    }
    let mut fate = 0;
    let reference = xnat_flow_of_container(skb.raw(), headers, inside, now.0, &raw mut fate);
    translate::outward(skb, config, headers, of_flow(reference, fate)?, now)
}

/// The flow of a container's packet, one that it opens included: a reference, or [`NO_FLOW`] and in `fate` what becomes of
/// the packet.
///
/// A global function, which the verifier checks once by itself; so are the others of this kind. Whatever they have learnt of
/// the packet on the way to the flow is forgotten behind them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_of_container(
    skb: *mut __sk_buff,
    headers: *mut Headers,
    inside: u32,
    now: u32,
    fate: *mut u64,
) -> u64 {
    answer(flow_of_container(Skb::from_raw(skb), headers, inside, Ticks(now)), fate)
}

#[inline(always)]
fn flow_of_container(skb: Skb, headers: *mut Headers, inside: u32, now: Ticks) -> Step<Found> {
    let headers = &*parse::handed_over(headers)?;
    match find(headers, Side::Inside, now) {
        Some(found) if found.flow().inside == inside || open::follow(&found, inside) => Ok(found),
        Some(_) => Err(Verdict::PASS),
        None if headers.is_later_fragment() => Err(Verdict::drop(Counter::FragmentUnknown)),
        None => open::from_container(skb, headers, inside, now),
    }
}

/// No flow.
const NO_FLOW: u64 = u64::MAX;

/// What a global function answers that looks for a flow.
#[inline(always)]
fn answer(flow: Step<Found>, fate: *mut u64) -> u64 {
    match flow {
        Ok(found) => found.reference.to_bits(),
        Err(verdict) => {
            // SAFETY: a word of the program's stack, which the verifier holds every caller to.
            if let Some(fate) = unsafe { fate.as_mut() } {
                *fate = verdict.to_bits();
            }
            NO_FLOW
        }
    }
}

/// The reverse of [`answer`].
#[inline(always)]
fn of_flow(answer: u64, fate: u64) -> Step<FlowRef> {
    if answer == NO_FLOW { Err(Verdict::from_bits(fate)) } else { Ok(FlowRef::from_bits(answer)) }
}

/// To the containers: at the bridge and at plain interfaces. Nothing is translated here; what the kernel sends is
/// remembered, so that the answers are left to it.
#[classifier]
#[inline(always)]
pub fn xnat_inside_out(context: TcContext) -> i32 {
    match to_inside(Skb::new(&context)) {
        Ok(verdict) | Err(verdict) => verdict.finish(),
    }
}

#[inline(always)]
fn to_inside(skb: Skb) -> Step<Verdict> {
    if skb.mark() == MARK_DONE || skb.mark() == MARK_KERNEL {
        skb.set_mark(0);
        return Ok(Verdict::PASS);
    }
    // What a container has sent to the host to have it sent back is nobody's flow.
    let from_inside = maps::inside(skb.ingress_ifindex()).is_some();
    let mut headers = Headers::default();
    parse::read(skb, &raw mut headers).map_err(|_| Verdict::PASS)?;
    // Answers within a subnet of ours never reach the translation, and errors and late fragments open nothing.
    if !from_inside && !is_own(&headers) && !headers.is_later_fragment() && !headers.is_icmp_error() {
        kernel_flow::remember(&headers, Side::Inside, maps::now());
    }
    Ok(Verdict::PASS)
}

/// From the peers and the outside.
#[classifier]
#[inline(always)]
pub fn xnat_uplink_in(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if let Some(verdict) = express::from_wire(skb) {
        return verdict.finish();
    }
    match from_wire(skb) {
        Ok(verdict) | Err(verdict) => verdict.finish(),
    }
}

#[inline(always)]
fn from_wire(skb: Skb) -> Step<Verdict> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let mut headers = parse::network(skb)?;
    hygiene::from_wire(config, &headers)?;
    if headers.tuple.dst != config.address {
        return Err(Verdict::PASS);
    }
    parse::transport(skb, &mut headers)?;
    let now = maps::now();
    fragment::arrive(skb, &mut headers, now)?;
    let fate = to_us(skb, &mut headers, now);
    fragment::settle(skb, &headers, fate)
}

/// A packet from the wire that is addressed to this host, its containers' flows included.
#[inline(always)]
fn to_us(skb: Skb, headers: &mut Headers, now: Ticks) -> Step<Verdict> {
    if headers.ip_len > 20
        && let Some(reference) = receive::options(skb, headers, now)?
    {
        return translate::inward(skb, headers, reference, now);
    }
    if headers.is_icmp_error() {
        return Ok(icmp_error::translate(skb, headers, Place::Wire, now));
    }
    let mut fate = 0;
    let reference = xnat_flow_from_wire(skb.raw(), headers, now.0, &raw mut fate);
    translate::inward(skb, headers, of_flow(reference, fate)?, now)
}

/// The flow of a packet from the wire, one that it opens included, as [`xnat_flow_of_container`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_from_wire(skb: *mut __sk_buff, headers: *mut Headers, now: u32, fate: *mut u64) -> u64 {
    answer(flow_from_wire(Skb::from_raw(skb), headers, Ticks(now)), fate)
}

#[inline(always)]
fn flow_from_wire(skb: Skb, headers: *mut Headers, now: Ticks) -> Step<Found> {
    let headers = &*parse::handed_over(headers)?;
    match find(headers, Side::Wire, now) {
        Some(found) if receive::is_for_host(headers, &found) => {}
        Some(found) if receive::is_of_crossing(&found) => return Err(Verdict::drop(Counter::ConflictHeld)),
        Some(found) => return Ok(found),
        None if headers.is_later_fragment() => return Err(Verdict::drop(Counter::FragmentUnknown)),
        None => {}
    }
    open::from_wire(skb, headers, now)
}

/// From the host to itself.
#[classifier]
#[inline(always)]
pub fn xnat_loopback_out(context: TcContext) -> i32 {
    match to_itself(Skb::new(&context)) {
        Ok(verdict) | Err(verdict) => verdict.finish(),
    }
}

#[inline(always)]
fn to_itself(skb: Skb) -> Step<Verdict> {
    if skb.mark() == MARK_DONE {
        skb.set_mark(0);
        return Ok(Verdict::PASS);
    }
    let config = maps::config().ok_or(Verdict::PASS)?;
    let mut headers = Headers::default();
    parse::read(skb, &raw mut headers).map_err(|_| Verdict::PASS)?;
    if headers.tuple.dst != config.address || headers.is_icmp_error() {
        return Err(Verdict::PASS);
    }
    let now = maps::now();
    let mut fate = 0;
    let reference = xnat_flow_to_itself(skb.raw(), &raw mut headers, now.0, &raw mut fate);
    translate::from_itself(skb, config, &raw mut headers, of_flow(reference, fate)?, now)
}

/// The flow of a packet from this host to itself, one that it opens included, as [`xnat_flow_of_container`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_to_itself(skb: *mut __sk_buff, headers: *mut Headers, now: u32, fate: *mut u64) -> u64 {
    answer(flow_to_itself(Skb::from_raw(skb), headers, Ticks(now)), fate)
}

#[inline(always)]
fn flow_to_itself(skb: Skb, headers: *mut Headers, now: Ticks) -> Step<Found> {
    let headers = &*parse::handed_over(headers)?;
    match find(headers, Side::Inside, now) {
        Some(found) => Ok(found),
        None if headers.is_later_fragment() => Err(Verdict::PASS),
        None => open::to_itself(skb, headers, now),
    }
}

/// To the peers and the outside: what the kernel has routed here.
#[classifier]
#[inline(always)]
pub fn xnat_uplink_out(context: TcContext) -> i32 {
    match to_wire(Skb::new(&context)) {
        Ok(verdict) | Err(verdict) => verdict.finish(),
    }
}

#[inline(always)]
fn to_wire(skb: Skb) -> Step<Verdict> {
    let mark = skb.mark();
    if mark == MARK_DONE {
        skb.set_mark(0);
        return Ok(Verdict::PASS);
    }
    let config = maps::config().ok_or(Verdict::PASS)?;
    if mark == MARK_ANNOUNCE {
        return message::announce(skb, config);
    }
    let verdict = match kernel_routed(skb, config) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    if verdict == Verdict::PASS {
        last_gate(skb)?;
    }
    Ok(verdict)
}

/// A container's address does not leave, whatever the reason why the packet was not translated.
#[inline(always)]
fn last_gate(skb: Skb) -> Step<()> {
    let Some([src, dst]) = parse::ends(skb) else {
        return Ok(());
    };
    if maps::subnet(src).is_some_and(Subnet::is_own) {
        return Err(Verdict::drop(Counter::PrivateSource));
    }
    if maps::subnet(dst).is_some_and(|subnet| !subnet.is_own()) {
        return Err(Verdict::drop(Counter::PrivateDestination));
    }
    Ok(())
}

#[inline(always)]
fn kernel_routed(skb: Skb, config: &Config) -> Step<Verdict> {
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
    let now = maps::now();
    if headers.is_icmp_error() {
        return Ok(icmp_error::translate(skb, &headers, Place::Egress, now));
    }
    let mut fate = 0;
    let reference = xnat_flow_at_egress(skb.raw(), &raw mut headers, now.0, &raw mut fate);
    match of_flow(reference, fate) {
        Ok(reference) => translate::at_egress(skb, &raw mut headers, reference, now),
        Err(verdict) => {
            if headers.tuple.src == config.address && !headers.is_later_fragment() {
                Verdict::or_on(xnat_leave_alone(skb.raw(), &raw mut headers, now.0))?;
            }
            Err(verdict)
        }
    }
}

/// The flow of a packet that the kernel has routed to the uplink, one that it opens included, as [`xnat_flow_of_container`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_at_egress(skb: *mut __sk_buff, headers: *mut Headers, now: u32, fate: *mut u64) -> u64 {
    answer(flow_at_egress(Skb::from_raw(skb), headers, Ticks(now)), fate)
}

#[inline(always)]
fn flow_at_egress(skb: Skb, headers: *mut Headers, now: Ticks) -> Step<Found> {
    let headers = &*parse::handed_over(headers)?;
    match find(headers, Side::Inside, now) {
        Some(found) => Ok(found),
        None if headers.is_later_fragment() && is_own(headers) => Err(Verdict::drop(Counter::FragmentUnknown)),
        None if headers.is_later_fragment() => Err(Verdict::PASS),
        None => open::at_egress(skb, headers, now),
    }
}

/// A packet with the host's address that is not translated here: what it uses is remembered, so that no flow gets it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_leave_alone(skb: *mut __sk_buff, headers: *mut Headers, now: u32) -> u64 {
    let left_alone = |headers: &mut Headers| leave_alone(Skb::from_raw(skb), headers, Ticks(now));
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

/// One slice of collection; user space runs it through `BPF_PROG_TEST_RUN`.
#[classifier]
#[inline(always)]
pub fn xnat_collect(_context: TcContext) -> i32 {
    if let Some(config) = maps::config() {
        collect::slice(config, maps::now());
        hold::xnat_sweep(maps::now().0);
    }
    0
}
