//! The page: tables between two markers of docs/benchmarks.md, what stands around them being written by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::candidate::Candidate;
use crate::goals::Goal;
use crate::machine::Machine;
use crate::number::short;
use crate::plots::Plot;
use crate::sample::{Measured, Scenario};

/// Where the command's part begins and ends.
const BEGIN: &str = "<!-- measured: what follows is written by `cargo xtask bench` -->";
const END: &str = "<!-- end of what was measured -->";

/// Puts the figures into the page, or makes a page of them alone where there is none.
pub fn write(page: &Path, text: &str) -> Result<()> {
    let before = match fs::read_to_string(page) {
        Ok(before) => before,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => format!("# Benchmarks\n\n{BEGIN}\n{END}\n"),
        Err(error) => return Err(error).with_context(|| format!("reading {}", page.display())),
    };
    let after = replace(&before, text).with_context(|| format!("in {}", page.display()))?;
    fs::write(page, after).with_context(|| format!("writing {}", page.display()))
}

/// Replaces what stands between the markers.
fn replace(page: &str, text: &str) -> Result<String> {
    let Some((before, rest)) = page.split_once(BEGIN) else { bail!("there is no line {BEGIN}") };
    let Some((_, after)) = rest.split_once(END) else { bail!("there is no line {END}") };
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim()))
}

/// All tables.
pub fn text(machine: &Machine, goals: &[Goal], measured: &Measured, plots: &[Plot]) -> String {
    let mut text = String::new();
    header(&mut text, machine);
    goals_table(&mut text, goals);
    for (prefix, title, words) in SECTIONS {
        let scenarios: Vec<&Scenario> =
            measured.scenarios.iter().filter(|scenario| scenario.id.starts_with(prefix)).collect();
        if scenarios.is_empty() {
            continue;
        }
        let _ = write!(text, "\n## {title}\n\n{words}\n");
        for plot in plots.iter().filter(|plot| plot.id.starts_with(prefix)) {
            let _ = write!(text, "\n![{}](benchmarks/{})\n", plot.title, plot.file());
        }
        scenario_tables(&mut text, &scenarios);
    }
    figures_table(&mut text, measured);
    if !measured.failures.is_empty() {
        text.push_str("\n## What could not be measured\n\n");
        for failure in &measured.failures {
            let _ = writeln!(text, "- {failure}");
        }
    }
    text
}

/// Prefix of the scenarios' ids, title, and what a reader has to know.
const SECTIONS: [(&str, &str, &str); 5] = [
    (
        "established/",
        "Established flows",
        "Nanoseconds a packet, from the container's port on the bridge until behind the uplink, or from the uplink until \
         inside the container. Flows are met in random order; UDP frames have 64 bytes, TCP acknowledgements 66, with \
         timestamps.",
    ),
    (
        "without-bridge-netfilter/",
        "The same with net.bridge.bridge-nf-call-iptables off",
        "The kernel's bridge does not call netfilter here, which makes routing and the kernel's NAT cheaper.",
    ),
    (
        "opening/",
        "Opening flows",
        "Nanoseconds a packet, each of which opens a flow: 32,768 from as many ports to one destination, in a table that \
         is empty before. The floor and plain routing open nothing and are there for comparison.",
    ),
    (
        "pool/",
        "Opening flows when ports run short",
        "A pool of 32,768 ports of which a part is taken, all toward one destination, scattered over the pool. 512 flows \
         of another container are opened, from ports all over the pool; nanoseconds a packet. When the pool is full, \
         every packet of that container is refused; the cost of one is compared with that of the flows that filled it.",
    ),
    (
        "program/",
        "Real programs",
        "Both ends and the forwarding between them on one processor. The request and answer tests are made by the \
         benchmark itself as netperf makes TCP_CRR, TCP_RR and UDP_RR (one octet each way, blocking sockets), because \
         netperf is not free software and seldom installed; the server closes first.",
    ),
];

fn header(text: &mut String, machine: &Machine) {
    let Machine { kernel, processor, processors, date, commit, load, quick } = machine;
    let _ = write!(
        text,
        "| | |\n|---|---|\n| kernel | {kernel} |\n| processor | {processor}, {processors} of them; one is measured on |\n\
         | date | {date} |\n| commit | {commit} |\n| load before | {load} |\n\
         | switched on | net.bridge.bridge-nf-call-iptables, as new network namespaces have it; the kernel's BPF JIT; \
         xnat's counters of packets and bytes (the kernel's nf_conntrack_acct is off, its default) |\n"
    );
    if *quick {
        text.push_str("\nA quick run: fewer rounds, fewer flows and shorter times than the goals are about.\n");
    }
}

fn goals_table(text: &mut String, goals: &[Goal]) {
    text.push_str("\n## Goals\n\n| | goal | measured | |\n|---|---|---|---|\n");
    for Goal { subject, bound, figure, met, .. } in goals {
        let figure = figure.map_or("not measured".to_owned(), short);
        let met = met.map_or("", |met| if met { "met" } else { "**not met**" });
        let _ = writeln!(text, "| {subject} | {bound} | {figure} | {met} |");
    }
}

fn scenario_tables(text: &mut String, scenarios: &[&Scenario]) {
    for scenario in scenarios {
        let _ = write!(
            text,
            "\n**{}**, {}\n\n| | median | min | max | of iptables-nft | of plain routing | of the floor |\n\
             |---|--:|--:|--:|--:|--:|--:|\n",
            scenario.title, scenario.unit
        );
        for series in &scenario.series {
            let title = series.candidate.title();
            if let Some(summary) = series.summary() {
                let ratio =
                    |to| scenario.ratio(series.candidate, to).map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(
                    text,
                    "| {title} | {} | {} | {} | {} | {} | {} |",
                    short(summary.median),
                    short(summary.min),
                    short(summary.max),
                    ratio(Candidate::IptablesNft),
                    ratio(Candidate::Plain),
                    ratio(Candidate::Floor)
                );
            } else {
                let _ = write!(text, "| {title} | error | | | | | |");
            }
            text.push('\n');
        }
        for series in scenario.series.iter().filter(|series| !series.errors.is_empty()) {
            let (failed, rounds, error) = (series.failed(), series.rounds.len(), &series.errors[0]);
            let _ = write!(text, "\n{}: {failed} of {rounds} rounds are errors: {error}.\n", series.candidate.title());
        }
    }
}

fn figures_table(text: &mut String, measured: &Measured) {
    if measured.figures.is_empty() {
        return;
    }
    text.push_str("\n## Memory, dumps, collection, starting, ports\n\n| | |\n|---|--:|\n");
    for figure in &measured.figures {
        let _ = writeln!(text, "| {} | {} {} |", figure.title, short(figure.value), figure.unit);
    }
}
