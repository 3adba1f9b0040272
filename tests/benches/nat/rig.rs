//! The hosts of one candidate: a container on a host's bridge, and the wire behind the host's uplink.

use std::net::Ipv4Addr;

use nix::net::if_::if_nametoindex;
use xnat_tests::netns::Namespace;
use xnat_tests::{process, requirement, wait};

use crate::kernel::Kernel;

/// The container's address.
pub const CONTAINER: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 11);
/// That of another one, which takes ports that this one has: behind the same port of the bridge.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 12);
/// The host's on the bridge.
const BRIDGE: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 1);
/// The host's on the wire.
pub const HOST: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 4);
/// The host's router, and the server of real programs.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 100);
/// The peer's.
pub const PEER: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 17);
/// A container of the peer's.
pub const PEER_CONTAINER: Ipv4Addr = Ipv4Addr::new(192, 168, 220, 11);
/// The first of the addresses outside; RFC 2544 sets them apart for benchmarks.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Hardware addresses, the same in every rig.
pub const CONTAINER_MAC: [u8; 6] = [2, 0, 0, 0, 0xc0, 1];
pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0xb0, 1];
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0xa0, 1];
pub const WIRE_MAC: [u8; 6] = [2, 0, 0, 0, 0xd0, 1];

/// The namespaces, and the interfaces by number.
pub struct Rig {
    pub host: Namespace,
    pub container: Namespace,
    pub wire: Namespace,
    /// The container's port on the bridge.
    pub port: u32,
    /// The host's uplink.
    pub uplink: u32,
}

impl Rig {
    /// Makes the hosts. Every neighbour is known for ever: nobody answers on the wire.
    pub fn new() -> Self {
        let (host, container, wire) = (Namespace::new("bh"), Namespace::new("bc"), Namespace::new("bw"));
        for ns in [&host, &container, &wire] {
            ns.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        }
        host.ip("link add br0 type bridge");
        host.ip(&format!("link add port0 type veth peer name eth0 netns {}", container.name()));
        host.ip(&format!("link add eth0 type veth peer name wire0 netns {}", wire.name()));
        host.ip("link set port0 master br0");
        for (ns, interface, mac) in [
            (&host, "br0", BRIDGE_MAC),
            (&host, "eth0", UPLINK_MAC),
            (&container, "eth0", CONTAINER_MAC),
            (&wire, "wire0", WIRE_MAC),
        ] {
            ns.ip(&format!("link set {interface} address {}", mac_text(mac)));
            ns.ip(&format!("link set {interface} up"));
        }
        host.ip("link set port0 up");
        host.ip("address add 192.168.110.1/24 dev br0");
        host.ip(&format!("address add {HOST}/24 dev eth0"));
        host.ip(&format!("route add default via {GATEWAY}"));
        // Enough ports that a connection a few seconds ago is no matter to a new one.
        container.set_sysctl("net/ipv4/ip_local_port_range", "1024 65535");
        container.ip(&format!("address add {CONTAINER}/24 dev eth0"));
        container.ip("route add default via 192.168.110.1");
        // What stands for all hosts outside knows a way to the container for those who do not translate.
        wire.ip(&format!("address add {GATEWAY}/24 dev wire0"));
        wire.ip(&format!("address add {PEER}/24 dev wire0"));
        wire.ip(&format!("route add 192.168.110.0/24 via {HOST}"));
        for (ns, address, mac, interface) in [
            (&host, GATEWAY, WIRE_MAC, "eth0"),
            (&host, PEER, WIRE_MAC, "eth0"),
            (&host, CONTAINER, CONTAINER_MAC, "br0"),
            (&host, OTHER, CONTAINER_MAC, "br0"),
            (&wire, HOST, UPLINK_MAC, "wire0"),
            (&container, BRIDGE, BRIDGE_MAC, "eth0"),
        ] {
            ns.ip(&format!("neighbour replace {address} lladdr {} dev {interface} nud permanent", mac_text(mac)));
        }
        host.run(&["bridge", "fdb", "replace", &mac_text(CONTAINER_MAC), "dev", "port0", "master", "static"]);
        wait::until_true("the bridge port forwards", wait::SOON, || {
            host.ip("-d link show dev port0").contains("state forwarding")
        });
        host.set_sysctl("net/ipv4/ip_forward", "1");
        host.set_sysctl("net/bridge/bridge-nf-call-iptables", "1");
        let index = |name: &str| host.within(|| if_nametoindex(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (port, uplink) = (index("port0"), index("eth0"));
        Self { host, container, wire, port, uplink }
    }

    /// Has a processor receive what comes in at the container's port, whoever sent it.
    pub fn steer(&self, processor: usize) {
        // `ip netns exec`, because /sys shows the interfaces of the namespace in which it was mounted.
        let script = format!("echo {:x} > /sys/class/net/port0/queues/rx-0/rps_cpus", 1_u64 << processor);
        let mut command = std::process::Command::new(requirement::program("ip"));
        command.args(["netns", "exec", self.host.name(), "sh", "-c", &script]);
        process::run(&mut command, wait::SOON).expect_success();
    }

    /// Attaches what generates and counts.
    pub fn equip(&self, kernel: &mut Kernel) {
        kernel.attach_xdp(&self.host, "pass", "port0");
        kernel.attach_xdp(&self.host, "pass", "eth0");
        kernel.attach_xdp(&self.wire, "sink_outside", "wire0");
        kernel.attach_sink_inside(&self.container, "eth0");
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
