//! What mappings and filtering depend on, as the flags say it (RFC 4787 §4 and §5).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use xnat_common::mapping::{Class, Dependence};

use crate::say;

/// `KIND` for all protocols, or `PROTO=KIND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BehaviourSpec {
    class: Option<Class>,
    kind: Dependence,
}

/// Why a text is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BehaviourError {
    #[error("`{0}` is no such kind; write {kinds}", kinds = say::list(Dependence::ALL.map(Dependence::name)))]
    Kind(String),
    #[error("`{0}` has no mappings; write tcp, udp or icmp, or the kind alone for all three")]
    Protocol(String),
}

/// Filtering that depends on less than the mapping does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "--filtering {protocol}={filtering} lets in more than --mapping {protocol}={mapping} can tell apart: a port that is mapped toward one other end cannot be open to others; leave --filtering out, or say --filtering {protocol}={mapping}",
    protocol = class_name(*class), filtering = filtering.name(), mapping = mapping.name()
)]
pub(crate) struct WeakFiltering {
    class: Class,
    mapping: Dependence,
    filtering: Dependence,
}

/// Mapping and filtering of each protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behaviour {
    pub(crate) mapping: [Dependence; CLASSES.len()],
    pub(crate) filtering: [Dependence; CLASSES.len()],
}

/// The protocols by their numbers as a [`Class`].
pub(crate) const CLASSES: [Class; 3] = [Class::Tcp, Class::Udp, Class::Icmp];

/// The protocol's name in flags and output.
pub(crate) const fn class_name(class: Class) -> &'static str {
    match class {
        Class::Tcp => "tcp",
        Class::Udp => "udp",
        Class::Icmp => "icmp",
    }
}

/// Filtering where nothing is said of it: RFC 4787 REQ-8, where strictness matters.
const FILTERING: Dependence = Dependence::Address;

impl Behaviour {
    /// From the flags, of which the later win. Filtering of which nothing is said is never weaker than the mapping.
    pub(crate) fn new(mapping: &[BehaviourSpec], filtering: &[BehaviourSpec]) -> Result<Self, WeakFiltering> {
        let stated = |specs: &[BehaviourSpec], class| {
            specs.iter().rev().find(|spec| spec.class.is_none_or(|it| it == class)).map(|spec| spec.kind)
        };
        let mapping = CLASSES.map(|class| stated(mapping, class).unwrap_or_default());
        let mut all = Self { mapping, filtering: mapping };
        for class in CLASSES {
            let mapping = mapping[class as usize];
            all.filtering[class as usize] = match stated(filtering, class) {
                Some(filtering) if filtering < mapping => {
                    return Err(WeakFiltering { class, mapping, filtering });
                }
                Some(filtering) => filtering,
                None => mapping.max(FILTERING),
            };
        }
        Ok(all)
    }
}

impl FromStr for BehaviourSpec {
    type Err = BehaviourError;

    fn from_str(text: &str) -> Result<Self, BehaviourError> {
        let (class, kind) = match text.split_once('=') {
            None => (None, text),
            Some((name, kind)) => {
                let found = CLASSES.into_iter().find(|&class| class_name(class).eq_ignore_ascii_case(name));
                (Some(found.ok_or_else(|| BehaviourError::Protocol(name.to_owned()))?), kind)
            }
        };
        let found = Dependence::ALL.into_iter().find(|it| it.name().eq_ignore_ascii_case(kind));
        Ok(Self { class, kind: found.ok_or_else(|| BehaviourError::Kind(kind.to_owned()))? })
    }
}

impl fmt::Display for BehaviourSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(class) = self.class {
            write!(f, "{}=", class_name(class))?;
        }
        f.write_str(self.kind.name())
    }
}

#[cfg(test)]
mod tests {
    use Dependence::{Address, AddressAndPort, Endpoint};

    use super::*;

    fn specs(text: &str) -> Vec<BehaviourSpec> {
        text.split_terminator(',').map(|it| it.parse().unwrap()).collect()
    }

    fn behaviour(mapping: &str, filtering: &str) -> Result<Behaviour, WeakFiltering> {
        Behaviour::new(&specs(mapping), &specs(filtering))
    }

    #[test]
    fn filtering_follows_the_mapping_where_nothing_is_said_of_it() {
        let usual = behaviour("", "").unwrap();
        assert_eq!((usual.mapping, usual.filtering), ([Endpoint; 3], [Address; 3]));
        let strict = behaviour("udp=address-and-port-dependent", "icmp=endpoint-independent").unwrap();
        assert_eq!(strict.mapping, [Endpoint, AddressAndPort, Endpoint]);
        assert_eq!(strict.filtering, [Address, AddressAndPort, Endpoint]);
    }

    #[test]
    fn the_later_wins() {
        let mapping = "address-dependent,tcp=endpoint-independent";
        assert_eq!(behaviour(mapping, "").unwrap().mapping, [Endpoint, Address, Address]);
        let mapping = "tcp=endpoint-independent,address-dependent";
        assert_eq!(behaviour(mapping, "").unwrap().mapping, [Address; 3]);
    }

    #[test]
    fn weaker_filtering_is_refused() {
        let error = behaviour("address-dependent", "udp=endpoint-independent").unwrap_err().to_string();
        assert!(error.contains("--filtering udp=endpoint-independent lets in more"), "{error}");
        assert!(error.contains("say --filtering udp=address-dependent"), "{error}");
        assert!(behaviour("address-dependent", "address-and-port-dependent").is_ok());
    }

    #[test]
    fn kinds_are_read_and_written() {
        for text in ["endpoint-independent", "tcp=address-dependent", "icmp=address-and-port-dependent"] {
            assert_eq!(text.parse::<BehaviourSpec>().unwrap().to_string(), text);
        }
        for (text, part) in
            [("symmetric", "`symmetric` is no such kind; write endpoint-independent,"), ("sctp=x", "`sctp`")]
        {
            assert!(text.parse::<BehaviourSpec>().unwrap_err().to_string().contains(part), "{text}");
        }
    }
}
