//! Forwards as people and the API's clients write them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xnat_common::packet::proto;

use crate::cidr::{CidrError, parse_address};
use crate::port_range::{PortRange, PortRangeError};

/// The protocols that a forward is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocols {
    Tcp,
    Udp,
    #[serde(alias = "tcp+udp")]
    Both,
}

/// Ports of this host, by protocol: `tcp:8080`, `both:5000-5010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortsSpec {
    pub(crate) protocols: Protocols,
    pub(crate) ports: PortRange,
}

/// Ports of this host and where they lead: `tcp:8080=192.168.110.11:80`. A range leads to one of the same length, port
/// by port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Fields")]
pub(crate) struct ForwardSpec {
    pub(crate) from: PortsSpec,
    pub(crate) address: Ipv4Addr,
    pub(crate) target_ports: PortRange,
}

/// What to remove: ports, or a whole forward, which must lead where it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoveSpec {
    Ports(PortsSpec),
    Forward(ForwardSpec),
}

/// Why a text is no forward.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum SpecError {
    #[error("`{0}` is no forward; write PROTO:PORTS=ADDRESS[:PORTS], such as tcp:8080=192.168.110.11:80")]
    NoTarget(String),
    #[error("`{0}` names no ports; write PROTO:PORTS, such as tcp:8080 or udp:5000-5010")]
    NoPorts(String),
    #[error("`{0}` is no protocol that can be forwarded; write tcp, udp or both")]
    Protocol(String),
    #[error(transparent)]
    Ports(#[from] PortRangeError),
    #[error(transparent)]
    Address(#[from] CidrError),
    #[error(
        "{ports} and {target} differ in length; a range leads to one of the same length, port by port, or without ports behind the address to the same numbers"
    )]
    Lengths { ports: PortRange, target: PortRange },
}

impl Protocols {
    /// Their numbers.
    pub(crate) const fn numbers(self) -> &'static [u8] {
        match self {
            Self::Tcp => &[proto::TCP],
            Self::Udp => &[proto::UDP],
            Self::Both => &[proto::TCP, proto::UDP],
        }
    }

    /// The one with a number.
    pub(crate) const fn of(protocol: u8) -> Self {
        if protocol == proto::TCP { Self::Tcp } else { Self::Udp }
    }
}

impl PortsSpec {
    /// Each port with each protocol.
    pub(crate) fn keys(self) -> impl Iterator<Item = (u8, u16)> {
        self.protocols.numbers().iter().flat_map(move |&protocol| self.ports.ports().map(move |port| (protocol, port)))
    }
}

impl ForwardSpec {
    /// Each port with each protocol, and the port to which it leads.
    pub(crate) fn entries(&self) -> impl Iterator<Item = ((u8, u16), u16)> + use<> {
        let (first, target) = (self.from.ports.first(), self.target_ports.first());
        // Neither range goes beyond the last port, and both have the same length.
        self.from.keys().map(move |(protocol, port)| ((protocol, port), target + (port - first)))
    }

    /// Whether both have a port in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let protocols = self.from.protocols.numbers();
        let shared = other.from.protocols.numbers().iter().any(|it| protocols.contains(it));
        shared && self.from.ports.overlaps(other.from.ports)
    }

    fn new(from: PortsSpec, address: Ipv4Addr, target: Option<PortRange>) -> Result<Self, SpecError> {
        let (ports, target_ports) = (from.ports, target.unwrap_or(from.ports));
        if ports.len() != target_ports.len() {
            return Err(SpecError::Lengths { ports, target: target_ports });
        }
        Ok(Self { from, address, target_ports })
    }
}

impl RemoveSpec {
    /// The ports.
    pub(crate) const fn ports(&self) -> PortsSpec {
        match self {
            Self::Ports(ports) => *ports,
            Self::Forward(forward) => forward.from,
        }
    }
}

impl FromStr for Protocols {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "both" | "tcp+udp" => Ok(Self::Both),
            _ => Err(SpecError::Protocol(text.to_owned())),
        }
    }
}

impl FromStr for PortsSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (protocols, ports) = text.split_once(':').ok_or_else(|| SpecError::NoPorts(text.to_owned()))?;
        Ok(Self { protocols: protocols.parse()?, ports: ports.parse()? })
    }
}

impl FromStr for ForwardSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (from, to) = text.split_once('=').ok_or_else(|| SpecError::NoTarget(text.to_owned()))?;
        let from = from.parse()?;
        match to.split_once(':') {
            // More than one colon is IPv6, which is said of the whole.
            Some((address, ports)) if !ports.contains(':') => {
                Self::new(from, parse_address(address)?, Some(ports.parse()?))
            }
            _ => Self::new(from, parse_address(to)?, None),
        }
    }
}

impl FromStr for RemoveSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.contains('=') { text.parse().map(Self::Forward) } else { text.parse().map(Self::Ports) }
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Both => "both",
        })
    }
}

impl fmt::Display for PortsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.protocols, self.ports)
    }
}

impl fmt::Display for ForwardSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, address, target_ports } = self;
        write!(f, "{from}={address}")?;
        if from.ports == *target_ports { Ok(()) } else { write!(f, ":{target_ports}") }
    }
}

/// A forward in the API's JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fields {
    protocol: Protocols,
    ports: PortRange,
    address: Ipv4Addr,
    #[serde(default)]
    target_ports: Option<PortRange>,
}

impl From<ForwardSpec> for Fields {
    fn from(ForwardSpec { from, address, target_ports }: ForwardSpec) -> Self {
        Self { protocol: from.protocols, ports: from.ports, address, target_ports: Some(target_ports) }
    }
}

impl TryFrom<Fields> for ForwardSpec {
    type Error = SpecError;

    fn try_from(Fields { protocol, ports, address, target_ports }: Fields) -> Result<Self, SpecError> {
        Self::new(PortsSpec { protocols: protocol, ports }, address, target_ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(text: &str) -> ForwardSpec {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn forwards_are_read_and_written() {
        for text in [
            "tcp:8080=192.168.110.11:80",
            "udp:5000-5010=192.168.110.11:6000-6010",
            "both:53=192.168.110.11",
            "tcp:1-65535=192.168.110.11",
        ] {
            assert_eq!(forward(text).to_string(), text);
            let json = serde_json::to_string(&Fields::from(forward(text))).unwrap();
            assert_eq!(serde_json::from_str::<ForwardSpec>(&json).unwrap(), forward(text), "{json}");
        }
        assert_eq!(forward("TCP+UDP:53=10.0.0.1:53").to_string(), "both:53=10.0.0.1");
        let json = r#"{"protocol":"udp","ports":53,"address":"10.0.0.1"}"#;
        assert_eq!(serde_json::from_str::<ForwardSpec>(json).unwrap(), forward("udp:53=10.0.0.1"));
    }

    #[test]
    fn ports_lead_one_to_one() {
        let entries: Vec<_> = forward("both:10-11=10.0.0.1:65534-65535").entries().collect();
        let expected = [proto::TCP, proto::UDP].map(|it| [((it, 10), 65534), ((it, 11), 65535)]);
        assert_eq!(entries, expected.concat());
        assert_eq!(forward("tcp:1-65535=10.0.0.1").entries().last(), Some(((proto::TCP, 65535), 65535)));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("tcp:8080", "PROTO:PORTS=ADDRESS[:PORTS]"),
            ("8080=10.0.0.1:80", "`8080` names no ports"),
            ("sctp:8080=10.0.0.1:80", "`sctp` is no protocol that can be forwarded"),
            ("tcp:0=10.0.0.1:80", "`0` is no port"),
            ("tcp:80=10.0.0.1:0", "`0` is no port"),
            ("tcp:80=10.0.0.1:", "`` is no port"),
            ("tcp:90-80=10.0.0.1", "did you mean 80-90?"),
            ("tcp:80=web", "`web` is not an address"),
            ("tcp:80=fd00::1", "IPv6"),
            ("tcp:80-89=10.0.0.1:80-90", "80-89 and 80-90 differ in length"),
            ("tcp:80-89=10.0.0.1:80", "80-89 and 80 differ in length"),
        ] {
            let error = text.parse::<ForwardSpec>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let wrong = r#"{"protocol":"udp","ports":"5-6","address":"10.0.0.1","target_ports":7}"#;
        assert!(serde_json::from_str::<ForwardSpec>(wrong).unwrap_err().to_string().contains("differ in length"));
    }

    #[test]
    fn what_to_remove_is_ports_or_a_forward() {
        let ports = |text: &str| text.parse::<RemoveSpec>().unwrap().ports().to_string();
        assert_eq!(ports("tcp:8080"), "tcp:8080");
        assert_eq!(ports("udp:5-6=10.0.0.1:7-8"), "udp:5-6");
        assert!("8080".parse::<RemoveSpec>().unwrap_err().to_string().contains("PROTO:PORTS"));
    }
}
