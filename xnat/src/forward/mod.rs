//! Forwards: ports of this host on the wire that lead to containers.

pub(crate) mod spec;
pub(crate) mod table;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use thiserror::Error;
use xnat_common::host_port;
use xnat_common::packet::proto;

use crate::cidr::Cidr;
use crate::filter::Protocol;
use crate::say;
use spec::{ForwardSpec, PortsSpec};

/// Why a forward cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ForwardError {
    #[error("{forward}: {} is in no --subnet of this host ({subnets}); name a container of this host", forward.address)]
    Outside { forward: ForwardSpec, subnets: String },
    #[error("{forward}: {address} is no container's address but {reason} --subnet {subnet}; name a container", address = forward.address)]
    NoContainer { forward: ForwardSpec, reason: &'static str, subnet: Cidr },
    #[error("{forward}: {address} is this host's own address; name a container", address = forward.address)]
    OwnAddress { forward: ForwardSpec },
    #[error("{forward}: UDP port {} belongs to the link between peers; forward another port", host_port::LINK_PORT)]
    LinkPort { forward: ForwardSpec },
    #[error("{0} and {1} have ports in common; a port leads to one container")]
    Overlap(ForwardSpec, ForwardSpec),
    #[error(
        "{forward}: {protocol} port {port} is that of a socket of this host; end what listens there (ss -ln 'sport = :{port}' shows it), or forward another port"
    )]
    Listening { forward: ForwardSpec, protocol: Protocol, port: u16 },
    #[error(
        "{forward}: {protocol} port {port} leads to {to} already; remove that forward first, or choose another port"
    )]
    Taken { forward: ForwardSpec, protocol: Protocol, port: u16, to: table::Target },
    #[error("{0}: there is no such forward; `xnat forward list` shows those that there are")]
    Missing(PortsSpec),
    #[error("{forward}: {protocol} port {port} leads to {to} instead; `xnat forward list` shows what leads where")]
    Elsewhere { forward: ForwardSpec, protocol: Protocol, port: u16, to: table::Target },
}

/// Whether what a forward leads to can be a container, and its ports can be forwarded at all.
pub(crate) fn check(forward: &ForwardSpec, subnets: &[Cidr]) -> Result<(), ForwardError> {
    match container(forward.address, subnets) {
        Ok(()) => {}
        Err(None) => return Err(ForwardError::Outside { forward: *forward, subnets: say::list(subnets) }),
        Err(Some((reason, subnet))) => return Err(ForwardError::NoContainer { forward: *forward, reason, subnet }),
    }
    if forward.entries().any(|(key, _)| key == (proto::UDP, host_port::LINK_PORT)) {
        return Err(ForwardError::LinkPort { forward: *forward });
    }
    Ok(())
}

/// Whether a container may have the address, one of `subnets`; else why not, where it is in one of them.
pub(crate) fn container(address: Ipv4Addr, subnets: &[Cidr]) -> Result<(), Option<(&'static str, Cidr)>> {
    let subnet = *subnets.iter().find(|subnet| subnet.contains(address)).ok_or(None)?;
    // A range of one or two addresses has none to spare (RFC 3021).
    if subnet.len() < 31 && address == subnet.address() {
        return Err(Some(("the first of", subnet)));
    }
    if subnet.len() < 31 && address == subnet.last() {
        return Err(Some(("the broadcast address of", subnet)));
    }
    Ok(())
}

/// Whether the forwards of the flags go together.
pub(crate) fn check_all(forwards: &[ForwardSpec], subnets: &[Cidr]) -> Result<(), ForwardError> {
    for (index, forward) in forwards.iter().enumerate() {
        check(forward, subnets)?;
        if let Some(other) = forwards[..index].iter().find(|other| other.overlaps(forward)) {
            return Err(ForwardError::Overlap(*other, *forward));
        }
    }
    Ok(())
}

/// Whether no socket of the host's listens at a port of the forward, and no address of the host's is its target.
pub(crate) fn check_host(
    forward: &ForwardSpec,
    listening: &BTreeSet<(u8, u16)>,
    mut own: impl Iterator<Item = Ipv4Addr>,
) -> Result<(), ForwardError> {
    if own.any(|address| address == forward.address) {
        return Err(ForwardError::OwnAddress { forward: *forward });
    }
    match forward.entries().find(|(key, _)| listening.contains(key)) {
        Some(((protocol, port), _)) => {
            Err(ForwardError::Listening { forward: *forward, protocol: Protocol(protocol), port })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(text: &str) -> ForwardSpec {
        text.parse().unwrap()
    }

    const OWN: [&str; 2] = ["192.168.110.0/24", "10.0.0.4/31"];

    fn subnets() -> Vec<Cidr> {
        OWN.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_container_of_ours_is_wanted() {
        for (text, part) in [
            ("tcp:80=192.168.220.11", "in no --subnet of this host (192.168.110.0/24, 10.0.0.4/31)"),
            ("tcp:80=192.168.110.0", "the first of --subnet 192.168.110.0/24"),
            ("tcp:80=192.168.110.255", "the broadcast address of --subnet 192.168.110.0/24"),
            ("udp:9628=192.168.110.11", "UDP port 9628 belongs to the link between peers"),
            ("both:9000-9999=192.168.110.11", "UDP port 9628"),
        ] {
            let error = check(&forward(text), &subnets()).unwrap_err().to_string();
            assert!(error.starts_with(text) && error.contains(part), "{error}");
        }
        for text in ["tcp:9628=192.168.110.11", "udp:53=10.0.0.4", "udp:53=10.0.0.5"] {
            assert_eq!(check(&forward(text), &subnets()), Ok(()), "{text}");
        }
    }

    #[test]
    fn forwards_that_overlap_are_refused() {
        let both = |one: &str, two: &str| check_all(&[forward(one), forward(two)], &subnets());
        assert!(both("tcp:80=192.168.110.11", "udp:80=192.168.110.11").is_ok());
        assert!(both("tcp:80-89=192.168.110.11", "tcp:90=192.168.110.11").is_ok());
        let error = both("tcp:80-90=192.168.110.11", "both:90=192.168.110.11").unwrap_err().to_string();
        assert!(error.starts_with("tcp:80-90=192.168.110.11 and both:90=192.168.110.11"), "{error}");
    }

    #[test]
    fn the_host_keeps_what_is_its_own() {
        let own = [Ipv4Addr::new(192, 168, 110, 1)];
        let listening = BTreeSet::from([(proto::TCP, 22)]);
        let check = |text: &str| check_host(&forward(text), &listening, own.into_iter());
        assert!(check("udp:22=192.168.110.11").is_ok());
        let error = check("tcp:20-25=192.168.110.11").unwrap_err().to_string();
        assert!(error.contains("tcp port 22 is that of a socket of this host"), "{error}");
        let error = check("tcp:80=192.168.110.1").unwrap_err().to_string();
        assert!(error.contains("192.168.110.1 is this host's own address"), "{error}");
    }
}
