//! How much is measured.

use std::time::Duration;

use crate::candidate::Candidate;

/// What can be chosen by `--only`, beside the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What a packet of an established flow costs
    Forwarding,
    /// What opening a flow costs
    Opening,
    /// Real programs
    Programs,
    /// Memory a flow, and dumps
    Memory,
    /// Collection of idle flows
    Collecting,
    /// Starting, being idle, and ports that come and go
    Start,
}

/// The choice.
#[derive(Clone, Debug)]
pub struct Plan {
    pub quick: bool,
    pub parts: Vec<Part>,
    pub candidates: Vec<Candidate>,
    /// Rounds over all candidates.
    pub rounds: usize,
    /// Established flows.
    pub stages: Vec<u32>,
    /// Packets of one run, beside those that warm it up.
    pub packets: u32,
    /// Runs of each candidate, in turn, that a round of openings is.
    pub slices: usize,
    /// Rounds of real programs.
    pub program_rounds: usize,
    /// How long each runs.
    pub program_time: Duration,
    /// How many runs of iperf3 a round is.
    pub transfers: u32,
    /// How many flows are counted, dumped and collected.
    pub many: u32,
    /// After how many seconds they are idle: longer than it takes to open them.
    pub flow_idle: u32,
    /// How often xnat is started.
    pub starts: u64,
    /// How often a port joins the bridge.
    pub joins: usize,
    /// How long packets are sent while nothing is collected.
    pub quiet: Duration,
    /// How long an idle daemon is watched.
    pub idle: Duration,
}

impl Plan {
    /// The whole, or what takes about two minutes.
    pub fn new(quick: bool, parts: Vec<Part>, candidates: Vec<Candidate>, rounds: Option<usize>) -> Self {
        let seconds = Duration::from_secs;
        if quick {
            Self {
                quick,
                parts,
                candidates,
                rounds: rounds.unwrap_or(2),
                stages: vec![1, 100_000],
                packets: 40_000,
                slices: 1,
                program_rounds: rounds.unwrap_or(2),
                program_time: Duration::from_millis(200),
                transfers: 1,
                many: 100_000,
                flow_idle: 3,
                starts: 3,
                joins: 5,
                quiet: seconds(1),
                idle: seconds(3),
            }
        } else {
            Self {
                quick,
                parts,
                candidates,
                rounds: rounds.unwrap_or(7),
                stages: vec![1, 1024, 100_000, 1_000_000],
                packets: 400_000,
                slices: 4,
                program_rounds: rounds.unwrap_or(7),
                program_time: seconds(1),
                transfers: 2,
                many: 1_000_000,
                flow_idle: 10,
                starts: 5,
                joins: 20,
                quiet: seconds(4),
                idle: seconds(30),
            }
        }
    }

    /// Whether this part is to be measured.
    pub fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// The candidates that are both chosen and among these.
    pub fn among(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        self.candidates.iter().copied().filter(|candidate| candidates.contains(candidate)).collect()
    }

    /// The greatest number of established flows.
    pub fn most(&self) -> u32 {
        self.stages.iter().copied().max().unwrap_or(1)
    }
}
