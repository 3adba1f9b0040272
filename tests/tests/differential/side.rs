//! One of the two sides: a host that translates, two containers and the world outside, all but the host played by the test.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use xnat_tests::host::set_offload;
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{Packet, UDP};
use xnat_tests::topology::{NODE1, OUTSIDE, SUBNET1};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

use crate::frame::{Ip, datagram};
use crate::tap::{Mac, Tap};

const HOST_MAC: Mac = [2, 0, 0, 0, 0, 4];
const BRIDGE_MAC: Mac = [2, 0, 0, 0, 1, 1];
const FAR_MAC: Mac = [2, 0, 0, 0, 0, 100];
const fn container_mac(n: u8) -> Mac {
    [2, 0, 0, 0, 1, 11 + n]
}

/// The address of a container.
pub fn container(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 110, 11 + n as u8)
}

/// The container whose packets tell that everything before them has arrived, and with whom it talks.
const SENTINEL: usize = 2;
const SENTINEL_SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const DISCARD: u16 = 9;

/// Who translates.
#[derive(Debug, Clone, Copy)]
pub enum Translator {
    /// The kernel, told by iptables.
    Kernel,
    /// xnat, with these further words.
    Xnat(&'static str),
}

/// Where a packet is put in or seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At a container.
    Container(usize),
    /// Behind the uplink.
    Far,
}

/// A side.
pub struct Side {
    far: Tap,
    containers: Vec<Tap>,
    round: u64,
    /// Dropped first, while its namespace is there.
    xnat: Option<Xnat>,
    _namespaces: Vec<Namespace>,
}

impl Side {
    /// Sets everything up.
    pub fn new(translator: Translator) -> Self {
        let text = |mac: Mac| mac.map(|octet| format!("{octet:02x}")).join(":");
        let host = Namespace::new("host");
        let far = Namespace::new("far");
        for ns in [&host, &far] {
            ns.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        }
        host.set_sysctl("net/ipv4/ip_forward", "1");
        // The host answers whatever it would answer, as often as that is.
        for limit in ["icmp_ratelimit", "icmp_ratemask"] {
            host.set_sysctl(&format!("net/ipv4/{limit}"), "0");
        }
        if host.within(|| fs::exists("/proc/sys/net/ipv4/icmp_msgs_per_sec").unwrap_or(false)) {
            host.set_sysctl("net/ipv4/icmp_msgs_per_sec", "1000000");
            host.set_sysctl("net/ipv4/icmp_msgs_burst", "1000000");
        }
        let link = |near: &str, near_mac: Mac, ns: &Namespace, mac: Mac| {
            let (near_mac, mac) = (text(near_mac), text(mac));
            host.ip(&format!(
                "link add {near} address {near_mac} type veth peer name eth0 address {mac} netns {}",
                ns.name()
            ));
            ns.ip("link set eth0 arp off up");
            host.ip(&format!("link set {near} up"));
            set_offload(&host, near, false);
        };
        link("eth0", HOST_MAC, &far, FAR_MAC);
        host.ip("link set eth0 mtu 1400");
        host.ip(&format!("address add {NODE1}/24 dev eth0"));
        host.ip(&format!("route add default via {OUTSIDE}"));
        host.ip(&format!("neighbour add {OUTSIDE} lladdr {} dev eth0", text(FAR_MAC)));
        host.ip(&format!("link add br0 address {} type bridge", text(BRIDGE_MAC)));
        host.ip("address add 192.168.110.1/24 dev br0");
        host.ip("link set br0 up");
        set_offload(&host, "br0", false);
        let mut taps = Vec::new();
        let mut namespaces = Vec::new();
        for n in 0..=SENTINEL {
            let ns = Namespace::new("container");
            ns.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
            let (veth, mac) = (format!("veth{n}"), container_mac(n as u8));
            link(&veth, [2, 0, 0, 0, 2, n as u8], &ns, mac);
            host.ip(&format!("link set {veth} master br0"));
            wait::until_true("the bridge port forwards", SOON, || {
                host.ip(&format!("-d link show dev {veth}")).contains("state forwarding")
            });
            host.ip(&format!("neighbour add {} lladdr {} dev br0", container(n), text(mac)));
            taps.push(Tap::open(&ns, mac, BRIDGE_MAC));
            namespaces.push(ns);
        }
        let tap = Tap::open(&far, FAR_MAC, HOST_MAC);
        let xnat = match translator {
            Translator::Kernel => {
                host.shell(&format!("iptables -t nat -A POSTROUTING -s {SUBNET1} -o eth0 -j MASQUERADE"));
                None
            }
            Translator::Xnat(words) => Some(Xnat::start(&host, &format!("--subnet {SUBNET1} {words}"))),
        };
        namespaces.extend([host, far]);
        let mut side = Self { far: tap, containers: taps, round: 0, xnat, _namespaces: namespaces };
        // The bridge learns where the containers are.
        for n in 0..=SENTINEL {
            let hello = Ip::new(container(n), SENTINEL_SERVER, UDP, datagram((DISCARD, DISCARD), b"hello")).summed();
            side.containers[n].send(&hello.octets());
        }
        side.settle();
        side
    }

    /// Puts packets in at a place, and returns the frames that come out anywhere.
    pub fn inject(&mut self, at: Place, packets: &[Vec<u8>]) -> Vec<(Place, Vec<u8>)> {
        for packet in packets {
            match at {
                Place::Container(n) => self.containers[n].send(packet),
                Place::Far => self.far.send(packet),
            }
        }
        self.settle()
    }

    /// What the translator has counted.
    pub fn counters(&self) -> String {
        self.xnat.as_ref().map(|xnat| format!("{:?}", xnat.status().counters)).unwrap_or_default()
    }

    /// Awaits that everything has arrived. Everything is sent from one processor, whose queue is worked off in order, and a
    /// packet that goes out and another that comes back pass it more often than anything of the experiment does.
    fn settle(&mut self) -> Vec<(Place, Vec<u8>)> {
        self.round += 1;
        let round = self.round.to_be_bytes();
        let out = datagram((DISCARD, DISCARD), &round);
        let out = Ip::new(container(SENTINEL), SENTINEL_SERVER, UDP, out).summed().octets();
        self.containers[SENTINEL].send(&out);
        let deadline = Instant::now() + SOON;
        let mut seen = Vec::new();
        let mut is_back = false;
        while !is_back {
            assert!(Instant::now() < deadline, "round {}: the sentinel did not come back", self.round);
            while let Some(frame) = self.far.next() {
                let packet = Packet::parse(Duration::ZERO, &frame);
                if packet.dst != SENTINEL_SERVER {
                    seen.push((Place::Far, frame));
                } else if packet.payload == round {
                    let back = datagram((DISCARD, packet.sport), &round);
                    self.far.send(&Ip::new(SENTINEL_SERVER, NODE1, UDP, back).summed().octets());
                }
            }
            while let Some(frame) = self.containers[SENTINEL].next() {
                is_back |= Packet::parse(Duration::ZERO, &frame).payload == round;
            }
        }
        for (n, tap) in self.containers[..SENTINEL].iter_mut().enumerate() {
            while let Some(frame) = tap.next() {
                seen.push((Place::Container(n), frame));
            }
        }
        while let Some(frame) = self.far.next() {
            seen.push((Place::Far, frame));
        }
        seen
    }
}
