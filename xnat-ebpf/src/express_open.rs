//! The express lane's packets that open a flow: from a container to a destination outside whose way is known.
//!
//! The flow is claimed as on the long way; what is left out are the questions whose answers `route` remembers.

use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::packet::proto;
use xnat_common::{Addr, Direction, FlowKey, Side, Ticks, Tuple};

use crate::claim::{self, Opening};
use crate::express::{self, Plain};
use crate::lookup::{self, Found};
use crate::maps::{self, WATCH};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{account, forward, hop, hygiene, index, kernel_flow, port, refuse, route};

/// From a container, a packet that belongs to no flow. None if it goes the long way.
#[inline(always)]
pub fn from_inside(skb: Skb) -> Option<Verdict> {
    let asked = ask(skb)?;
    match claim::claim(skb, Opening::noted().ok()?, asked.now) {
        Ok(found) => Some(first(skb, &asked, &found)),
        Err(counter) if refuse::worth_telling(counter) => {
            let told = refuse::tell(skb, &asked.plain.headers(), Opening::noted().ok()?.inside, asked.now);
            Some(refuse::conclude(counter, told))
        }
        Err(counter) => Some(Verdict::drop(counter)),
    }
}

/// What is known of an opening, beside what has been noted, before it is claimed. As little as can be, because it lies on the
/// stack below all that is needed for a search.
struct Asked {
    plain: Plain,
    /// The names of the next hops, there and back.
    hops: [u32; 2],
    now: Ticks,
}

/// Notes what the packet opens, if the way of that is known.
#[inline(always)]
fn ask(skb: Skb) -> Option<Asked> {
    let (config, plain) = express::enter(skb)?;
    let key = FlowKey::new(plain.tuple, plain.proto, Side::Inside);
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
        reply: reply(config, &plain),
        inside: route.inside,
        peer: Addr::UNSPECIFIED,
        state: State::default(),
    };
    opening.note().ok()?;
    Some(Asked { plain, hops: [route.out, route.back], now })
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

/// Sends the packet on, as the first of its flow, which has just been opened.
#[inline(always)]
fn first(skb: Skb, asked: &Asked, found: &Found) -> Verdict {
    let Asked { plain, hops: [out, back], now } = asked;
    hop::set_name(found, Direction::Original, *out);
    hop::set_name(found, Direction::Reply, *back);
    let to = found.flow().translated(Direction::Original);
    if !account(skb, plain, found, *now) {
        return Verdict::drop(Counter::FlowBusy);
    }
    if let Err(drop) = express::translate::<true>(skb, plain, to) {
        return drop;
    }
    send(skb, *out, *now).unwrap_or(Verdict::drop(Counter::RewriteFailed))
}

/// Sends a translated packet to the wire.
#[inline(always)]
fn send(skb: Skb, hop: u32, now: Ticks) -> Option<Verdict> {
    match hop::remembered(hop, WATCH.get(0)?, now) {
        Some(way) if !way.asks(now) => way.go(skb, true),
        // The kernel knows the way, whatever has happened to the hop in this moment.
        _ => Some(forward::to_uplink(skb, maps::config()?)),
    }
}

/// Counts the first packet of a flow and advances its state; false if the flow has been collected in the meantime.
#[inline(always)]
fn account(skb: Skb, plain: &Plain, found: &Found, now: Ticks) -> bool {
    if plain.proto == proto::TCP {
        return account::account_opening(skb, found.reference, &plain.headers(), now);
    }
    // A datagram changes nothing of a flow that it has just opened, but is counted.
    let lives = found.refresh(now);
    if lives {
        account::count(found, plain.total_len.into());
    }
    lives
}
