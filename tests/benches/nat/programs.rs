//! Real programs, both ends and the forwarding between them on one processor.
//!
//! netperf is not free software and seldom installed; its three tests are made here the same way, with blocking sockets
//! and one octet each way.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use xnat_tests::process::{self, Running};
use xnat_tests::wait;

use crate::candidate::{Candidate, Setup};
use crate::plan::Plan;
use crate::processor;
use crate::progress::Progress;
use crate::rig::{GATEWAY, PEER, PEER_CONTAINER};
use crate::round_trips::{Kind, Trips, measure as measure_trips};
use crate::sample::{Measured, Scenario};

/// iperf3's usual port.
const IPERF: u16 = 5201;
/// A round of a program is so many runs.
const SLICES: u32 = 4;
/// The shortest that iperf3 can be told to take.
const TRANSFER: Duration = Duration::from_secs(1);

/// Steps of progress.
pub fn steps(plan: &Plan) -> u64 {
    (plan.program_rounds * plan.candidates.len() * (Kind::ALL.len() + plan.transfers as usize)) as u64
}

/// Where the server is, as the container sees it and as it is.
pub fn server(candidate: Candidate) -> (Ipv4Addr, Ipv4Addr) {
    if candidate == Candidate::XnatPeer { (PEER_CONTAINER, PEER) } else { (GATEWAY, GATEWAY) }
}

/// All programs, in turn.
pub fn measure(plan: &Plan, setups: &[Setup], progress: &Progress, measured: &mut Measured) -> Result<()> {
    let candidates = || setups.iter().map(|setup| setup.candidate);
    let new = |id: &str, title: &str, unit| Scenario::new(format!("program/{id}"), title.into(), unit, candidates());
    for kind in Kind::ALL {
        let (name, title) = (kind.name(), kind.title());
        let mut rate = new(name, &format!("{title}, a second"), "1/s");
        let mut cost = new(&format!("{name}/processor"), &format!("{title}, processor time of each"), "µs");
        let mut latency = [50, 90, 99].map(|percent| {
            (percent, new(&format!("{name}/p{percent}"), &format!("{title}, latency, {percent}th percentile"), "µs"))
        });
        for _ in 0..plan.program_rounds {
            for (setup, outcome) in setups.iter().zip(in_slices(plan, setups, kind, progress)?) {
                let rates = outcome.as_ref().map(|(trips, _)| trips.rate());
                rate.add(setup.candidate, rates.map_err(Clone::clone));
                let of_each = |(trips, busy): &(Trips, Duration)| busy.as_secs_f64() * 1e6 / trips.all() as f64;
                cost.add(setup.candidate, outcome.as_ref().map(of_each).map_err(Clone::clone));
                for (percent, scenario) in &mut latency {
                    let figure = outcome.as_ref().map(|(trips, _)| trips.percentile(*percent)).map_err(Clone::clone);
                    scenario.add(setup.candidate, figure);
                }
            }
        }
        measured.scenarios.extend([rate, cost].into_iter().chain(latency.map(|(_, scenario)| scenario)));
    }
    let mut rate = new("iperf3", "iperf3, TCP", "Gbit/s");
    let mut cost = new("iperf3/processor", "iperf3, TCP, processor time of a gigabyte", "ms");
    for _ in 0..plan.program_rounds {
        let mut sums: Vec<Result<Transfer, String>> = vec![Ok(Transfer::default()); setups.len()];
        for _ in 0..plan.transfers {
            for (setup, sum) in setups.iter().zip(&mut sums) {
                progress.doing(format!("iperf3: {}", setup.candidate.name()))?;
                if let Ok(before) = sum {
                    *sum = iperf3(setup, TRANSFER).map(|transfer| before.and(&transfer));
                }
                progress.done(1);
            }
        }
        for (setup, sum) in setups.iter().zip(sums) {
            rate.add(setup.candidate, sum.as_ref().map(Transfer::rate).map_err(Clone::clone));
            cost.add(setup.candidate, sum.as_ref().map(Transfer::cost).map_err(Clone::clone));
        }
    }
    measured.scenarios.extend([rate, cost]);
    Ok(())
}

/// A round of one program: each candidate is measured several times for a short while, in turn, because what else the machine
/// does changes within a second. The trips of each, and the time for which the processor was busy.
fn in_slices(
    plan: &Plan,
    setups: &[Setup],
    kind: Kind,
    progress: &Progress,
) -> Result<Vec<Result<(Trips, Duration), String>>> {
    let mut sums: Vec<_> = setups.iter().map(|_| Ok((Trips::none(), Duration::ZERO))).collect();
    for slice in 1..=SLICES {
        let mut next = Vec::new();
        for (setup, sum) in setups.iter().zip(sums) {
            progress.doing(format!("{}: {}", kind.title(), setup.candidate.name()))?;
            let before = processor::busy();
            let outcome = measure_trips(setup, kind, plan.program_time / SLICES);
            let busy = processor::busy().saturating_sub(before);
            next.push(sum.and_then(|(trips, so_far)| Ok((trips.and(outcome?), so_far + busy))));
            if slice == SLICES {
                progress.done(1);
            }
        }
        sums = next;
    }
    Ok(sums)
}

/// What iperf3 has transferred.
#[derive(Clone, Default)]
struct Transfer {
    octets: f64,
    seconds: f64,
    /// For which the processor was busy.
    busy: Duration,
}

impl Transfer {
    fn and(&self, other: &Self) -> Self {
        let (octets, seconds) = (self.octets + other.octets, self.seconds + other.seconds);
        Self { octets, seconds, busy: self.busy + other.busy }
    }

    /// Gigabits a second.
    fn rate(&self) -> f64 {
        self.octets * 8.0 / self.seconds / 1e9
    }

    /// Milliseconds of the processor a gigabyte.
    fn cost(&self) -> f64 {
        self.busy.as_secs_f64() * 1e3 / (self.octets / 1e9)
    }
}

fn iperf3(setup: &Setup, time: Duration) -> Result<Transfer, String> {
    let (to, at) = server(setup.candidate);
    let processor = processor::number().to_string();
    let mut command = setup.rig.wire.command("taskset");
    command.args(["-c", &processor, "iperf3", "-s", "-1", "--forceflush", "-B", &at.to_string()]);
    let mut listening = Running::start(&mut command);
    listening.expect_line("that it listens", wait::SOON, |line| line.contains("listening"));
    let mut command = setup.rig.container.command("taskset");
    let seconds = time.as_secs().to_string();
    command.args(["-c", &processor, "iperf3", "-J", "-c", &to.to_string(), "-p", &IPERF.to_string(), "-t", &seconds]);
    let busy = processor::busy();
    let finished = process::run(&mut command, time + Duration::from_secs(20));
    let busy = processor::busy().saturating_sub(busy);
    let report: serde_json::Value =
        serde_json::from_str(&finished.stdout).map_err(|error| format!("iperf3: {error}"))?;
    let received = &report["end"]["sum_received"];
    match (received["seconds"].as_f64(), received["bytes"].as_f64()) {
        (Some(seconds), Some(octets)) if octets > 0.0 => Ok(Transfer { octets, seconds, busy }),
        _ => Err(format!("iperf3: {}", report["error"].as_str().unwrap_or("nothing arrived"))),
    }
}

/// The server's socket address, as the container sees it and as it is.
pub fn addresses(candidate: Candidate, port: u16) -> (SocketAddr, SocketAddr) {
    let (to, at) = server(candidate);
    ((to, port).into(), (at, port).into())
}
