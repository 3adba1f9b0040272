//! How long xnat takes to start, and what it takes while there is nothing to do.

use std::ffi::CStr;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, MapData};
use aya::programs::{SchedClassifier, tc::TcAttachType};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xnat_common::config::Config;
use xnat_common::names;
use xnat_tests::xnat::{self, Instance};

use crate::candidate::{Candidate, Setup, Terms};
use crate::plan::Plan;
use crate::ports;
use crate::processor;
use crate::progress::Progress;
use crate::rig::Rig;
use crate::sample::Measured;

/// A start that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(20);
/// What else may come and go meanwhile, in kibibytes.
const SLACK: u64 = 4096;
/// Where hooks are awaited: at the container's port, and at both sides of the bridge and of the uplink.
const HOOKS: [(&CStr, TcAttachType); 5] = [
    (c"port0", TcAttachType::Ingress),
    (c"br0", TcAttachType::Ingress),
    (c"br0", TcAttachType::Egress),
    (c"eth0", TcAttachType::Ingress),
    (c"eth0", TcAttachType::Egress),
];

/// Steps of progress.
pub fn steps(plan: &Plan) -> u64 {
    plan.starts + plan.idle.as_secs() + ports::steps(plan)
}

/// Starting, loading, being idle, and ports that come and go.
pub fn measure(plan: &Plan, progress: &Progress, measured: &mut Measured) -> Result<()> {
    let rig = Rig::new();
    let (mut attached, mut loaded) = (Vec::new(), Vec::new());
    let before = mapped_by_kernel()?;
    for _ in 0..plan.starts {
        progress.doing("starting".to_owned())?;
        await_freed(before)?;
        let start = start_once(&rig)?;
        attached.push(start.attached.as_secs_f64() * 1e3);
        loaded.push(start.loading.as_secs_f64() * 1e3);
        progress.done(1);
    }
    let title = "from exec until all hooks are attached, and the dataplane configured";
    measured.note_runs("start/attached", title, "ms", &attached);
    measured.note_runs("start/loading", "of which from the first program's loading on", "ms", &loaded);

    progress.doing("idle".to_owned())?;
    let setup = Setup::new(Candidate::Xnat, Terms::of(262_144));
    let process = setup.xnat().id();
    let before = processor::used_by(process);
    for _ in 0..plan.idle.as_secs() {
        std::thread::sleep(Duration::from_secs(1));
        progress.done(1);
        progress.doing("idle".to_owned())?;
    }
    let used = processor::used_by(process).saturating_sub(before);
    let share = used.as_secs_f64() / plan.idle.as_secs_f64() * 100.0;
    measured.note("idle/processor", &format!("idle daemon, over {} s", plan.idle.as_secs()), "% of a processor", share);
    measured.note("idle/resident", "idle daemon, resident memory", "MiB", resident(process)?);
    let outcome = ports::measure(plan, &setup, progress, measured);
    measured.or_failure("ports that join", outcome)
}

struct Start {
    attached: Duration,
    loading: Duration,
}

/// Waits until what the run before has left is freed: that takes the kernel a while, on the processors that the next run
/// starts on.
fn await_freed(before: u64) -> Result<()> {
    let start = Instant::now();
    while mapped_by_kernel()? > before + SLACK {
        if start.elapsed() > LIMIT {
            bail!("the kernel has not freed the maps of the run before after {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Memory that the kernel has mapped for itself, as it does for maps, in kibibytes.
fn mapped_by_kernel() -> Result<u64> {
    let all = fs::read_to_string("/proc/meminfo")?;
    let line = all.lines().find_map(|line| line.strip_prefix("VmallocUsed:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("no VmallocUsed in /proc/meminfo")?.parse().context("VmallocUsed in /proc/meminfo")
}

/// Starts it inside the host, without any program in between, and watches the hooks.
fn start_once(rig: &Rig) -> Result<Start> {
    let instance = Instance::new(&rig.host);
    rig.host.within(|| {
        let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
        let start = Instant::now();
        let mut child = std::process::Command::new(xnat::binary())
            .args(["run", "--subnet", "192.168.110.0/24", "--uplink", "eth0", "--instance", instance.name()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let attached = loop {
            if all_attached() && is_configured(instance.name()) {
                break Ok(start.elapsed());
            }
            if start.elapsed() > LIMIT {
                break Err(anyhow::anyhow!("no hooks after {LIMIT:?}"));
            }
            if let Some(status) = child.try_wait()? {
                break Err(anyhow::anyhow!("it ended with {status}"));
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let first = first_load(Duration::from(since_boot));
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        let status = child.wait()?;
        let attached = attached?;
        if !status.success() {
            bail!("xnat ended with {status}");
        }
        let before = first.context("no program was loaded")?.saturating_sub(Duration::from(since_boot));
        Ok(Start { attached, loading: attached.saturating_sub(before) })
    })
}

/// Whether every hook has a program, in the namespace of the calling thread.
fn all_attached() -> bool {
    HOOKS.iter().all(|&(interface, side)| is_hooked(interface, side))
}

/// Whether an interface has a program at this side, in the namespace of the calling thread.
pub fn is_hooked(interface: &CStr, side: TcAttachType) -> bool {
    SchedClassifier::query_tcx(interface, side).is_ok_and(|(_, programs)| !programs.is_empty())
}

/// Whether the dataplane has its configuration. Without one it lets everything through, hooked or not.
fn is_configured(instance: &str) -> bool {
    let pin = format!("/sys/fs/bpf/xnat/{instance}/v{}/maps/{}", names::LAYOUT, names::map::CONFIG);
    let map = MapData::from_pin(pin).ok().map(Map::Array);
    let configs = map.and_then(|map| Array::<_, Config>::try_from(map).ok());
    configs.and_then(|configs| configs.get(&0, 0).ok()).is_some_and(|config| config.uplink != 0)
}

/// When the first of the programs was loaded that were loaded after a time, both since the machine was started.
fn first_load(after: Duration) -> Option<Duration> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let boot = std::time::SystemTime::now()
        - Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok()?);
    let times = programs.filter_map(|program| program.loaded_at()?.duration_since(boot).ok());
    times.filter(|time| *time >= after).min()
}

/// Mebibytes.
fn resident(process: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().next().context("no figure")?.parse()?;
    Ok(kib / 1024.0)
}
