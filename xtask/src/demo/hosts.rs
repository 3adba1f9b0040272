//! The two hosts, and how to enter them.

use std::{fs, net::Ipv4Addr};

use anyhow::Result;

use super::{kept::Kept, patience::until, screen::Screen};

/// A host and its container.
#[derive(Debug)]
pub(super) struct Host {
    /// Its name.
    pub(super) name: &'static str,
    /// Its address on the wire.
    pub(super) address: Ipv4Addr,
    /// Its container network.
    pub(super) subnet: &'static str,
    /// Its own address in there, which the bridge holds.
    gateway: Ipv4Addr,
    /// Its container's name.
    pub(super) container: &'static str,
    /// Its container's address.
    pub(super) container_address: Ipv4Addr,
}

pub(super) const NODE1: Host = Host {
    name: "node1",
    address: Ipv4Addr::new(172, 29, 0, 4),
    subnet: "192.168.110.0/24",
    gateway: Ipv4Addr::new(192, 168, 110, 1),
    container: "n1",
    container_address: Ipv4Addr::new(192, 168, 110, 11),
};

pub(super) const NODE2: Host = Host {
    name: "node2",
    address: Ipv4Addr::new(172, 29, 0, 17),
    subnet: "192.168.220.0/24",
    gateway: Ipv4Addr::new(192, 168, 220, 1),
    container: "n2",
    container_address: Ipv4Addr::new(192, 168, 220, 11),
};

/// The namespaces' labels.
pub(super) const LABELS: [&str; 4] = [NODE1.name, NODE2.name, NODE1.container, NODE2.container];

/// The hosts' uplinks and the containers' only interfaces.
pub(super) const UPLINK: &str = "eth0";

impl Host {
    /// Makes host and container; the uplink is there already or is made as one end of a wire to `other`.
    fn make(&self, kept: &Kept, other: Option<&Self>) -> Result<()> {
        let Self { address, gateway, container, container_address, .. } = self;
        let inner = kept.namespace(container);
        let wire = other.map_or(String::new(), |other| {
            format!("link add {UPLINK} type veth peer name {UPLINK} netns {}\n", kept.namespace(other.name))
        });
        let script = format!(
            "link set lo up\n\
             {wire}\
             address add {address}/24 dev {UPLINK}\n\
             link set {UPLINK} up\n\
             link add br0 type bridge\n\
             address add {gateway}/24 dev br0\n\
             link set br0 up\n\
             link add {container} type veth peer name {UPLINK} netns {inner}\n\
             link set {container} master br0\n\
             link set {container} up\n"
        );
        kept.ip(self.name, &script)?;
        let script = format!(
            "link set lo up\n\
             address add {container_address}/24 dev {UPLINK}\n\
             link set {UPLINK} up\n\
             route add default via {gateway}\n"
        );
        kept.ip(container, &script)
    }

    /// Awaits that the bridge forwards for the container.
    fn await_port(&self, kept: &Kept) -> Result<()> {
        until("the bridge forwards", || {
            let shown = kept.show(self.name, &["-d", "link", "show", "dev", self.container])?;
            Ok(shown.contains("state forwarding").then_some(()))
        })
    }
}

/// Makes both hosts and the wire between them.
pub(super) fn make(kept: &Kept) -> Result<()> {
    kept.add_namespaces()?;
    NODE1.make(kept, Some(&NODE2))?;
    NODE2.make(kept, None)?;
    NODE1.await_port(kept)?;
    NODE2.await_port(kept)
}

/// Shows the end of what xnat said on both hosts.
pub(super) fn say_what_xnat_said(screen: &Screen, kept: &Kept) {
    const LINES: usize = 12;
    for host in [NODE1, NODE2] {
        let log = fs::read_to_string(kept.log(host.name)).unwrap_or_default();
        if log.is_empty() {
            continue;
        }
        screen.heading(&format!("xnat on {} said:", host.name));
        for line in log.lines().skip(log.lines().count().saturating_sub(LINES)) {
            screen.quote(line);
        }
    }
}

/// Says how to enter the hosts, and how to remove them.
pub(super) fn say_how_to_enter(screen: &Screen, kept: &Kept) {
    screen.heading("The hosts stay up. To enter them:");
    for label in LABELS {
        screen.does(label, &format!("nsenter --net=/run/netns/{}", kept.namespace(label)));
    }
    screen.line("  To ask xnat, in there or out here:");
    for host in [NODE1, NODE2] {
        let binary = kept.binary().display();
        screen.does(host.name, &format!("{binary} conntrack dump --instance {}", kept.instance(host.name)));
    }
    screen.line(&format!("  What both say while they run is in {}.", kept.file("").display()));
    screen.line("  To remove everything: cargo xtask demo --remove");
}
