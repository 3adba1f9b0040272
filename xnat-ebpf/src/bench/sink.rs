//! The sinks: count the generator's packets where they arrive, and drop them.

use aya_ebpf::bindings::{
    TC_ACT_OK, TC_ACT_SHOT,
    xdp_action::{XDP_DROP, XDP_PASS},
};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::layout::{DELAYS as DELAYS_MAX, Delay, OUTWARD, PAYLOAD};
use crate::maps::{DELAYS, JOB, TALLY};
use crate::wait;

/// Ethernet, and an IPv4 header without options.
const HEADERS: usize = 34;
const TYPE: usize = 12;
const SERVICE: usize = 15;
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const IPV4: u16 = 0x0800;

/// Behind the uplink, as a driver would.
#[xdp]
pub fn sink_outside(context: XdpContext) -> u32 {
    if count(context.data(), context.data_end()).is_some() { XDP_DROP } else { XDP_PASS }
}

/// In the container: a TC hook, because redirecting to the peer of a veth goes past its XDP hook.
#[classifier]
pub fn sink_inside(context: TcContext) -> i32 {
    if count(context.data(), context.data_end()).is_some() { TC_ACT_SHOT } else { TC_ACT_OK }
}

/// Lets everything pass. A veth takes the generator's frames only while it has some XDP program.
#[xdp]
pub fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Counts the packet if it is one of the generator's.
#[inline(always)]
fn count(data: usize, end: usize) -> Option<()> {
    if data + HEADERS > end {
        return None;
    }
    let job = JOB.get(0)?;
    let frame = data as *const u8;
    // SAFETY: the packet was just compared with its end.
    let (kind, service, source, destination) = unsafe {
        (
            frame.add(TYPE).cast::<u16>().read(),
            frame.add(SERVICE).read(),
            frame.add(SOURCE).cast::<u32>().read(),
            frame.add(DESTINATION).cast::<u32>().read(),
        )
    };
    if kind != IPV4.to_be() || u32::from(service) != job.service {
        return None;
    }
    let local = if job.direction == OUTWARD { source } else { destination };
    // SAFETY: a map value, which nothing else writes to on this one processor.
    let tally = unsafe { &mut *TALLY.get_ptr_mut(0)? };
    if local != job.arrives_with {
        tally.wrong += 1;
        return Some(());
    }
    if job.probe != 0 {
        note_delay(data, end, tally.arrived);
    }
    tally.arrived += 1;
    if tally.arrived == u64::from(job.packets) {
        // SAFETY: a helper without arguments.
        tally.ended = unsafe { bpf_ktime_get_ns() };
    }
    Some(())
}

/// Notes how long ago the packet should have been sent.
#[inline(always)]
fn note_delay(data: usize, end: usize, nth: u64) {
    if data + PAYLOAD + 8 > end {
        return;
    }
    // SAFETY: the packet was just compared with its end; a helper without arguments.
    let (sent, now) = unsafe { ((data as *const u8).add(PAYLOAD).cast::<u64>().read(), bpf_ktime_get_ns()) };
    if let Some(delay) = DELAYS.get_ptr_mut(nth as u32 & (DELAYS_MAX as u32 - 1)) {
        let (whole, (waited, elsewhere)) = (now - sent, wait::waited());
        // Others may have waited longer than this packet: what they have waited for before may have been elsewhere.
        let before = waited.saturating_sub(whole);
        // SAFETY: a map value.
        unsafe { *delay = Delay { whole, waited: waited - before, elsewhere: elsewhere.saturating_sub(before) } };
    }
}
