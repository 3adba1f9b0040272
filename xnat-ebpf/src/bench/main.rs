//! What the benchmark (`tests/benches/nat`) runs in the kernel: a generator of packets, sinks that count them, and the
//! least that a packet's way can cost.
#![no_std]
#![no_main]
#![expect(clippy::cast_ptr_alignment, reason = "headers are aligned to two bytes, and BPF loads what lies across")]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro hands the context over")]

mod floor;
mod generate;
mod layout;
mod maps;
mod sink;
mod wait;

/// Some helpers are lent only to programs that are licensed under the GPL as well.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked: the object contains no panic path.
    loop {}
}
