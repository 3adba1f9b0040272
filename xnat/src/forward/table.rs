//! The forwards that there are, port by port.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use xnat_common::Port;
use xnat_common::mapping::Forward;

use super::ForwardError;
use super::spec::{ForwardSpec, PortsSpec, Protocols, RemoveSpec};
use crate::cidr::Cidr;
use crate::filter::Protocol;
use crate::port_range::PortRange;

/// Protocol number and port of this host.
pub(crate) type Key = (u8, u16);

/// Where a port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    /// Whether it was added while running.
    pub(crate) runtime: bool,
}

/// The forwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwards(BTreeMap<Key, Target>);

/// Forwards of neighbouring ports to neighbouring ports, as one. The field names are the API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) protocol: Protocols,
    pub(crate) ports: PortRange,
    pub(crate) address: Ipv4Addr,
    pub(crate) target_ports: PortRange,
    /// Whether they were added while running.
    pub(crate) runtime: bool,
}

/// What an earlier run's forwards become in this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Those that there are from now on.
    pub(crate) forwards: Forwards,
    /// Added while running, and now in the way of the flags.
    pub(crate) replaced: Vec<Shown>,
    /// Added while running, to addresses that are in none of our subnets any more.
    pub(crate) outside: Vec<Shown>,
}

impl Target {
    fn is_at(self, address: Ipv4Addr, port: u16) -> bool {
        (self.address, self.port) == (address, port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

impl From<Target> for Forward {
    fn from(Target { address, port, runtime }: Target) -> Self {
        Self { address: address.into(), port: Port::new(port), flags: if runtime { Self::RUNTIME } else { 0 } }
    }
}

impl From<Forward> for Target {
    fn from(forward: Forward) -> Self {
        let runtime = forward.flags & Forward::RUNTIME != 0;
        Self { address: forward.address.into(), port: forward.port.number(), runtime }
    }
}

impl Forwards {
    /// Those of the flags, which do not overlap.
    pub(crate) fn configured(specs: &[ForwardSpec]) -> Self {
        specs.iter().flat_map(|spec| entries(spec, false)).collect()
    }

    /// Those of the flags, and those of an earlier run that were added while it ran.
    pub(crate) fn take_over(specs: &[ForwardSpec], earlier: &Self, subnets: &[Cidr]) -> Taken {
        let mut forwards = Self::configured(specs);
        let (mut replaced, mut outside) = (Self::default(), Self::default());
        for (&key, &target) in earlier.0.iter().filter(|(_, target)| target.runtime) {
            match forwards.0.get(&key) {
                Some(own) if own.is_at(target.address, target.port) => {}
                Some(_) => _ = replaced.0.insert(key, target),
                None if subnets.iter().any(|subnet| subnet.contains(target.address)) => {
                    forwards.0.insert(key, target);
                }
                None => _ = outside.0.insert(key, target),
            }
        }
        Taken { forwards, replaced: replaced.shown(), outside: outside.shown() }
    }

    /// What has to be added so that the ports of `spec` lead where it says.
    pub(crate) fn missing(&self, spec: &ForwardSpec) -> Result<Self, ForwardError> {
        let mut missing = Self::default();
        for (key, new) in entries(spec, true) {
            match self.0.get(&key) {
                None => _ = missing.0.insert(key, new),
                Some(there) if there.is_at(new.address, new.port) => {}
                Some(&to) => {
                    let (protocol, port) = (Protocol(key.0), key.1);
                    return Err(ForwardError::Taken { forward: *spec, protocol, port, to });
                }
            }
        }
        Ok(missing)
    }

    /// Those that `spec` means: of its ports those that are forwarded, at least one; of a whole forward all.
    pub(crate) fn meant(&self, spec: &RemoveSpec) -> Result<Self, ForwardError> {
        let found = match spec {
            RemoveSpec::Ports(ports) => self.at(*ports),
            RemoveSpec::Forward(forward) => self.along(forward)?,
        };
        if found.is_empty() { Err(ForwardError::Missing(spec.ports())) } else { Ok(found) }
    }

    fn at(&self, ports: PortsSpec) -> Self {
        ports.keys().filter_map(|key| Some((key, *self.0.get(&key)?))).collect()
    }

    fn along(&self, forward: &ForwardSpec) -> Result<Self, ForwardError> {
        let mut found = Self::default();
        for ((key, wanted), to) in entries(forward, true).map(|(key, wanted)| ((key, wanted), self.0.get(&key))) {
            match to {
                Some(&to) if to.is_at(wanted.address, wanted.port) => _ = found.0.insert(key, to),
                Some(&to) => {
                    let (protocol, port) = (Protocol(key.0), key.1);
                    return Err(ForwardError::Elsewhere { forward: *forward, protocol, port, to });
                }
                None => {}
            }
        }
        Ok(found)
    }

    /// Adds them.
    pub(crate) fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Removes them.
    pub(crate) fn remove(&mut self, less: &Self) {
        self.0.retain(|key, _| !less.0.contains_key(key));
    }

    /// Keeps those for which `which` holds.
    pub(crate) fn retain(&mut self, which: impl Fn(Key, Target) -> bool) {
        self.0.retain(|&key, &mut target| which(key, target));
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ports are forwarded.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Port by port.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, Target)> {
        self.0.iter().map(|(&key, &target)| (key, target))
    }

    /// Where a port leads.
    pub(crate) fn get(&self, key: Key) -> Option<Target> {
        self.0.get(&key).copied()
    }

    /// In as few ranges as they fit into.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = Vec::new();
        for ((protocol, port), target) in self.iter() {
            match shown.last_mut() {
                Some(last) if last.goes_on(Protocols::of(protocol), port, target) => last.append(port, target.port),
                _ => shown.extend(Shown::one(Protocols::of(protocol), port, target)),
            }
        }
        shown
    }
}

impl FromIterator<(Key, Target)> for Forwards {
    fn from_iter<I: IntoIterator<Item = (Key, Target)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

fn entries(spec: &ForwardSpec, runtime: bool) -> impl Iterator<Item = (Key, Target)> + use<> {
    let address = spec.address;
    spec.entries().map(move |(key, port)| (key, Target { address, port, runtime }))
}

impl Shown {
    fn one(protocol: Protocols, port: u16, target: Target) -> Option<Self> {
        let (ports, target_ports) = (PortRange::new(port, port)?, PortRange::new(target.port, target.port)?);
        Some(Self { protocol, ports, address: target.address, target_ports, runtime: target.runtime })
    }

    fn goes_on(&self, protocol: Protocols, port: u16, target: Target) -> bool {
        (self.protocol, self.address, self.runtime) == (protocol, target.address, target.runtime)
            && self.ports.last().checked_add(1) == Some(port)
            && self.target_ports.last().checked_add(1) == Some(target.port)
    }

    fn append(&mut self, port: u16, target: u16) {
        self.ports = PortRange::new(self.ports.first(), port).unwrap_or(self.ports);
        self.target_ports = PortRange::new(self.target_ports.first(), target).unwrap_or(self.target_ports);
    }

    /// As it is written.
    pub(crate) const fn spec(&self) -> ForwardSpec {
        let Self { protocol, ports, address, target_ports, .. } = *self;
        ForwardSpec { from: PortsSpec { protocols: protocol, ports }, address, target_ports }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ForwardSpec {
        text.parse().unwrap()
    }

    fn specs(texts: &[&str]) -> Vec<ForwardSpec> {
        texts.iter().map(|text| spec(text)).collect()
    }

    fn text(shown: &[Shown]) -> Vec<String> {
        shown.iter().map(|it| format!("{}{}", it.spec(), if it.runtime { " runtime" } else { "" })).collect()
    }

    fn with(flags: &[&str], added: &[&str]) -> Forwards {
        let mut forwards = Forwards::configured(&specs(flags));
        for text in added {
            let missing = forwards.missing(&spec(text)).unwrap();
            forwards.add(missing);
        }
        forwards
    }

    #[test]
    fn neighbours_are_shown_as_one() {
        let forwards = with(&["udp:5000-5010=10.0.0.1:6000-6010", "tcp:80=10.0.0.1:8080", "tcp:81=10.0.0.1:8081"], &[]);
        assert_eq!(text(&forwards.shown()), ["tcp:80-81=10.0.0.1:8080-8081", "udp:5000-5010=10.0.0.1:6000-6010"]);
        let apart = with(&["tcp:80=10.0.0.1", "tcp:81=10.0.0.2", "tcp:82=10.0.0.2:90"], &["tcp:83=10.0.0.2:91"]);
        let expected = ["tcp:80=10.0.0.1", "tcp:81=10.0.0.2", "tcp:82=10.0.0.2:90", "tcp:83=10.0.0.2:91 runtime"];
        assert_eq!(text(&apart.shown()), expected);
        let all = with(&["both:1-65535=10.0.0.1"], &[]);
        assert_eq!(text(&all.shown()), ["tcp:1-65535=10.0.0.1", "udp:1-65535=10.0.0.1"]);
    }

    #[test]
    fn adding_what_is_there_changes_nothing() {
        let forwards = with(&["tcp:80=10.0.0.1"], &["udp:53=10.0.0.2"]);
        for text in ["tcp:80=10.0.0.1:80", "udp:53=10.0.0.2"] {
            assert!(forwards.missing(&spec(text)).unwrap().is_empty(), "{text}");
        }
        assert_eq!(text(&forwards.missing(&spec("tcp:80-81=10.0.0.1")).unwrap().shown()), ["tcp:81=10.0.0.1 runtime"]);
        let error = forwards.missing(&spec("both:50-60=10.0.0.2:150-160")).unwrap_err().to_string();
        assert!(error.contains("udp port 53 leads to 10.0.0.2:53 already"), "{error}");
    }

    #[test]
    fn what_is_removed_is_what_was_meant() {
        let forwards = with(&["tcp:80-89=10.0.0.1"], &["udp:80=10.0.0.2"]);
        let meant = |what: &str| forwards.meant(&what.parse().unwrap()).map(|found| text(&found.shown()));
        assert_eq!(meant("tcp:85-99").unwrap(), ["tcp:85-89=10.0.0.1"]);
        assert_eq!(meant("both:80").unwrap(), ["tcp:80=10.0.0.1", "udp:80=10.0.0.2 runtime"]);
        assert_eq!(meant("udp:80=10.0.0.2").unwrap(), ["udp:80=10.0.0.2 runtime"]);
        assert!(meant("udp:81").unwrap_err().to_string().contains("udp:81: there is no such forward"));
        assert!(
            meant("both:80=10.0.0.2").unwrap_err().to_string().contains("tcp port 80 leads to 10.0.0.1:80 instead")
        );
        let mut left = forwards.clone();
        left.remove(&forwards.meant(&"tcp:81-88".parse().unwrap()).unwrap());
        assert_eq!(text(&left.shown()), ["tcp:80=10.0.0.1", "tcp:89=10.0.0.1", "udp:80=10.0.0.2 runtime"]);
    }

    #[test]
    fn a_later_run_keeps_what_was_added_and_takes_its_own_flags() {
        let earlier = with(&["tcp:80=10.0.0.1", "tcp:90=10.0.0.1"], &["tcp:81-83=10.0.0.1", "udp:7=10.9.0.1"]);
        let flags = specs(&["tcp:80=10.0.0.2", "tcp:82=10.0.0.1", "tcp:83=10.0.0.3"]);
        let taken = Forwards::take_over(&flags, &earlier, &["10.0.0.0/16".parse().unwrap()]);
        let expected = ["tcp:80=10.0.0.2", "tcp:81=10.0.0.1 runtime", "tcp:82=10.0.0.1", "tcp:83=10.0.0.3"];
        assert_eq!(text(&taken.forwards.shown()), expected);
        assert_eq!(text(&taken.replaced), ["tcp:83=10.0.0.1 runtime"]);
        assert_eq!(text(&taken.outside), ["udp:7=10.9.0.1 runtime"]);
    }

    #[test]
    fn the_map_holds_all_of_a_target() {
        for runtime in [false, true] {
            let target = Target { address: Ipv4Addr::new(10, 0, 0, 1), port: 80, runtime };
            assert_eq!(Target::from(Forward::from(target)), target);
        }
    }
}
