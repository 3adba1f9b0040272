//! The interfaces and their addresses at one moment.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage,
};

use super::route::Beyond;
use super::{NetError, Netlink, sysctl};
use crate::cidr::Cidr;

/// The loopback interface, whose number is the same in every network namespace (kernel `include/net/net_namespace.h`).
pub(crate) const LOOPBACK: u32 = 1;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "what the kernel tells independently of each other")]
pub(crate) struct Link {
    /// Its number.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Largest IP packet that it takes.
    pub(crate) mtu: u32,
    /// Its MAC address; none where its packets have no Ethernet header.
    pub(crate) mac: Option<[u8; 6]>,
    /// The bridge or the like of which it is a port.
    pub(crate) master: Option<u32>,
    /// Whether it is a bridge.
    pub(crate) bridge: bool,
    /// Whether it is a bridge that keeps VLANs apart.
    pub(crate) vlan_filtering: bool,
    /// Whether it is a port through which its bridge forwards.
    pub(crate) forwards: bool,
    /// Whether it is up.
    pub(crate) up: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The interface.
    pub(crate) link: u32,
    /// What it is.
    pub(crate) ip: Ipv4Addr,
    /// The length of its network's prefix.
    pub(crate) len: u8,
}

impl Address {
    /// The network in which the address lies.
    pub(crate) fn network(self) -> Cidr {
        Cidr::around(self.ip, self.len.min(32))
    }
}

/// Interfaces and addresses at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The interfaces by number.
    pub(crate) links: BTreeMap<u32, Link>,
    /// Their IPv4 addresses.
    pub(crate) addresses: Vec<Address>,
    /// On what a packet's route may depend.
    pub(crate) routes_look_at: Beyond,
}

impl Snapshot {
    /// The interface of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The name of an interface, or its number when it has gone.
    pub(crate) fn name(&self, index: u32) -> String {
        self.links.get(&index).map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }

    /// The addresses of an interface.
    pub(crate) fn addresses_of(&self, index: u32) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().filter(move |it| it.link == index).map(|it| it.ip)
    }

    /// The address with which an interface is in the first of the ranges that it has one in: of several the first whose own
    /// network the range is or lies in, as aliases' often do not.
    pub(crate) fn address_within(&self, index: u32, ranges: &[Cidr]) -> Option<Ipv4Addr> {
        let within = |range: &Cidr| {
            let mut candidates = self.addresses.iter().filter(|it| it.link == index && range.contains(it.ip));
            let around = |it: &&Address| it.len <= range.len();
            candidates.clone().find(around).or_else(|| candidates.next()).map(|it| it.ip)
        };
        ranges.iter().find_map(within)
    }

    /// The interfaces that hold an address in the range.
    pub(crate) fn holders(&self, range: Cidr) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |link| self.addresses_of(link.index).any(|it| range.contains(it)))
    }

    /// The ports of a bridge.
    pub(crate) fn ports(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |link| link.master == Some(bridge))
    }
}

impl Netlink {
    /// What there is now.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, NetError> {
        let links = self.handle.link().get().execute().map_ok(read_link);
        let links = links.try_collect::<Vec<_>>().await.map_err(NetError::doing("listing the interfaces"))?;
        let addresses = self.handle.address().get().execute().map_ok(|message| read_address(&message));
        let addresses = addresses.try_collect::<Vec<_>>().await.map_err(NetError::doing("listing the addresses"))?;
        let rules = self.rules_look_at().await;
        let ports = rules.ports || sysctl::multipath_looks_at_ports();
        Ok(Snapshot {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            addresses: addresses.into_iter().flatten().collect(),
            routes_look_at: Beyond { ports, ..rules },
        })
    }
}

fn read_link(message: LinkMessage) -> Link {
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        master: None,
        bridge: false,
        vlan_filtering: false,
        forwards: false,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master).filter(|&index| index != 0),
            LinkAttribute::Address(mac) if ethernet => link.mac = mac.try_into().ok(),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| read_kind(&mut link, info)),
            _ => {}
        }
    }
    link
}

/// What there is to know of an interface of a certain kind.
fn read_kind(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(InfoKind::Bridge) => link.bridge = true,
        LinkInfo::Data(InfoData::Bridge(data)) => {
            link.vlan_filtering = data.contains(&InfoBridge::VlanFiltering(true));
        }
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
            link.forwards = data.contains(&InfoBridgePort::State(BridgePortState::Forwarding));
        }
        _ => {}
    }
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    // On a point-to-point link `Address` is the other end's; `Local` is always ours.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some(Address { link: message.header.index, ip: local, len: message.header.prefix_len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_subnets_own_network_is_this_hosts() {
        let address = |ip: [u8; 4], len| Address { link: 3, ip: ip.into(), len };
        let (other, alias) = (address([10, 0, 0, 1], 8), address([192, 168, 110, 9], 32));
        let own = address([192, 168, 110, 1], 24);
        let within = |addresses: &[Address], ranges: &[&str]| {
            let there = Snapshot { addresses: addresses.to_vec(), ..Snapshot::default() };
            let ranges: Vec<Cidr> = ranges.iter().map(|text| text.parse().unwrap()).collect();
            there.address_within(3, &ranges)
        };
        assert_eq!(within(&[other, alias, own], &["192.168.110.0/24"]), Some(own.ip));
        assert_eq!(within(&[other, alias], &["192.168.110.0/24"]), Some(alias.ip));
        assert_eq!(within(&[other, alias, own], &["192.168.111.0/24", "10.0.0.0/8"]), Some(other.ip));
        assert_eq!(within(&[other], &["192.168.110.0/24"]), None);
        assert_eq!(within(&[Address { link: 4, ..own }], &["192.168.110.0/24"]), None);
    }
}
