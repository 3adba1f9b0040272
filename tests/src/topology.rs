//! The hosts of the reference document, and a third one.

use std::net::Ipv4Addr;

use crate::host::{Container, Host, Lan};

/// node1's address on the wire.
pub const NODE1: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 4);
/// node2's address on the wire.
pub const NODE2: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 17);
/// node3's address on the wire.
pub const NODE3: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 30);
/// The first container of node1.
pub const N1: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 11);
/// The first container of node2.
pub const N2: Ipv4Addr = Ipv4Addr::new(192, 168, 220, 11);
/// The first container of node3.
pub const N3: Ipv4Addr = Ipv4Addr::new(192, 168, 130, 11);
/// A machine on the wire that is neither host nor container.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 100);
/// An address that is reached only through the outside machine.
pub const ANYWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// node1's container subnet.
pub const SUBNET1: &str = "192.168.110.0/24";
/// node2's container subnet.
pub const SUBNET2: &str = "192.168.220.0/24";
/// node3's container subnet.
pub const SUBNET3: &str = "192.168.130.0/24";

/// A host with its bridge `br0` and its containers, which have the addresses .11, .12 and so on.
#[derive(Debug, Clone)]
pub struct Node {
    /// The host.
    pub host: Host,
    /// Its containers.
    pub containers: Vec<Container>,
}

impl Node {
    /// A host at `address`, whose containers are in `prefix.0/24` (`192.168.110`).
    pub fn new(lan: &Lan, label: &str, address: Ipv4Addr, prefix: &str, containers: u8) -> Self {
        let host = Host::new(lan, label, &format!("{address}/24"));
        host.ns().ip(&format!("route add default via {OUTSIDE}"));
        host.bridge("br0", &format!("{prefix}.1/24"));
        let container = |n: u8| host.container("br0", &format!("{label}c{n}"), &format!("{prefix}.{}/24", 11 + n));
        let containers = (0..containers).map(container).collect();
        Self { host, containers }
    }

    /// Turns the offload of the host's uplink and of its containers on or off.
    pub fn set_offload(&self, on: bool) {
        crate::host::set_offload(self.host.ns(), "eth0", on);
        for container in &self.containers {
            container.set_offload(on);
        }
    }
}

/// node1 and node2 as the reference document has them, each with some containers, and an outside machine that
/// is the hosts' default router and also answers as "anywhere else".
#[derive(Debug, Clone)]
pub struct Reference {
    /// The wire.
    pub lan: Lan,
    /// 172.29.0.4 with 192.168.110.0/24.
    pub node1: Node,
    /// 172.29.0.17 with 192.168.220.0/24.
    pub node2: Node,
    /// 172.29.0.100, which knows no way to any container subnet.
    pub outside: Host,
}

impl Reference {
    /// Both nodes with one container each.
    pub fn new() -> Self {
        Self::with_containers(1)
    }

    /// Both nodes with this many containers each.
    pub fn with_containers(count: u8) -> Self {
        let lan = Lan::new();
        let node1 = Node::new(&lan, "node1", NODE1, "192.168.110", count);
        let node2 = Node::new(&lan, "node2", NODE2, "192.168.220", count);
        let outside = Host::new(&lan, "outside", &format!("{OUTSIDE}/24"));
        outside.ns().ip(&format!("address add {ANYWHERE}/32 dev lo"));
        Self { lan, node1, node2, outside }
    }

    /// The first container of node1.
    pub fn n1(&self) -> &Container {
        &self.node1.containers[0]
    }

    /// The first container of node2.
    pub fn n2(&self) -> &Container {
        &self.node2.containers[0]
    }

    /// A third host, 172.29.0.30 with 192.168.130.0/24, and its one container.
    pub fn node3(&self) -> Node {
        Node::new(&self.lan, "node3", NODE3, "192.168.130", 1)
    }
}

impl Default for Reference {
    fn default() -> Self {
        Self::new()
    }
}
