//! How flows and status are printed.

pub(crate) mod conntrack;
pub(crate) mod forwards;
pub(crate) mod json;
pub(crate) mod line;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod status;
pub(crate) mod table;

use xnat_common::config::Config;
use xnat_common::flow::{Flow, State};
use xnat_common::packet::proto;
use xnat_common::timeout::Timeouts;
use xnat_common::{Port, Ticks, Tuple};

/// What it takes to say how long a flow still lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    timeouts: Timeouts,
    now: Ticks,
}

impl Expiry {
    /// As of `now`, under the timeouts of `config`.
    pub(crate) const fn new(config: &Config, now: Ticks) -> Self {
        Self { timeouts: config.timeouts, now }
    }

    /// Whole seconds until the flow may be collected.
    pub(crate) const fn seconds(&self, flow: &Flow) -> u64 {
        self.timeouts.left(flow, self.now).as_ns() / 1_000_000_000
    }
}

/// The state in one word.
pub(crate) const fn state_name(flow: &Flow) -> &'static str {
    let state = State(flow.state);
    if flow.proto == proto::TCP {
        state.tcp().name()
    } else if state.replied() {
        "REPLIED"
    } else {
        "UNREPLIED"
    }
}

/// The identifier of an ICMP query, on whichever end of the tuple it is.
pub(crate) const fn identifier(tuple: &Tuple) -> u16 {
    match tuple.sport {
        Port::NONE => tuple.dport.number(),
        port => port.number(),
    }
}
