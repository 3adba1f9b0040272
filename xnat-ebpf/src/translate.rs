//! The ways of a packet whose flow is known: account, rewrite, tag, forward.

use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Direction, Kind, State};
use xnat_common::packet::{Headers, proto};
use xnat_common::tcp::flags;
use xnat_common::{Side, Ticks};

use crate::forward::{self, Ttl};
use crate::lookup::Found;
use crate::skb::{MARK_KERNEL, Skb};
use crate::verdict::{Step, Verdict};
use crate::{account, fragment, hop, identification, mapping, open, rewrite, route, tag};

/// Where a packet from inside goes once it is translated: the number of an interface, or one of these.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way(u32);

impl Way {
    /// To the wire.
    const UPLINK: Self = Self(0);
    /// To this host itself.
    const LOOPBACK: Self = Self(forward::LOOPBACK);
    /// To the kernel, which has to answer.
    const KERNEL: Self = Self(u32::MAX);

    #[inline(always)]
    fn go(self, skb: Skb, config: &Config) -> Verdict {
        match self {
            Self::UPLINK => forward::to_uplink(skb, config),
            Self::LOOPBACK => forward::to_loopback(skb),
            Self::KERNEL => {
                skb.set_mark(MARK_KERNEL);
                Verdict::PASS
            }
            Self(inside) => forward::to_inside(skb, inside),
        }
    }
}

/// From a container on the fast path: nothing but the interface at the other end comes after.
#[inline(always)]
pub fn outward(skb: Skb, config: &Config, headers: &Headers, found: &Found, now: Ticks) -> Step<Verdict> {
    let way = if let Side::Inside = Kind::side(found.flow().kind, found.direction().opposite()) {
        hairpin(skb, headers, found, true)?
    } else {
        if let Err(to_kernel) = forward::check_outward(skb, config, headers) {
            fragment::leave_to_kernel(headers, found, now);
            return Err(to_kernel);
        }
        Way::UPLINK
    };
    // By way of the packet's control block, so that the verifier need not follow each of them apart from here on.
    skb.set_note(way.0);
    let way = Way(skb.note());
    let ttl = if way == Way::LOOPBACK || way == Way::KERNEL { Ttl::Keep } else { Ttl::Decrement };
    leave(skb, config, headers, found, ttl, now)?;
    if found.flow().kind == Kind::Outside as u8 && found.flow().opened == now.0 {
        route::learn(skb, found, now);
    } else {
        hop::learn(skb, found, Side::Inside, now);
    }
    Ok(way.go(skb, config))
}

/// From this host to itself, by its address on the wire.
#[inline(always)]
pub fn from_itself(skb: Skb, config: &Config, headers: &Headers, found: &Found, now: Ticks) -> Step<Verdict> {
    let way = hairpin(skb, headers, found, false)?;
    leave(skb, config, headers, found, Ttl::Keep, now)?;
    Ok(way.go(skb, config))
}

/// The way of a packet by this host's address on the wire to a container, or to this host itself.
#[inline(always)]
fn hairpin(skb: Skb, headers: &Headers, found: &Found, forwarded: bool) -> Step<Way> {
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
    let must = forwarded && forward::kernel_must_answer(skb, headers, open::where_inside(ifindex, dst));
    if fragment::goes_to_kernel(headers, must) {
        return Ok(Way::KERNEL);
    }
    Ok(Way(ifindex))
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
    // A reset is no answer that keeps a mapping (RFC 7857 §7.1).
    let resets = headers.proto == proto::TCP && headers.flags & flags::RST != 0;
    if found.flow().kind == Kind::Mapped as u8 && !resets && !found.state().has(State::MAPPED) {
        mapping::hold(found);
    }
    rewrite::packet(skb, headers, to, ttl)?;
    identification::change(skb, headers, found, now)?;
    tag::carry_out(skb, config, found, tagging, now)
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
    if fragment::goes_to_kernel(headers, forward::kernel_must_answer(skb, headers, place)) {
        // The kernel answers with time exceeded or fragmentation needed in terms of the container's address, and the
        // uplink's egress hook translates that answer. If it forwards fragments instead, the mark stays on them.
        rewrite::packet(skb, headers, to, Ttl::Keep)?;
        skb.set_mark(MARK_KERNEL);
        return Ok(Verdict::PASS);
    }
    rewrite::packet(skb, headers, to, Ttl::Decrement)?;
    hop::learn(skb, found, Side::Wire, now);
    Ok(forward::to_inside(skb, place.ifindex))
}
