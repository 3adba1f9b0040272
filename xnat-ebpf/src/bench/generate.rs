//! The generator: makes each frame anew, because the kernel hands the same memory over again and again.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use crate::layout::{AT_RANDOM, FRAME_MAX, FRAME_MIN, Job, OUTWARD};
use crate::maps::{JOB, TALLY};

/// Offsets into the frame: Ethernet and an IPv4 header without options before the transport header.
const HEADER_SUM: usize = 24;
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;
const UDP_SUM: usize = 40;
const TCP_SUM: usize = 50;

#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    if write(&context).is_some() { XDP_PASS } else { XDP_ABORTED }
}

#[inline(always)]
fn write(context: &XdpContext) -> Option<()> {
    let job = JOB.get(0)?;
    let tally = TALLY.get_ptr_mut(0)?;
    // SAFETY: a map value, which nothing else writes to while the generator runs on its one processor.
    let tally = unsafe { &mut *tally };
    let number = tally.generated as u32;
    tally.generated += 1;
    if number == job.warm_up {
        // SAFETY: a helper without arguments.
        tally.started = unsafe { bpf_ktime_get_ns() };
    }
    if number + 1 == job.packets {
        // SAFETY: as above.
        tally.generated_last = unsafe { bpf_ktime_get_ns() };
    }

    let end = context.data_end();
    let frame = context.data() as *mut u8;
    if frame as usize + FRAME_MIN > end {
        return None;
    }
    for word in 0..FRAME_MIN / 8 {
        // SAFETY: inside of the packet, which was just compared with its end, and inside of the job's frame.
        unsafe { frame.cast::<u64>().add(word).write((&raw const job.frame).cast::<u64>().add(word).read()) };
    }
    let tcp = job.length as usize == FRAME_MAX;
    if tcp {
        if frame as usize + FRAME_MAX > end {
            return None;
        }
        // SAFETY: as above.
        unsafe { put16(frame, FRAME_MIN, (&raw const job.frame).cast::<u16>().add(FRAME_MIN / 2).read()) };
    }

    let flow = flow(job, number);
    let mask = (1 << (job.port_bits & 31)) - 1;
    let port = job.local_port + (flow.wrapping_mul(job.port_stride) & mask);
    let beyond = flow >> (job.port_bits & 31);
    let remote = (job.remote + beyond * job.remote_step).to_be();
    let remote_port = (job.remote_port + beyond * job.remote_port_step) as u16;
    let (port, remote_port) = ((port as u16).to_be(), remote_port.to_be());

    let (address_at, ports) =
        if job.direction == OUTWARD { (DESTINATION, (port, remote_port)) } else { (SOURCE, (remote_port, port)) };
    let address_sum = (remote & 0xffff) + (remote >> 16);
    let datagram_sum = job.datagram_sum + address_sum + u32::from(port) + u32::from(remote_port);
    // SAFETY: all of them are inside of the shortest frame.
    unsafe {
        put16(frame, HEADER_SUM, fold(job.header_sum + address_sum));
        if address_at == SOURCE {
            frame.add(SOURCE).cast::<u32>().write(remote);
        } else {
            frame.add(DESTINATION).cast::<u32>().write(remote);
        }
        put16(frame, SOURCE_PORT, ports.0);
        put16(frame, DESTINATION_PORT, ports.1);
        if tcp {
            put16(frame, TCP_SUM, fold(datagram_sum));
        } else {
            put16(frame, UDP_SUM, fold(datagram_sum));
        }
    }
    Some(())
}

/// The flow of a packet.
#[inline(always)]
fn flow(job: &Job, number: u32) -> u32 {
    if job.order == AT_RANDOM {
        // The finalizer of MurmurHash3, a permutation of the 32-bit numbers, then the part of the range.
        let mut hash = number.wrapping_add(job.seed);
        hash ^= hash >> 16;
        hash = hash.wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(0xc2b2_ae35);
        hash ^= hash >> 16;
        job.first + ((u64::from(hash) * u64::from(job.flows)) >> 32) as u32
    } else {
        job.first + number
    }
}

/// # Safety
/// The two octets are inside of the packet.
#[inline(always)]
unsafe fn put16(frame: *mut u8, offset: usize, value: u16) {
    // SAFETY: the caller vouches for it.
    unsafe { frame.add(offset).cast::<u16>().write(value) };
}

/// The Internet checksum of a sum of words.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    !(twice as u16)
}
