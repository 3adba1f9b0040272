//! The benchmark's own programs in the kernel: loading, attaching, and running the generator.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::Array;
use aya::programs::{RawTracePoint, SchedClassifier, TcAttachType, Xdp, xdp::XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::{BPF_F_TEST_XDP_LIVE_FRAMES, bpf_attr, bpf_cmd};
use xnat_tests::netns::Namespace;

use crate::layout::{DELAYS, Delay, Job, Tally};
use crate::{processor, stolen};

/// Packets that the kernel takes from the generator at a time, as from a network card.
const BATCH: u32 = 64;

/// What aya asks of the values of maps.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct JobValue(Job);
// SAFETY: plain numbers without padding.
unsafe impl aya::Pod for JobValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct TallyValue(Tally);
// SAFETY: plain numbers without padding.
unsafe impl aya::Pod for TallyValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct DelayValue(Delay);
// SAFETY: plain numbers without padding.
unsafe impl aya::Pod for DelayValue {}

/// What measures how long packets wait on a processor; each is named after the kernel's tracepoint.
const WAITS: [&str; 4] = ["sched_switch", "softirq_raise", "softirq_entry", "softirq_exit"];
/// What finds the hypervisor's figure.
const RUN_QUEUE: &str = "sched_update_nr_running_tp";

/// The generator and the sinks, loaded once for all rigs.
pub struct Kernel {
    ebpf: Ebpf,
    tells_stolen: bool,
}

/// The object file, which `XNAT_BENCH_OBJECT` names.
fn object() -> Vec<u8> {
    let Some(path) = std::env::var_os("XNAT_BENCH_OBJECT") else {
        panic!("set XNAT_BENCH_OBJECT to the benchmark's eBPF object, or run cargo xtask bench");
    };
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Kernel {
    /// Loads the programs.
    pub fn load() -> Self {
        let stolen = stolen::place();
        let mut loader = EbpfLoader::new();
        if let Some(place) = &stolen {
            loader.override_global("QUEUE_NUMBER", &place.number, true);
            loader.override_global("STEAL_TIME", &place.distance, true);
        }
        let mut ebpf = loader.load(&object()).unwrap_or_else(|error| panic!("the benchmark's programs: {error}"));
        for name in ["generate", "sink_outside", "pass"] {
            xdp(&mut ebpf, name).load().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        classifier(&mut ebpf, "sink_inside").load().unwrap_or_else(|error| panic!("sink_inside: {error}"));
        Self { ebpf, tells_stolen: stolen.is_some() }
    }

    /// Attaches an XDP program in driver mode.
    pub fn attach_xdp(&mut self, ns: &Namespace, name: &str, interface: &str) {
        let program = xdp(&mut self.ebpf, name);
        let at = c_name(interface);
        let attached = ns.within(|| program.attach(at.as_c_str(), XdpMode::Driver).map(drop));
        attached.unwrap_or_else(|error| panic!("{name} at {interface}: {error}"));
    }

    /// Attaches the sink that drops at the ingress of an interface.
    pub fn attach_sink_inside(&mut self, ns: &Namespace, interface: &str) {
        let program = classifier(&mut self.ebpf, "sink_inside");
        let at = c_name(interface);
        let attached = ns.within(|| program.attach(at.as_c_str(), TcAttachType::Ingress).map(drop));
        attached.unwrap_or_else(|error| panic!("sink_inside at {interface}: {error}"));
    }

    /// Tells the sinks what to count, from zero.
    pub fn expect(&mut self, job: Job) -> io::Result<()> {
        let mut jobs: Array<_, JobValue> = self.ebpf.map_mut("JOB").expect("JOB").try_into().expect("an array");
        jobs.set(0, &JobValue(job), 0).map_err(io::Error::other)?;
        let tally = self.ebpf.map_mut("TALLY").expect("TALLY");
        let mut tallies: Array<_, TallyValue> = tally.try_into().expect("an array");
        tallies.set(0, &TallyValue(Tally::default()), 0).map_err(io::Error::other)
    }

    /// Has the generator do its job at an interface and returns what was counted.
    pub fn run(&mut self, ns: &Namespace, ifindex: u32, job: Job) -> io::Result<Tally> {
        self.expect(job)?;
        let program = xdp(&mut self.ebpf, "generate").fd().expect("loaded").as_fd().as_raw_fd();
        ns.within(|| {
            processor::pin(0)?;
            processor::precede()?;
            live_frames(program, ifindex, job.length, job.packets)
        })?;
        Ok(self.tally())
    }

    /// From now on it is measured how long packets wait on a processor, which makes every packet a little later.
    pub fn watch_waits(&mut self) {
        for name in self.watching() {
            let program = self.raw_tracepoint(name);
            program.load().unwrap_or_else(|error| panic!("{name}: {error}"));
            program.attach(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// The end of that.
    pub fn leave_waits(&mut self) {
        for name in self.watching() {
            self.raw_tracepoint(name).unload().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    fn watching(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.tells_stolen.then_some(RUN_QUEUE).into_iter().chain(WAITS)
    }

    fn raw_tracepoint(&mut self, name: &str) -> &mut RawTracePoint {
        let program = self.ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}"));
        program.try_into().expect("a raw tracepoint")
    }

    /// How late the packets arrived that were counted so far.
    pub fn delays(&self) -> Vec<Delay> {
        let delays: Array<_, DelayValue> = self.ebpf.map("DELAYS").expect("DELAYS").try_into().expect("an array");
        let count = self.tally().arrived.min(DELAYS as u64) as u32;
        (0..count).map(|index| delays.get(&index, 0).expect("an element of the array").0).collect()
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        let tallies: Array<_, TallyValue> = self.ebpf.map("TALLY").expect("TALLY").try_into().expect("an array");
        tallies.get(&0, 0).expect("the one element").0
    }
}

/// A bare redirect at the ingress of an interface to another one. Returns what keeps it there.
pub fn attach_floor(ns: &Namespace, from: &str, to: u32, destination: [u8; 6], source: [u8; 6]) -> Ebpf {
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&destination);
    macs[6..].copy_from_slice(&source);
    let low = u64::from_ne_bytes(macs[..8].try_into().expect("eight octets"));
    let high = u32::from_ne_bytes(macs[8..].try_into().expect("four octets"));
    let mut ebpf = EbpfLoader::new()
        .override_global("FLOOR_INTERFACE", &to, true)
        .override_global("FLOOR_MAC_LOW", &low, true)
        .override_global("FLOOR_MAC_HIGH", &high, true)
        .load(&object())
        .unwrap_or_else(|error| panic!("the benchmark's programs: {error}"));
    let program = classifier(&mut ebpf, "floor");
    program.load().unwrap_or_else(|error| panic!("floor: {error}"));
    let at = c_name(from);
    let attached = ns.within(|| program.attach(at.as_c_str(), TcAttachType::Ingress).map(drop));
    attached.unwrap_or_else(|error| panic!("floor at {from}: {error}"));
    ebpf
}

/// The name of an interface as the kernel takes it.
fn c_name(interface: &str) -> CString {
    CString::new(interface).expect("no zero octet in it")
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}")).try_into().expect("XDP")
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}")).try_into().expect("TC")
}

/// `bpf(BPF_PROG_TEST_RUN)` with live frames: what the program passes is received by the interface.
fn live_frames(program: i32, ifindex: u32, length: u32, packets: u32) -> io::Result<()> {
    let frame = vec![0_u8; length as usize];
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context = [0, length, 0, ifindex, 0, 0];
    // SAFETY: a plain C union for which all zeroes are valid.
    let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the member of this command; every pointer below outlives the call and is as long as said.
    let test = unsafe { &mut attributes.test };
    test.prog_fd = program.cast_unsigned();
    test.data_in = frame.as_ptr().expose_provenance() as u64;
    test.data_size_in = length;
    test.ctx_in = context.as_ptr().expose_provenance() as u64;
    test.ctx_size_in = size_of_val(&context) as u32;
    test.repeat = packets;
    test.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
    test.batch_size = BATCH;
    let command = bpf_cmd::BPF_PROG_TEST_RUN as libc::c_long;
    // SAFETY: the attributes are those of the command.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
