//! The benchmark: what a packet costs through xnat, through the kernel's own NAT, and without any, all in one run.

mod candidate;
mod forwarding;
mod frame;
mod kernel;
#[path = "../../../xnat-ebpf/src/bench/layout.rs"]
mod layout;
mod rig;
mod sample;
mod traffic;

use clap::Parser as _;

/// The benchmark's own command line; `cargo xtask bench` passes it on.
#[derive(Debug, clap::Parser)]
struct Options {
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long)]
    quick: bool,
    #[arg(long)]
    only: Vec<String>,
    #[arg(long)]
    rounds: Option<usize>,
}

fn main() {
    let options = Options::parse();
    forwarding::slice(options.rounds.unwrap_or(5));
}
