//! The programs at the hooks, the collector's, and those that sockets run when they are bound.

use aya_ebpf::macros::{cgroup_sock, classifier};
use aya_ebpf::programs::{SockContext, TcContext};
use xnat_common::host_port;
use xnat_common::mark;

use crate::express::{self, Lane};
use crate::skb::Skb;
use crate::stage::{self, LANE, Place, Stage};
use crate::verdict::Verdict;
use crate::{classify, clock, collect, maps, socket};

/// From the containers: at each port of the bridge, at the bridge, and at plain interfaces.
#[classifier]
#[inline(always)]
pub fn xnat_inside_in(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    match express::from_inside(skb) {
        Lane::End(verdict) => verdict.finish(),
        Lane::Opens => {
            stage::begin(skb, Place::Inside);
            stage::set(skb, LANE);
            stage::go(&context, Stage::Open)
        }
        Lane::LongWay => {
            stage::begin(skb, Place::Inside);
            stage::go(&context, Stage::Classify)
        }
    }
}

/// To the containers: at the bridge and at plain interfaces. Nothing is translated here; what the kernel sends is
/// remembered, so that the answers are left to it.
#[classifier]
#[inline(always)]
pub fn xnat_inside_out(context: TcContext) -> i32 {
    classify::to_inside(Skb::new(&context)).finish()
}

/// From the peers and the outside.
#[classifier]
#[inline(always)]
pub fn xnat_uplink_in(context: TcContext) -> i32 {
    let skb = Skb::new(&context);
    if skb.is_for_another_host() {
        return Verdict::PASS.finish();
    }
    if let Lane::End(verdict) = express::from_wire(skb) {
        return verdict.finish();
    }
    stage::begin(skb, Place::Wire);
    stage::go(&context, Stage::Classify)
}

/// To the peers and the outside: what the kernel has routed here.
#[classifier]
#[inline(always)]
pub fn xnat_uplink_out(context: TcContext) -> i32 {
    leaving(&context, Place::Egress)
}

/// From the host to itself.
#[classifier]
#[inline(always)]
pub fn xnat_loopback_out(context: TcContext) -> i32 {
    leaving(&context, Place::Itself)
}

/// What the kernel sends, unless it has been finished before.
#[inline(always)]
fn leaving(context: &TcContext, place: Place) -> i32 {
    let skb = Skb::new(context);
    if skb.mark() == mark::DONE {
        skb.set_mark(0);
        return Verdict::PASS.finish();
    }
    stage::begin(skb, place);
    stage::go(context, Stage::Classify)
}

/// One slice of collection; user space runs it through `BPF_PROG_TEST_RUN`. The packet begins with the number of the place
/// to begin at; what is returned is a [`xnat_common::collection::Look`].
#[classifier]
#[inline(always)]
pub fn xnat_collect(context: TcContext) -> i32 {
    match (maps::config(), Skb::new(&context).load::<u32>(0)) {
        (Some(config), Some(first)) => collect::slice(config, first, clock::now()).0.cast_signed(),
        _ => 0,
    }
}

/// A socket of IPv4 has been bound to a port. It may.
#[cgroup_sock(post_bind4)]
#[inline(always)]
pub fn xnat_bound4(context: SockContext) -> i32 {
    socket::bound(context.sock, |address| host_port::receives(socket::address4(context.sock), address));
    1
}

/// A socket of IPv6 has been bound to a port. It may.
#[cgroup_sock(post_bind6)]
#[inline(always)]
pub fn xnat_bound6(context: SockContext) -> i32 {
    socket::bound(context.sock, |address| host_port::receives_too(socket::address6(context.sock), address));
    1
}
