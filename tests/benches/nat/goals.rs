//! What is to be reached, and whether it was: computed from what was measured, never written by hand.

use serde::Serialize;

use crate::candidate::Candidate;
use crate::sample::{Measured, Scenario, ratio};
use crate::traffic::Protocol;

/// One bound.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    pub subject: String,
    /// As a reader wants it: `≤ 0.36 of iptables-nft`.
    pub bound: String,
    /// None if it was not measured.
    pub figure: Option<f64>,
    pub unit: &'static str,
    pub met: Option<bool>,
}

use Bound::{AtLeast, AtMost};
use Candidate::{Floor, IptablesNft, Plain, Xnat};

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn new(subject: &str, bound: Bound, of: &str, unit: &'static str, figure: Option<f64>) -> Self {
        let (text, met) = match bound {
            AtMost(limit) => (format!("≤ {limit}"), figure.map(|figure| figure <= limit)),
            AtLeast(limit) => (format!("≥ {limit}"), figure.map(|figure| figure >= limit)),
        };
        Self { subject: subject.to_owned(), bound: format!("{text} {of}").trim().to_owned(), figure, unit, met }
    }
}

/// All of them.
pub fn all(measured: &Measured, quick: bool) -> Vec<Goal> {
    let mut goals = Vec::new();
    established(measured, &mut goals);
    opening(measured, &mut goals);
    programs(measured, &mut goals);
    // A quick run has too few flows to say anything about those.
    let nothing = Measured::default();
    very_many(if quick { &nothing } else { measured }, &mut goals);
    daemon(measured, &mut goals);
    goals
}

fn established(measured: &Measured, goals: &mut Vec<Goal>) {
    let subject = |flows: &str, toward: &str| format!("established, {flows}, toward the {toward}");
    for (flows, name, direction, toward, bounds) in [
        (1, "1 flow", "outward", "outside", &[(0.36, IptablesNft), (0.52, Plain), (1.25, Floor)][..]),
        (100_000, "100,000 flows", "outward", "outside", &[(0.40, IptablesNft), (0.75, Plain)]),
        (1_000_000, "1,000,000 flows", "outward", "outside", &[(0.45, IptablesNft)]),
        (1, "1 flow", "inward", "container", &[(0.60, IptablesNft), (0.78, Plain)]),
        (100_000, "100,000 flows", "inward", "container", &[(0.60, IptablesNft)]),
    ] {
        for &(limit, to) in bounds {
            // The worse of the two protocols.
            let figure = worst(Protocol::BOTH.map(|protocol| {
                measured.scenario(&format!("established/{}/{direction}/{flows}", protocol.name()))?.ratio(Xnat, to)
            }));
            goals.push(Goal::new(&subject(name, toward), AtMost(limit), &format!("of {}", to.title()), "", figure));
        }
    }
    let growth = worst(Protocol::BOTH.map(|protocol| {
        let series =
            |flows| measured.scenario(&format!("established/{}/outward/{flows}", protocol.name()))?.series(Xnat);
        ratio(series(1_000_000)?, series(1)?)
    }));
    let subject = "established, 1,000,000 flows, toward the outside";
    goals.push(Goal::new(subject, AtMost(2.2), "times the cost at 1 flow", "", growth));
}

/// The greatest of figures all of which are there.
fn worst(figures: [Option<f64>; 2]) -> Option<f64> {
    figures.into_iter().try_fold(f64::MIN, |worst, figure| Some(worst.max(figure?)))
}

fn opening(measured: &Measured, goals: &mut Vec<Goal>) {
    let figure = worst(
        Protocol::BOTH
            .map(|protocol| measured.scenario(&format!("opening/{}", protocol.name()))?.ratio(Xnat, IptablesNft)),
    );
    goals.push(Goal::new("opening a flow", AtMost(0.36), "of iptables-nft", "", figure));
    let pool = |name: &str| measured.scenario(&format!("pool/{name}"))?.series(Xnat);
    let against = |this: &str, to: &str| ratio(pool(this)?, pool(to)?);
    let subject = "opening a flow with 95 % of the pool taken";
    goals.push(Goal::new(subject, AtMost(2.0), "times its cost when empty", "", against("95", "0")));
    let failed = pool("95").map(|series| series.failed() as f64);
    goals.push(Goal::new(subject, AtMost(0.0), "rounds with a failure", "", failed));
    let figure = against("refused", "established");
    goals.push(Goal::new("a refused packet", AtMost(2.0), "times an established one", "", figure));
}

fn programs(measured: &Measured, goals: &mut Vec<Goal>) {
    for (id, name, limit, to) in [
        ("tcp-crr", "TCP connect, request, close", 1.15, IptablesNft),
        ("tcp-crr", "TCP connect, request, close", 1.0, Plain),
        ("tcp-rr", "TCP request and answer", 1.10, IptablesNft),
        ("udp-rr", "UDP request and answer", 1.10, IptablesNft),
        ("iperf3", "iperf3", 1.0, Plain),
    ] {
        let figure =
            measured.scenario(&format!("program/{id}")).and_then(|scenario: &Scenario| scenario.ratio(Xnat, to));
        goals.push(Goal::new(name, AtLeast(limit), &format!("× {}", to.title()), "", figure));
    }
}

fn very_many(measured: &Measured, goals: &mut Vec<Goal>) {
    let mut figure = |subject: &str, id: &str, bound, unit| {
        goals.push(Goal::new(subject, bound, unit, unit, measured.figure(id)));
    };
    figure("memory a flow, everything counted", "memory/xnat/maps", AtMost(352.0), "bytes");
    figure("dump of 1,000,000 flows", "dump/xnat", AtMost(1.0), "s");
    let dumps = measured.figure("dump/xnat").zip(measured.figure("dump/conntrack"));
    let share = dumps.map(|(ours, theirs)| ours / theirs);
    goals.push(Goal::new("dump of 1,000,000 flows", AtMost(0.2), "of conntrack -L", "", share));
    let delay = measured.figure("delay/collecting/own/max");
    goals.push(Goal::new("delay of a packet by collecting", AtMost(1000.0), "µs", "µs", delay));
}

fn daemon(measured: &Measured, goals: &mut Vec<Goal>) {
    let mut figure = |subject: &str, id: &str, bound, unit| {
        goals.push(Goal::new(subject, bound, unit, unit, measured.figure(id)));
    };
    figure("hooks attached after exec", "start/attached", AtMost(150.0), "ms");
    figure("a new port hooked after it has joined", "port/hooked/max", AtMost(100.0), "ms");
    figure("idle daemon", "idle/processor", AtMost(0.1), "% of a processor");
    figure("idle daemon, resident", "idle/resident", AtMost(12.0), "MiB");
}
