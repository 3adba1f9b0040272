//! Everything that is done to xnat from its checkout: build, run, show, lint, test.
//!
//! It builds with any recent stable cargo, installs the toolchain that xnat itself is pinned to,
//! and hands over to that.

mod bench;
mod bpffs;
mod build;
mod demo;
mod kernels;
mod linker;
mod lint;
mod packages;
mod process;
mod test;
mod toolchain;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{toolchain::Toolchain, workspace::Workspace};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
/// Builds, runs, shows and tests xnat. Installs the pinned Rust toolchain and builds bpf-linker when they
/// are missing.
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build xnat, dataplane included, as target/release/xnat
    Build,
    /// Build, then start `xnat run ARGS…`, through sudo when not root
    Run {
        /// Arguments of `xnat run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build, then show what xnat does between two hosts in network namespaces of this machine; as root
    Demo(demo::Options),
    /// Build, then measure xnat beside plain routing and the kernel's NAT, in network namespaces; as root
    Bench(bench::Options),
    /// Run the pinned toolchain's cargo with all that xnat's build needs in its environment
    #[command(disable_help_flag = true)]
    Cargo {
        /// Arguments of cargo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check formatting, and clippy for the host's crates and for the dataplane
    Lint,
    /// Install what the tests need, build, and run the tests; all but `--tier unit` as root
    Test(test::Options),
}

fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(Cli { command }: Cli) -> Result<()> {
    let workspace = Workspace::locate()?;
    // What tests, demo and benchmark cannot do without is found missing before minutes go into a build.
    match &command {
        Command::Test(options) => options.prepare()?,
        Command::Bench(_) => bench::Options::prepare()?,
        Command::Demo(options) => {
            options.prepare()?;
            if options.remove {
                return demo::remove();
            }
        }
        _ => {}
    }
    let toolchain = Toolchain::ensure(workspace)?;
    match command {
        Command::Build => {
            let binary = build::build(&toolchain)?;
            process::note(&format!("built {}", binary.display()));
            Ok(())
        }
        Command::Run { args } => build::run(&toolchain, &args),
        Command::Demo(options) => options.run(&toolchain),
        Command::Bench(options) => options.run(&toolchain),
        Command::Cargo { args } => process::replace(toolchain.cargo_for(&args)),
        Command::Lint => lint::lint(&toolchain),
        Command::Test(options) => options.run(&toolchain),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_of_run_and_cargo_pass_untouched() {
        let cli = Cli::parse_from(["xtask", "run", "--", "--peer", "172.29.0.17"]);
        let Command::Run { args } = cli.command else {
            panic!("run was not recognised");
        };
        assert_eq!(args, ["--peer", "172.29.0.17"]);

        let cli = Cli::parse_from(["xtask", "cargo", "test", "-p", "xnat", "--", "--nocapture"]);
        let Command::Cargo { args } = cli.command else {
            panic!("cargo was not recognised");
        };
        assert_eq!(args, ["test", "-p", "xnat", "--", "--nocapture"]);
    }
}
