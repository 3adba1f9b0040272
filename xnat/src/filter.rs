//! Which flows a command is about.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;
use xnat_common::flow::{Flow, State};
use xnat_common::packet::proto;
use xnat_common::{Addr, Port, tcp};

use crate::cidr::Cidr;
use crate::cli::FilterArgs;

/// An IP protocol, by name or number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol(pub(crate) u8);

/// Why a text names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("write tcp, udp, icmp, sctp or a protocol number from 0 to 255")]
pub(crate) struct ProtocolError;

impl Protocol {
    /// The name, for protocols that have one here.
    pub(crate) const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            proto::TCP => "tcp",
            proto::UDP => "udp",
            proto::ICMP => "icmp",
            proto::SCTP => "sctp",
            _ => return None,
        })
    }

    /// Whether its packets carry ports.
    pub(crate) const fn has_ports(self) -> bool {
        matches!(self.0, proto::TCP | proto::UDP | proto::SCTP)
    }
}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        let named = [proto::TCP, proto::UDP, proto::ICMP, proto::SCTP].map(Self);
        let by_name = named.into_iter().find(|it| it.name().is_some_and(|name| name.eq_ignore_ascii_case(text)));
        by_name.or_else(|| text.parse().ok().map(Self)).ok_or(ProtocolError)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A state by which flows are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateName {
    /// A TCP connection in this state.
    Tcp(tcp::State),
    /// Any flow on which a packet has come back.
    Replied,
    /// Any flow on which none has.
    Unreplied,
    /// Any flow that carries a conversation.
    Assured,
    /// Any flow that its peer has not confirmed.
    Unconfirmed,
}

/// Why a text names no state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("write a TCP state ({}) or replied, unreplied, assured, unconfirmed", tcp_names())]
pub(crate) struct StateError;

fn tcp_states() -> impl Iterator<Item = tcp::State> {
    (1..=9).map(tcp::State::from_u8)
}

fn tcp_names() -> String {
    crate::say::list(tcp_states().map(|state| state.name().to_ascii_lowercase()))
}

impl FromStr for StateName {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        let text = text.replace('-', "_").to_ascii_uppercase();
        Ok(match text.as_str() {
            "REPLIED" => Self::Replied,
            "UNREPLIED" => Self::Unreplied,
            "ASSURED" => Self::Assured,
            "UNCONFIRMED" => Self::Unconfirmed,
            _ => Self::Tcp(tcp_states().find(|state| state.name() == text).ok_or(StateError)?),
        })
    }
}

impl StateName {
    fn matches(self, flow: &Flow) -> bool {
        let state = State(flow.state);
        match self {
            Self::Tcp(wanted) => flow.proto == proto::TCP && state.tcp() == wanted,
            Self::Replied => state.replied(),
            Self::Unreplied => !state.replied(),
            Self::Assured => state.has(State::ASSURED),
            Self::Unconfirmed => flow.peer != Addr::UNSPECIFIED && !state.has(State::CONFIRMED),
        }
    }
}

impl FilterArgs {
    /// Whether the flow meets every condition.
    pub(crate) fn matches(&self, flow: &Flow) -> bool {
        let Self { proto, src, dst, sport, dport, state, peer } = self;
        let within = |range: Option<Cidr>, address: Addr| range.is_none_or(|it| it.contains(address.into()));
        let at = |wanted: Option<u16>, port: Port| {
            wanted.is_none_or(|wanted| Protocol(flow.proto).has_ports() && port.number() == wanted)
        };
        proto.is_none_or(|wanted| wanted.0 == flow.proto)
            && within(*src, flow.original.src)
            && within(*dst, flow.original.dst)
            && at(*sport, flow.original.sport)
            && at(*dport, flow.original.dport)
            && state.is_none_or(|wanted| wanted.matches(flow))
            && peer.is_none_or(|wanted: Ipv4Addr| flow.peer == wanted.into())
    }
}

#[cfg(test)]
mod tests {
    use xnat_common::flow::Kind;

    use super::*;
    use crate::output::sample;

    #[test]
    fn protocols_and_states_are_read() {
        assert_eq!("TCP".parse(), Ok(Protocol(6)));
        assert_eq!("47".parse(), Ok(Protocol(47)));
        assert_eq!("tcpp".parse::<Protocol>(), Err(ProtocolError));
        assert_eq!("time-wait".parse(), Ok(StateName::Tcp(tcp::State::TimeWait)));
        assert_eq!("Unreplied".parse(), Ok(StateName::Unreplied));
        let message = "open".parse::<StateName>().unwrap_err().to_string();
        assert!(message.contains("established") && message.contains("syn_sent2"), "{message}");
    }

    #[test]
    fn all_conditions_must_hold_on_the_original_direction() {
        let flow = sample::tcp();
        let mut filter = FilterArgs { proto: Some(Protocol(6)), ..FilterArgs::default() };
        filter.src = Some("192.168.110.0/24".parse().unwrap());
        filter.dport = Some(80);
        filter.state = Some("established".parse().unwrap());
        filter.peer = Some(Ipv4Addr::new(172, 29, 0, 17));
        assert!(filter.matches(&flow));
        filter.sport = Some(80);
        assert!(!filter.matches(&flow));
        let reply = FilterArgs { src: Some("172.29.0.17/32".parse().unwrap()), ..FilterArgs::default() };
        assert!(!reply.matches(&flow));
    }

    #[test]
    fn identifiers_are_no_ports() {
        let flow = sample::icmp();
        let filter = FilterArgs { sport: Some(flow.original.sport.number()), ..FilterArgs::default() };
        assert!(!filter.matches(&flow));
        assert!(FilterArgs::default().matches(&flow));
    }
    #[test]
    fn what_comes_in_has_no_peer_that_could_confirm_it() {
        for flow in [sample::from_outside(Kind::Forward), sample::from_outside(Kind::Mapped), sample::hairpin()] {
            let by_state = |name: &str| FilterArgs { state: Some(name.parse().unwrap()), ..FilterArgs::default() };
            assert!(by_state("established").matches(&flow) && by_state("assured").matches(&flow));
            assert!(!by_state("unconfirmed").matches(&flow));
            let by_peer = FilterArgs { peer: Some(Ipv4Addr::new(172, 29, 0, 17)), ..FilterArgs::default() };
            assert!(!by_peer.matches(&flow));
        }
    }
}
