//! Where the hypervisor says for how long it has not run a processor of this virtual machine that had something to do.
//!
//! KVM keeps that for the guest in `struct kvm_steal_time`, whose first word is the time in nanoseconds, as of the moment in
//! which the processor runs again (`Documentation/virt/kvm/x86/msr.rst`, `MSR_KVM_STEAL_TIME`). Of it is made what
//! `/proc/stat` calls "steal", in hundredths of a second, at ticks: too coarse for one packet.

use std::path::Path;

use btf_rs::{Btf, BtfType, Datasec, Type};

/// The kernel's description of its types and variables.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";
/// Where all variables lie of which each processor has its own.
const SECTION: &str = ".data..percpu";
/// A processor's run queue (`kernel/sched/core.c`), which tracepoints hand over, and its type.
const RUN_QUEUE: (&str, &str) = ("runqueues", "rq");
/// What KVM writes (`arch/x86/kernel/kvm.c`).
const STEAL_TIME: &str = "steal_time";

/// How the figure is found, seen from a processor's run queue.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Offset of the processor's number in its run queue, in bytes.
    pub number: u64,
    /// From the run queue to the figure, in bytes; in two's complement.
    pub distance: u64,
}

/// Where the figure is. None if the kernel is built without such, or without a description of itself.
pub fn place() -> Option<Place> {
    let kernel = Btf::from_file(Path::new(KERNEL)).ok()?;
    let section = kernel.resolve_types_by_name(SECTION).ok()?.into_iter().find_map(|it| match it {
        Type::Datasec(section) => Some(section),
        _ => None,
    })?;
    let (variable, kind) = RUN_QUEUE;
    let [queue, figure] = [variable, STEAL_TIME].map(|name| offset(&kernel, &section, name));
    let number = kernel.resolve_types_by_name(kind).ok()?.iter().find_map(|it| member(&kernel, it, "cpu"))?;
    Some(Place { number, distance: figure?.wrapping_sub(queue?) })
}

/// The offset of a variable in its section.
fn offset(kernel: &Btf, section: &Datasec, name: &str) -> Option<u64> {
    let ids = kernel.resolve_ids_by_name(name).ok()?;
    let variable = section.variables.iter().find(|it| it.get_type_id().is_some_and(|id| ids.contains(&id)))?;
    Some(variable.offset().into())
}

/// The offset of a structure's member.
fn member(kernel: &Btf, of: &Type, name: &str) -> Option<u64> {
    let Type::Struct(structure) = of else { return None };
    let is_it = |member: &&btf_rs::Member| kernel.resolve_name(*member).is_ok_and(|it| it == name);
    structure.members.iter().find(is_it).map(|member| u64::from(member.bit_offset() / 8))
}
