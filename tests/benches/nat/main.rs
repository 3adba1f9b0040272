//! The benchmark: what a packet costs through xnat, through the kernel's own NAT, and without any, all in one run.
//!
//! Candidates are measured in turn, round by round, each in hosts of its own, because absolute figures drift: what counts
//! are the ratios of one round.

#![allow(clippy::cast_precision_loss, reason = "of a figure that was measured three digits mean something")]
#![allow(clippy::cast_sign_loss, reason = "what is cast is not negative")]

mod candidate;
mod collecting;
mod forwarding;
mod frame;
mod goals;
mod interrupt;
mod kernel;
#[path = "../../../xnat-ebpf/src/bench/layout.rs"]
mod layout;
mod machine;
mod memory;
mod number;
mod opening;
mod plan;
mod plots;
mod ports;
mod processor;
mod programs;
mod progress;
mod report;
mod rig;
mod round_trips;
mod sample;
mod start;
mod stolen;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser as _, ValueEnum as _};

use crate::candidate::{Candidate, Setup, Terms};
use crate::kernel::Kernel;
use crate::machine::{Alone, ConntrackRoom, Machine};
use crate::plan::{Part, Plan};
use crate::progress::Progress;
use crate::sample::Measured;

/// The benchmark's own command line; `cargo xtask bench` passes it on.
#[derive(Debug, clap::Parser)]
struct Options {
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Measure less: about two minutes
    #[arg(long)]
    quick: bool,
    /// Measure only this part, or this candidate; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds over all candidates
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Where benchmarks.md and the folder benchmarks go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let _ = options.bench;
    interrupt::catch()?;
    let _alone = Alone::make_sure()?;
    let (parts, candidates) = choose(&options.only)?;
    let plan = Plan::new(options.quick, parts, candidates, options.rounds);
    let machine = Machine::look(plan.quick);
    let mut measured = Measured::default();
    measure(&plan, &mut measured)?;
    write(options, &machine, &measured)
}

/// Page, figures and raw numbers.
fn write(options: &Options, machine: &Machine, measured: &Measured) -> Result<()> {
    let folder = options.out.join("benchmarks");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let goals = goals::all(measured, machine.quick);
    let plots = plots::of(measured);
    for plot in &plots {
        plot.draw(&folder)?;
    }
    let text = report::text(machine, &goals, measured, &plots);
    let page = options.out.join("benchmarks.md");
    report::write(&page, &text)?;
    let raw = serde_json::json!({ "machine": machine, "goals": goals, "measured": measured });
    let file = folder.join("results.json");
    std::fs::write(&file, format!("{raw:#}\n")).with_context(|| format!("writing {}", file.display()))?;
    print!("{text}");
    eprintln!("written: {} and {}", page.display(), folder.display());
    Ok(())
}

/// What `--only` names: parts, candidates, or both; all of those of which none is named.
fn choose(only: &[String]) -> Result<(Vec<Part>, Vec<Candidate>)> {
    let (mut parts, mut candidates) = (Vec::new(), Vec::new());
    for name in only {
        if let Ok(part) = Part::from_str(name, false) {
            parts.push(part);
        } else if let Ok(candidate) = Candidate::from_str(name, false) {
            candidates.push(candidate);
        } else {
            let names = Part::value_variants().iter().filter_map(clap::ValueEnum::to_possible_value);
            let names = names.chain(Candidate::value_variants().iter().filter_map(clap::ValueEnum::to_possible_value));
            let names: Vec<_> = names.map(|name| name.get_name().to_owned()).collect();
            anyhow::bail!("--only {name}: there is {}", names.join(", "));
        }
    }
    if parts.is_empty() {
        parts = Part::value_variants().to_vec();
    }
    if candidates.is_empty() {
        candidates = Candidate::ALL.to_vec();
    }
    Ok((parts, candidates))
}

fn measure(plan: &Plan, measured: &mut Measured) -> Result<()> {
    let mut kernel = Kernel::load();
    let _room = ConntrackRoom::make(plan.most().max(plan.many), 4);
    let has = |part, steps| if plan.has(part) { steps } else { 0 };
    let steps = has(Part::Forwarding, forwarding::steps(plan))
        + has(Part::Opening, opening::steps(plan))
        + has(Part::Programs, programs::steps(plan))
        + has(Part::Memory, memory::steps(plan))
        + has(Part::Collecting, collecting::steps(plan))
        + has(Part::Start, start::steps(plan));
    let progress = Progress::new(steps);

    if plan.has(Part::Forwarding) || plan.has(Part::Opening) {
        let terms = Terms::of(plan.most());
        let mut setups = set_up(&plan.candidates, terms, &mut kernel, &progress)?;
        if plan.has(Part::Forwarding) {
            forwarding::measure(plan, &mut kernel, &mut setups, &progress, measured)?;
        }
        if plan.has(Part::Opening) {
            opening::measure_empty(plan, &mut kernel, &mut setups, &progress, measured)?;
        }
    }
    if plan.has(Part::Opening) {
        let terms = Terms { pool: Some(opening::POOL_FIRST), ..Terms::of(100_000) };
        let mut setups = set_up(&plan.among(&opening::POOLED), terms, &mut kernel, &progress)?;
        opening::measure_pool(plan, &mut kernel, &mut setups, &progress, measured)?;
    }
    if plan.has(Part::Programs) {
        let new = |&candidate| Setup::new(candidate, Terms::of(100_000));
        let setups: Vec<_> = plan.candidates.iter().map(new).collect();
        programs::measure(plan, &setups, &progress, measured)?;
    }
    if plan.has(Part::Memory) {
        memory::measure(plan, &mut kernel, &progress, measured)?;
    }
    if plan.has(Part::Collecting) {
        collecting::measure(plan, &mut kernel, &progress, measured)?;
    }
    if plan.has(Part::Start) {
        start::measure(plan, &progress, measured)?;
    }
    Ok(())
}

/// Hosts for each candidate, with what generates and counts.
fn set_up(candidates: &[Candidate], terms: Terms, kernel: &mut Kernel, progress: &Progress) -> Result<Vec<Setup>> {
    let mut setups = Vec::new();
    for &candidate in candidates {
        progress.doing(format!("setting up: {}", candidate.name()))?;
        let setup = Setup::new(candidate, terms);
        setup.rig.equip(kernel);
        setups.push(setup);
    }
    Ok(setups)
}
