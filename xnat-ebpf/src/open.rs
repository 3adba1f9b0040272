//! A packet that belongs to no flow: whether it opens one, and which.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::mapping::{Class, ForwardKey};
use xnat_common::packet::{Headers, proto};
use xnat_common::{Addr, Direction, FlowKey, Side, Ticks, Tuple};

use crate::claim::{self, Opening};
use crate::lookup::{self, Found};
use crate::skb::Skb;
use crate::stage::{self, CONFLICT, Next, Place as Hook, ROUTED, TAGGED};
use crate::verdict::{Step, Verdict};
use crate::{arrive, clock, collect, forward, hygiene, kernel_flow, maps, parse, receive, refuse, route};

/// What stands for "it opens a flow, which is noted" where a verdict's bits would be.
const OPENS: u64 = u64::MAX;

/// A packet from a container, at the inside interface `inside`.
///
/// What a packet would open is decided in global functions, one for each place, which read the packet anew: the verifier
/// checks them once by themselves, and their stacks are not that of the programs. What they have decided is noted, and the
/// next stage ([`noted`]) opens it.
#[inline(always)]
pub fn from_container(skb: Skb, headers: &Headers, inside: u32, now: Ticks) -> Step<Next> {
    let next = decided(xnat_from_container(skb.raw(), inside, now.0))?;
    let opening = Opening::noted()?;
    if opening.kind as u8 != Kind::Hairpin as u8 {
        leads_out(skb, headers, opening, now)?;
    }
    Ok(next)
}

/// Whether what a packet from a container would open toward a peer or the outside leaves through the uplink, and from here.
#[inline(always)]
fn leads_out(skb: Skb, headers: &Headers, opening: &Opening, now: Ticks) -> Step<()> {
    if !forward::leads_to_uplink(skb, opening) {
        if opening.peer != Addr::UNSPECIFIED {
            maps::count(Counter::ToKernelRoute);
        }
        return Err(Verdict::PASS);
    }
    if opening.peer == Addr::UNSPECIFIED {
        route::xnat_note_route(skb.ifindex(), now.0);
    }
    forward::check_outward(skb, maps::config().ok_or(Verdict::PASS)?, headers)?;
    forward::check_route(skb, headers, opening.reply.src)?;
    stage::set(skb, ROUTED);
    Ok(())
}

/// A packet that the kernel has routed to the uplink: from a container on the slow path, or from the host itself.
#[inline(always)]
pub fn at_egress(skb: Skb, now: Ticks) -> Step<Next> {
    decided(xnat_routed(skb.raw(), now.0))
}

/// A packet from this host to itself, at the loopback interface.
#[inline(always)]
pub fn to_itself(skb: Skb) -> Step<Next> {
    decided(xnat_to_itself(skb.raw()))
}

/// A packet from the wire to this host's address.
#[inline(always)]
pub fn from_wire(skb: Skb) -> Step<Next> {
    decided(xnat_from_wire(skb.raw()))
}

#[inline(always)]
fn decided(answer: u64) -> Step<Next> {
    if answer == OPENS { Ok(Next::OPEN) } else { Err(Verdict::from_bits(answer)) }
}

/// Opens the flow that has been noted. A container that gets none is told so; that a packet from the wire gets none is
/// nobody's business inside.
#[inline(always)]
pub fn noted(skb: Skb) -> Step<Next> {
    let now = clock::now();
    if stage::has(skb, CONFLICT) {
        return Err(receive::give_way(skb, stage::flow(skb), now));
    }
    let mut headers = Headers::default();
    parse::read(skb, &raw mut headers)?;
    headers.datagram = stage::datagram(skb);
    hygiene::check_opening(skb, &headers)?;
    let opening = Opening::noted()?;
    match claim::claim(skb, opening, now) {
        Ok(claim) if stage::has(skb, TAGGED) => receive::opened(skb, &mut headers, &claim.found),
        Ok(claim) => Ok(Next::translate(skb, claim.found.reference)),
        Err(counter) if stage::place(skb) == Hook::Wire => Err(Verdict::drop(counter)),
        Err(counter) => Err(refuse::opening(skb, &headers, opening.inside, counter, now)),
    }
}

#[inline(always)]
fn answer(step: Step<&'static Opening>) -> u64 {
    match step {
        Ok(_) => OPENS,
        Err(verdict) => verdict.to_bits(),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_from_container(skb: *mut __sk_buff, inside: u32, now: u32) -> u64 {
    answer(by_container(Skb::from_raw(skb), inside, Ticks(now)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_routed(skb: *mut __sk_buff, now: u32) -> u64 {
    answer(routed(Skb::from_raw(skb), Ticks(now)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_to_itself(skb: *mut __sk_buff) -> u64 {
    answer(arrive::from_itself(Skb::from_raw(skb)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_from_wire(skb: *mut __sk_buff) -> u64 {
    answer(arrive::from_wire(Skb::from_raw(skb)))
}

#[inline(always)]
fn by_container(skb: Skb, inside: u32, now: Ticks) -> Step<&'static Opening> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let headers = parse::headers(skb)?;
    // What does not come from a subnet of ours on its own interface is not ours to translate.
    match maps::subnet(headers.tuple.src) {
        Some(source) if source.is_own() && source.inside == inside => {}
        _ => return Err(Verdict::PASS),
    }
    if headers.tuple.dst == config.address {
        arrive::hairpin(skb, config, &headers, inside)
    } else {
        to_uplink(config, &headers, inside, now)
    }
}

/// What a packet from a container would open toward a peer or the outside.
#[inline(always)]
fn to_uplink(config: &Config, headers: &Headers, inside: u32, now: Ticks) -> Step<&'static Opening> {
    let opening = outward(config, headers, inside, false, now)?;
    // In the middle of a connection with anybody but a peer's container: the kernel's own NAT may know it. If it does not,
    // the packet comes to the uplink's egress hook as it is.
    if opening.peer == Addr::UNSPECIFIED && !headers.opens() {
        return Err(Verdict::PASS);
    }
    Ok(opening)
}

/// What a packet that the kernel has routed would open.
#[inline(always)]
fn routed(skb: Skb, now: Ticks) -> Step<&'static Opening> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let headers = &parse::headers(skb)?;
    let source = maps::subnet(headers.tuple.src).filter(|subnet| subnet.is_own());
    let (inside, from_host) = match source {
        // No interface holds the subnet at the moment.
        Some(subnet) if !skb.has_socket() && subnet.inside == 0 => return Err(Verdict::PASS),
        Some(subnet) if !skb.has_socket() => (subnet.inside, false),
        // Forwarded for others than containers.
        None if !skb.has_socket() && headers.tuple.src != config.address => return Err(Verdict::PASS),
        // The host's own, or translated by the kernel: to a peer's subnet from any address, or from an address inside to
        // anywhere.
        _ => (0, true),
    };
    let opening = outward(config, headers, inside, from_host, now)?;
    // The host's own connections to elsewhere are its own affair, unless their answers would be taken for a flow's.
    let own_affair = from_host && opening.peer == Addr::UNSPECIFIED && source.is_none();
    if own_affair {
        if !skb.has_socket() || headers.tuple.src != config.address || !collides(config, headers) {
            return Err(Verdict::PASS);
        }
        maps::count(Counter::HostTranslated);
    }
    Ok(opening)
}

/// Whether the answers to a packet of the host's own would be taken for a flow's, or would be forwarded.
#[inline(always)]
fn collides(config: &Config, headers: &Headers) -> bool {
    let forward = ForwardKey { port: headers.tuple.sport, proto: headers.proto, zero: 0 };
    headers.opens()
        && Class::of(headers.proto).is_some()
        && (lookup::find(&FlowKey::new(headers.tuple.reversed(), headers.proto, Side::Wire)).is_some()
            || maps::forward(config, &forward).is_some())
}

/// Whether a flow's container has come to be behind another interface, `inside`: the flow follows it. A bridge that was
/// made anew is another interface.
#[inline(always)]
pub fn follow(found: &Found, inside: u32) -> bool {
    let container = found.flow().translated(found.direction().opposite()).dst;
    if found.flow().kind == Kind::Host as u8 || interface_of(container) != Some(inside) {
        return false;
    }
    // A hairpin remembers whence it was opened, not where its answers come from.
    if found.flow().kind != Kind::Hairpin as u8 || found.direction() == Direction::Original {
        set_inside(found, inside);
    }
    true
}

/// Behind which interface a container is, and how long a packet that takes.
#[derive(Clone, Copy)]
pub struct Place {
    pub ifindex: u32,
    pub mtu: u32,
}

/// The place of a `container`: behind the interface that its flow remembers, unless that has gone.
#[inline(always)]
pub fn where_inside(remembered: u32, container: Addr) -> Place {
    if let Some(inside) = maps::inside(remembered) {
        return Place { ifindex: remembered, mtu: inside.mtu };
    }
    if let Some(ifindex) = interface_of(container)
        && let Some(inside) = maps::inside(ifindex)
    {
        return Place { ifindex, mtu: inside.mtu };
    }
    // Nothing is known of it: the packet goes where its flow says, and the kernel judges.
    Place { ifindex: remembered, mtu: u32::MAX }
}

/// The interface that holds the subnet of a container of ours.
#[inline(always)]
pub fn interface_of(container: Addr) -> Option<u32> {
    maps::subnet(container).filter(|subnet| subnet.is_own() && subnet.inside != 0).map(|subnet| subnet.inside)
}

/// Remembers behind which interface a flow's container is.
#[inline(always)]
pub fn set_inside(found: &Found, inside: u32) {
    // SAFETY: one aligned store; every reader gets the old interface or the new one.
    unsafe { (&raw mut (*found.flow).inside).write_volatile(inside) };
}

/// What a packet toward the wire would open.
#[inline(always)]
fn outward(config: &Config, headers: &Headers, inside: u32, from_host: bool, now: Ticks) -> Step<&'static Opening> {
    let dst = headers.tuple.dst;
    let peer = match maps::subnet(dst) {
        Some(subnet) if subnet.is_own() => return Err(Verdict::PASS),
        Some(subnet) => subnet.peer,
        None => Addr::UNSPECIFIED,
    };
    let to_peer = peer != Addr::UNSPECIFIED;
    let key = FlowKey::new(headers.tuple, headers.proto, Side::Inside);
    if !to_peer && kernel_flow::claims(&key, headers.opens(), now) {
        return Err(Verdict::PASS);
    }
    if !headers.opens() {
        // In the middle of a connection: with a peer's container it is ours, and the peer will tell if it knows better.
        // The answers of a container to a peer's flow that this host has forgotten go to the peer's own address.
        // Everything else belongs to a connection of the kernel's, or to none.
        let with_peer = to_peer || maps::speaking_peer(dst).is_some();
        if headers.proto != proto::TCP || !with_peer {
            return Err(Verdict::PASS);
        }
    }
    let wire_dst = if to_peer { peer } else { dst };
    let opening = Opening {
        proto: headers.proto,
        kind: match (from_host, to_peer) {
            (true, _) => Kind::Host,
            (false, true) => Kind::Peer,
            (false, false) => Kind::Outside,
        },
        original: headers.tuple,
        reply: Tuple { src: wire_dst, dst: config.address, sport: headers.tuple.dport, dport: headers.tuple.sport },
        inside,
        peer,
        state: State::default(),
    };
    opening.note()
}

/// A packet from a peer whose tag says that it is for `container`: notes what it opens, or answers the flow that another
/// processor has just opened by it.
#[inline(always)]
pub fn from_peer(headers: &Headers, container: Addr, inside: u32) -> Step<Option<Found>> {
    let opening = Opening {
        proto: headers.proto,
        kind: Kind::Inbound,
        original: headers.tuple,
        reply: Tuple { src: container, dst: headers.tuple.src, sport: headers.tuple.dport, dport: headers.tuple.sport },
        inside,
        peer: headers.tuple.src,
        // Whoever opens a flow toward this host knows it.
        state: State(State::CONFIRMED),
    };
    let opening = opening.note()?;
    if let Some(rival) = lookup::find(&FlowKey::new(opening.reply, opening.proto, Side::Inside)) {
        let flow = rival.flow();
        if flow.kind == Kind::Inbound as u8 && flow.original == opening.original {
            // Another processor has opened the very same flow since this packet looked for it.
            return Ok(Some(rival.in_direction(Direction::Original)));
        }
        // Opened while this host did not know the peer's flow. The peer knows better; see `receive` for the second try.
        if !collect::end(&rival) && !collect::end(&rival) {
            return Err(Verdict::drop(Counter::FlowBusy));
        }
        maps::count(Counter::FlowsReplaced);
    }
    Ok(None)
}
