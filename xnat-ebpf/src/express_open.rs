//! The express lane's packets that open a flow: from a container to a destination outside whose way is known.
//!
//! The flow is claimed as on the long way; what is left out are the questions whose answers `route` remembers.

use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Counts, Kind};
use xnat_common::{Addr, Direction, FlowKey, Side, Ticks, Tuple};

use crate::claim::{self, First, Opening};
use crate::express::{self, Plain};
use crate::lookup::Found;
use crate::maps::{self, WATCH};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{clock, forward, hop, hygiene, index, kernel_flow, mapping, refuse, route};

/// From a container, a packet that belongs to no flow. None if it goes the long way.
#[inline(always)]
pub fn from_inside(skb: Skb) -> Option<Verdict> {
    let asked = ask(skb)?;
    match claim::claim(skb, Opening::noted().ok()?, asked.now) {
        Ok(claim) if claim.is_new => Some(send(skb, &asked, &claim.found)),
        // The long way finds the flow that another processor has just opened.
        Ok(_) => None,
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
    /// The name of the next hop.
    hop: u32,
    now: Ticks,
}

/// Notes what the packet opens, if the way of that is known.
#[inline(always)]
fn ask(skb: Skb) -> Option<Asked> {
    let (config, plain) = express::enter(skb)?;
    let key = FlowKey::new(plain.tuple, plain.proto, Side::Inside);
    let (watch, now) = (WATCH.get(0)?, clock::now());
    let route = route::remembered(plain.tuple.src, plain.tuple.dst, skb.ifindex(), watch)?;
    let back = hop::remembered(route.back, watch, now)?;
    let mtu = hop::remembered(route.out, watch, now)?.mtu;
    if back.src != plain.mac || plain.wire_len(skb) > mtu.into() || !hygiene::plain_sum_is_good(skb) {
        return None;
    }
    // A segment that opens a connection may be repeated, or open it anew.
    if plain.syn && index::is_taken(&key) || kernel_flow::claims(&key, true, now) {
        return None;
    }
    let (state, window) = if plain.syn { express::opened(skb, &plain)? } else { Default::default() };
    let opening = Opening {
        proto: plain.proto,
        kind: Kind::Outside,
        original: plain.tuple,
        reply: reply(config, &plain),
        inside: route.inside,
        peer: Addr::UNSPECIFIED,
        state,
    };
    let counts = Counts::of_packet(plain.total_len.into());
    opening.note_with(First { counts, next_hop: [route.out, route.back], window }).ok()?;
    Some(Asked { plain, hop: route.out, now })
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
    mapping::owner_of(plain.proto, plain.tuple.sport);
}

/// Sends the packet on, as the first of its flow, which has just been opened.
#[inline(always)]
fn send(skb: Skb, asked: &Asked, found: &Found) -> Verdict {
    let Asked { plain, hop, now } = asked;
    if let Err(drop) = express::translate::<true>(skb, plain, found.flow().translated(Direction::Original)) {
        return drop;
    }
    let sent = match WATCH.get(0).and_then(|watch| hop::remembered(*hop, watch, *now)) {
        Some(way) if !way.asks(*now) => way.go(skb, true),
        // The kernel knows the way, whatever has happened to the hop in this moment.
        _ => maps::config().map(|config| forward::to_uplink(skb, config)),
    };
    sent.unwrap_or(Verdict::drop(Counter::RewriteFailed))
}
