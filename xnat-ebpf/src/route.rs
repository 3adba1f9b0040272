//! The ways of openings to the outside: learnt by asking the kernel, remembered for the next opening between the same two.
//!
//! One record says all that does not depend on ports: whose both addresses are, that the route leads through the uplink,
//! and the next hops of both directions. It holds for as long as next hops do (`xnat_common::hop`); the daemon raises the
//! epoch when subnets change, too. Each processor has records of its own, which nobody else writes.

use xnat_common::config::Config;
use xnat_common::hop::{Remembered, Route, Watch};
use xnat_common::{Addr, Direction, Side, Ticks, Tuple};

use crate::claim::Opening;
use crate::hop;
use crate::lookup::Found;
use crate::maps::{self, ROUTES, WATCH};
use crate::skb::Skb;

/// The way of an opening from `src` to `dst` that has come in at `port`, if it is known.
#[inline(always)]
pub fn remembered(src: Addr, dst: Addr, port: u32, watch: &Watch) -> Option<Route> {
    let route = ROUTES.get(Route::slot_for(src, dst, port))?;
    route.is_of(src, dst, port, watch.epoch).then_some(*route)
}

/// Notes that an opening has asked for what a [`Route`] says, and that it is so.
///
/// Something may have changed since it asked, and the epoch have been raised before it is read here. So one opening's word
/// is not enough: the next one on this processor asks after that.
///
/// A global function, whose stack is not that of what is asked before.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_note_route(port: u32, now: u32) -> u32 {
    let (Some(config), Some(watch), Ok(opening)) = (maps::config(), WATCH.get(0), Opening::noted()) else {
        return 0;
    };
    let Tuple { src, dst, .. } = opening.original;
    let Some(route) = ROUTES.get_ptr_mut(Route::slot_for(src, dst, port)) else {
        return 0;
    };
    if config.flags & (Config::ROUTES_BY_PORT | Config::ROUTES_BY_PACKET) != 0 || !watch.is_watched(Ticks(now)) {
        return 0;
    }
    // SAFETY: this processor's own value.
    let route = unsafe { &mut *route };
    if route.is_of(src, dst, port, watch.epoch) {
        route.openings = route.openings.saturating_add(1);
    } else {
        *route = Route { src, dst, port, epoch: watch.epoch, inside: opening.inside, out: 0, back: 0, openings: 1 };
    }
    1
}

/// Has a flow that was opened just now, and the openings that come, remember the way of their packets. Not the first one:
/// to many destinations there is no other.
#[inline(always)]
pub fn learn(skb: Skb, found: &Found, now: Ticks) {
    let Tuple { src, dst, .. } = found.flow().original;
    let (Some(watch), Some(route)) = (WATCH.get(0), ROUTES.get_ptr_mut(Route::slot_for(src, dst, skb.ifindex())))
    else {
        return;
    };
    // SAFETY: this processor's own value.
    let route = unsafe { &mut *route };
    if route.openings < 2 || !route.is_of(src, dst, skb.ifindex(), watch.epoch) {
        return;
    }
    let vain = Remembered::nothing(now);
    let is_known = |name| hop::remembered(name, watch, now).is_some();
    if route.out == vain || route.back == vain || is_known(route.out) && is_known(route.back) {
        return;
    }
    hop::xnat_learn(skb.raw(), found.reference.to_bits(), Side::Inside as u32, now.0);
    route.out = hop::name(found, Direction::Original);
    route.back = hop::name(found, Direction::Reply);
}
