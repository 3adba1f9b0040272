//! What comes in on the uplink with a tag, and openings from peers that should have had one.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::packet::{Headers, ipv4, proto};
use xnat_common::tag::{self, Tag, TagError};
use xnat_common::{Addr, Direction, FlowKey, FlowRef, Side, Ticks, tcp};

use crate::lookup::{self, Found};
use crate::maps::{self, PEERS, count};
use crate::parse::{self, IP};
use crate::skb::Skb;
use crate::stage::{self, ANNOUNCED, Next, TAGGED};
use crate::verdict::{Step, Verdict};
use crate::{account, clock, collect, fragment, icmp_error, message, open, options, port, tag as tags};

/// How long after a tag a conflict may be its answer.
const CONFLICT_LIFETIME: Ticks = Ticks::from_secs(2);

/// A packet on the uplink that carries options: acts on its tag, if it has one. The answer is where it goes on, if the tag
/// says that.
#[inline(always)]
pub fn options(skb: Skb, headers: *mut Headers) -> Step<Option<Next>> {
    let answer = xnat_receive(skb.raw(), headers);
    if answer == UNTAGGED { Ok(None) } else { Next::of_answer(answer).map(Some) }
}

/// What stands for a packet whose tag says nothing of its flow.
const UNTAGGED: u64 = u64::MAX;

/// As [`options`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_receive(skb: *mut __sk_buff, headers: *mut Headers) -> u64 {
    let received = |headers: &mut Headers| receive(Skb::from_raw(skb), headers);
    match parse::handed_over(headers).and_then(received) {
        Ok(None) => UNTAGGED,
        Ok(Some(next)) => next.to_bits(),
        Err(verdict) => verdict.to_bits(),
    }
}

#[inline(always)]
fn receive(skb: Skb, headers: &mut Headers) -> Step<Option<Next>> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    options::inward(skb, headers)?;
    let option: [u8; tag::LEN] = match skb.load(IP + ipv4::LEN) {
        Some(option) => option,
        None => return Ok(None),
    };
    // A tag is the first option of its packet.
    if option[0] != tag::OPTION {
        return Ok(None);
    }
    // A copy, because kernel 6.1 takes no key from where the headers lie.
    let sender = headers.tuple.src;
    if PEERS.get_ptr(&sender).is_none() {
        return Err(Verdict::drop(Counter::TagStranger));
    }
    if usize::from(headers.ip_len) < ipv4::LEN + tag::LEN {
        return Err(Verdict::drop(Counter::TagMalformed));
    }
    let tag = match Tag::decode(option) {
        Ok(tag) => tag,
        Err(TagError::Version) => return Err(Verdict::drop(Counter::TagVersion)),
        Err(TagError::Length) => return Err(Verdict::drop(Counter::TagMalformed)),
    };
    match tag.kind {
        // Errors open nothing, and the packet inside would not be translated.
        tag::Kind::Open | tag::Kind::Announce | tag::Kind::Conflict if headers.is_icmp_error() => {
            Err(Verdict::drop(Counter::TagMalformed))
        }
        tag::Kind::Open | tag::Kind::Announce => opening(skb, config, headers, tag).map(Some),
        tag::Kind::UnknownFlow => unknown_flow(skb, headers, option).map(|()| None),
        tag::Kind::Conflict => conflict(skb, headers, tag.destination).map(Some),
    }
}

/// A peer opens a flow toward a container of ours.
#[inline(always)]
fn opening(skb: Skb, config: &Config, headers: &mut Headers, tag: Tag) -> Step<Next> {
    let inside = match maps::subnet(tag.destination) {
        Some(subnet) if subnet.is_own() && subnet.inside != 0 => subnet.inside,
        _ => return Err(Verdict::drop(Counter::TagSubnet)),
    };
    let announced = tag.kind == tag::Kind::Announce;
    count(if announced { Counter::AnnouncesReceived } else { Counter::TagsReceived });
    stage::set(skb, if announced { TAGGED | ANNOUNCED } else { TAGGED });
    let known = if headers.is_later_fragment() {
        // A router on the way has cut the packet, and the copy bit has put the tag on every piece.
        Some(fragment::find(headers, Side::Wire, clock::now()).ok_or(Verdict::drop(Counter::FragmentUnknown))?)
    } else {
        match existing(headers, tag.destination) {
            Existing::Theirs(found) => Some(found),
            Existing::Ours(found) => {
                let (Ok(verdict) | Err(verdict)) = crossing(skb, config, headers, tag, &found);
                return Err(verdict);
            }
            Existing::None => open::from_peer(headers, tag.destination, inside)?,
            Existing::Busy => return Err(Verdict::drop(Counter::FlowBusy)),
        }
    };
    match known {
        Some(found) => opened(skb, headers, &found),
        None => Ok(Next::OPEN),
    }
}

/// The flow that a peer's tag is about is there: an announcement has done its work, any other packet loses the tag.
#[inline(always)]
pub fn opened(skb: Skb, headers: &mut Headers, found: &Found) -> Step<Next> {
    if stage::has(skb, ANNOUNCED) {
        account::mark(found, State::ANNOUNCED, 0);
        return Err(Verdict::CONSUMED);
    }
    let option = skb.load(IP + ipv4::LEN).ok_or(Verdict::drop(Counter::TagMalformed))?;
    tags::strip(skb, headers, option)?;
    Ok(Next::translate(skb, found.reference))
}

/// What this host already knows under the wire tuple of an opening.
enum Existing {
    /// The very flow, opened by the peer before.
    Theirs(Found),
    /// A flow that was opened here.
    Ours(Found),
    /// Nothing, or something that has given way.
    None,
    /// Something that did not give way in time.
    Busy,
}

#[inline(always)]
fn existing(headers: &Headers, container: Addr) -> Existing {
    let key = FlowKey::new(headers.tuple, headers.proto, Side::Wire);
    let Some(found) = lookup::find(&key) else {
        return Existing::None;
    };
    let ours = found.direction() == Direction::Reply;
    if ours && !(headers.proto == proto::TCP && found.state().tcp().is_over()) {
        return Existing::Ours(found);
    }
    if !ours && found.flow().reply.src == container {
        return Existing::Theirs(found);
    }
    // A connection of ours that has closed; or else the peer, the master of its ports, has done with the flow. A packet
    // may stamp it between the look and the end of it, but only once a tick.
    if collect::end(&found) || collect::end(&found) {
        count(Counter::FlowsReplaced);
        return Existing::None;
    }
    Existing::Busy
}

/// A peer opens a flow on the mirrored wire tuple of one of ours. They are one conversation if they have the same two
/// containers, and each host knows one half of that. So the opening is not delivered, and the peer is told which of its
/// containers may have it: that one repeats it untagged, as a packet of our flow; any other moves to another port.
#[inline(always)]
fn crossing(skb: Skb, config: &Config, headers: &Headers, tag: Tag, found: &Found) -> Step<Verdict> {
    count(Counter::ConflictSent);
    if tag.kind == tag::Kind::Announce {
        account::mark(found, State::ANNOUNCED, 0);
    }
    let flow = found.flow();
    let same_here = flow.original.src == tag.destination && flow.original.sport == headers.tuple.dport;
    let destination = if same_here { flow.original.dst } else { Addr::UNSPECIFIED };
    message::send_back(skb, config, headers, Tag { kind: tag::Kind::Conflict, destination })
}

/// Whether a packet is the one that was announced for a flow that crosses ours: its announcement was not accepted.
#[inline(always)]
pub fn is_of_crossing(found: &Found) -> bool {
    let held = found.direction() == Direction::Reply && found.state().has(State::ANNOUNCED);
    if held {
        account::mark(found, 0, State::ANNOUNCED);
    }
    held
}

/// A peer's host has sent a reset or a port-unreachable error because it does not know the flow. If it is one of ours, the
/// next packet tells the peer of it again. Anything else is with the peer's host itself: then the error is what it is, and
/// goes on its way without the tag.
#[inline(always)]
fn unknown_flow(skb: Skb, headers: &mut Headers, option: [u8; tag::LEN]) -> Step<()> {
    let (tuple, protocol) =
        if headers.is_icmp_error() { icmp_error::answers(skb, headers)? } else { (headers.tuple, headers.proto) };
    match lookup::find(&FlowKey::new(tuple, protocol, Side::Wire)) {
        Some(found) if is_own_to(&found, headers.tuple.src) => {
            account::mark(&found, 0, State::CONFIRMED);
            // SAFETY: a field of a map value; a lost race repeats a tag.
            unsafe { (*found.flow).tagged = 0 };
            count(Counter::UnknownFlowReceived);
            Err(Verdict::CONSUMED)
        }
        // What the peer has opened itself its own container will tell this host of again.
        Some(found) if found.flow().kind == Kind::Inbound as u8 => Err(Verdict::drop(Counter::MessageUnmatched)),
        _ => tags::strip(skb, headers, option),
    }
}

/// A peer has a flow of its own on our flow's wire tuple, which only `container` may share: any other's moves.
#[inline(always)]
fn conflict(skb: Skb, headers: &Headers, container: Addr) -> Step<Next> {
    let found = own_flow_to_peer(headers).ok_or(UNMATCHED)?;
    let flow = found.flow();
    if flow.original.src == container && flow.original.sport == flow.reply.dport {
        account::mark(&found, State::CONFIRMED | State::CROSSED, 0);
        count(Counter::FlowsCrossed);
        return Err(Verdict::CONSUMED);
    }
    // What looked like an answer may have been a packet of the peer's flow; a connection that is established is none.
    let established = headers.proto == proto::TCP && found.state().has(State::ASSURED);
    let just_tagged = clock::now().since(Ticks(flow.tag_time)).0 <= CONFLICT_LIFETIME.0;
    if established || !just_tagged { Err(UNMATCHED) } else { Ok(Next::conflict(skb, found.reference)) }
}

/// Moves a flow to another port, because a peer has one on its wire tuple.
#[inline(always)]
pub fn give_way(skb: Skb, flow: FlowRef, now: Ticks) -> Verdict {
    let Some(found) = lookup::by_reference(flow).filter(|found| port::change(skb, found, now)) else {
        return UNMATCHED;
    };
    // SAFETY: a field of a map value; a lost race repeats a tag.
    unsafe { (*found.flow).tagged = 0 };
    count(Counter::ConflictReceived);
    Verdict::CONSUMED
}

/// The fate of a message about no flow of ours, or to which nothing can be done.
const UNMATCHED: Verdict = Verdict::drop(Counter::MessageUnmatched);

/// The flow to a peer's container of which the peer sends a header back.
#[inline(always)]
fn own_flow_to_peer(headers: &Headers) -> Option<Found> {
    // A query comes back as a query: its identifier stays where it was.
    let mut tuple = headers.tuple;
    if headers.proto == proto::ICMP {
        (tuple.sport, tuple.dport) = (tuple.dport, tuple.sport);
    }
    lookup::find(&FlowKey::new(tuple, headers.proto, Side::Wire)).filter(|found| is_own_to(found, headers.tuple.src))
}

/// Whether a flow was opened here, toward a container of `peer`.
#[inline(always)]
fn is_own_to(found: &Found, peer: Addr) -> bool {
    let flow = found.flow();
    flow.peer == peer && flow.kind != Kind::Inbound as u8 && found.direction() == Direction::Reply
}

/// Whether an untagged packet that matches a peer's flow is not part of it: peers tag what they open, so an opening
/// without a tag is for the host itself, and the flow that had the tuple is over.
#[inline(always)]
pub fn is_for_host(headers: &Headers, found: &Found) -> bool {
    let flow = found.flow();
    let stale = flow.kind == Kind::Inbound as u8
        && found.direction() == Direction::Original
        && headers.proto == proto::TCP
        && tcp::opens(headers.flags)
        && !found.state().has(State::ANNOUNCED);
    if stale && collect::end(found) {
        count(Counter::FlowsReplaced);
    }
    stale
}
