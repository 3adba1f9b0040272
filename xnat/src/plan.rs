//! What the user asks for, found on the machine: pure functions of the settings and of what there is.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use thiserror::Error;
use xnat_common::subnet::Subnet;

use crate::cidr::Cidr;
use crate::config::Settings;
use crate::net::route::Way;
use crate::net::snapshot::{Link, Snapshot};
use crate::say;
use crate::state::{Interface, note};

/// Where to translate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The uplink.
    pub(crate) uplink: Link,
    /// Our address on it.
    pub(crate) address: Ipv4Addr,
    /// The inside interfaces by number, each with its subnets.
    pub(crate) insides: BTreeMap<u32, Vec<Cidr>>,
    /// For each subnet the interfaces that hold it or did, the first before the later.
    holders: BTreeMap<Cidr, Vec<Interface>>,
}

/// The ways that the kernel takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ways {
    /// To each peer.
    pub(crate) peers: Vec<(Ipv4Addr, Option<Way>)>,
    /// To everywhere else.
    pub(crate) default: Option<Way>,
}

/// What is not there as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum PlanError {
    #[error("{flag} {name}: there is no such interface; there are {there}")]
    NoInterface { flag: &'static str, name: String, there: String },
    #[error("--peer {0} is this host's own address; name the other host's address")]
    PeerIsOwn(Ipv4Addr),
    #[error("there is no route to --peer {0}; check the address, or add a route")]
    NoRoute(Ipv4Addr),
    #[error("the route to --peer {peer} leads through {through}, not through {uplink}{}", if *named { ", which --uplink names" } else { " as that to the other peers; all peers need to be behind one uplink" })]
    OtherUplink { peer: Ipv4Addr, through: String, uplink: String, named: bool },
    #[error(
        "there is no default route that could tell the uplink; name the interface toward the outside: --uplink DEV"
    )]
    NoDefaultRoute,
    #[error("uplink {0} has no IPv4 address; give it one: ip addr add ADDRESS/LEN dev {0}")]
    NoAddress(String),
    #[error("uplink {uplink} has several addresses ({addresses}); choose one: --address IP")]
    SeveralAddresses { uplink: String, addresses: String },
    #[error("--address {address} is not an address of uplink {uplink}, which has {addresses}")]
    NotItsAddress { address: Ipv4Addr, uplink: String, addresses: String },
    #[error("{0} is not an Ethernet interface; xnat needs Ethernet headers on the uplink and inside")]
    NotEthernet(String),
    #[error("no interface holds an address in --subnet {subnet}; create the network first:\n  docker network create --subnet {subnet} NAME\nor without Docker:\n  ip link add br0 type bridge && ip addr add {first}/{len} dev br0 && ip link set br0 up", len = subnet.len())]
    SubnetNotHeld { subnet: Cidr, first: Ipv4Addr },
    #[error("--bridge {bridge} holds no address in --subnet {subnet}; give it one: ip addr add {first}/{len} dev {bridge}", len = subnet.len())]
    BridgeHoldsNot { bridge: String, subnet: Cidr, first: Ipv4Addr },
    #[error(
        "several interfaces hold an address in --subnet {subnet}: {holders}; give each one's network as a --subnet of its own, or choose: --bridge DEV"
    )]
    SeveralHold { subnet: Cidr, holders: String },
    #[error(
        "--subnet {subnet} is held by the uplink {uplink} itself; name the containers' network, not the one between the hosts"
    )]
    InsideIsUplink { subnet: Cidr, uplink: String },
    #[error(
        "uplink {uplink} is a port of {bridge}, which holds --subnet {subnet}; containers and uplink need to be apart"
    )]
    UplinkIsPort { uplink: String, bridge: String, subnet: Cidr },
    #[error(
        "--subnet {subnet} contains {address}, this host's address on the uplink; name the containers' network only"
    )]
    ContainsAddress { subnet: Cidr, address: Ipv4Addr },
    #[error("subnet {subnet} of --peer {peer} contains {address}, this host's own address")]
    PeerContainsAddress { subnet: Cidr, peer: Ipv4Addr, address: Ipv4Addr },
}

impl Plan {
    /// Finds everything, or names what is missing.
    pub(crate) fn find(settings: &Settings, there: &Snapshot, ways: &Ways) -> Result<Self, PlanError> {
        // Said first, because the hint helps with all the rest.
        for &subnet in &settings.subnets {
            if there.holders(subnet).next().is_none() {
                return Err(PlanError::SubnetNotHeld { subnet, first: first_address(subnet) });
            }
        }
        let uplink = find_uplink(settings, there, ways)?;
        let address = find_address(settings, there, uplink)?;
        for peer in &settings.peers {
            let subnets = peer.subnets.iter().flatten();
            if let Some(&subnet) = subnets.into_iter().find(|it| it.contains(address)) {
                return Err(PlanError::PeerContainsAddress { subnet, peer: peer.address, address });
            }
        }
        let mut plan = Self { uplink: uplink.clone(), address, insides: BTreeMap::new(), holders: BTreeMap::new() };
        for &subnet in &settings.subnets {
            let inside = find_inside(settings, there, uplink, subnet)?;
            if subnet.contains(address) {
                return Err(PlanError::ContainsAddress { subnet, address });
            }
            plan.add(subnet, inside);
        }
        Ok(plan)
    }

    /// Finds everything again after a change, as far as it is there: what has gone may come back. The uplink keeps
    /// its name, and its address as long as it has it. None while there is no uplink or no address. A subnet stays with
    /// whoever held it before, as long as that does; who else holds it as well changes nothing.
    pub(crate) fn again(&self, settings: &Settings, there: &Snapshot) -> Option<Self> {
        let uplink = there.named(&self.uplink.name).filter(|link| link.mac.is_some())?;
        let kept = there.addresses_of(uplink.index).find(|&it| it == self.address);
        let address = kept.or_else(|| find_address(settings, there, uplink).ok())?;
        let holders = self.holders.clone();
        let mut plan = Self { uplink: uplink.clone(), address, insides: BTreeMap::new(), holders };
        for &subnet in &settings.subnets {
            let earlier = self.earlier_holder(there, uplink, subnet);
            if let Some(inside) = earlier.or_else(|| find_inside(settings, there, uplink, subnet).ok()) {
                plan.holders.entry(subnet).or_default().retain(|it| there.links.contains_key(&it.index));
                plan.add(subnet, inside);
            }
        }
        Some(plan)
    }

    /// The interface that holds a subnet.
    pub(crate) fn holder(&self, subnet: Cidr) -> Option<u32> {
        self.insides.iter().find(|(_, subnets)| subnets.contains(&subnet)).map(|(&index, _)| index)
    }

    /// Our own subnets as the dataplane is to see them: all of them, whether anybody holds them or not. Nothing that
    /// comes from them may leave untranslated.
    pub(crate) fn own_subnets(&self, settings: &Settings) -> HashMap<Cidr, Subnet> {
        let own = |subnet| Subnet { inside: self.holder(subnet).unwrap_or(0), ..Subnet::default() };
        settings.subnets.iter().map(|&subnet| (subnet, own(subnet))).collect()
    }

    fn add(&mut self, subnet: Cidr, inside: &Link) {
        self.insides.entry(inside.index).or_default().push(subnet);
        let holder = Interface { index: inside.index, name: inside.name.clone() };
        note(self.holders.entry(subnet).or_default(), holder);
    }

    /// The first of those that have held a subnet which does so now. One that was made anew is known by its name.
    fn earlier_holder<'a>(&self, there: &'a Snapshot, uplink: &Link, subnet: Cidr) -> Option<&'a Link> {
        let now: Vec<&Link> = there.holders(subnet).filter(|link| fit_inside(link, uplink, subnet).is_ok()).collect();
        let again = |earlier: &Interface| {
            let same = now.iter().find(|link| link.index == earlier.index);
            same.or_else(|| now.iter().find(|link| link.name == earlier.name)).copied()
        };
        self.holders.get(&subnet)?.iter().find_map(again)
    }
}

fn find_uplink<'a>(settings: &Settings, there: &'a Snapshot, ways: &Ways) -> Result<&'a Link, PlanError> {
    let named = settings.uplink.as_deref().map(|name| find_named(there, "--uplink", name)).transpose()?;
    let mut uplink = named.map(|link| link.index);
    for &(peer, way) in &ways.peers {
        let way = way.ok_or(PlanError::NoRoute(peer))?;
        if way.local {
            return Err(PlanError::PeerIsOwn(peer));
        }
        let expected = *uplink.get_or_insert(way.link);
        if way.link != expected {
            let (through, uplink) = (there.name(way.link), there.name(expected));
            return Err(PlanError::OtherUplink { peer, through, uplink, named: named.is_some() });
        }
    }
    let index = uplink.or(ways.default.map(|way| way.link)).ok_or(PlanError::NoDefaultRoute)?;
    let link = there.links.get(&index).ok_or(PlanError::NoDefaultRoute)?;
    ethernet(link)
}

fn find_address(settings: &Settings, there: &Snapshot, uplink: &Link) -> Result<Ipv4Addr, PlanError> {
    let addresses: Vec<Ipv4Addr> = there.addresses_of(uplink.index).collect();
    let name = uplink.name.clone();
    match (settings.address, addresses.as_slice()) {
        (_, []) => Err(PlanError::NoAddress(name)),
        (Some(address), addresses) if addresses.contains(&address) => Ok(address),
        (Some(address), addresses) => {
            Err(PlanError::NotItsAddress { address, uplink: name, addresses: say::list(addresses) })
        }
        (None, &[address]) => Ok(address),
        (None, addresses) => Err(PlanError::SeveralAddresses { uplink: name, addresses: say::list(addresses) }),
    }
}

fn find_inside<'a>(
    settings: &Settings,
    there: &'a Snapshot,
    uplink: &Link,
    subnet: Cidr,
) -> Result<&'a Link, PlanError> {
    let first = first_address(subnet);
    let mut holders: Vec<&Link> = there.holders(subnet).collect();
    if let Some(name) = &settings.bridge {
        let bridge = find_named(there, "--bridge", name)?;
        holders.retain(|link| link.index == bridge.index);
        if holders.is_empty() {
            return Err(PlanError::BridgeHoldsNot { bridge: name.clone(), subnet, first });
        }
    }
    let inside = match holders.as_slice() {
        [] => return Err(PlanError::SubnetNotHeld { subnet, first }),
        [inside] => *inside,
        several => {
            let holders = say::list(several.iter().map(|link| &link.name));
            return Err(PlanError::SeveralHold { subnet, holders });
        }
    };
    fit_inside(inside, uplink, subnet)?;
    Ok(inside)
}

/// Whether an interface can be one of the insides.
fn fit_inside(inside: &Link, uplink: &Link, subnet: Cidr) -> Result<(), PlanError> {
    if inside.index == uplink.index {
        return Err(PlanError::InsideIsUplink { subnet, uplink: uplink.name.clone() });
    }
    if uplink.master == Some(inside.index) {
        let (uplink, bridge) = (uplink.name.clone(), inside.name.clone());
        return Err(PlanError::UplinkIsPort { uplink, bridge, subnet });
    }
    ethernet(inside).map(|_| ())
}

/// The address that a bridge usually has.
fn first_address(subnet: Cidr) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.address().to_bits().saturating_add(1))
}

fn find_named<'a>(there: &'a Snapshot, flag: &'static str, name: &str) -> Result<&'a Link, PlanError> {
    there.named(name).ok_or_else(|| {
        let there = say::list(there.links.values().map(|link| &link.name));
        PlanError::NoInterface { flag, name: name.to_owned(), there }
    })
}

fn ethernet(link: &Link) -> Result<&Link, PlanError> {
    match link.mac {
        Some(_) => Ok(link),
        None => Err(PlanError::NotEthernet(link.name.clone())),
    }
}

#[cfg(test)]
mod tests;
