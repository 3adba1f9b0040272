//! The ways of a packet whose flow is known: account, rewrite, tag, forward.

use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Direction, Kind, State};
use xnat_common::packet::Headers;
use xnat_common::{Side, Ticks};

use crate::forward::{self, Ttl};
use crate::lookup::Found;
use crate::skb::{MARK_KERNEL, Skb};
use crate::verdict::{Step, Verdict};
use crate::{account, fragment, identification, mapping, open, rewrite, tag};

/// From inside to the wire, on the fast path: nothing but the uplink comes after.
#[inline(always)]
pub fn outward(skb: Skb, config: &Config, headers: &Headers, found: &Found, now: Ticks) -> Step<Verdict> {
    if let Side::Inside = Kind::side(found.flow().kind, found.direction().opposite()) {
        return hairpin(skb, headers, found, Ttl::Decrement, now);
    }
    if let Err(to_kernel) = forward::check_outward(skb, config, headers) {
        fragment::leave_to_kernel(headers, found, now);
        return Err(to_kernel);
    }
    leave(skb, config, headers, found, Ttl::Decrement, now)?;
    Ok(forward::to_uplink(skb, config))
}

/// From inside to the wire at the uplink's egress hook: the kernel has routed the packet and counted its TTL.
#[inline(always)]
pub fn at_egress(skb: Skb, config: &Config, headers: &Headers, found: &Found, now: Ticks) -> Step<Verdict> {
    leave(skb, config, headers, found, Ttl::Keep, now)?;
    Ok(Verdict::PASS)
}

#[inline(always)]
fn leave(skb: Skb, config: &Config, headers: &Headers, found: &Found, ttl: Ttl, now: Ticks) -> Step<()> {
    account::reopen(found, headers);
    fragment::remember(headers, Side::Inside, found, now);
    let tagging = tag::plan(skb, config, headers, found, now);
    // Read before the flow is known to live still: the slot may get another one.
    let to = found.flow().translated(found.direction());
    if !account::account(skb, found, headers, now) {
        return Err(Verdict::drop(Counter::FlowBusy));
    }
    if found.flow().kind == Kind::Mapped as u8 && !found.state().has(State::MAPPED) {
        mapping::hold(found);
    }
    rewrite::packet(skb, headers, to, ttl)?;
    identification::change(skb, headers, found, now)?;
    tag::carry_out(skb, config, found, tagging, now)
}

/// From a container or this host to a container or this host, by this host's address on the wire.
#[inline(always)]
pub fn hairpin(skb: Skb, headers: &Headers, found: &Found, ttl: Ttl, now: Ticks) -> Step<Verdict> {
    let state = found.state();
    if state.has(State::HELD) && !state.replied() && found.direction() == Direction::Original {
        return Err(Verdict::drop(Counter::Filtered));
    }
    account::reopen(found, headers);
    fragment::remember(headers, Side::Inside, found, now);
    // Read before the flow is known to live still: the slot may get another one.
    let to = found.flow().translated(found.direction());
    if !account::account(skb, found, headers, now) {
        return Err(Verdict::drop(Counter::FlowBusy));
    }
    // An answer to this host, which may have asked from an address in a subnet of its containers.
    let to_host = found.flow().inside == 0 && found.direction() == Direction::Reply;
    let Some(ifindex) = open::interface_of(to.dst).filter(|_| !to_host) else {
        rewrite::packet(skb, headers, to, Ttl::Keep)?;
        return Ok(forward::to_loopback(skb));
    };
    let place = open::where_inside(ifindex, to.dst);
    if ttl == Ttl::Decrement && forward::kernel_must_answer(skb, headers, place) {
        rewrite::packet(skb, headers, to, Ttl::Keep)?;
        skb.set_mark(MARK_KERNEL);
        return Ok(Verdict::PASS);
    }
    rewrite::packet(skb, headers, to, ttl)?;
    identification::change(skb, headers, found, now)?;
    Ok(forward::to_inside(skb, place.ifindex))
}

/// From the wire to a container, or to the host itself.
#[inline(always)]
pub fn inward(skb: Skb, headers: &Headers, found: &Found, now: Ticks) -> Step<Verdict> {
    account::reopen(found, headers);
    fragment::remember(headers, Side::Wire, found, now);
    // Read before the flow is known to live still: the slot may get another one.
    let to = found.flow().translated(found.direction());
    let (kind, remembered) = (found.flow().kind, found.flow().inside);
    if !account::account(skb, found, headers, now) {
        return Err(Verdict::drop(Counter::FlowBusy));
    }
    if kind == Kind::Host as u8 && found.direction() == Direction::Reply {
        rewrite::packet(skb, headers, to, Ttl::Keep)?;
        return Ok(Verdict::PASS);
    }
    let place = open::where_inside(remembered, to.dst);
    if place.ifindex != remembered {
        open::set_inside(found, place.ifindex);
    }
    if forward::kernel_must_answer(skb, headers, place) {
        // The kernel answers with time exceeded or fragmentation needed in terms of the container's address, and the
        // uplink's egress hook translates that answer. If it forwards fragments instead, the mark stays on them.
        rewrite::packet(skb, headers, to, Ttl::Keep)?;
        skb.set_mark(MARK_KERNEL);
        return Ok(Verdict::PASS);
    }
    rewrite::packet(skb, headers, to, Ttl::Decrement)?;
    Ok(forward::to_inside(skb, place.ifindex))
}
