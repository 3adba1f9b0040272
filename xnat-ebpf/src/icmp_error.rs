//! ICMP errors: the packet inside is translated the other way round from the packets that the error answers (RFC 5508 §4).
//!
//! An error about a packet of one direction travels in the other, so the reversed tuple of the packet inside finds the
//! flow and the direction of the error. Errors neither refresh nor end a flow.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::checksum;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::Kind;
use xnat_common::packet::{Headers, Icmp, icmp_header, ipv4, proto, tcp_header};
use xnat_common::tag as option;
use xnat_common::translate::{Translation, transport_checksum};
use xnat_common::{Addr, FlowKey, FlowRef, Port, Side, Ticks, Tuple};

use crate::forward::{self, Ttl};
use crate::lookup::{self, Found};
use crate::maps;
use crate::parse::{self, IP, transport_offset};
use crate::skb::{Skb, forgotten};
use crate::stage::{self, Place};
use crate::verdict::{Step, Verdict};
use crate::{clock, hygiene, identification, open, rewrite, tag};

/// The IP option "no operation" (RFC 791 §3.1).
const NOP: u8 = 1;
/// ICMP code "port unreachable".
const PORT_UNREACHABLE: u8 = 3;
/// ICMP code "fragmentation needed and DF set".
const FRAGMENTATION_NEEDED: u8 = 4;

/// The packet that an error is about, as far as the error carries it.
struct Embedded {
    tuple: Tuple,
    proto: u8,
    /// The ICMP type, if it is a message itself.
    kind: u8,
    /// It is a later fragment, without a transport header.
    without_ports: bool,
    /// Where its IP header begins, from the Ethernet header on.
    ip: usize,
    /// Where its transport header begins.
    transport: usize,
    /// Where the error ends, or the packet inside if that is shorter: what follows is padding, or extensions (RFC 4884).
    end: usize,
}

impl Embedded {
    /// The same, as [`forgotten`] leaves it: the ways come together that packets of different kinds have gone.
    #[inline(always)]
    fn forgotten(self) -> Self {
        Self {
            proto: forgotten(self.proto.into()) as u8,
            kind: forgotten(self.kind.into()) as u8,
            without_ports: forgotten(self.without_ports.into()) != 0,
            ip: forgotten(self.ip as u64) as usize,
            transport: forgotten(self.transport as u64) as usize,
            end: forgotten(self.end as u64) as usize,
            tuple: self.tuple,
        }
    }

    /// Copies a `T` out of the error, if it is there.
    #[inline(always)]
    fn load<T: bytemuck::Pod>(&self, skb: Skb, offset: usize) -> Option<T> {
        if offset + size_of::<T>() > self.end {
            return None;
        }
        skb.load(offset)
    }
}

/// Translates an error, or passes what is about nothing of ours.
///
/// The steps are global functions, which the verifier checks once each by itself. They follow each other rather than one
/// calling the next, because the stacks of all functions that call each other add up.
#[inline(always)]
pub fn packet(skb: Skb) -> Step<Verdict> {
    let place = stage::place(skb);
    let reference = xnat_error_flow(skb.raw(), place as u32, clock::now().0);
    if reference == NO_FLOW {
        // Damaged or not: the kernel judges an error about no flow.
        return Err(Verdict::PASS);
    }
    if reference == LIMITED {
        return Err(Verdict::drop(Counter::UnknownFlowLimited));
    }
    if !is_sound(skb, &parse::headers(skb)?) {
        return Err(hygiene::BAD_CHECKSUM);
    }
    let decision = xnat_icmp_error(skb.raw(), reference, place as u32);
    carry_out(skb, reference, decision)
}

/// No flow of ours.
const NO_FLOW: u64 = u64::MAX;
/// None, and the peer whose flow it may be has been told of enough others.
const LIMITED: u64 = u64::MAX - 1;

/// The flow that an error is about, in the direction in which the error travels: a reference, [`NO_FLOW`] or [`LIMITED`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_error_flow(skb: *mut __sk_buff, place: u32, now: u32) -> u64 {
    let skb = Skb::from_raw(skb);
    let (Some(config), Ok(headers)) = (maps::config(), outer(skb)) else {
        return NO_FLOW;
    };
    if place == Place::Wire as u32
        && let Some(found) = identification::of_embedded(skb, embedded_at(&headers), Ticks(now))
    {
        return found.reference.to_bits();
    }
    let Ok(embedded) = embedded(skb, &headers) else {
        return NO_FLOW;
    };
    let side = if place == Place::Wire as u32 { Side::Wire } else { Side::Inside };
    if let Some(found) = find(&embedded, side) {
        return found.reference.to_bits();
    }
    // The packet may well have been of a flow that this host has forgotten.
    let own = place == Place::Egress as u32 && headers.tuple.src == config.address;
    if own && is_nobody_listens(skb, &headers, &embedded) && tag::add_unknown_flow(skb, &headers, Ticks(now)).is_err() {
        return LIMITED;
    }
    NO_FLOW
}

/// The headers of what is known to be an ICMP error.
#[inline(always)]
fn outer(skb: Skb) -> Step<Headers> {
    let headers = parse::network(skb)?;
    let [kind, _] = skb.load::<[u8; 2]>(transport_offset(&headers)).ok_or(Verdict::PASS)?;
    Ok(Headers { flags: kind, ..headers })
}

/// Where the packet inside an error begins, from the Ethernet header on.
#[inline(always)]
fn embedded_at(headers: &Headers) -> usize {
    transport_offset(headers) + icmp_header::LEN
}

/// Whether an error's own checksum and that of the IP header inside are right (RFC 5508 REQ-3). The transport checksum
/// inside is not verified: a router need not quote all that it covers.
#[inline(always)]
fn is_sound(skb: Skb, headers: &Headers) -> bool {
    let ip = embedded_at(headers);
    let Some([first, _]) = skb.load::<[u8; 2]>(ip) else {
        return false;
    };
    hygiene::icmp_checksum_is_good(skb, headers) && hygiene::ip_checksum_is_good(skb, ip, usize::from(first & 0xf) << 2)
}

/// Decides what becomes of an error about the flow of `reference`: a [`Decision`], or a verdict's bits.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_icmp_error(skb: *mut __sk_buff, reference: u64, place: u32) -> u64 {
    match about(Skb::from_raw(skb), FlowRef::from_bits(reference), place) {
        Ok(decision) => decision.0,
        Err(verdict) => verdict.to_bits(),
    }
}

/// Where a translated error goes, in the lower half, and whom it comes from then.
#[derive(Clone, Copy)]
struct Decision(u64);

impl Decision {
    /// What tells a decision from a verdict's bits.
    const IS_ONE: u64 = 1 << 63;
    /// The error comes from whom it came from before.
    const ITS_OWN: u64 = 0;
    /// It comes from this host.
    const THIS_HOST: u64 = 1 << 32;
    /// It comes from the far end of the flow.
    const FAR_END: u64 = 1 << 33;

    #[inline(always)]
    const fn new(way: Way, source: u64) -> Self {
        Self(Self::IS_ONE | source | way as u64)
    }

    #[inline(always)]
    const fn way(self) -> Way {
        self.0 as u32
    }

    /// What the kernel gets is not forwarded here.
    #[inline(always)]
    const fn ttl(self) -> Ttl {
        if self.way() == KERNEL { Ttl::Keep } else { Ttl::Decrement }
    }
}

#[inline(always)]
fn about(skb: Skb, reference: FlowRef, place: u32) -> Step<Decision> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let found = lookup::by_reference(reference).ok_or(Verdict::PASS)?;
    let headers = outer(skb)?;
    let embedded = embedded(skb, &headers)?;
    if place == Place::Wire as u32 {
        return Ok(inward(skb, &headers, &embedded, &found));
    }
    outward(skb, config, &headers, &found, place == Place::Inside as u32)
}

/// Does what was decided, unless that is a verdict.
#[inline(always)]
fn carry_out(skb: Skb, reference: u64, decision: u64) -> Step<Verdict> {
    if decision & Decision::IS_ONE == 0 {
        return Err(Verdict::from_bits(decision));
    }
    Verdict::or_on(xnat_rewrite_error(skb.raw(), reference, decision))?;
    let config = maps::config().ok_or(Verdict::PASS)?;
    Ok(match Decision(decision).way() {
        KERNEL => Verdict::PASS,
        UPLINK => forward::to_uplink(skb, config),
        ifindex => forward::to_inside(skb, ifindex),
    })
}

/// Where a translated error goes: the number of an interface inside, or one of these.
type Way = u32;
/// To the kernel.
const KERNEL: Way = u32::MAX;
/// To the wire. No interface's number: what cannot be delivered inside leaves nowhere.
const UPLINK: Way = u32::MAX - 1;

/// An error from a container or a router inside, or of the host's own making: toward the wire, or back inside if the flow
/// is between two containers by way of this host's address.
#[inline(always)]
fn outward(skb: Skb, config: &Config, headers: &Headers, found: &Found, fast: bool) -> Step<Decision> {
    if Kind::side(found.flow().kind, found.direction().opposite()) == Side::Inside {
        // Nothing about such a flow has a way out of the uplink.
        return if fast { back_inside(skb, config, headers, found) } else { Err(Verdict::PASS) };
    }
    if !fast {
        return Ok(Decision::new(KERNEL, Decision::THIS_HOST));
    }
    forward::check_outward(skb, config, headers)?;
    forward::check_route(skb, headers, found.flow().translated(found.direction()).dst)?;
    Ok(Decision::new(UPLINK, Decision::THIS_HOST))
}

/// An error from inside about a packet that came from inside as well, by this host's address (RFC 5508 REQ-7).
#[inline(always)]
fn back_inside(skb: Skb, config: &Config, headers: &Headers, found: &Found) -> Step<Decision> {
    let dst = found.flow().translated(found.direction()).dst;
    if dst == config.address {
        // The flow is the host's own. The kernel takes nothing from an address of its own off an interface, so the error
        // stays its sender's; the socket is found by the packet inside.
        return Ok(Decision::new(KERNEL, Decision::ITS_OWN));
    }
    let place = open::where_inside(0, dst);
    // What cannot be delivered gets no answer, being an error: the host, to which it is addressed, ignores it.
    if forward::kernel_must_answer(skb, headers, place) {
        return Err(Verdict::PASS);
    }
    Ok(Decision::new(place.ifindex, Decision::THIS_HOST))
}

/// An error from the wire: toward the container, or the host itself.
#[inline(always)]
fn inward(skb: Skb, headers: &Headers, embedded: &Embedded, found: &Found) -> Decision {
    let source = inward_source(skb, headers, embedded);
    let to_host = found.flow().kind == Kind::Host as u8;
    let place = open::where_inside(found.flow().inside, found.flow().translated(found.direction()).dst);
    let to_kernel = to_host || forward::kernel_must_answer(skb, headers, place);
    Decision::new(if to_kernel { KERNEL } else { place.ifindex }, source)
}

/// Whom an error from the wire comes from in the container's eyes. A peer's host and its containers share an address
/// there: only routers say that the time is up or that fragmentation is needed, so these come from the host.
#[inline(always)]
fn inward_source(skb: Skb, headers: &Headers, embedded: &Embedded) -> u64 {
    let code = code(skb, headers);
    let from_router = headers.flags == icmp_header::TIME_EXCEEDED
        || headers.flags == icmp_header::UNREACHABLE && code == FRAGMENTATION_NEEDED;
    if headers.tuple.src == embedded.tuple.dst && !from_router { Decision::FAR_END } else { Decision::ITS_OWN }
}

/// The ICMP code.
#[inline(always)]
fn code(skb: Skb, headers: &Headers) -> u8 {
    skb.load(transport_offset(headers) + 1).unwrap_or(0)
}

/// The flow of the packet inside, in the direction in which the error travels.
#[inline(always)]
fn find(embedded: &Embedded, side: Side) -> Option<Found> {
    if embedded.without_ports {
        return None;
    }
    lookup::find(&FlowKey::new(embedded.tuple.reversed(), embedded.proto, side))
}

/// Whether an error is the host's own word that nobody listens on a UDP port.
#[inline(always)]
fn is_nobody_listens(skb: Skb, headers: &Headers, embedded: &Embedded) -> bool {
    headers.flags == icmp_header::UNREACHABLE
        && code(skb, headers) == PORT_UNREACHABLE
        && embedded.proto == proto::UDP
        && headers.tuple.src == embedded.tuple.dst
}

/// The tuple of the packets that go with an error that carries a flow tag, and their protocol.
#[inline(always)]
pub fn answers(skb: Skb, headers: &Headers) -> Step<(Tuple, u8)> {
    if !is_sound(skb, headers) {
        return Err(hygiene::BAD_CHECKSUM);
    }
    let embedded = embedded(skb, headers).map_err(|_| Verdict::drop(Counter::TagMalformed))?;
    Ok((embedded.tuple.reversed(), embedded.proto))
}

/// Reads the packet inside; what is too short belongs to nobody here.
#[inline(always)]
fn embedded(skb: Skb, headers: &Headers) -> Step<Embedded> {
    let ip = embedded_at(headers);
    let end = IP + usize::from(headers.total_len);
    let mut embedded =
        Embedded { tuple: Tuple::default(), proto: 0, kind: 0, without_ports: false, ip, transport: 0, end };
    let header: [u16; ipv4::LEN / 2] = embedded.load(skb, ip).ok_or(Verdict::PASS)?;
    let [first, total_len, _, fragment, ttl_proto, _, src0, src1, dst0, dst1] = header;
    let version = first.to_ne_bytes()[0];
    let ip_len = usize::from(version & 0xf) << 2;
    if version >> 4 != 4 || ip_len < ipv4::LEN {
        return Err(Verdict::PASS);
    }
    embedded.tuple = Tuple { src: address(src0, src1), dst: address(dst0, dst1), ..Tuple::default() };
    embedded.proto = ttl_proto.to_ne_bytes()[1];
    embedded.transport = ip + ip_len;
    let its_end = ip + usize::from(u16::from_be(total_len));
    if its_end < end {
        embedded.end = its_end;
    }
    if embedded.transport > embedded.end {
        return Err(Verdict::PASS);
    }
    if u16::from_be(fragment) & ipv4::OFFSET != 0 {
        embedded.without_ports = true;
        return Ok(embedded);
    }
    match embedded.proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            let [sport, dport]: [Port; 2] = embedded.load(skb, embedded.transport).ok_or(Verdict::PASS)?;
            embedded.tuple.sport = sport;
            embedded.tuple.dport = dport;
        }
        proto::ICMP => {
            let [kind_code, _, id, _]: [u16; 4] = embedded.load(skb, embedded.transport).ok_or(Verdict::PASS)?;
            embedded.kind = kind_code.to_ne_bytes()[0];
            match Icmp::of(embedded.kind) {
                Icmp::Query => embedded.tuple.sport = Port(id),
                Icmp::Answer => embedded.tuple.dport = Port(id),
                Icmp::Error | Icmp::Other => return Err(Verdict::PASS),
            }
        }
        _ => {}
    }
    Ok(embedded)
}

#[inline(always)]
fn address(first: u16, second: u16) -> Addr {
    let [a, b] = first.to_ne_bytes();
    let [c, d] = second.to_ne_bytes();
    Addr::new([a, b, c, d])
}

/// Rewrites the packet inside an error about the flow of `reference`, then the error around it, as was decided.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_rewrite_error(skb: *mut __sk_buff, reference: u64, decision: u64) -> u64 {
    Verdict::answer(rewrite(Skb::from_raw(skb), FlowRef::from_bits(reference), Decision(decision)))
}

#[inline(always)]
fn rewrite(skb: Skb, reference: FlowRef, decision: Decision) -> Step<()> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let found = lookup::by_reference(reference).ok_or(Verdict::PASS)?;
    let headers = &outer(skb)?;
    let embedded = &embedded(skb, headers)?.forgotten();
    // The tuple of packets that go with the error.
    let to = found.flow().translated(found.direction());
    let src = if decision.0 & Decision::THIS_HOST != 0 {
        config.address
    } else if decision.0 & Decision::FAR_END != 0 {
        to.src
    } else {
        headers.tuple.src
    };
    let src = Addr(forgotten(src.0.into()) as u32);
    let translation = Translation::new(embedded.tuple, to.reversed());
    let mut delta = forgotten(ip_header(skb, embedded, &translation)?.into()) as u32;
    delta += transport(skb, embedded, &translation)?;
    let delta = forgotten(delta.into()) as u32;
    let field = transport_offset(headers) + icmp_header::CHECKSUM;
    skb.change_checksum(field, delta, false, false)?;
    let around = Translation::new(headers.tuple, Tuple { src, dst: to.dst, ..Tuple::default() });
    rewrite::ip_header(skb, &around, decision.ttl())
}

/// Makes a flow tag in the IP header inside "no operation", because the container has not sent it; returns the change of
/// the sum over the options. An error about a message of ours, which is a header of its own, is nobody's: the packet that
/// it went ahead of gets its own.
#[inline(always)]
fn cover_tag(skb: Skb, embedded: &Embedded) -> Step<u32> {
    if embedded.transport - embedded.ip < ipv4::LEN + option::LEN {
        return Ok(0);
    }
    let at = embedded.ip + ipv4::LEN;
    let words: [u16; option::LEN / 2] = embedded.load(skb, at).ok_or(FAILED)?;
    let [a, b, c, d] = words;
    if a.to_ne_bytes()[0] != option::OPTION {
        return Ok(0);
    }
    if b.to_ne_bytes()[0] & 0xf != option::Kind::Open as u8 {
        return Err(Verdict::CONSUMED);
    }
    skb.store(at, [NOP; option::LEN])?;
    let nops = u16::from_ne_bytes([NOP; 2]);
    Ok(checksum::delta16(a, nops)
        + checksum::delta16(b, nops)
        + checksum::delta16(c, nops)
        + checksum::delta16(d, nops))
}

/// Rewrites the IP header inside; returns the change of the sum around it.
#[inline(always)]
fn ip_header(skb: Skb, embedded: &Embedded, translation: &Translation) -> Step<u32> {
    let at = embedded.ip + ipv4::CHECKSUM;
    let old: u16 = skb.load(at).ok_or(FAILED)?;
    let change = translation.addresses + cover_tag(skb, embedded)?;
    let new = checksum::update(old, change);
    skb.store(at, new)?;
    skb.store(embedded.ip + ipv4::SRC, [translation.to.src, translation.to.dst])?;
    Ok(checksum::delta16(old, new) + change)
}

/// Rewrites ports and checksum inside, as far as they are there; returns the change of the sum around them.
#[inline(always)]
fn transport(skb: Skb, embedded: &Embedded, translation: &Translation) -> Step<u32> {
    match embedded.proto {
        _ if embedded.without_ports => return Ok(0),
        proto::TCP | proto::UDP | proto::SCTP => {
            skb.store(embedded.transport, [translation.to.sport, translation.to.dport])?;
        }
        proto::ICMP => {
            let id =
                if let Icmp::Query = Icmp::of(embedded.kind) { translation.to.sport } else { translation.to.dport };
            skb.store(embedded.transport + icmp_header::ID, id)?;
        }
        _ => return Ok(0),
    }
    let mut delta = translation.ports;
    let Some(field) = transport_checksum(embedded.proto) else {
        return Ok(delta);
    };
    let at = embedded.transport + field.offset;
    // RFC 792 promises eight octets of the transport header; TCP's checksum lies beyond.
    let old: u16 = match embedded.load(skb, at) {
        Some(0) if field.optional => return Ok(delta),
        Some(old) => old,
        None if field.offset == tcp_header::CHECKSUM => return Ok(delta),
        None => return Err(FAILED),
    };
    let change = if field.pseudo_header { checksum::fold(translation.addresses) } else { 0 };
    let sum = checksum::update(old, u32::from(change) + u32::from(checksum::fold(translation.ports)));
    // A sum of zero is written as its other form, zero being no sum (RFC 768).
    let new = if field.optional && sum == 0 { u16::MAX } else { sum };
    skb.store(at, new)?;
    delta += checksum::delta16(old, new);
    Ok(delta)
}

const FAILED: Verdict = Verdict::drop(Counter::IcmpErrorUntranslatable);
