//! xnat: NAT and connection tracking for container hosts, in eBPF.

mod api;
mod behaviour;
mod binds;
mod cidr;
mod cli;
mod client;
mod clock;
mod commands;
mod config;
mod daemon;
mod filter;
mod forward;
mod hooks;
mod host_ports;
mod instance;
mod loader;
mod machine;
mod mapped;
mod maps;
mod memory;
mod net;
mod output;
mod peer;
mod plan;
mod port_range;
mod say;
mod state;
mod status;
mod table;
mod undo;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::commands::Failure;

/// A failure.
const FAILED: u8 = 1;
/// What was asked for cannot be.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Silent) => FAILED.into(),
        Err(Failure::Failed(error)) => {
            say::error(format_args!("{error:#}"));
            FAILED.into()
        }
        Err(Failure::Refused(error)) => {
            say::error(format_args!("{error:#}"));
            REFUSED.into()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    // One thread: whatever enters a network namespace enters it for all, and nothing here is worth a second one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Run(args) => commands::run::run(*args).await,
            Command::Conntrack(args) => commands::conntrack::run(&args),
            Command::Forward(args) => commands::forward::run(&args).await,
            Command::Status(args) => commands::status::run(&args).await,
            Command::Check(args) => commands::check::run(&args),
            Command::Detach(args) => commands::detach::run(&args).await,
        }
    })
}
