//! The command line: one definition of each flag, which makes the parser and the help.

mod conntrack;
mod forward;
mod run;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use conntrack::{ConntrackCommand, DumpArgs, FilterArgs, FlowFormat};
pub(crate) use forward::{AddArgs, ForwardCommand, ListArgs, ListFormat, RemoveArgs};
pub(crate) use run::{HookChoice, RunArgs};

use crate::instance::Instance;

/// NAT and connection tracking for container hosts, in eBPF.
///
/// Containers on different hosts reach each other by their own addresses, and everything else through the host's
/// address, with only the hosts' addresses on the wire and without a tunnel.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples, for two hosts 172.29.0.4 and 172.29.0.17 with a container network each:
  on 172.29.0.4    xnat run --peer 172.29.0.17 --subnet 192.168.110.0/24
  on 172.29.0.17   xnat run --peer 172.29.0.4 --subnet 192.168.220.0/24
  on either        xnat status
                   xnat conntrack dump

Exit codes: 0 done, 1 failed, 2 refused because of what was asked for.";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunArgs>),
    Conntrack(ConntrackArgs),
    Forward(ForwardArgs),
    Status(StatusArgs),
    Check(CheckArgs),
    Detach(DetachArgs),
}

/// Look at the flows that are being translated
#[derive(Debug, Args)]
#[command(visible_alias = "ct")]
pub(crate) struct ConntrackArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub(crate) command: ConntrackCommand,
}

/// Let ports of this host lead to containers, while xnat runs
#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub(crate) command: ForwardCommand,
}

/// Show interfaces, hooks, peers, use of the flow table, and what was dropped
///
/// Works without a running daemon too, from what its pins tell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  xnat status
  xnat status -o json | jq .counters
  curl --unix-socket /run/xnat/default/api.sock http://xnat/v1/status")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// Show what this kernel and this machine support, what is missing and how to get it
///
/// Exits with 0 when `xnat run` can work here, else with 1. Changes nothing.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// Remove what a run left behind that could not clean up (killed, or the machine's power button)
///
/// Removes hooks, pins, routes and run-time files, and gives sysctls their old values. A run that ends by Ctrl-C or
/// SIGTERM does all this by itself.
#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
}

/// Which instance a command is about.
#[derive(Debug, Args)]
pub(crate) struct InstanceArg {
    /// Which instance, where several run on one machine in different network namespaces
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) instance: Instance,
}

/// How to print what is not flows.
#[derive(Debug, Args)]
pub(crate) struct OutputArg {
    /// How to print it
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Format,
}

/// Output formats of what is not flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For a person.
    Text,
    /// One JSON document.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_commands_are_understood() {
        for line in [
            "xnat run --peer 172.29.0.17 --subnet 192.168.110.0/24",
            "xnat run --peer 172.29.0.17=192.168.220.0/24,10.0.0.0/8 --subnet 192.168.110.0/24 --uplink eth0",
            "xnat run --subnet 192.168.110.0/24 --subnet 10.1.0.0/16 --max-flows 1024 --hooks clsact --udp 30",
            "xnat ct dump -o conntrack --proto tcp --src 10.0.0.0/8 --dport 80 --state established",
            "xnat conntrack count --peer 172.29.0.17 --instance node1",
            "xnat run --subnet 10.1.0.0/16 --mapping udp=address-dependent,tcp=endpoint-independent --ports 1024-65535",
            "xnat run --subnet 10.1.0.0/16 --filtering endpoint-independent --max-ports-per-container 100",
            "xnat run --subnet 10.1.0.0/16 --forward tcp:80=10.1.0.2 --forward both:5-6=10.1.0.2:7-8 --default-inbound 10.1.0.2",
            "xnat forward add tcp:8080=192.168.110.11:80 --instance node1",
            "xnat forward remove both:5000-5010",
            "xnat forward list -o json",
            "xnat status -o json",
            "xnat check",
            "xnat detach --instance node1",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn bad_words_are_refused_with_exit_code_2() {
        for (line, message) in [
            ("xnat run --peer node2 --subnet 192.168.110.0/24", "not an address"),
            ("xnat run --peer fd00::1 --subnet 192.168.110.0/24", "IPv6"),
            ("xnat run --peer 172.29.0.17=10.0.0.1/8 --subnet 192.168.110.0/24", "did you mean 10.0.0.0/8"),
            ("xnat run --subnet 192.168.110.5/24", "did you mean 192.168.110.0/24"),
            ("xnat run --peer 172.29.0.17", "--subnet"),
            ("xnat run --subnet 192.168.110.0/24 --max-flows 0", "max-flows"),
            ("xnat status --instance ../x", "letters"),
            ("xnat run --subnet 10.0.0.0/8 --mapping symmetric", "endpoint-independent, address-dependent"),
            ("xnat run --subnet 10.0.0.0/8 --filtering sctp=address-dependent", "`sctp`"),
            ("xnat run --subnet 10.0.0.0/8 --ports 0-1024", "`0` is no port"),
            ("xnat run --subnet 10.0.0.0/8 --ports 2048-1024", "did you mean 1024-2048"),
            ("xnat run --subnet 10.0.0.0/8 --max-ports-per-container 0", "max-ports-per-container"),
            ("xnat run --subnet 10.0.0.0/8 --forward tcp:80", "PROTO:PORTS=ADDRESS"),
            ("xnat run --subnet 10.0.0.0/8 --default-inbound web", "not an address"),
            ("xnat forward add tcp:80-90=10.0.0.1:80-99", "differ in length"),
            ("xnat forward remove 8080", "PROTO:PORTS"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(message), "{line}: {error}");
        }
    }
}
