//! Which of the subnets that a peer claims it is given.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// A claim that was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// What was claimed.
    pub(crate) subnet: Cidr,
    /// Why it was not granted.
    pub(crate) reason: String,
}

/// What a claim must not collide with.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    /// Our own subnets.
    pub(crate) own: &'a [Cidr],
    /// Our address on the wire.
    pub(crate) address: Ipv4Addr,
    /// The addresses of all peers.
    pub(crate) peers: &'a [Ipv4Addr],
    /// The subnets of the other peers.
    pub(crate) others: &'a [(Ipv4Addr, Cidr)],
    /// What else this host has to do with some ranges.
    pub(crate) host: &'a HostRoutes,
}

/// What this host has to do with ranges, apart from the subnets that it was told to own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostRoutes {
    /// Ranges that the user has routed elsewhere, and whereto.
    pub(crate) routed: BTreeMap<Cidr, String>,
    /// Networks on interfaces other than the uplink, and the interface.
    pub(crate) connected: Vec<(Cidr, String)>,
}

/// Ranges that are nobody's containers.
const SPECIAL: [(Ipv4Addr, u8, &str); 5] = [
    (Ipv4Addr::UNSPECIFIED, 8, "0.0.0.0/8 means this host"),
    (Ipv4Addr::LOCALHOST, 8, "127.0.0.0/8 is every host's own loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "169.254.0.0/16 never leaves its link"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "224.0.0.0/4 is multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "240.0.0.0/4 is reserved"),
];

/// Why a range is nobody's containers; none when it may be somebody's.
pub(crate) fn special(range: Cidr) -> Option<&'static str> {
    if range.len() == 0 {
        return Some("it is the default route");
    }
    SPECIAL.into_iter().find(|&(it, len, _)| Cidr::around(it, len).overlaps(range)).map(|(.., reason)| reason)
}

/// Why `claim` cannot be granted; none when it can.
pub(crate) fn objection(claim: Cidr, ground: &Ground<'_>) -> Option<String> {
    if let Some(reason) = special(claim) {
        return Some(reason.to_owned());
    }
    if let Some(own) = ground.own.iter().find(|own| own.overlaps(claim)) {
        return Some(format!("it overlaps this host's own subnet {own}"));
    }
    if claim.contains(ground.address) {
        return Some(format!("it contains this host's own address {}", ground.address));
    }
    if let Some(peer) = ground.peers.iter().find(|peer| claim.contains(**peer)) {
        return Some(format!("it contains the address of peer {peer}"));
    }
    if let Some((peer, other)) = ground.others.iter().find(|(_, other)| other.overlaps(claim)) {
        return Some(format!("it overlaps {other} of peer {peer}"));
    }
    if let Some((network, interface)) = ground.host.connected.iter().find(|(network, _)| network.overlaps(claim)) {
        return Some(format!("it overlaps {network}, this host's network on {interface}"));
    }
    ground.host.routed.get(&claim).map(|via| format!("this host has a route of its own to it, {via}"))
}

/// Parts the claims into those that are granted and those that are not.
pub(crate) fn judge(claims: &[Cidr], ground: &Ground<'_>) -> (Vec<Cidr>, Vec<Refusal>) {
    let (mut granted, mut refused) = (Vec::new(), Vec::new());
    for &subnet in claims {
        match objection(subnet, ground) {
            None if !granted.contains(&subnet) => granted.push(subnet),
            None => {}
            Some(reason) => refused.push(Refusal { subnet, reason }),
        }
    }
    granted.sort_unstable();
    (granted, refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_free_ground_is_granted() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let (peer, other) = (Ipv4Addr::new(172, 29, 0, 17), Ipv4Addr::new(172, 29, 0, 18));
        let ground = Ground {
            own: &[cidr("192.168.110.0/24")],
            address: Ipv4Addr::new(172, 29, 0, 4),
            peers: &[peer, other],
            others: &[(other, cidr("192.168.230.0/24"))],
            host: &HostRoutes {
                routed: BTreeMap::from([(cidr("10.9.0.0/16"), "through eth1".to_owned())]),
                connected: vec![(cidr("10.8.0.0/16"), "docker0".to_owned())],
            },
        };
        let claims = [
            ("192.168.220.0/24", None),
            ("0.0.0.0/0", Some("default route")),
            ("127.1.0.0/16", Some("loopback")),
            ("224.0.0.0/3", Some("multicast")),
            ("192.168.0.0/16", Some("own subnet 192.168.110.0/24")),
            ("172.29.0.4/32", Some("own address")),
            ("172.29.0.16/28", Some("address of peer 172.29.0.17")),
            ("192.168.230.128/25", Some("192.168.230.0/24 of peer 172.29.0.18")),
            ("10.9.0.0/16", Some("through eth1")),
            ("10.8.1.0/24", Some("network on docker0")),
            ("10.9.1.0/24", None),
        ];
        for (claim, expected) in claims {
            let found = objection(cidr(claim), &ground);
            match expected {
                None => assert_eq!(found, None, "{claim}"),
                Some(part) => assert!(found.as_deref().is_some_and(|it| it.contains(part)), "{claim}: {found:?}"),
            }
        }
        let (granted, refused) =
            judge(&[cidr("192.168.220.0/24"), cidr("0.0.0.0/0"), cidr("192.168.220.0/24")], &ground);
        assert_eq!(granted, [cidr("192.168.220.0/24")]);
        assert_eq!(refused.len(), 1);
    }
}
