//! The floor: what the way from one device to the other costs if nothing is done on it.

use aya_ebpf::Global;
use aya_ebpf::bindings::TC_ACT_OK;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Interface to send to.
#[unsafe(no_mangle)]
static FLOOR_INTERFACE: Global<u32> = Global::new(0);
/// The first 8 octets of the Ethernet header: destination, and the beginning of the source.
#[unsafe(no_mangle)]
static FLOOR_MAC_LOW: Global<u64> = Global::new(0);
/// The other 4 octets of the source.
#[unsafe(no_mangle)]
static FLOOR_MAC_HIGH: Global<u32> = Global::new(0);

/// Writes the addresses that are known, and sends on what is IPv4.
#[classifier]
pub fn floor(context: TcContext) -> i32 {
    let frame = context.data() as *mut u8;
    if frame as usize + 14 > context.data_end() {
        return TC_ACT_OK;
    }
    // SAFETY: the packet was just compared with its end.
    unsafe {
        if frame.add(12).cast::<u16>().read() != 0x0800_u16.to_be() {
            return TC_ACT_OK;
        }
        frame.cast::<u64>().write(FLOOR_MAC_LOW.load());
        frame.add(8).cast::<u32>().write(FLOOR_MAC_HIGH.load());
        bpf_redirect(FLOOR_INTERFACE.load(), 0) as i32
    }
}
