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

/// Steps of progress.
pub fn steps(plan: &Plan) -> u64 {
    (plan.program_rounds * plan.candidates.len() * (Kind::ALL.len() + 1)) as u64
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
            for setup in setups {
                progress.doing(format!("{title}: {}", setup.candidate.name()))?;
                let busy = processor::busy();
                let outcome = measure_trips(setup, kind, plan.program_time);
                let busy = processor::busy().saturating_sub(busy);
                let of_each = |trips: &Trips| busy.as_secs_f64() * 1e6 / trips.all() as f64;
                rate.add(setup.candidate, outcome.as_ref().map(Trips::rate).map_err(Clone::clone));
                cost.add(setup.candidate, outcome.as_ref().map(of_each).map_err(Clone::clone));
                for (percent, scenario) in &mut latency {
                    let figure = outcome.as_ref().map(|trips| trips.percentile(*percent)).map_err(Clone::clone);
                    scenario.add(setup.candidate, figure);
                }
                progress.done(1);
            }
        }
        measured.scenarios.extend([rate, cost].into_iter().chain(latency.map(|(_, scenario)| scenario)));
    }
    let mut rate = new("iperf3", "iperf3, TCP", "Gbit/s");
    let mut cost = new("iperf3/processor", "iperf3, TCP, processor time of a gigabyte", "ms");
    for _ in 0..plan.program_rounds {
        for setup in setups {
            progress.doing(format!("iperf3: {}", setup.candidate.name()))?;
            let outcome = iperf3(setup, plan.program_time.max(Duration::from_secs(1)));
            rate.add(setup.candidate, outcome.as_ref().map(|outcome| outcome.0).map_err(Clone::clone));
            cost.add(setup.candidate, outcome.map(|outcome| outcome.1));
            progress.done(1);
        }
    }
    measured.scenarios.extend([rate, cost]);
    Ok(())
}

/// Gigabits a second, and milliseconds of the processor a gigabyte.
fn iperf3(setup: &Setup, time: Duration) -> Result<(f64, f64), String> {
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
    match (received["bits_per_second"].as_f64(), received["bytes"].as_f64()) {
        (Some(bits), Some(bytes)) if bytes > 0.0 => Ok((bits / 1e9, busy.as_secs_f64() * 1e3 / (bytes / 1e9))),
        _ => Err(format!("iperf3: {}", report["error"].as_str().unwrap_or("nothing arrived"))),
    }
}

/// The server's socket address, as the container sees it and as it is.
pub fn addresses(candidate: Candidate, port: u16) -> (SocketAddr, SocketAddr) {
    let (to, at) = server(candidate);
    ((to, port).into(), (at, port).into())
}
