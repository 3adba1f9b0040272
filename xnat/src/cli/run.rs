//! The flags of `xnat run`.

use std::net::Ipv4Addr;

use clap::{Args, ValueEnum};

use super::InstanceArg;
use crate::behaviour::BehaviourSpec;
use crate::cidr::{Cidr, parse_address};
use crate::config::PeerSpec;
use crate::forward::spec::ForwardSpec;
use crate::port_range::PortRange;

/// Translate, until Ctrl-C or SIGTERM
///
/// Finds the uplink (the interface with the route to the peers, or the default route) and the interfaces that hold
/// an address in the subnets, attaches to them, and keeps up with containers and networks as they come and go. When
/// it ends it leaves no trace.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Another host whose containers are to be reached; may be given several times
    ///
    /// A peer that runs xnat tells its subnets itself. Subnets that are stated here are used as they are and need
    /// nobody at the other end; such a peer sees what the iptables recipe would send it.
    #[arg(long = "peer", value_name = "IP[=CIDR,…]")]
    pub(crate) peers: Vec<PeerSpec>,

    /// A container network of this host; may be given several times
    #[arg(long = "subnet", value_name = "CIDR", required = true)]
    pub(crate) subnets: Vec<Cidr>,

    /// The interface toward the peers and the outside [default: the one with the route to the peers]
    #[arg(long, value_name = "DEV")]
    pub(crate) uplink: Option<String>,

    /// The address that flows have on the wire, where the uplink has several
    #[arg(long, value_name = "IP", value_parser = parse_address)]
    pub(crate) address: Option<Ipv4Addr>,

    /// The interface that holds the subnets [default: whichever has an address in each]
    #[arg(long, value_name = "DEV")]
    pub(crate) bridge: Option<String>,

    /// How many flows there may be at a time; each takes about 370 bytes of kernel memory
    #[arg(long, value_name = "N", default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(64..=16_777_216))]
    pub(crate) max_flows: u32,

    /// How to attach: TCX (Linux 6.6 and later), or filters of a clsact qdisc
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub(crate) hooks: HookChoice,

    #[command(flatten)]
    pub(crate) instance: InstanceArg,

    #[command(flatten)]
    pub(crate) behaviour: BehaviourArgs,

    #[command(flatten)]
    pub(crate) inbound: InboundArgs,

    #[command(flatten)]
    pub(crate) timeouts: TimeoutArgs,

    /// Leave forwarding to the kernel's routing and translate at the uplink only
    #[arg(long, hide = true)]
    pub(crate) kernel_path: bool,

    /// Take every packet of a flow through every step, and ask the kernel for each one's next hop
    #[arg(long, hide = true)]
    pub(crate) slow_path: bool,
}

const EXAMPLES: &str = "\
Examples:
  xnat run --peer 172.29.0.17 --subnet 192.168.110.0/24
      reach the containers of 172.29.0.17, which runs xnat too, and masquerade everything else
  xnat run --peer 172.29.0.17=192.168.220.0/24 --subnet 192.168.110.0/24
      state the peer's subnet, for a peer that has only iptables rules
  xnat run --subnet 192.168.110.0/24
      only masquerade
  xnat run --subnet 192.168.110.0/24 --forward tcp:8080=192.168.110.11:80
      let port 8080 of this host lead to a container as well";

/// How to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HookChoice {
    /// TCX where the kernel has it.
    Auto,
    /// TCX.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// Ports on the wire.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ports on the wire")]
pub(crate) struct BehaviourArgs {
    /// What the port of a container's endpoint depends on: KIND for all protocols, or tcp=KIND, udp=KIND, icmp=KIND
    ///
    /// endpoint-independent: one port toward everybody [default]; address-dependent: one toward each address;
    /// address-and-port-dependent: one toward each address and port. May be given several times; the later wins.
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    pub(crate) mapping: Vec<BehaviourSpec>,

    /// Who may send to that port: KIND for all protocols, or tcp=KIND, udp=KIND, icmp=KIND
    ///
    /// endpoint-independent: everybody; address-dependent: addresses to which the container has sent from it [default];
    /// address-and-port-dependent: only the ports to which it has. Never weaker than the mapping, which it follows
    /// where nothing is said. May be given several times; the later wins.
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    pub(crate) filtering: Vec<BehaviourSpec>,

    /// The TCP and UDP ports that flows may have
    ///
    /// A container's own port is kept where it is one of them and free, else the flow gets another of its class (below 1024
    /// or not). Connections with peers have them too; ICMP identifiers are not ports.
    #[arg(long, value_name = "FIRST-LAST", default_value_t = PortRange::ALL)]
    pub(crate) ports: PortRange,

    /// How many ports a container may have at a time, over all protocols [default: as many as there are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_ports_per_container: Option<u32>,
}

/// What comes in.
#[derive(Debug, Args)]
#[command(next_help_heading = "What comes in")]
pub(crate) struct InboundArgs {
    /// Ports of this host that lead to a container; may be given several times
    ///
    /// PROTO is tcp, udp or both. PORTS is a port or a range, which leads to a range of the same length, port by port,
    /// and without ports behind the address to the same numbers. More can be added while running: xnat forward add.
    #[arg(long = "forward", value_name = "PROTO:PORTS=ADDRESS[:PORTS]")]
    pub(crate) forwards: Vec<ForwardSpec>,

    /// The container that gets what a peer without xnat sends to this host and nothing else here claims
    #[arg(long, value_name = "IP", value_parser = parse_address)]
    pub(crate) default_inbound: Option<Ipv4Addr>,
}

/// Idle timeouts in seconds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Idle timeouts in seconds")]
pub(crate) struct TimeoutArgs {
    /// TCP connections that are established
    #[arg(long, value_name = "S", default_value_t = 7440, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub(crate) tcp_established: u32,
    /// TCP connections that are opening, closing or reset
    #[arg(long, value_name = "S", default_value_t = 240, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub(crate) tcp_transitory: u32,
    /// UDP flows that have been answered
    #[arg(long, value_name = "S", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub(crate) udp: u32,
    /// UDP flows that nobody has answered yet
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub(crate) udp_unreplied: u32,
    /// ICMP queries
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub(crate) icmp: u32,
    /// Every other protocol
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub(crate) other: u32,
}
