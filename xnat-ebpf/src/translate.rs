//! The ways of a packet whose flow is known: account, rewrite, tag, forward.
//!
//! The steps are global functions, which the verifier checks once each by itself: inlined, what it learns of a packet in
//! one of them would multiply everything that comes after it. What they need of the headers lies on the program's stack.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Direction, Kind, State};
use xnat_common::mark;
use xnat_common::packet::{Headers, proto};
use xnat_common::tcp::flags;
use xnat_common::{Addr, FlowRef, Port, Side, Ticks, Tuple};

use crate::forward::{self, Ttl};
use crate::lookup::{self, Found};
use crate::skb::Skb;
use crate::stage::{self, Place, ROUTED};
use crate::verdict::{Step, Verdict};
use crate::{account, clock, fragment, hop, identification, mapping, maps, open, parse, rewrite, tag};

/// Where a packet goes once it is translated: the number of an interface inside, or one of these.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way(u32);

impl Way {
    /// To the wire.
    const UPLINK: Self = Self(0);
    /// To this host itself.
    const LOOPBACK: Self = Self(forward::LOOPBACK);
    /// To the kernel, which has to answer.
    const KERNEL: Self = Self(u32::MAX);
    /// What makes of a way's number the answer of a global function, and of none of a verdict's bits.
    const IS_WAY: u64 = 1 << 63;

    #[inline(always)]
    fn answer(way: Step<Self>) -> u64 {
        match way {
            Ok(way) => Self::IS_WAY | u64::from(way.0),
            Err(verdict) => verdict.to_bits(),
        }
    }

    #[inline(always)]
    fn of_answer(answer: u64) -> Step<Self> {
        if answer & Self::IS_WAY == 0 { Err(Verdict::from_bits(answer)) } else { Ok(Self(answer as u32)) }
    }

    #[inline(always)]
    fn go(self, skb: Skb, config: &Config) -> Verdict {
        match self {
            Self::UPLINK => forward::to_uplink(skb, config),
            Self::LOOPBACK => forward::to_loopback(skb),
            Self::KERNEL => {
                skb.set_mark(mark::KERNEL);
                Verdict::PASS
            }
            Self(inside) => forward::to_inside(skb, inside),
        }
    }
}

/// A packet of the flow that it has been found to be of.
#[inline(always)]
pub fn packet(skb: Skb) -> Step<Verdict> {
    let (config, now) = (maps::config().ok_or(Verdict::PASS)?, clock::now());
    let mut headers = Headers::default();
    parse::read(skb, &raw mut headers)?;
    headers.datagram = stage::datagram(skb);
    let (headers, flow) = (&raw mut headers, stage::flow(skb));
    match stage::place(skb) {
        Place::Inside => outward(skb, config, headers, flow, now),
        Place::Egress => at_egress(skb, headers, flow, now),
        Place::Wire => inward(skb, headers, flow, now),
        Place::Itself => from_itself(skb, config, headers, flow, now),
    }
}

/// From a container on the fast path: nothing but the interface at the other end comes after.
#[inline(always)]
fn outward(skb: Skb, config: &Config, headers: *mut Headers, reference: FlowRef, now: Ticks) -> Step<Verdict> {
    let way = Way::of_answer(xnat_way_out(skb.raw(), headers, reference.to_bits(), now.0))?;
    let ttl = if way == Way::LOOPBACK || way == Way::KERNEL { Ttl::Keep } else { Ttl::Decrement };
    leave(skb, headers, reference, ttl, now)?;
    xnat_look_ahead(skb.raw(), reference.to_bits(), Side::Inside as u32, now.0);
    Ok(way.go(skb, config))
}

/// The way of a packet from a container.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_way_out(skb: *mut __sk_buff, headers: *mut Headers, reference: u64, now: u32) -> u64 {
    Way::answer(way_out(Skb::from_raw(skb), headers, FlowRef::from_bits(reference), Ticks(now)))
}

#[inline(always)]
fn way_out(skb: Skb, headers: *mut Headers, reference: FlowRef, now: Ticks) -> Step<Way> {
    let headers = parse::handed_over(headers)?;
    let found = &lookup::by_reference(reference).ok_or(GONE)?;
    if let Side::Inside = Kind::side(found.flow().kind, found.direction().opposite()) {
        return hairpin(Some(skb), headers, found);
    }
    let config = maps::config().ok_or(Verdict::PASS)?;
    let dst = found.flow().translated(found.direction()).dst;
    let checked = forward::check_outward(skb, config, headers)
        .and_then(|()| if stage::has(skb, ROUTED) { Ok(()) } else { forward::check_route(skb, headers, dst) });
    if let Err(to_kernel) = checked {
        fragment::leave_to_kernel(headers, found, now);
        return Err(to_kernel);
    }
    Ok(Way::UPLINK)
}

/// From this host to itself, by its address on the wire.
#[inline(always)]
fn from_itself(skb: Skb, config: &Config, headers: *mut Headers, reference: FlowRef, now: Ticks) -> Step<Verdict> {
    let way = Way::of_answer(xnat_way_to_itself(headers, reference.to_bits()))?;
    leave(skb, headers, reference, Ttl::Keep, now)?;
    Ok(way.go(skb, config))
}

/// The way of a packet from this host to itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_way_to_itself(headers: *mut Headers, reference: u64) -> u64 {
    let Ok(headers) = parse::handed_over(headers) else {
        return Verdict::PASS.to_bits();
    };
    match lookup::by_reference(FlowRef::from_bits(reference)) {
        Some(found) => Way::answer(hairpin(None, headers, &found)),
        None => GONE.to_bits(),
    }
}

/// The way of a packet by this host's address on the wire to a container, or to this host itself. `forwarded` is the packet,
/// if it does not come from this host itself.
#[inline(always)]
fn hairpin(forwarded: Option<Skb>, headers: &Headers, found: &Found) -> Step<Way> {
    let state = found.state();
    if state.has(State::HELD) && !state.replied() && found.direction() == Direction::Original {
        return Err(Verdict::drop(Counter::Filtered));
    }
    let dst = found.flow().translated(found.direction()).dst;
    // An answer to this host, which may have asked from an address in a subnet of its containers.
    let to_host = found.flow().inside == 0 && found.direction() == Direction::Reply;
    let Some(ifindex) = open::interface_of(dst).filter(|_| !to_host) else {
        return Ok(Way::LOOPBACK);
    };
    let must = forwarded.is_some_and(|skb| forward::kernel_must_answer(skb, headers, open::where_inside(ifindex, dst)));
    if fragment::goes_to_kernel(headers, must) {
        return Ok(Way::KERNEL);
    }
    Ok(Way(ifindex))
}

/// From inside to the wire at the uplink's egress hook: the kernel has routed the packet and counted its TTL.
#[inline(always)]
fn at_egress(skb: Skb, headers: *mut Headers, reference: FlowRef, now: Ticks) -> Step<Verdict> {
    leave(skb, headers, reference, Ttl::Keep, now)?;
    Ok(Verdict::PASS)
}

/// The steps that all have in common that leave a container or this host.
#[inline(always)]
fn leave(skb: Skb, headers: *mut Headers, reference: FlowRef, ttl: Ttl, now: Ticks) -> Step<()> {
    let bits = reference.to_bits();
    xnat_take_up(headers, bits, Side::Inside as u32, now.0);
    let tagging = xnat_plan_tag(skb.raw(), headers, bits, now.0);
    // Read before the flow is known to live still: the slot may get another one.
    let to = translated(reference)?;
    if xnat_take_packet(skb.raw(), headers, bits, now.0) == 0 {
        return Err(GONE);
    }
    xnat_hold(headers, bits);
    give(skb, headers, to, ttl)?;
    Verdict::or_on(xnat_send_off(skb.raw(), headers, bits, tagging, now.0))
}

/// The flow has been collected since the packet was found to be of it.
const GONE: Verdict = Verdict::drop(Counter::FlowBusy);

/// The tuple that a flow's packets get.
#[inline(always)]
fn translated(reference: FlowRef) -> Step<Tuple> {
    let found = lookup::by_reference(reference).ok_or(GONE)?;
    Ok(found.flow().translated(found.direction()))
}

/// What a packet does to its flow before it is judged: takes a closed one up anew, or tells it to the later fragments.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_take_up(headers: *mut Headers, reference: u64, side: u32, now: u32) -> u32 {
    let (Ok(headers), Some(found)) = (parse::handed_over(headers), lookup::by_reference(FlowRef::from_bits(reference)))
    else {
        return 0;
    };
    account::reopen(&found, headers);
    let side = if side == Side::Wire as u32 { Side::Wire } else { Side::Inside };
    fragment::remember(headers, side, &found, Ticks(now));
    0
}

/// Judges the packet and counts it; zero if the flow has been collected.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_take_packet(skb: *mut __sk_buff, headers: *mut Headers, reference: u64, now: u32) -> u32 {
    match parse::handed_over(headers) {
        Ok(headers) => account::account(Skb::from_raw(skb), FlowRef::from_bits(reference), headers, Ticks(now)).into(),
        Err(_) => 0,
    }
}

/// How the peer learns of the flow from this packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_plan_tag(skb: *mut __sk_buff, headers: *mut Headers, reference: u64, now: u32) -> u32 {
    let (Ok(headers), Some(config), Some(found)) =
        (parse::handed_over(headers), maps::config(), lookup::by_reference(FlowRef::from_bits(reference)))
    else {
        return tag::Plan::NOTHING.0;
    };
    tag::plan(Skb::from_raw(skb), config, headers, &found, Ticks(now)).0
}

/// Has a flow that came in through a mapping keep that, now that its container answers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_hold(headers: *mut Headers, reference: u64) -> u32 {
    let (Ok(headers), Some(found)) = (parse::handed_over(headers), lookup::by_reference(FlowRef::from_bits(reference)))
    else {
        return 0;
    };
    // A reset is no answer that keeps a mapping (RFC 7857 §7.1).
    let resets = headers.proto == proto::TCP && headers.flags & flags::RST != 0;
    if found.flow().kind == Kind::Mapped as u8 && !resets && !found.state().has(State::MAPPED) {
        mapping::hold(&found);
    }
    0
}

/// Gives the packet its new tuple.
#[inline(always)]
fn give(skb: Skb, headers: *mut Headers, to: Tuple, ttl: Ttl) -> Step<()> {
    let addresses = u64::from(to.src.0) << 32 | u64::from(to.dst.0);
    let ports = u64::from(to.sport.0) << 16 | u64::from(to.dport.0);
    let counts = if ttl == Ttl::Decrement { DECREMENT } else { 0 };
    Verdict::or_on(xnat_rewrite(skb.raw(), headers, addresses, ports | counts))
}

/// The packet is forwarded here; above the ports.
const DECREMENT: u64 = 1 << 32;

/// As [`give`], source before destination.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_rewrite(skb: *mut __sk_buff, headers: *mut Headers, addresses: u64, ports: u64) -> u64 {
    let to = Tuple {
        src: Addr((addresses >> 32) as u32),
        dst: Addr(addresses as u32),
        sport: Port((ports >> 16) as u16),
        dport: Port(ports as u16),
    };
    let ttl = if ports & DECREMENT == 0 { Ttl::Keep } else { Ttl::Decrement };
    Verdict::answer(
        parse::handed_over(headers).and_then(|headers| rewrite::packet(Skb::from_raw(skb), headers, to, ttl)),
    )
}

/// What a translated packet gets besides on its way to the wire: another identification, and the tag.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_send_off(skb: *mut __sk_buff, headers: *mut Headers, reference: u64, tagging: u32, now: u32) -> u64 {
    let (reference, tagging, now) = (FlowRef::from_bits(reference), tag::Plan(tagging), Ticks(now));
    Verdict::answer(send_off(Skb::from_raw(skb), headers, reference, tagging, now))
}

#[inline(always)]
fn send_off(skb: Skb, headers: *mut Headers, reference: FlowRef, tagging: tag::Plan, now: Ticks) -> Step<()> {
    identification::change(skb, parse::handed_over(headers)?, reference, now)?;
    if tagging == tag::Plan::NOTHING {
        return Ok(());
    }
    let config = maps::config().ok_or(GONE)?;
    tag::carry_out(skb, config, &lookup::by_reference(reference).ok_or(GONE)?, tagging, now)
}

/// Has the flow remember the way that its next packets take.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_look_ahead(skb: *mut __sk_buff, reference: u64, side: u32, now: u32) -> u32 {
    if let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) {
        let side = if side == Side::Wire as u32 { Side::Wire } else { Side::Inside };
        hop::learn(Skb::from_raw(skb), &found, side, Ticks(now));
    }
    0
}

/// From the wire to a container, or to the host itself.
#[inline(always)]
fn inward(skb: Skb, headers: *mut Headers, reference: FlowRef, now: Ticks) -> Step<Verdict> {
    let answer = xnat_inward(skb.raw(), headers, reference.to_bits(), now.0);
    let Way(inside) = Way::of_answer(answer)?;
    // Not there, because the stack is short.
    xnat_look_ahead(skb.raw(), reference.to_bits(), Side::Wire as u32, now.0);
    Ok(forward::to_inside(skb, inside))
}

/// As [`inward`], but for what is delivered inside: the answer is the way there.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_inward(skb: *mut __sk_buff, headers: *mut Headers, reference: u64, now: u32) -> u64 {
    Way::answer(enter(Skb::from_raw(skb), headers, FlowRef::from_bits(reference), Ticks(now)))
}

#[inline(always)]
fn enter(skb: Skb, headers: *mut Headers, reference: FlowRef, now: Ticks) -> Step<Way> {
    let headers: *mut Headers = parse::handed_over(headers)?;
    let bits = reference.to_bits();
    xnat_take_up(headers, bits, Side::Wire as u32, now.0);
    // Read before the flow is known to live still: the slot may get another one.
    let to = translated(reference)?;
    if xnat_take_packet(skb.raw(), headers, bits, now.0) == 0 {
        return Err(GONE);
    }
    match Way::of_answer(xnat_way_in(skb.raw(), headers, bits))? {
        Way::LOOPBACK => {
            give(skb, headers, to, Ttl::Keep)?;
            Err(Verdict::PASS)
        }
        Way::KERNEL => {
            // The kernel answers with time exceeded or fragmentation needed in terms of the container's address, and the
            // uplink's egress hook translates that answer. If it forwards fragments instead, the mark stays on them.
            give(skb, headers, to, Ttl::Keep)?;
            skb.set_mark(mark::KERNEL);
            Err(Verdict::PASS)
        }
        inside => {
            give(skb, headers, to, Ttl::Decrement)?;
            Ok(inside)
        }
    }
}

/// The way of a packet from the wire: to this host's own sockets, to the kernel, or to a container.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_way_in(skb: *mut __sk_buff, headers: *mut Headers, reference: u64) -> u64 {
    Way::answer(way_in(Skb::from_raw(skb), headers, FlowRef::from_bits(reference)))
}

#[inline(always)]
fn way_in(skb: Skb, headers: *mut Headers, reference: FlowRef) -> Step<Way> {
    let headers = parse::handed_over(headers)?;
    let found = &lookup::by_reference(reference).ok_or(GONE)?;
    let remembered = found.flow().inside;
    if found.flow().kind == Kind::Host as u8 && found.direction() == Direction::Reply {
        return Ok(Way::LOOPBACK);
    }
    let place = open::where_inside(remembered, found.flow().translated(found.direction()).dst);
    if place.ifindex != remembered {
        open::set_inside(found, place.ifindex);
    }
    if fragment::goes_to_kernel(headers, forward::kernel_must_answer(skb, headers, place)) {
        return Ok(Way::KERNEL);
    }
    Ok(Way(place.ifindex))
}
