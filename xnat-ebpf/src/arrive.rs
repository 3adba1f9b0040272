//! What comes to this host's address on the wire and belongs to no flow: whether it is a container's.
//!
//! In this order: a forward has it; the host has it; a mapping has it, and lets the sender in or not; the default container
//! has it. Everything else is the host's.

use aya_ebpf::bindings::__sk_buff;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::mapping::ForwardKey;
use xnat_common::packet::{Headers, Icmp, proto};
use xnat_common::{Addr, FlowKey, Port, Side, Tuple};

use crate::claim::Opening;
use crate::maps::{self, PEERS};
use crate::skb::Skb;
use crate::socket::{self, Rival};
use crate::verdict::{Step, Verdict};
use crate::{filtering, kernel_flow, mapping, open, parse};

/// The container for which a packet is: address, port, kind of flow and whether it lets the sender in. One word, because
/// the verifier rejects the copy of a structure that may be absent.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Target(u64);

impl Target {
    const NONE: Self = Self(0);

    #[inline(always)]
    fn new(kind: Kind, address: Addr, port: Port, admits: bool) -> Self {
        Self(u64::from(address.0) << 32 | u64::from(port.0) << 16 | (kind as u64) << 8 | u64::from(admits))
    }

    /// What stands for "the packet passes" where a target would be.
    const PASS: u64 = u64::MAX;

    #[inline(always)]
    fn of_answer(answer: u64) -> Step<Self> {
        if answer == Self::PASS { Err(Verdict::PASS) } else { Ok(Self(answer)) }
    }

    #[inline(always)]
    fn address(self) -> Addr {
        Addr((self.0 >> 32) as u32)
    }

    #[inline(always)]
    fn port(self) -> Port {
        Port((self.0 >> 16) as u16)
    }

    #[inline(always)]
    fn kind(self) -> Kind {
        if (self.0 >> 8) as u8 == Kind::Forward as u8 { Kind::Forward } else { Kind::Mapped }
    }

    #[inline(always)]
    fn admits(self) -> bool {
        self.0 & 1 == 1
    }
}

/// From the wire.
#[inline(always)]
pub fn from_wire(skb: Skb) -> Step<&'static Opening> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    let headers = &parse::headers(skb)?;
    // No container is seen on the wire by its own address, a peer's neither: its answers would lead past the last gate.
    if maps::subnet(headers.tuple.src).is_some() {
        return Err(Verdict::PASS);
    }
    let mut target = Target::of_answer(xnat_target(skb.raw(), Side::Wire as u32))?;
    if target == Target::NONE {
        target = default_target(skb, config, headers)?;
    }
    if !target.admits() {
        return Err(Verdict::drop(Counter::Filtered));
    }
    let opening = Opening {
        proto: headers.proto,
        kind: target.kind(),
        original: headers.tuple,
        reply: reply(target, headers, headers.tuple.src),
        inside: open::interface_of(target.address()).ok_or(Verdict::PASS)?,
        peer: Addr::UNSPECIFIED,
        state: State::default(),
    };
    opening.note()
}

/// From this host itself, at the loopback interface.
#[inline(always)]
pub fn from_itself(skb: Skb) -> Step<&'static Opening> {
    let config = maps::config().ok_or(Verdict::PASS)?;
    hairpin(skb, config, &parse::headers(skb)?, 0)
}

/// From a container, or from this host itself (`inside` is zero then), to another container by this host's address. The
/// receiver sees that address as the sender's as well (RFC 4787 REQ-9).
#[inline(always)]
pub fn hairpin(skb: Skb, config: &Config, headers: &Headers, inside: u32) -> Step<&'static Opening> {
    let target = Target::of_answer(xnat_target(skb.raw(), Side::Inside as u32))?;
    if target == Target::NONE {
        return Err(Verdict::PASS);
    }
    open::interface_of(target.address()).ok_or(Verdict::PASS)?;
    let opening = Opening {
        proto: headers.proto,
        kind: Kind::Hairpin,
        original: headers.tuple,
        reply: reply(target, headers, config.address),
        inside,
        peer: Addr::UNSPECIFIED,
        // Not let in yet, the sender has asked nevertheless, and so lets the other one in.
        state: State(if target.admits() { 0 } else { State::HELD }),
    };
    opening.note()
}

/// The tuple of the container's answers, which go to `sender`.
#[inline(always)]
fn reply(target: Target, headers: &Headers, sender: Addr) -> Tuple {
    Tuple { src: target.address(), dst: sender, sport: target.port(), dport: headers.tuple.sport }
}

/// The container that a forward or a mapping has the packet for, if it is not the host's: a [`Target`], or [`Target::PASS`].
///
/// A global function, which the verifier checks once by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_target(skb: *mut __sk_buff, side: u32) -> u64 {
    let skb = Skb::from_raw(skb);
    let side = if side == Side::Wire as u32 { Side::Wire } else { Side::Inside };
    let (Some(config), Ok(headers)) = (maps::config(), parse::headers(skb)) else {
        return Target::PASS;
    };
    target(skb, config, &headers, side).map_or(Target::PASS, |target| target.0)
}

#[inline(always)]
fn target(skb: Skb, config: &Config, headers: &Headers, side: Side) -> Option<Target> {
    // In the middle of a connection that nobody here knows: the host resets it.
    if headers.proto == proto::TCP && !headers.opens() {
        return None;
    }
    let port = headers.tuple.dport;
    // What the host is asking or answering itself stays its own, though a forward has the port.
    let own_talk = match side {
        Side::Inside if headers.tuple.src == config.address => is_hosts(skb, headers),
        _ => headers.proto == proto::UDP && socket::takes(skb, proto::UDP, &headers.tuple, Rival::Connected),
    };
    if own_talk {
        return Some(Target::NONE);
    }
    let key = ForwardKey { port, proto: headers.proto, zero: 0 };
    if let Some(forward) = maps::forward(config, &key) {
        return Some(Target::new(Kind::Forward, forward.address, forward.port, true));
    }
    // A query is for the host: its identifier is the sender's.
    if headers.proto == proto::ICMP && !matches!(Icmp::of(headers.flags), Icmp::Answer) {
        return Some(Target::NONE);
    }
    // A hairpin comes from our own address.
    let remote = if let Side::Wire = side { headers.tuple.src } else { config.address };
    let admitted = filtering::admits(config, headers.proto, port, remote);
    if admitted.is_free() && mapping::owner_of(headers.proto, port).is_free() || is_hosts(skb, headers) {
        return Some(Target::NONE);
    }
    let admits = !admitted.is_free();
    let owner = if admits { admitted } else { mapping::owner_of(headers.proto, port) };
    // A peer is told by the host's error that a flow is unknown here; what opens a connection belongs to none.
    let may_be_unknown = headers.proto != proto::TCP && maps::speaking_peer(remote).is_some();
    if !admits && (may_be_unknown || owner.is_leaving()) {
        return Some(Target::NONE);
    }
    Some(Target::new(Kind::Mapped, owner.address(), owner.port(), admits))
}

/// The container that gets what peers without xnat address to this host, as far as the host has no use for it.
#[inline(always)]
fn default_target(skb: Skb, config: &Config, headers: &Headers) -> Step<Target> {
    let wanted = config.default_inbound != Addr::UNSPECIFIED
        && PEERS.get_ptr(&headers.tuple.src).is_some()
        && maps::speaking_peer(headers.tuple.src).is_none()
        && headers.opens()
        && !is_hosts(skb, headers);
    if !wanted {
        return Err(Verdict::PASS);
    }
    Ok(Target::new(Kind::Forward, config.default_inbound, headers.tuple.dport, true))
}

/// Whether a socket of the host's, or the kernel's own NAT, has use for a packet.
#[inline(always)]
fn is_hosts(skb: Skb, headers: &Headers) -> bool {
    kernel_flow::knows(&FlowKey::new(headers.tuple, headers.proto, Side::Wire))
        || socket::takes(skb, headers.proto, &headers.tuple, Rival::Any)
}
