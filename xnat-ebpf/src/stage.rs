//! The stages of a packet's way: programs that several hooks share, reached by tail calls.
//!
//! The kernel verifies each program by itself. A step that each hook had a copy of would be verified as often, so what hooks
//! have in common are programs of their own, and so is what few packets need. The programs at the hooks keep what most
//! packets need, the express lane.
//!
//! What a packet takes along from one to the next lies in its control block, words that programs at one hook share; its
//! headers are read anew. No stage trusts anything there but that an earlier one has written it: a hook begins anew.

use aya_ebpf::programs::TcContext;
use xnat_common::FlowRef;
use xnat_common::counter::Counter;
use xnat_common::names::program;
use xnat_common::packet::Headers;

use crate::last_gate;
use crate::maps::{self, STAGES};
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};

/// A program that is reached from others; its number is its place in `STAGES` ([`program::STAGES`]).
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Whose is the packet, and what does it open?
    Classify,
    /// Opens the flow that has been noted.
    Open,
    /// The flow is known.
    Translate,
    /// ICMP errors.
    Error,
    /// Fragments that come in, before they are classified; and the other end of a first fragment's way.
    Fragment,
}

/// So many there are.
pub const STAGES_LEN: usize = program::STAGES.len();

/// Where a packet is seen.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the ingress hooks on the inside.
    Inside,
    /// At the uplink's egress hook.
    Egress,
    /// At the uplink's ingress hook.
    Wire,
    /// At the loopback interface.
    Itself,
}

/// The words of the control block: the place in the lowest octet, and flags;
const PLACE: usize = 0;
/// a fragment's handle in `DATAGRAMS`, or zero;
const DATAGRAM: usize = 1;
/// the packet's flow, or its fate.
const SUBJECT: [usize; 2] = [2, 3];

/// The packet comes from the express lane, and opens a flow.
pub const LANE: u32 = 1 << 8;
/// It is the first fragment of its datagram: its fate becomes that of the others.
const FIRST: u32 = 1 << 9;
/// Its fate is known, and has to be told to the others.
const SETTLES: u32 = 1 << 10;
/// It carries a peer's tag, by which it opens a flow.
pub const TAGGED: u32 = 1 << 11;
/// It is nothing but the announcement of a flow that it opens.
pub const ANNOUNCED: u32 = 1 << 12;
/// It says that its flow conflicts with one of the peer's.
pub const CONFLICT: u32 = 1 << 13;
/// It opens a flow, and a route leads to where that goes.
pub const ROUTED: u32 = 1 << 14;

/// Begins a packet's long way.
#[inline(always)]
pub fn begin(skb: Skb, place: Place) {
    skb.set_note(PLACE, place as u32);
    skb.set_note(DATAGRAM, 0);
}

/// Where the packet is seen.
#[inline(always)]
pub fn place(skb: Skb) -> Place {
    const INSIDE: u32 = Place::Inside as u32;
    const EGRESS: u32 = Place::Egress as u32;
    const WIRE: u32 = Place::Wire as u32;
    match skb.note(PLACE) & 0xff {
        INSIDE => Place::Inside,
        EGRESS => Place::Egress,
        WIRE => Place::Wire,
        _ => Place::Itself,
    }
}

#[inline(always)]
pub fn has(skb: Skb, flag: u32) -> bool {
    skb.note(PLACE) & flag != 0
}

#[inline(always)]
pub fn set(skb: Skb, flag: u32) {
    skb.set_note(PLACE, skb.note(PLACE) | flag);
}

/// The handle of a fragment's datagram, or zero.
#[inline(always)]
pub fn datagram(skb: Skb) -> u32 {
    skb.note(DATAGRAM)
}

#[inline(always)]
fn set_datagram(skb: Skb, handle: u32, headers: &Headers) {
    skb.set_note(DATAGRAM, handle);
    if !headers.is_later_fragment() {
        set(skb, FIRST);
    }
}

/// The flow that the packet belongs to.
#[inline(always)]
pub fn flow(skb: Skb) -> FlowRef {
    FlowRef::from_bits(subject(skb))
}

#[inline(always)]
fn subject(skb: Skb) -> u64 {
    u64::from(skb.note(SUBJECT[1])) << 32 | u64::from(skb.note(SUBJECT[0]))
}

#[inline(always)]
fn set_subject(skb: Skb, bits: u64) {
    skb.set_note(SUBJECT[0], bits as u32);
    skb.set_note(SUBJECT[1], (bits >> 32) as u32);
}

/// Where a packet goes on: a stage, or its fate. One word, for global functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Next(u64);

impl Next {
    /// What tells a stage from a verdict's bits.
    const IS_STAGE: u64 = 1 << 63;
    pub const FRAGMENT: Self = Self::stage(Stage::Fragment);
    pub const ERROR: Self = Self::stage(Stage::Error);
    pub const OPEN: Self = Self::stage(Stage::Open);
    const TRANSLATE: Self = Self::stage(Stage::Translate);
    const CLASSIFY: Self = Self::stage(Stage::Classify);

    #[inline(always)]
    const fn stage(stage: Stage) -> Self {
        Self(Self::IS_STAGE | stage as u64)
    }

    /// The packet is translated as one of this flow.
    #[inline(always)]
    pub fn translate(skb: Skb, flow: FlowRef) -> Self {
        set_subject(skb, flow.to_bits());
        Self::TRANSLATE
    }

    /// The flow of the packet, which is about it, is given another port.
    #[inline(always)]
    pub fn conflict(skb: Skb, flow: FlowRef) -> Self {
        set_subject(skb, flow.to_bits());
        set(skb, CONFLICT);
        Self::OPEN
    }

    /// The fragment has a datagram now, and is classified.
    #[inline(always)]
    pub fn arrived(skb: Skb, handle: u32, headers: &Headers) -> Self {
        set_datagram(skb, handle, headers);
        Self::CLASSIFY
    }

    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// What a step has answered.
    #[inline(always)]
    pub fn of(step: Step<Self>) -> Self {
        match step {
            Ok(next) => next,
            Err(verdict) => Self(verdict.to_bits()),
        }
    }

    /// The reverse of [`Self::to_bits`], with a fate as an error.
    #[inline(always)]
    pub fn of_answer(answer: u64) -> Step<Self> {
        if answer & Self::IS_STAGE == 0 { Err(Verdict::from_bits(answer)) } else { Ok(Self(answer)) }
    }

    /// Goes there, or ends the packet's way.
    #[inline(always)]
    pub fn go(self, context: &TcContext) -> i32 {
        match self {
            Self::TRANSLATE => go(context, Stage::Translate),
            Self::OPEN => go(context, Stage::Open),
            Self::CLASSIFY => go(context, Stage::Classify),
            Self::ERROR => go(context, Stage::Error),
            Self::FRAGMENT => go(context, Stage::Fragment),
            Self(verdict) => end(context, Verdict::from_bits(verdict)),
        }
    }
}

/// Goes on in a stage.
#[inline(always)]
pub fn go(context: &TcContext, stage: Stage) -> i32 {
    jump(context, stage);
    without(Skb::new(context)).finish()
}

/// The tail call, which returns if there is no such stage.
#[inline(always)]
fn jump(context: &TcContext, stage: Stage) {
    // SAFETY: nothing here has a destructor.
    unsafe { STAGES.tail_call(context, stage as u32) };
}

/// The fate of a packet for which there is no stage. While a dataplane is being loaded, which is configured last, it passes.
/// While one is being taken away its hooks go one after the other, and the stages do not wait for that; or somebody has
/// removed its pins: then the kernel has the packet, but no container's address leaves.
#[inline(always)]
fn without(skb: Skb) -> Verdict {
    if maps::config().is_none() {
        return Verdict::PASS;
    }
    maps::count(Counter::StageMissing);
    if place(skb) == Place::Egress { last_gate::judge(skb) } else { Verdict::PASS }
}

/// The end of a packet's long way.
#[inline(always)]
pub fn end(context: &TcContext, fate: Verdict) -> i32 {
    let skb = Skb::new(context);
    let fate = if fate == Verdict::PASS && place(skb) == Place::Egress { last_gate::judge(skb) } else { fate };
    if has(skb, FIRST) {
        set_subject(skb, fate.to_bits());
        set(skb, SETTLES);
        jump(context, Stage::Fragment);
    }
    fate.finish()
}

/// What has become of a first fragment that only has to tell it the others.
#[inline(always)]
pub fn settles(skb: Skb) -> Option<Verdict> {
    has(skb, SETTLES).then(|| Verdict::from_bits(subject(skb)))
}
