//! The programs that several hooks share ([`Stage`](crate::stage::Stage)).

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::skb::Skb;
use crate::stage::{self, LANE, Next, Place, Stage};
use crate::{classify, clock, express_open, fragment, icmp_error, open, parse, translate};

/// Whose a packet is, and what it opens.
#[classifier]
#[inline(always)]
pub fn xnat_classify(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    let step = match stage::place(skb) {
        Place::Inside => classify::from_container(skb),
        Place::Egress => classify::to_wire(skb),
        Place::Wire => classify::from_wire(skb),
        Place::Itself => classify::to_itself(skb),
    };
    Next::of(step).go(&context)
}

/// Opens the flow that has been noted, and sends its first packet on.
#[classifier]
#[inline(always)]
pub fn xnat_open(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if stage::has(skb, LANE) {
        if let Some(verdict) = express_open::from_inside(skb) {
            return verdict.finish();
        }
        stage::begin(skb, Place::Inside);
        return stage::go(&context, Stage::Classify);
    }
    Next::of(open::noted(skb)).go(&context)
}

/// Translates a packet of a flow.
#[classifier]
#[inline(always)]
pub fn xnat_translate(context: TcContext) -> i32 {
    let (Ok(verdict) | Err(verdict)) = translate::packet(Skb::new(&context));
    stage::end(&context, verdict)
}

/// Translates an ICMP error about a flow.
#[classifier]
#[inline(always)]
pub fn xnat_error(context: TcContext) -> i32 {
    let (Ok(verdict) | Err(verdict)) = icmp_error::packet(Skb::new(&context));
    stage::end(&context, verdict)
}

/// Finds the datagram of a fragment, or tells the others of what has become of the first one.
#[classifier]
#[inline(always)]
pub fn xnat_fragment(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if let Some(fate) = stage::settles(skb) {
        return fragment::settle(skb, stage::datagram(skb), fate).finish();
    }
    let step = parse::headers(skb)
        .and_then(|headers| Ok(Next::arrived(skb, fragment::arrive(skb, &headers, clock::now())?, &headers)));
    Next::of(step).go(&context)
}
