//! What a packet of an established flow costs.

use anyhow::Result;

use crate::candidate::{Candidate, Setup};
use crate::kernel::Kernel;
use crate::number::thousands;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::sample::{Measured, Round, Scenario};
use crate::traffic::{self, Direction, Protocol, Send};

/// The number of flows at which the bridge's call into netfilter is switched off for once.
const WITHOUT_NETFILTER: u32 = 1024;
/// A round is at most so many runs.
const SLICES: u32 = 8;

/// Steps of progress: one a run of the generator, in eighths for runs as short as an opening.
pub fn steps(plan: &Plan) -> u64 {
    let without = usize::from(plan.stages.contains(&WITHOUT_NETFILTER));
    let runs = (Protocol::BOTH.len() * plan.stages.len() + without) * Direction::BOTH.len();
    (runs * plan.rounds * plan.candidates.len()) as u64 + openings(plan) * plan.candidates.len() as u64
}

fn openings(plan: &Plan) -> u64 {
    2 * plan.stages.iter().map(|&flows| opening_steps(flows)).sum::<u64>()
}

/// Opening flows takes three runs of that many packets.
fn opening_steps(flows: u32) -> u64 {
    1 + u64::from(flows) / 50_000
}

/// Measures with UDP, forgets all flows, and measures with TCP.
pub fn measure(
    plan: &Plan,
    kernel: &mut Kernel,
    setups: &mut [Setup],
    progress: &Progress,
    measured: &mut Measured,
) -> Result<()> {
    for protocol in Protocol::BOTH {
        for setup in setups.iter_mut() {
            setup.flush();
        }
        let mut opened = 0;
        let mut broken = Vec::new();
        for &flows in &plan.stages {
            for setup in setups.iter() {
                progress.doing(format!("opening {flows} {} flows: {}", protocol.name(), setup.candidate.name()))?;
                if let Err(error) = traffic::open(kernel, setup, protocol, opened, flows - opened) {
                    progress.note(&format!("{}: {error}", setup.candidate.name()));
                    broken.push((setup.candidate, error));
                }
                progress.done(opening_steps(flows));
            }
            opened = flows;
            for direction in Direction::BOTH {
                let id = format!("established/{}/{}/{flows}", protocol.name(), direction.name());
                let title = format!("{} {}, {}", protocol.title(), direction.title(), count(flows));
                let runs = Runs { plan, protocol, direction, flows, broken: &broken };
                measured.scenarios.push(runs.measure(id, title, kernel, setups, progress)?);
            }
            if protocol == Protocol::Udp && flows == WITHOUT_NETFILTER {
                set_bridge_netfilter(setups, "0");
                for direction in Direction::BOTH {
                    let id = format!("without-bridge-netfilter/{}", direction.name());
                    let title = format!("{} {}, {}", protocol.title(), direction.title(), count(flows));
                    let runs = Runs { plan, protocol, direction, flows, broken: &broken };
                    measured.scenarios.push(runs.measure(id, title, kernel, setups, progress)?);
                }
                set_bridge_netfilter(setups, "1");
            }
        }
    }
    for setup in setups {
        setup.flush();
    }
    Ok(())
}

fn set_bridge_netfilter(setups: &[Setup], value: &str) {
    for setup in setups {
        setup.rig.host.set_sysctl("net/bridge/bridge-nf-call-iptables", value);
    }
}

/// As in titles.
fn count(flows: u32) -> String {
    if flows == 1 { "1 flow".to_owned() } else { format!("{} flows", thousands(flows)) }
}

/// Rounds of one scenario.
struct Runs<'a> {
    plan: &'a Plan,
    protocol: Protocol,
    direction: Direction,
    flows: u32,
    /// Candidates that could not open their flows.
    broken: &'a [(Candidate, String)],
}

impl Runs<'_> {
    fn measure(
        &self,
        id: String,
        title: String,
        kernel: &mut Kernel,
        setups: &[Setup],
        progress: &Progress,
    ) -> Result<Scenario> {
        let candidates = setups.iter().map(|setup| setup.candidate);
        let mut scenario = Scenario::new(id, title, "ns", candidates);
        // Each flow is met before the clock starts, or with very many of them at least most of what they share.
        let warm_up = self.flows.clamp(10_000, 200_000).min(self.plan.packets);
        // What else the machine does changes within a second, so a round is several shorter runs of each candidate, in turn.
        let slices = (self.plan.packets / (2 * warm_up)).clamp(1, SLICES);
        let packets = self.plan.packets / slices;
        for _ in 0..self.plan.rounds {
            let mut round = Round::of(setups.iter().map(|setup| setup.candidate));
            for slice in 1..=slices {
                for setup in setups {
                    progress.doing(format!("{}: {}", scenario.title, setup.candidate.name()))?;
                    let send = Send {
                        packet: traffic::established(self.protocol, self.direction),
                        direction: self.direction,
                        at_random: true,
                        flows: self.flows,
                        warm_up,
                        packets: warm_up + packets,
                        ..Send::default()
                    };
                    let outcome = match self.broken.iter().find(|(candidate, _)| *candidate == setup.candidate) {
                        Some((_, error)) => Err(error.clone()),
                        None => send.run(kernel, setup),
                    };
                    round.add(setup.candidate, outcome);
                    if slice == slices {
                        progress.done(1);
                    }
                }
            }
            round.end(&mut scenario);
        }
        Ok(scenario)
    }
}
