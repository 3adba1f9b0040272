//! What very many flows take, and how long it takes to list them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;
use xnat_tests::xnat::Xnat;

use crate::candidate::{Candidate, Setup, Terms};
use crate::kernel::Kernel;
use crate::number::thousands;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::sample::{Measured, Summary};
use crate::traffic::{self, Protocol};

/// Of a dump.
const REPETITIONS: u64 = 3;

/// Steps of progress.
pub fn steps(plan: &Plan) -> u64 {
    2 * (u64::from(plan.many) / 50_000 + REPETITIONS * u64::from(plan.many) / 100_000) + 5
}

/// xnat's and the kernel's.
pub fn measure(plan: &Plan, kernel: &mut Kernel, progress: &Progress, measured: &mut Measured) -> Result<()> {
    let each = |bytes: u64| bytes as f64 / f64::from(plan.many);
    progress.doing("memory: xnat without flows".to_owned())?;
    let fixed = {
        let setup = Setup::new(Candidate::Xnat, Terms::of(64));
        map_bytes(setup.xnat())?
    };
    progress.done(5);

    let many = thousands(plan.many);
    for (candidate, name) in [(Candidate::Xnat, "xnat"), (Candidate::IptablesNft, "conntrack")] {
        progress.doing(format!("memory of {many} flows: {name}"))?;
        let setup = Setup::new(candidate, Terms::of(plan.many));
        setup.rig.equip(kernel);
        let slabs = meminfo("SUnreclaim:")?;
        if let Err(error) = traffic::open(kernel, &setup, Protocol::Udp, 0, plan.many) {
            measured.failures.push(format!("memory and dump, {name}: {error}"));
            continue;
        }
        progress.done(u64::from(plan.many) / 50_000);
        if candidate == Candidate::Xnat {
            let all = map_bytes(setup.xnat())?;
            let title = format!("xnat: all maps with {many} flows, a flow");
            measured.note("memory/xnat/maps", &title, "bytes", each(all));
            let title = "xnat: maps beyond what they take for 64 flows, a flow";
            measured.note("memory/xnat/growth", title, "bytes", each(all.saturating_sub(fixed)));
            measured.note("memory/xnat/fixed", "xnat: all maps for 64 flows", "MB", fixed as f64 / 1e6);
        } else {
            let taken = meminfo("SUnreclaim:")?.saturating_sub(slabs);
            let title = format!("conntrack: objects of {many} flows, beside 16 bytes of the hash table, a flow");
            measured.note("memory/conntrack/flow", &title, "bytes", each(taken));
        }
        let mut times = Vec::new();
        for _ in 0..REPETITIONS {
            progress.doing(format!("dump of {many} flows: {name}"))?;
            let mut command = match candidate {
                Candidate::Xnat => setup.xnat().command("conntrack dump -o json"),
                _ => conntrack_list(&setup),
            };
            times.push(time(&mut command)?);
            progress.done(u64::from(plan.many) / 100_000);
        }
        let Some(times) = Summary::of(&times) else { continue };
        let command = if candidate == Candidate::Xnat { "xnat conntrack dump -o json" } else { "conntrack -L" };
        let title = format!("`{command}` of {many} flows, to /dev/null");
        measured.note(&format!("dump/{name}"), &title, "s", times.median);
    }
    Ok(())
}

fn conntrack_list(setup: &Setup) -> Command {
    let mut command = setup.rig.host.command("conntrack");
    command.arg("-L");
    command
}

/// Seconds that a command takes whose output nobody reads.
fn time(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let time = start.elapsed().as_secs_f64();
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(time)
}

/// What an instance's maps take, as the kernel counts: those that are pinned, and those that the daemon holds.
fn map_bytes(instance: &Xnat) -> Result<u64> {
    let mut bytes = BTreeMap::new();
    for pin in instance.files().into_iter().filter(|file| file.contains("/maps/")) {
        let map = MapInfo::from_pin(&pin).with_context(|| pin.clone())?;
        let descriptor = map.fd()?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd()))?;
        bytes.extend(map_in(&info));
    }
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", instance.id()))? {
        bytes.extend(fs::read_to_string(entry?.path()).ok().as_deref().and_then(map_in));
    }
    Ok(bytes.values().sum())
}

/// The number of a map and what it takes, from what `/proc` says of its descriptor.
fn map_in(info: &str) -> Option<(u64, u64)> {
    Some((field(info, "map_id:")?, field(info, "memlock:")?))
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Result<u64> {
    let kib = field(&fs::read_to_string("/proc/meminfo")?, name);
    Ok(kib.with_context(|| format!("/proc/meminfo has no {name}"))? * 1024)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
