//! The benchmark's maps.

use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;

use crate::layout::{DELAYS as DELAYS_MAX, Job, Tally};

#[btf_map]
pub static JOB: Array<Job, 1> = Array::new();
#[btf_map]
pub static TALLY: Array<Tally, 1> = Array::new();
/// Of the packets that have arrived, in nanoseconds, in the order of arrival.
#[btf_map]
pub static DELAYS: Array<u64, DELAYS_MAX> = Array::new();
