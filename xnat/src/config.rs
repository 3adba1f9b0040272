//! What the user asks for, and whether it makes sense in itself. What there is on the machine is [`crate::plan`]'s.

use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;
use xnat_common::config::Config;
use xnat_common::index;
use xnat_common::mapping::Dependence;
use xnat_common::timeout::Timeouts;
use xnat_common::{Addr, Ticks};

use crate::behaviour::{Behaviour, WeakFiltering};
use crate::cidr::{Cidr, CidrError, parse_address};
use crate::cli::{HookChoice, RunArgs};
use crate::forward::spec::ForwardSpec;
use crate::forward::{self, ForwardError};
use crate::instance::Instance;
use crate::peer::message::MAX_SUBNETS;
use crate::port_range::PortRange;
use crate::say;

/// `IP` or `IP=CIDR,CIDR…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerSpec {
    /// The peer's address.
    pub(crate) address: Ipv4Addr,
    /// Its subnets, where they are stated.
    pub(crate) subnets: Option<Vec<Cidr>>,
}

impl FromStr for PeerSpec {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let Some((address, subnets)) = text.split_once('=') else {
            if text.contains('/') {
                // A subnet alone: the likeliest slip.
                return Err(CidrError::NotAnAddress(text.to_owned()));
            }
            return Ok(Self { address: parse_address(text)?, subnets: None });
        };
        let address = parse_address(address)?;
        let subnets = subnets.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { address, subnets: Some(subnets) })
    }
}

/// What the user asks for.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) peers: Vec<PeerSpec>,
    pub(crate) subnets: Vec<Cidr>,
    pub(crate) uplink: Option<String>,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) bridge: Option<String>,
    pub(crate) max_flows: u32,
    pub(crate) hooks: HookChoice,
    pub(crate) instance: Instance,
    pub(crate) timeouts: Timeouts,
    pub(crate) behaviour: Behaviour,
    pub(crate) ports: PortRange,
    /// How many ports a container may have; none for as many as there are.
    pub(crate) max_ports: Option<u32>,
    pub(crate) forwards: Vec<ForwardSpec>,
    pub(crate) default_inbound: Option<Ipv4Addr>,
    pub(crate) kernel_path: bool,
    pub(crate) slow_path: bool,
}

/// What does not make sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ConfigError {
    #[error("--peer {0} is given twice; give each peer once, with all its subnets: --peer {0}=CIDR,CIDR")]
    PeerTwice(Ipv4Addr),
    #[error(
        "--peer {peer} lies inside our own --subnet {subnet}; a peer is another host, outside of our containers' network"
    )]
    PeerInside { peer: Ipv4Addr, subnet: Cidr },
    #[error("--peer {0} is not the address of a host")]
    PeerSpecial(Ipv4Addr),
    #[error("--peer {peer} is our own --address; name the other host's address")]
    PeerIsOwn { peer: Ipv4Addr },
    #[error("--subnet {0} and --subnet {1} overlap; give each range once")]
    SubnetsOverlap(Cidr, Cidr),
    #[error(
        "subnet {theirs} of --peer {peer} overlaps our own --subnet {ours}; container networks need different ranges"
    )]
    OverlapsOwn { peer: Ipv4Addr, theirs: Cidr, ours: Cidr },
    #[error("subnet {0} of --peer {1} overlaps subnet {2} of --peer {3}; each range belongs to one host")]
    PeersOverlap(Cidr, Ipv4Addr, Cidr, Ipv4Addr),
    #[error(
        "subnet {subnet} of --peer {peer} contains the address {address} of a host; state the containers' network only"
    )]
    ContainsHost { peer: Ipv4Addr, subnet: Cidr, address: Ipv4Addr },
    #[error("--subnet {subnet} contains our own --address {address}; name the containers' network only")]
    ContainsAddress { subnet: Cidr, address: Ipv4Addr },
    #[error("{0} is no container network: {1}")]
    SpecialSubnet(Cidr, String),
    #[error("{0} subnets are given, and {MAX_SUBNETS} are possible; use wider ranges")]
    TooManySubnets(usize),
    #[error(transparent)]
    WeakFiltering(#[from] WeakFiltering),
    #[error("--forward {0}")]
    Forward(#[from] ForwardError),
    #[error("--default-inbound {address} is in no --subnet of this host ({subnets}); name a container of this host")]
    DefaultOutside { address: Ipv4Addr, subnets: String },
    #[error("--default-inbound {address} is no container's address but {reason} --subnet {subnet}; name a container")]
    DefaultNoContainer { address: Ipv4Addr, reason: &'static str, subnet: Cidr },
}

impl Settings {
    /// Takes the flags over and checks everything that can be checked without looking at the machine.
    pub(crate) fn new(args: RunArgs) -> Result<Self, ConfigError> {
        let timeouts = &args.timeouts;
        let ticks = |seconds| Ticks::from_secs(seconds).0;
        let timeouts = Timeouts {
            tcp_established: ticks(timeouts.tcp_established),
            tcp_transitory: ticks(timeouts.tcp_transitory),
            udp: ticks(timeouts.udp),
            udp_unreplied: ticks(timeouts.udp_unreplied),
            icmp: ticks(timeouts.icmp),
            other: ticks(timeouts.other),
        };
        let settings = Self {
            peers: args.peers,
            subnets: args.subnets,
            uplink: args.uplink,
            address: args.address,
            bridge: args.bridge,
            max_flows: args.max_flows,
            hooks: args.hooks,
            instance: args.instance.instance,
            timeouts,
            behaviour: Behaviour::new(&args.behaviour.mapping, &args.behaviour.filtering)?,
            ports: args.behaviour.ports,
            max_ports: args.behaviour.max_ports_per_container,
            forwards: args.inbound.forwards,
            default_inbound: args.inbound.default_inbound,
            kernel_path: args.kernel_path,
            slow_path: args.slow_path,
        };
        settings.check_subnets()?;
        settings.check_peers()?;
        settings.check_peer_subnets()?;
        settings.check_inbound()?;
        Ok(settings)
    }

    /// The dataplane's configuration: for a flow table with this seed, on an uplink.
    pub(crate) fn dataplane(&self, seed: u64, uplink: u32, uplink_mtu: u32, address: Ipv4Addr) -> Config {
        let usual = Config::default();
        let flags = [(self.kernel_path, Config::KERNEL_PATH), (self.slow_path, Config::SLOW_PATH)];
        Config {
            seed,
            bucket_mask: index::buckets(self.max_flows) - 1,
            least_idle: self.timeouts.least().0,
            uplink,
            uplink_mtu,
            address: Addr::from(address),
            max_flows: self.max_flows,
            flags: flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag),
            timeouts: self.timeouts,
            mapping: by_class(self.behaviour.mapping, usual.mapping),
            filtering: by_class(self.behaviour.filtering, usual.filtering),
            first_port: self.ports.first(),
            last_port: self.ports.last(),
            max_ports: self.max_ports.unwrap_or(0),
            default_inbound: self.default_inbound.map_or(Addr::UNSPECIFIED, Addr::from),
        }
    }

    /// The peers' addresses.
    pub(crate) fn peer_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.peers.iter().map(|peer| peer.address)
    }

    fn stated(&self) -> impl Iterator<Item = (Ipv4Addr, Cidr)> {
        let of = |peer: &PeerSpec| peer.subnets.iter().flatten().map(|&it| (peer.address, it)).collect::<Vec<_>>();
        self.peers.iter().flat_map(of)
    }

    fn check_subnets(&self) -> Result<(), ConfigError> {
        if self.subnets.len() > MAX_SUBNETS {
            return Err(ConfigError::TooManySubnets(self.subnets.len()));
        }
        for (index, &subnet) in self.subnets.iter().enumerate() {
            check_special(subnet)?;
            if let Some(&other) = self.subnets[..index].iter().find(|other| other.overlaps(subnet)) {
                return Err(ConfigError::SubnetsOverlap(other, subnet));
            }
            if let Some(address) = self.address.filter(|&address| subnet.contains(address)) {
                return Err(ConfigError::ContainsAddress { subnet, address });
            }
        }
        Ok(())
    }

    fn check_peers(&self) -> Result<(), ConfigError> {
        for (index, peer) in self.peer_addresses().enumerate() {
            if self.peer_addresses().take(index).any(|other| other == peer) {
                return Err(ConfigError::PeerTwice(peer));
            }
            if let Some(&subnet) = self.subnets.iter().find(|subnet| subnet.contains(peer)) {
                return Err(ConfigError::PeerInside { peer, subnet });
            }
            if peer.is_unspecified() || peer.is_loopback() || peer.is_multicast() || peer.is_broadcast() {
                return Err(ConfigError::PeerSpecial(peer));
            }
            if self.address == Some(peer) {
                return Err(ConfigError::PeerIsOwn { peer });
            }
        }
        Ok(())
    }

    fn check_inbound(&self) -> Result<(), ConfigError> {
        forward::check_all(&self.forwards, &self.subnets)?;
        let Some(address) = self.default_inbound else { return Ok(()) };
        forward::container(address, &self.subnets).map_err(|reason| match reason {
            None => ConfigError::DefaultOutside { address, subnets: say::list(&self.subnets) },
            Some((reason, subnet)) => ConfigError::DefaultNoContainer { address, reason, subnet },
        })
    }

    fn check_peer_subnets(&self) -> Result<(), ConfigError> {
        let stated: Vec<_> = self.stated().collect();
        for (index, &(peer, theirs)) in stated.iter().enumerate() {
            check_special(theirs)?;
            if let Some(&ours) = self.subnets.iter().find(|ours| ours.overlaps(theirs)) {
                return Err(ConfigError::OverlapsOwn { peer, theirs, ours });
            }
            let mut hosts = self.peer_addresses().chain(self.address);
            if let Some(address) = hosts.find(|&host| theirs.contains(host)) {
                return Err(ConfigError::ContainsHost { peer, subnet: theirs, address });
            }
            if let Some(&(other, its)) = stated[..index].iter().find(|(_, its)| its.overlaps(theirs)) {
                return Err(ConfigError::PeersOverlap(theirs, peer, its, other));
            }
        }
        Ok(())
    }
}

/// The kinds of all protocols as the dataplane's configuration has them; room for another protocol stays as it is.
const fn by_class([tcp, udp, icmp]: [Dependence; 3], [.., room]: [u8; 4]) -> [u8; 4] {
    [tcp as u8, udp as u8, icmp as u8, room]
}

fn check_special(subnet: Cidr) -> Result<(), ConfigError> {
    match crate::peer::claims::special(subnet) {
        Some(reason) => Err(ConfigError::SpecialSubnet(subnet, reason.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser as _;
    use xnat_common::mapping::Class;

    use super::*;
    use crate::behaviour::CLASSES;
    use crate::cli::{Cli, Command};

    /// Settings from the words after `xnat run`.
    pub(crate) fn settings(words: &str) -> Result<Settings, ConfigError> {
        let words = ["xnat", "run"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Run(args) => Settings::new(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sense_is_accepted() {
        let settings = settings("--peer 172.29.0.17 --peer 172.29.0.18=10.1.0.0/16 --subnet 192.168.110.0/24 --udp 30");
        let settings = settings.unwrap();
        assert_eq!(settings.peers[0].subnets, None);
        assert_eq!(settings.timeouts.udp, Ticks::from_secs(30).0);
        assert_eq!(settings.timeouts.tcp_established, Timeouts::default().tcp_established);
        let config = settings.dataplane(9, 3, 1500, Ipv4Addr::new(172, 29, 0, 4));
        assert_eq!((config.seed, config.uplink, config.max_flows, config.flags), (9, 3, 262_144, 0));
        assert_eq!(config.least_idle, Ticks::from_secs(30).0);
    }

    #[test]
    fn defaults_are_the_dataplanes() {
        let config = settings("--subnet 10.0.0.0/8").unwrap().dataplane(9, 3, 1500, Ipv4Addr::new(172, 29, 0, 4));
        let usual = Config {
            seed: 9,
            bucket_mask: 262_143,
            least_idle: Ticks::from_secs(60).0,
            uplink: 3,
            uplink_mtu: 1500,
            address: config.address,
            max_flows: 262_144,
            ..Config::default()
        };
        assert_eq!(config, usual);
    }

    #[test]
    fn slower_ways_are_told() {
        let flags = |words: &str| {
            let settings = settings(&format!("--subnet 10.0.0.0/8 {words}")).unwrap();
            settings.dataplane(9, 3, 1500, Ipv4Addr::LOCALHOST).flags
        };
        assert_eq!(flags("--slow-path"), Config::SLOW_PATH);
        assert_eq!(flags("--slow-path --kernel-path"), Config::SLOW_PATH | Config::KERNEL_PATH);
    }

    #[test]
    fn ports_and_their_behaviour_reach_the_dataplane() {
        let words = "--subnet 192.168.110.0/24 --mapping udp=address-dependent,icmp=address-and-port-dependent \
                     --filtering endpoint-independent,udp=address-and-port-dependent --filtering icmp=address-and-port-dependent \
                     --ports 1024-40000 --max-ports-per-container 500 --default-inbound 192.168.110.11";
        let config = settings(words).unwrap().dataplane(9, 3, 1500, Ipv4Addr::new(172, 29, 0, 4));
        let kinds = |of: fn(&Config, Class) -> Dependence| CLASSES.map(|class| of(&config, class));
        let (endpoint, address, both) = (Dependence::Endpoint, Dependence::Address, Dependence::AddressAndPort);
        assert_eq!(kinds(Config::mapping), [endpoint, address, both]);
        assert_eq!(kinds(Config::filtering), [endpoint, both, both]);
        assert_eq!((config.first_port, config.last_port, config.max_ports), (1024, 40000, 500));
        assert_eq!(config.default_inbound, Addr::new([192, 168, 110, 11]));
    }

    #[test]
    fn nonsense_is_named() {
        let own = "--subnet 192.168.110.0/24";
        for (words, part) in [
            ("--peer 172.29.0.17 --peer 172.29.0.17", "given twice"),
            ("--peer 192.168.110.9", "inside our own --subnet 192.168.110.0/24"),
            ("--peer 127.0.0.1", "not the address of a host"),
            ("--peer 172.29.0.4 --address 172.29.0.4", "our own --address"),
            ("--subnet 192.168.0.0/16", "overlap"),
            ("--subnet 0.0.0.0/0", "default route"),
            ("--peer 172.29.0.17=192.168.110.128/25", "overlaps our own"),
            ("--peer 172.29.0.17=10.0.0.0/8 --peer 172.29.0.18=10.1.0.0/16", "of --peer 172.29.0.17"),
            ("--peer 172.29.0.17=172.29.0.0/24", "contains the address 172.29.0.17"),
            ("--peer 172.29.0.17=224.0.0.0/8", "multicast"),
            ("--address 192.168.110.1", "contains our own --address"),
            (
                "--mapping address-dependent --filtering tcp=endpoint-independent",
                "--filtering tcp=endpoint-independent",
            ),
            ("--forward tcp:80=192.168.220.11", "--forward tcp:80=192.168.220.11: 192.168.220.11 is in no --subnet"),
            ("--forward tcp:80=192.168.110.11 --forward both:70-90=192.168.110.12", "have ports in common"),
            ("--default-inbound 192.168.220.11", "--default-inbound 192.168.220.11 is in no --subnet"),
            ("--default-inbound 192.168.110.255", "the broadcast address of --subnet 192.168.110.0/24"),
        ] {
            let error = settings(&format!("{own} {words}")).unwrap_err().to_string();
            assert!(error.contains(part), "{words}: {error}");
        }
    }

    #[test]
    fn peers_are_read() {
        let peer: PeerSpec = "172.29.0.17=192.168.220.0/24,10.0.0.0/8".parse().unwrap();
        assert_eq!(peer.subnets.map(|it| it.len()), Some(2));
        assert!("172.29.0.17=".parse::<PeerSpec>().is_err());
        assert!("192.168.220.0/24".parse::<PeerSpec>().is_err());
    }
}
