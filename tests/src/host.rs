//! Hosts on a shared wire, and containers behind them.
//!
//! The wire is a namespace with a bridge; every machine on it has its `eth0` joined to a port of that bridge,
//! and capturing at that port shows exactly what the machine put on the wire and what it got from it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::netns::Namespace;
use crate::wait;

/// The wire that hosts share.
#[derive(Debug, Clone)]
pub struct Lan {
    ns: Namespace,
    ports: Arc<AtomicU32>,
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Lan {
    /// A wire without machines.
    pub fn new() -> Self {
        let ns = Namespace::new("lan");
        ns.ip("link add lan0 type bridge");
        ns.ip("link set lan0 up");
        // The wire is a switch: a firewall of the machine has no say in it.
        ns.set_sysctl("net/bridge/bridge-nf-call-iptables", "0");
        Self { ns, ports: Arc::default() }
    }

    /// The wire's namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// Loses what a rule of iptables matches (`-p tcp --dport 80`), on its way between any two machines.
    pub fn lose(&self, rule: &str) {
        self.ns.set_sysctl("net/bridge/bridge-nf-call-iptables", "1");
        self.ns.shell(&format!("iptables -A FORWARD {rule} -j DROP"));
    }

    /// Loses the first packet that a rule matches and no other.
    pub fn lose_first(&self, rule: &str) {
        self.lose(&format!("{rule} -m statistic --mode nth --every 1000000 --packet 0"));
    }

    /// Loses nothing any more.
    pub fn lose_nothing(&self) {
        self.ns.shell("iptables -F FORWARD");
    }

    /// How many packets were lost by the rules that there are.
    pub fn lost(&self) -> u64 {
        let rules = self.ns.shell("iptables -L FORWARD -v -x -n");
        rules.lines().skip(2).filter_map(|rule| rule.split_whitespace().next()?.parse::<u64>().ok()).sum()
    }

    /// Joins `interface` of a machine to the wire and returns the name of the switch port.
    pub fn plug(&self, machine: &Namespace, interface: &str) -> String {
        let port = format!("port{}", self.ports.fetch_add(1, Ordering::Relaxed));
        veth(machine, interface, &self.ns, &port);
        enslave(&self.ns, &port, "lan0");
        port
    }
}

/// A machine on the wire that may hold containers.
#[derive(Debug, Clone)]
pub struct Host {
    ns: Namespace,
    lan: Lan,
    address: Ipv4Addr,
    wire_port: String,
    next_veth: Arc<AtomicU32>,
}

impl Host {
    /// A machine with its uplink `eth0` at this address (`172.29.0.4/24`), forwarding IPv4.
    pub fn new(lan: &Lan, label: &str, cidr: &str) -> Self {
        let ns = Namespace::new(label);
        ns.set_sysctl("net/ipv4/ip_forward", "1");
        let wire_port = lan.plug(&ns, "eth0");
        ns.ip(&format!("address add {cidr} dev eth0"));
        Self { ns, lan: lan.clone(), address: address_of(cidr), wire_port, next_veth: Arc::default() }
    }

    /// Its namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// Its address on the wire.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where to capture what it sends and gets on the wire: a namespace and an interface.
    pub fn wire(&self) -> (&Namespace, &str) {
        (self.lan.ns(), &self.wire_port)
    }

    /// Adds a bridge that holds the gateway address of a container subnet (`192.168.110.1/24`).
    pub fn bridge(&self, name: &str, gateway: &str) {
        self.ns.ip(&format!("link add {name} type bridge"));
        self.ns.ip(&format!("address add {gateway} dev {name}"));
        self.ns.ip(&format!("link set {name} up"));
    }

    /// Starts a container on a bridge, at this address with prefix (`192.168.110.11/24`).
    pub fn container(&self, bridge: &str, label: &str, cidr: &str) -> Container {
        let gateway = self.address_on(bridge);
        let veth = self.veth_name();
        let mut container = Container {
            ns: Namespace::new(label),
            host: self.ns.clone(),
            bridge: Some(bridge.to_owned()),
            gateway,
            cidr: cidr.to_owned(),
            veth,
        };
        container.start();
        container
    }

    /// Joins a machine by a plain veth without a bridge: `gateway` is the host's end, `cidr` the machine's.
    pub fn plain(&self, interface: &str, gateway: &str, label: &str, cidr: &str) -> Container {
        let ns = Namespace::new(label);
        veth(&ns, "eth0", &self.ns, interface);
        self.ns.ip(&format!("address add {gateway} dev {interface}"));
        let container = Container {
            ns,
            host: self.ns.clone(),
            bridge: None,
            gateway: address_of(gateway),
            cidr: cidr.to_owned(),
            veth: interface.to_owned(),
        };
        container.configure();
        container
    }

    /// Sets the MTU of the uplink and of its port on the wire.
    pub fn set_uplink_mtu(&self, mtu: u32) {
        self.ns.ip(&format!("link set eth0 mtu {mtu}"));
        self.lan.ns.ip(&format!("link set {} mtu {mtu}", self.wire_port));
    }

    fn address_on(&self, interface: &str) -> Ipv4Addr {
        let line = self.ns.ip(&format!("-4 -o address show dev {interface}"));
        let cidr = line.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        address_of(cidr.unwrap_or_else(|| panic!("{interface} holds no address")))
    }

    fn veth_name(&self) -> String {
        format!("veth{}", self.next_veth.fetch_add(1, Ordering::Relaxed))
    }
}

/// A container: a namespace whose `eth0` is joined to a host.
#[derive(Debug, Clone)]
pub struct Container {
    ns: Namespace,
    host: Namespace,
    bridge: Option<String>,
    gateway: Ipv4Addr,
    cidr: String,
    veth: String,
}

impl Container {
    /// Its namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        address_of(&self.cidr)
    }

    /// The host's end of its veth, the bridge port, and the namespace that is in: where to capture what the
    /// host's bridge sees. The bridge device itself would not do: the fast path goes around it.
    pub fn port(&self) -> (&Namespace, &str) {
        (&self.host, &self.veth)
    }

    /// What the container sees, for captures.
    pub fn inside(&self) -> (&Namespace, &str) {
        (&self.ns, "eth0")
    }

    /// The MAC address of its `eth0`.
    pub fn mac(&self) -> String {
        self.ns
            .shell("cat /proc/net/dev >/dev/null; ip -o link show eth0 | sed 's/.*link.ether //; s/ .*//'")
            .trim()
            .to_owned()
    }

    /// Stops it: as with Docker, the veth goes and nobody answers ARP for its address any more.
    pub fn stop(&mut self) {
        self.host.ip(&format!("link delete {}", self.veth));
    }

    /// Starts it (again), with a veth and a MAC address that are new.
    pub fn start(&mut self) {
        veth(&self.ns, "eth0", &self.host, &self.veth);
        if let Some(bridge) = &self.bridge {
            enslave(&self.host, &self.veth, bridge);
        }
        self.configure();
    }

    /// Sets the MTU of both ends of its veth.
    pub fn set_mtu(&self, mtu: u32) {
        self.ns.ip(&format!("link set eth0 mtu {mtu}"));
        self.host.ip(&format!("link set {} mtu {mtu}", self.veth));
    }

    /// Turns checksum and segmentation offload on or off; with it off a capture shows finished checksums.
    pub fn set_offload(&self, on: bool) {
        set_offload(&self.ns, "eth0", on);
    }

    fn configure(&self) {
        self.ns.ip(&format!("address add {} dev eth0", self.cidr));
        self.ns.ip(&format!("route add default via {}", self.gateway));
    }
}

/// Turns transmit checksum and segmentation offload of an interface on or off.
pub fn set_offload(ns: &Namespace, interface: &str, on: bool) {
    let state = if on { "on" } else { "off" };
    ns.run(&["ethtool", "-K", interface, "tx", state, "tso", state, "gso", state, "gro", state]);
}

/// A pair of veth interfaces, both up, made where they belong.
fn veth(ns_a: &Namespace, a: &str, ns_b: &Namespace, b: &str) {
    ns_a.ip(&format!("link add {a} type veth peer name {b} netns {}", ns_b.name()));
    ns_a.ip(&format!("link set {a} up"));
    ns_b.ip(&format!("link set {b} up"));
}

/// Puts an interface on a bridge and waits until the bridge forwards through it.
fn enslave(ns: &Namespace, interface: &str, bridge: &str) {
    ns.ip(&format!("link set {interface} master {bridge}"));
    wait::until_true("the bridge port forwards", wait::SOON, || {
        ns.ip(&format!("-d link show dev {interface}")).contains("state forwarding")
    });
}

/// The address part of `address/prefix`.
pub fn address_of(cidr: &str) -> Ipv4Addr {
    let address = cidr.split('/').next().unwrap_or_default();
    address.parse().unwrap_or_else(|_| panic!("not an address: {cidr}"))
}
