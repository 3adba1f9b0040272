//! The benchmark's maps.

use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::btf_map;

use crate::layout::{DELAYS as DELAYS_MAX, Delay, Job, Tally};
use crate::wait::Wait;

#[btf_map]
pub static JOB: Array<Job, 1> = Array::new();
#[btf_map]
pub static TALLY: Array<Tally, 1> = Array::new();
/// Of the packets that have arrived, in the order of arrival.
#[btf_map]
pub static DELAYS: Array<Delay, DELAYS_MAX> = Array::new();
#[btf_map]
pub static WAITS: PerCpuArray<Wait, 1> = PerCpuArray::new();
