//! What the dataplane is told of the insides and their ports.

use std::collections::{BTreeMap, HashMap};

use xnat_common::Addr;
use xnat_common::subnet::Inside;

use crate::cidr::Cidr;
use crate::net::snapshot::{Link, Snapshot};

/// The inside interfaces and the ports of those that are bridges, by number.
pub(super) fn find(insides: &BTreeMap<u32, Vec<Cidr>>, there: &Snapshot) -> HashMap<u32, Inside> {
    let mut found = HashMap::new();
    for (index, subnets) in insides {
        let Some(link) = there.links.get(index) else { continue };
        let address = there.address_within(link.index, subnets);
        let inside = Inside {
            ifindex: link.index,
            mtu: link.mtu,
            mac: link.mac.unwrap_or_default(),
            flags: if is_direct_alone(link) { Inside::DIRECT } else { 0 },
            address: address.map_or(Addr::UNSPECIFIED, Addr::from),
        };
        found.insert(link.index, inside);
        for port in there.ports(link.index) {
            let flags = if is_direct_port(port, link) { Inside::DIRECT } else { 0 };
            found.insert(port.index, Inside { mtu: link.mtu.min(port.mtu), flags, ..inside });
        }
    }
    found
}

/// Whether packets may be handed straight to an interface that has no ports.
const fn is_direct_alone(link: &Link) -> bool {
    !link.bridge && link.up && link.mac.is_some()
}

/// Whether packets may be handed straight to a port of `bridge`: there is nothing else that the bridge would do to them.
const fn is_direct_port(port: &Link, bridge: &Link) -> bool {
    bridge.bridge && !bridge.vlan_filtering && port.forwards && port.up && port.mac.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: u32 = 3;
    const PORT: u32 = 4;
    const PLAIN: u32 = 5;

    fn link(index: u32) -> Link {
        Link {
            index,
            name: index.to_string(),
            mtu: 1500,
            mac: Some([index as u8; 6]),
            master: None,
            bridge: false,
            vlan_filtering: false,
            forwards: false,
            up: true,
        }
    }

    /// A bridge with a port, and a plain interface, after a change.
    fn found(change: impl Fn(&mut Link)) -> HashMap<u32, Inside> {
        let bridge = Link { bridge: true, ..link(BRIDGE) };
        let port = Link { master: Some(BRIDGE), forwards: true, ..link(PORT) };
        let mut links = [bridge, port, link(PLAIN)];
        links.iter_mut().for_each(change);
        let there = Snapshot { links: links.map(|link| (link.index, link)).into(), ..Snapshot::default() };
        find(&BTreeMap::from([(BRIDGE, Vec::new()), (PLAIN, Vec::new())]), &there)
    }

    fn direct(change: impl Fn(&mut Link)) -> Vec<u32> {
        let direct = found(change).into_iter().filter(|(_, inside)| inside.flags & Inside::DIRECT != 0);
        let mut direct: Vec<u32> = direct.map(|(index, _)| index).collect();
        direct.sort_unstable();
        direct
    }

    #[test]
    fn ports_and_plain_interfaces_take_packets_directly() {
        assert_eq!(direct(|_| {}), [PORT, PLAIN]);
        assert_eq!(direct(|link| link.up = false), [0; 0]);
        assert_eq!(direct(|link| link.mac = None), [0; 0]);
        assert_eq!(direct(|link| link.forwards = false), [PLAIN]);
        assert_eq!(direct(|link| link.vlan_filtering = link.bridge), [PLAIN]);
    }

    #[test]
    fn ports_of_what_is_no_bridge_do_not() {
        assert_eq!(direct(|link| link.bridge = false), [BRIDGE, PLAIN]);
    }

    #[test]
    fn a_port_takes_no_longer_packets_than_its_bridge() {
        let mtus = |bridge, port| {
            let mtu = |link: &Link| if link.index == PORT { port } else { bridge };
            let found = found(|link| link.mtu = mtu(link));
            [BRIDGE, PORT].map(|index| found[&index].mtu)
        };
        assert_eq!(mtus(1400, 1500), [1400, 1400]);
        assert_eq!(mtus(1500, 1400), [1500, 1400]);
        let found = found(|_| {});
        assert_eq!((found[&PORT].ifindex, found[&PORT].mac), (BRIDGE, [BRIDGE as u8; 6]), "all else is the bridge's");
    }
}
