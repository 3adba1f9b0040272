//! The express lane's packets that open a flow: from a container to a destination outside whose way is known.
//!
//! The flow is claimed as on the long way; what is left out are the questions whose answers `route` remembers.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::{Addr, Direction, FlowKey, FlowRef, Side, Ticks, Tuple};

use crate::claim::{self, Opening};
use crate::express::{self, LONG_WAY, Plain};
use crate::maps::{self, WATCH};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{account, forward, hop, hygiene, index, kernel_flow, lookup, port, refuse, route};

/// From a container, a packet that belongs to no flow.
///
/// The steps are global functions, one after the other, because the stack is short.
#[inline(always)]
pub fn from_inside(skb: Skb) -> Option<Verdict> {
    let noted = xnat_express_ask(skb.raw());
    if noted == LONG_WAY {
        return None;
    }
    let opening = Opening::noted().ok()?;
    let now = Ticks(noted as u32);
    match claim::claim(skb, opening, now) {
        Ok(found) => express::verdict(xnat_express_first(skb.raw(), found.reference.to_bits(), now.0)),
        Err(counter) if refuse::worth_telling(counter) => {
            Some(refuse::conclude(counter, express::verdict(xnat_express_refuse(skb.raw(), now.0))))
        }
        Err(counter) => Some(Verdict::drop(counter)),
    }
}

/// Notes what the packet opens, if the way of that is known. Returns the time, or [`LONG_WAY`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_express_ask(skb: *mut __sk_buff) -> u64 {
    ask(Skb::from_raw(skb)).map_or(LONG_WAY, |now| now.0.into())
}

#[inline(always)]
fn ask(skb: Skb) -> Option<Ticks> {
    let (config, plain) = express::enter(skb)?;
    let key = FlowKey::new(plain.tuple, plain.proto, Side::Inside);
    if plain.syn {
        prefetch(config, &plain, &key);
    }
    let reply = reply(config, &plain);
    let (watch, now) = (WATCH.get(0)?, maps::now());
    let route = route::remembered(plain.tuple.src, plain.tuple.dst, skb.ifindex(), watch)?;
    let back = hop::remembered(route.back, watch, now)?;
    let mtu = hop::remembered(route.out, watch, now)?.mtu;
    if back.src != plain.mac || plain.wire_len(skb) > mtu.into() || !hygiene::plain_sum_is_good(skb) {
        return None;
    }
    // A segment that opens a connection may be repeated, or open it anew.
    if plain.syn && lookup::find(&key).is_some() || kernel_flow::claims(&key, true, now) {
        return None;
    }
    let opening = Opening {
        proto: plain.proto,
        kind: Kind::Outside,
        original: plain.tuple,
        reply,
        inside: route.inside,
        peer: Addr::UNSPECIFIED,
        state: State::default(),
    };
    opening.note().ok()?;
    Some(now)
}

/// The tuple of the answers, if the flow keeps its port.
#[inline(always)]
fn reply(config: &Config, plain: &Plain) -> Tuple {
    let Tuple { dst, sport, dport, .. } = plain.tuple;
    Tuple { src: dst, dst: config.address, sport: dport, dport: sport }
}

/// Looks at what an opening asks for, so that the processor fetches all of it at once before it is needed.
#[inline(always)]
pub fn prefetch(config: &Config, plain: &Plain, key: &FlowKey) {
    index::prefetch_home(config, key);
    index::prefetch(config, key);
    index::prefetch(config, &FlowKey::new(reply(config, plain), plain.proto, Side::Wire));
    port::prefetch(plain.proto, plain.tuple.sport);
}

/// Sends the packet on, as the first of its flow, which has just been opened. [`LONG_WAY`] if its way is not known any more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_express_first(skb: *mut __sk_buff, reference: u64, now: u32) -> u64 {
    first(Skb::from_raw(skb), FlowRef::from_bits(reference), Ticks(now)).map_or(LONG_WAY, Verdict::to_bits)
}

#[inline(always)]
fn first(skb: Skb, reference: FlowRef, now: Ticks) -> Option<Verdict> {
    let (config, plain) = express::enter(skb)?;
    let (watch, found) = (WATCH.get(0)?, lookup::by_reference(reference)?);
    let route = route::remembered(plain.tuple.src, plain.tuple.dst, skb.ifindex(), watch)?;
    hop::set_name(&found, Direction::Original, route.out);
    hop::set_name(&found, Direction::Reply, route.back);
    let to = found.flow().translated(Direction::Original);
    if !account::account(skb, reference, &plain.headers(), now) {
        return Some(Verdict::drop(Counter::FlowBusy));
    }
    if let Err(drop) = express::translate::<true>(skb, &plain, to) {
        return Some(drop);
    }
    match hop::remembered(hop::name(&found, Direction::Original), watch, now) {
        Some(way) if !way.asks(now) => way.go(skb, true),
        // The kernel knows the way, whatever has happened to the hop in this moment.
        _ => Some(forward::to_uplink(skb, config)),
    }
}

/// Tells the container that its opening is refused. [`LONG_WAY`] if it cannot be told.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_express_refuse(skb: *mut __sk_buff, now: u32) -> u64 {
    let skb = Skb::from_raw(skb);
    let (Some((_, plain)), Ok(opening)) = (express::enter(skb), Opening::noted()) else {
        return LONG_WAY;
    };
    refuse::tell(skb, &plain.headers(), opening.inside, Ticks(now)).map_or(LONG_WAY, Verdict::to_bits)
}
