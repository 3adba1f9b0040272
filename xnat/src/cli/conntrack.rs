//! The flags of `xnat conntrack`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand, ValueEnum};

use super::InstanceArg;
use crate::cidr::{Cidr, parse_address, parse_range_or_address};
use crate::filter::{Protocol, StateName};

/// What to do with the flows.
#[derive(Debug, Subcommand)]
pub(crate) enum ConntrackCommand {
    Dump(DumpArgs),
    Count(CountArgs),
}

/// List the flows
///
/// One line is one flow, with both directions: `original` as the opener's packets reach this host, `reply` as the
/// answers do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  xnat conntrack dump --proto tcp --dport 80
  xnat conntrack dump --src 192.168.110.0/24 --state established
  xnat conntrack dump -o conntrack | grep UNREPLIED
  xnat conntrack dump -o json | jq .original.src")]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// How to print them
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub(crate) format: FlowFormat,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Count the flows
#[derive(Debug, Args)]
pub(crate) struct CountArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Which flows; all conditions must hold. Addresses and ports are those of the original direction, as for
/// `conntrack -L`.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which flows (addresses and ports of the original direction)")]
pub(crate) struct FilterArgs {
    /// Protocol: tcp, udp, icmp, sctp or a number
    #[arg(long)]
    pub(crate) proto: Option<Protocol>,
    /// Source address or range
    #[arg(long, value_name = "IP|CIDR", value_parser = parse_range_or_address)]
    pub(crate) src: Option<Cidr>,
    /// Destination address or range
    #[arg(long, value_name = "IP|CIDR", value_parser = parse_range_or_address)]
    pub(crate) dst: Option<Cidr>,
    /// Source port
    #[arg(long, value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// Destination port
    #[arg(long, value_name = "PORT")]
    pub(crate) dport: Option<u16>,
    /// State: a TCP state such as established, or replied, unreplied, assured, unconfirmed
    #[arg(long)]
    pub(crate) state: Option<StateName>,
    /// The peer that the flow leads to or comes from
    #[arg(long, value_name = "IP", value_parser = parse_address)]
    pub(crate) peer: Option<Ipv4Addr>,
}

/// Output formats for flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FlowFormat {
    /// An aligned table for a person.
    Table,
    /// The line format of conntrack-tools.
    Conntrack,
    /// One JSON object a line.
    Json,
}
