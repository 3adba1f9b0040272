//! The express lane: packets of established flows with nothing about them that wants a closer look.
//!
//! A packet takes it if all is plain: an IPv4 header without options, no fragment, a TCP segment in the middle of a
//! connection or a UDP datagram, a flow that is settled, a next hop that is remembered. Then one look-up, one pass over the
//! headers and a redirect are all. Nothing of the packet has been changed when it leaves the lane for the
//! long way, and of the flow nothing that the long way would not change in the same manner.
//!
//! Where there is nothing to a flow but its connection, as toward the outside, segments that begin and end that take the
//! lane as well: it is a step more.
//!
//! Plain packets that open a flow go on in `express_open`.

use aya_ebpf::helpers::generated::bpf_csum_update;
use xnat_common::checksum::{self, sum32};
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::hop::Watch;
use xnat_common::packet::{Headers, ethernet, ipv4, proto, tcp_header, udp_header};
use xnat_common::tcp::window::Scale;
use xnat_common::tcp::{self, Judgement, Segment, Window, flags};
use xnat_common::translate::Translation;
use xnat_common::{Addr, FlowKey, Port, Side, Ticks, Tuple};

use crate::forward::Ttl;
use crate::hop::{self, Mac};
use crate::lookup::{self, Found};
use crate::maps::{self, WATCH};
use crate::parse::IP;
use crate::skb::{Skb, forgotten};
use crate::verdict::{Step, Verdict};
use crate::{account, clock, express_open, forward, identification, opener, rewrite, segment};

/// Where the transport header begins.
const TRANSPORT: usize = IP + ipv4::LEN;
/// Version 4, and a header of 20 octets.
const PLAIN: u8 = 0x45;

/// Where a packet leaves the lane.
pub enum Lane {
    /// At its end.
    End(Verdict),
    /// It may open a flow. No flow has a datagram's tuple; for that of a TCP segment nobody has looked yet.
    Opens,
    /// It goes the long way.
    LongWay,
}

/// From a container, at a port of the bridge or a plain interface.
#[inline(always)]
pub fn from_inside(skb: Skb) -> Lane {
    lane::<true>(skb)
}

/// From the wire.
#[inline(always)]
pub fn from_wire(skb: Skb) -> Lane {
    lane::<false>(skb)
}

#[inline(always)]
fn lane<const OUT: bool>(skb: Skb) -> Lane {
    let Some((config, plain)) = enter(skb) else {
        return Lane::LongWay;
    };
    let side = if OUT { Side::Inside } else { Side::Wire };
    let key = FlowKey::new(plain.tuple, plain.proto, side);
    if plain.syn {
        if OUT {
            express_open::prefetch(config, &plain, &key);
            return Lane::Opens;
        }
        return Lane::LongWay;
    }
    // A segment without SYN opens nothing here.
    let may_open = OUT && plain.proto == proto::UDP;
    let foreseen = may_open && opener::opens(skb.ifindex());
    if foreseen {
        express_open::prefetch(config, &plain, &key);
    }
    // From here on there is one way for all packets, and not one for each answer.
    let may_open = OUT && forgotten(may_open.into()) != 0;
    let foreseen = OUT && forgotten(foreseen.into()) != 0;
    if let Some(found) = lookup::find_fast(config, &key) {
        if foreseen {
            opener::note(skb.ifindex(), false);
        }
        return onward::<OUT>(skb, config, &plain, &found).map_or(Lane::LongWay, Lane::End);
    }
    if !may_open {
        return Lane::LongWay;
    }
    if !foreseen {
        opener::note(skb.ifindex(), true);
    }
    Lane::Opens
}

/// A plain packet, where the lane is open.
#[inline(always)]
pub fn enter(skb: Skb) -> Option<(&'static Config, Plain)> {
    let config = maps::config()?;
    if config.flags & (Config::KERNEL_PATH | Config::SLOW_PATH) != 0 {
        return None;
    }
    Some((config, Plain::read(skb)?))
}

/// A packet whose flow was found.
#[inline(always)]
fn onward<const OUT: bool>(skb: Skb, config: &Config, plain: &Plain, found: &Found) -> Option<Verdict> {
    let side = if OUT { Side::Inside } else { Side::Wire };
    let steady = !plain.turns() && found.flow().is_steady(found.direction(), side);
    if !steady && (plain.proto != proto::TCP || !found.flow().may_turn(found.direction(), side)) {
        return None;
    }
    let (watch, now) = (WATCH.get(0)?, clock::now());
    if OUT {
        is_at_its_place(skb, plain, found, watch, now)?;
    }
    let way = hop::remembered(hop::name(found, found.direction()), watch, now)?;
    if plain.wire_len(skb) > way.mtu.into() || !may_live(config, found, now) {
        return None;
    }
    // Read before the flow is known to live still: the slot may get another one.
    let (to, inside) = (found.flow().translated(found.direction()), found.flow().inside);
    if steady {
        // Only what is known to be a packet of the flow keeps it alive.
        if plain.proto == proto::TCP && !is_plausible(skb, plain, found) || !found.refresh(now) {
            return None;
        }
        account::count(found, plain.total_len.into());
    } else if !account::account(skb, found.reference, &plain.headers(), now) {
        return Some(Verdict::drop(Counter::FlowBusy));
    }
    if let Err(drop) = translate::<OUT>(skb, plain, to) {
        return Some(drop);
    }
    if way.asks(now) {
        return Some(if OUT { forward::to_uplink(skb, config) } else { forward::to_inside(skb, inside) });
    }
    way.go(skb, OUT)
}

/// Whether a container's packet comes from where answers to it go, and is for this host's MAC address there.
#[inline(always)]
fn is_at_its_place(skb: Skb, plain: &Plain, found: &Found, watch: &Watch, now: Ticks) -> Option<()> {
    let back = hop::remembered(hop::name(found, found.direction().opposite()), watch, now)?;
    (back.ifindex == skb.ifindex() && back.src == plain.mac).then_some(())
}

/// Whether the flow cannot have expired without the collector having come by yet.
#[inline(always)]
fn may_live(config: &Config, found: &Found, now: Ticks) -> bool {
    now.since(found.word().last_seen()).0 < config.least_idle
}

/// Whether a TCP segment in the middle of a connection is one of it; takes over what it says of the windows.
#[inline(always)]
fn is_plausible(skb: Skb, plain: &Plain, found: &Found) -> bool {
    // Neither begins it nor ends a direction of it: nothing else of the flags matters.
    segment(skb, plain, flags::ACK, Scale::NONE)
        .is_some_and(|segment| account::judge(found, &segment) as u8 == Judgement::Plausible as u8)
}

/// The state of a connection, and the window of its opener, after the segment that opens it.
#[inline(always)]
pub fn opened(skb: Skb, plain: &Plain) -> Option<(State, Window)> {
    let segment = segment(skb, plain, flags::SYN, segment::scale_in(skb, TRANSPORT, plain.header.into()))?;
    Some((State::default().with_tcp(tcp::State::SynSent), Window::of_syn(&segment)))
}

/// A TCP segment, of which `flags` and `scale` matter.
#[inline(always)]
fn segment(skb: Skb, plain: &Plain, flags: u8, scale: Scale) -> Option<Segment> {
    let tcp = skb.at::<[u8; tcp_header::LEN]>(TRANSPORT)?.cast::<u8>();
    // SAFETY: the whole header is in bounds.
    let (seq, ack, window) = unsafe {
        (
            u32::from_be(tcp.add(tcp_header::SEQUENCE).cast::<u32>().read()),
            u32::from_be(tcp.add(tcp_header::ACKNOWLEDGEMENT).cast::<u32>().read()),
            u16::from_be(tcp.add(tcp_header::WINDOW).cast::<u16>().read()),
        )
    };
    let payload = u32::from(plain.total_len) - ipv4::LEN as u32 - u32::from(plain.header);
    Some(Segment { seq, ack, payload, window, flags, scale: scale.0 })
}

/// What matters of a plain packet before it is changed.
pub struct Plain {
    pub tuple: Tuple,
    /// The frame's destination.
    pub mac: Mac,
    /// From the IP header on.
    pub total_len: u16,
    pub proto: u8,
    /// Length of the transport header.
    header: u8,
    /// Of a TCP segment.
    flags: u8,
    /// A TCP segment that opens a connection.
    pub syn: bool,
}

impl Plain {
    #[inline(always)]
    fn read(skb: Skb) -> Option<Self> {
        if skb.has_vlan() {
            return None;
        }
        let frame = skb.at::<Frame>(0)?.cast::<u8>();
        // SAFETY: so many bytes are in bounds; x86 and arm64 load what lies across.
        let (plain, fragment, ttl) = unsafe {
            let ip = frame.add(IP);
            if frame.add(ethernet::TYPE).cast::<u16>().read() != ethernet::IPV4.to_be() || *ip != PLAIN {
                return None;
            }
            let plain = Self {
                tuple: tuple(skb).ok()?,
                mac: Mac::read(frame),
                total_len: u16::from_be(ip.add(ipv4::TOTAL_LEN).cast::<u16>().read()),
                proto: *ip.add(ipv4::PROTO),
                header: udp_header::LEN as u8,
                flags: 0,
                syn: false,
            };
            (plain, ip.add(ipv4::FRAGMENT).cast::<u16>().read(), *ip.add(ipv4::TTL))
        };
        let whole = fragment & !ipv4::DF.to_be() == 0;
        if !whole || ttl <= 1 || IP as u32 + u32::from(plain.total_len) > skb.len() {
            return None;
        }
        match plain.proto {
            proto::UDP => (usize::from(plain.total_len) >= ipv4::LEN + udp_header::LEN).then_some(plain),
            proto::TCP => plain.tcp(skb),
            _ => None,
        }
    }

    /// The same of a TCP segment that opens a connection, or is of one.
    #[inline(always)]
    fn tcp(self, skb: Skb) -> Option<Self> {
        const MEANT: u8 = flags::SYN | flags::FIN | flags::RST | flags::ACK;
        const OF_ONE: u8 = flags::RST | flags::ACK;
        let tcp = skb.at::<[u8; tcp_header::LEN]>(TRANSPORT)?.cast::<u8>();
        // SAFETY: the whole header is in bounds.
        let (offset, flags) = unsafe { (*tcp.add(tcp_header::DATA_OFFSET), *tcp.add(tcp_header::FLAGS)) };
        let header = (offset >> 4) << 2;
        let fits = usize::from(header) >= tcp_header::LEN && ipv4::LEN as u16 + u16::from(header) <= self.total_len;
        let syn = flags & MEANT == flags::SYN;
        (fits && (syn || flags & OF_ONE == flags::ACK)).then_some(Self { header, flags, syn, ..self })
    }

    /// Whether it is a TCP segment that answers an opening, or ends a direction.
    #[inline(always)]
    const fn turns(&self) -> bool {
        self.flags & (flags::SYN | flags::FIN) != 0
    }

    /// As the long way has them.
    #[inline(always)]
    pub fn headers(&self) -> Headers {
        Headers {
            tuple: self.tuple,
            proto: self.proto,
            flags: self.flags,
            ip_len: ipv4::LEN as u8,
            total_len: self.total_len,
            ..Headers::default()
        }
    }

    /// The length of the longest IP packet that will leave: of a segment, if the packet will be cut into such.
    #[inline(always)]
    pub fn wire_len(&self, skb: Skb) -> u32 {
        match skb.gso_size() {
            0 => self.total_len.into(),
            segment => ipv4::LEN as u32 + u32::from(self.header) + segment,
        }
    }
}

/// Gives the packet the other tuple of its flow, `to`, the next TTL, and an identification of its own if it may be fragmented.
#[inline(always)]
pub fn translate<const OUT: bool>(skb: Skb, plain: &Plain, to: Tuple) -> Step<()> {
    let translation = Translation::new(tuple(skb)?, to);
    transport_checksum(skb, plain.proto == proto::UDP, &translation)?;
    rewrite::ip_header(skb, &translation, Ttl::Decrement)?;
    let frame: *mut Frame = skb.at(0).ok_or(FAILED)?;
    // SAFETY: so many bytes are in bounds; so below.
    let id = unsafe {
        let ip = frame.cast::<u8>().add(IP);
        let ports = ip.add(ipv4::LEN).cast::<u16>();
        ports.write(to.sport.0);
        ports.add(1).write(to.dport.0);
        if !OUT || ip.add(ipv4::FRAGMENT).cast::<u16>().read() & ipv4::DF.to_be() != 0 {
            return Ok(());
        }
        ip.add(ipv4::ID).cast::<u16>().read()
    };
    rewrite::identification(skb, id, identification::random())
}

/// The frame's headers up to UDP's.
type Frame = [u8; TRANSPORT + udp_header::LEN];

/// The tuple of a plain packet.
#[inline(always)]
fn tuple(skb: Skb) -> Step<Tuple> {
    let frame: *const Frame = skb.at(0).ok_or(FAILED)?;
    // SAFETY: as above.
    unsafe {
        let ip = frame.cast::<u8>().add(IP);
        let ports = ip.add(ipv4::LEN).cast::<u16>();
        Ok(Tuple {
            src: Addr(ip.add(ipv4::SRC).cast::<u32>().read()),
            dst: Addr(ip.add(ipv4::DST).cast::<u32>().read()),
            sport: Port(ports.read()),
            dport: Port(ports.add(1).read()),
        })
    }
}

/// Changes the transport checksum where it stands, unless the field may be one that the device completes: only the
/// helper knows that for certain.
#[inline(always)]
fn transport_checksum(skb: Skb, udp: bool, translation: &Translation) -> Step<()> {
    let at = TRANSPORT + if udp { udp_header::CHECKSUM } else { tcp_header::CHECKSUM };
    let field: *mut u16 = skb.at(at).ok_or(FAILED)?;
    // SAFETY: `at` has checked the bounds.
    let old = unsafe { field.read() };
    if old == pseudo_header(skb)? || skb.gso_size() != 0 {
        skb.change_checksum(at, translation.addresses, true, udp)?;
        return skb.change_checksum(at, translation.ports, false, udp);
    }
    if udp && old == 0 {
        return Ok(());
    }
    let sum = checksum::update(old, translation.addresses + translation.ports);
    // SAFETY: as above.
    unsafe { field.write(if udp && sum == 0 { NONE_IS_ZERO } else { sum }) };
    // The network card's sum over the packet (`CHECKSUM_COMPLETE`), if it has made one: the pseudo-header is not in it.
    // SAFETY: the context is valid; without such a sum the helper does nothing.
    unsafe { bpf_csum_update(skb.raw(), u32::from(!checksum::fold(translation.addresses))) };
    Ok(())
}

/// The sum over the pseudo-header, which is what a checksum field holds that the device is to complete
/// (`CHECKSUM_PARTIAL`).
#[inline(always)]
fn pseudo_header(skb: Skb) -> Step<u16> {
    let frame: *const Frame = skb.at(0).ok_or(FAILED)?;
    // SAFETY: as above.
    unsafe {
        let ip = frame.cast::<u8>().add(IP);
        let len = u16::from_be(ip.add(ipv4::TOTAL_LEN).cast::<u16>().read()).wrapping_sub(ipv4::LEN as u16);
        let ends = sum32(ip.add(ipv4::SRC).cast::<u32>().read()) + sum32(ip.add(ipv4::DST).cast::<u32>().read());
        let protocol = u16::from(*ip.add(ipv4::PROTO)).to_be();
        Ok(checksum::fold(ends + u32::from(protocol) + u32::from(len.to_be())))
    }
}

/// What a UDP checksum of zero is written as, because zero stands for none (RFC 768).
const NONE_IS_ZERO: u16 = 0xffff;
const FAILED: Verdict = Verdict::drop(Counter::RewriteFailed);
