//! What opening a flow costs, with an empty pool of ports and with one that is nearly used up; and what it costs to be
//! refused.

use anyhow::Result;

use crate::candidate::{Candidate, Setup};
use crate::frame::Packet;
use crate::kernel::Kernel;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::rig::OTHER;
use crate::sample::{Measured, Round, Scenario};
use crate::traffic::{PORT_BITS, Protocol, Send};

/// Flows that are opened with an empty table: one from each port, all to one destination.
const FLOWS: u32 = 1 << PORT_BITS;
/// Who has a pool.
pub const POOLED: [Candidate; 4] = [Candidate::IptablesNft, Candidate::IptablesLegacy, Candidate::Nft, Candidate::Xnat];
/// The pool: as many ports, from this one on.
pub const POOL_FIRST: u16 = 32_768;
/// Its size.
const POOL: u32 = 1 << PORT_BITS;
/// How full it is, in percent.
pub const FILLED: [u32; 3] = [0, 50, 95];
/// Flows that are opened then. While they are, the pool is on the average as full as said.
const BURST: u32 = 512;
/// Packets that are refused.
const REFUSED: u32 = 20_000;
/// The ports of those who fill the pool, and of those who come then: both all over the pool, in different order.
const FILLING: u32 = 9_973;
const COMING: u32 = 20_011;

/// Steps of progress of one run: most of the time goes into forgetting flows before it.
const WEIGHT: u64 = 2;

/// Steps of progress.
pub fn steps(plan: &Plan) -> u64 {
    let pooled = plan.among(&POOLED).len() * (FILLED.len() + 1);
    WEIGHT * (plan.rounds * plan.slices * (2 * plan.candidates.len() + pooled)) as u64
}

/// Every packet a new flow, each round with an empty table.
pub fn measure_empty(
    plan: &Plan,
    kernel: &mut Kernel,
    setups: &mut [Setup],
    progress: &Progress,
    measured: &mut Measured,
) -> Result<()> {
    for protocol in Protocol::BOTH {
        let id = format!("opening/{}", protocol.name());
        let title = format!("{}, empty table", protocol.title());
        let mut scenario = Scenario::new(id, title, "ns", setups.iter().map(|setup| setup.candidate));
        for _ in 0..plan.rounds {
            let mut round = Round::of(setups.iter().map(|setup| setup.candidate));
            for _ in 0..plan.slices {
                for setup in setups.iter_mut() {
                    progress.doing(format!("opening flows, {}: {}", scenario.title, setup.candidate.name()))?;
                    setup.flush();
                    let packet = if protocol == Protocol::Udp { Packet::Udp } else { Packet::Syn };
                    let send = Send { packet, flows: FLOWS, packets: FLOWS, stride: FILLING, ..Send::default() };
                    round.add(setup.candidate, send.run(kernel, setup));
                    progress.done(WEIGHT);
                }
            }
            round.end(&mut scenario);
        }
        measured.scenarios.push(scenario);
    }
    Ok(())
}

/// UDP toward one destination, by a pool that is already used in part.
pub fn measure_pool(
    plan: &Plan,
    kernel: &mut Kernel,
    setups: &mut [Setup],
    progress: &Progress,
    measured: &mut Measured,
) -> Result<()> {
    let candidates = || POOLED.into_iter().filter(|candidate| plan.candidates.contains(candidate));
    let mut scenarios = FILLED
        .map(|percent| Scenario::new(format!("pool/{percent}"), format!("pool {percent} % full"), "ns", candidates()));
    let mut refused = Scenario::new("pool/refused".into(), "pool full: refused".into(), "ns", candidates());
    let mut known = Scenario::new("pool/established".into(), "pool full: established".into(), "ns", candidates());
    for _ in 0..plan.rounds {
        let mut rounds = FILLED.map(|_| Round::of(candidates()));
        let (mut refusing, mut knowing) = (Round::of(candidates()), Round::of(candidates()));
        for _ in 0..plan.slices {
            for ((scenario, round), percent) in scenarios.iter().zip(&mut rounds).zip(FILLED) {
                for setup in setups.iter_mut() {
                    progress.doing(format!("{}: {}", scenario.title, setup.candidate.name()))?;
                    setup.flush();
                    let filled = (POOL * percent / 100).saturating_sub(BURST / 2);
                    let outcome = fill(kernel, setup, filled).and_then(|()| coming(BURST).run(kernel, setup));
                    round.add(setup.candidate, outcome);
                    progress.done(WEIGHT);
                }
            }
            for setup in setups.iter_mut() {
                progress.doing(format!("{}: {}", refused.title, setup.candidate.name()))?;
                setup.flush();
                let filled = fill(kernel, setup, POOL);
                let established =
                    Send { at_random: true, flows: POOL, packets: REFUSED, warm_up: REFUSED / 10, ..filling() };
                knowing.add(setup.candidate, filled.clone().and_then(|()| established.run(kernel, setup)));
                let coming = Send { warm_up: REFUSED / 10, ..coming(REFUSED) };
                refusing.add(setup.candidate, filled.and_then(|()| coming.run_refused(kernel, setup)));
                progress.done(WEIGHT);
            }
        }
        for (scenario, round) in scenarios.iter_mut().zip(rounds) {
            round.end(scenario);
        }
        refusing.end(&mut refused);
        knowing.end(&mut known);
    }
    measured.scenarios.extend(scenarios);
    measured.scenarios.extend([known, refused]);
    Ok(())
}

/// The flows that use ports of the pool, which they keep.
fn filling() -> Send {
    Send { first_port: POOL_FIRST, stride: FILLING, ..Send::default() }
}

fn fill(kernel: &mut Kernel, setup: &Setup, flows: u32) -> Result<(), String> {
    if flows == 0 {
        return Ok(());
    }
    Send { flows, packets: flows, ..filling() }.run_until_all_arrive(kernel, setup)
}

/// New flows of another container, whose own ports are taken as often as the pool is full.
fn coming(flows: u32) -> Send {
    Send { container: OTHER, first_port: POOL_FIRST, stride: COMING, flows, packets: flows, ..Send::default() }
}
