//! The flags of `xnat forward`.

use clap::{Args, Subcommand, ValueEnum};

use super::InstanceArg;
use crate::forward::spec::{ForwardSpec, RemoveSpec};

/// What to do with the forwards.
#[derive(Debug, Subcommand)]
pub(crate) enum ForwardCommand {
    Add(AddArgs),
    Remove(RemoveArgs),
    List(ListArgs),
}

/// Let ports of this host lead to a container
///
/// Lasts until it is removed or xnat ends; a daemon that was killed finds it again when it comes back. Adding what is
/// there already is no mistake. A port that leads elsewhere, or is that of a socket of this host, is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  xnat forward add tcp:8080=192.168.110.11:80
  xnat forward add both:5000-5010=192.168.110.11
  curl --unix-socket /run/xnat/default/api.sock http://xnat/v1/forwards \\
    -d '{\"protocol\":\"tcp\",\"ports\":\"8080\",\"address\":\"192.168.110.11\",\"target_ports\":\"80\"}'")]
pub(crate) struct AddArgs {
    /// PROTO is tcp, udp or both; a range of ports leads to one of the same length, port by port
    #[arg(value_name = "PROTO:PORTS=ADDRESS[:PORTS]")]
    pub(crate) forward: ForwardSpec,
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
}

/// Let ports of this host lead to containers no longer
///
/// Connections that have come this way live on; new ones do not come. One of the flags of xnat run comes back when xnat
/// is started with them again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  xnat forward remove tcp:8080
  xnat forward remove both:5000-5010=192.168.110.11
  curl --unix-socket /run/xnat/default/api.sock -X DELETE http://xnat/v1/forwards/tcp/8080")]
pub(crate) struct RemoveArgs {
    /// The ports, or the whole forward, which is then removed only if it leads there
    #[arg(value_name = "PROTO:PORTS[=ADDRESS[:PORTS]]")]
    pub(crate) what: RemoveSpec,
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
}

/// List the forwards
///
/// Works without a running daemon too, from what its pins tell.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceArg,
    /// How to print them
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "table")]
    pub(crate) format: ListFormat,
}

/// Output formats for forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// An aligned table for a person.
    Table,
    /// One JSON document.
    Json,
}
