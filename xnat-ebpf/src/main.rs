//! The xnat dataplane: small TC programs over shared steps, at the hooks and behind them.
//!
//! A packet's way is `parse`, `lookup` (or `open` and `claim`), `rewrite`, `forward`; each step is a file of that name.
//! Decisions are pure functions of `xnat-common`; here are bounds checks, map access and stores.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::cast_ptr_alignment, reason = "headers are aligned to two bytes, and BPF loads what lies across")]
#![expect(clippy::needless_pass_by_value, reason = "the classifier macro hands the context over")]

mod account;
mod admission;
mod arrive;
mod atomic;
mod bucket;
mod claim;
mod classify;
mod clock;
mod collect;
mod datagram;
mod express;
mod express_open;
mod filtering;
mod forward;
mod fragment;
mod full;
mod hold;
mod hop;
mod hygiene;
mod icmp_error;
mod identification;
mod index;
mod kernel_flow;
mod last_gate;
mod lookup;
mod mapping;
mod maps;
mod message;
mod moved;
mod open;
mod opener;
mod options;
mod parse;
mod port;
mod programs;
mod quota;
mod receive;
mod refuse;
mod rewrite;
mod route;
mod search;
mod segment;
mod session;
mod skb;
mod socket;
mod stage;
mod stages;
mod tag;
mod translate;
mod verdict;
mod walks;

/// The kernel lends some helpers, `bpf_fib_lookup` among them, only to programs that are licensed under the GPL as well.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked: the object contains no panic path, which a test checks.
    loop {}
}
