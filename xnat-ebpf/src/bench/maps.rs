//! The benchmark's maps.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::btf_map;

use crate::layout::{Job, Tally};

#[btf_map]
pub static JOB: Array<Job, 1> = Array::new();
#[btf_map]
pub static TALLY: Array<Tally, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
