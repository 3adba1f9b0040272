//! `bench`: what a packet costs, and whether the goals are reached.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    bpffs, build, packages, process,
    test::SLOW,
    toolchain::Toolchain,
    workspace::{Workspace, is_root},
};

/// The arguments of `cargo xtask bench`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Measure less: about two minutes
    #[arg(long)]
    quick: bool,
    /// Measure only this part (forwarding, opening, programs, memory, collecting, start) or this candidate (floor,
    /// plain, iptables-nft, iptables-legacy, nft, xnat, xnat-peer); may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Rounds over all candidates [default: 7, with --quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Where benchmarks.md and the folder benchmarks go [default: docs for a whole run, else target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Options {
    /// Makes sure that the benchmark can run on this machine.
    pub(crate) fn prepare() -> Result<()> {
        if !is_root() {
            bail!(
                "the benchmark makes network namespaces and loads eBPF programs, which needs root: run `sudo env \
                 \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask bench`"
            );
        }
        packages::ensure("the benchmark", packages::BENCH)?;
        bpffs::ensure()
    }

    /// Builds xnat and the benchmark, and runs it.
    pub(crate) fn run(&self, toolchain: &Toolchain) -> Result<()> {
        let out = self.out(&toolchain.workspace)?;
        let binary = build::build(toolchain)?;
        let mut command = toolchain.cargo_step(["bench", "--quiet", "--package=xnat-tests", "--bench=nat", "--"]);
        command.env("XNAT_BIN", binary).env("XNAT_BENCH_OBJECT", toolchain.workspace.bench_object());
        // The tests' own way to close the fast path.
        command.env_remove(SLOW);
        command.arg("--out").arg(out).args(self.arguments());
        process::replace(command)
    }

    /// Those that the benchmark itself takes.
    fn arguments(&self) -> Vec<String> {
        let quick = self.quick.then(|| "--quick".to_owned());
        let only = self.only.iter().map(|name| format!("--only={name}"));
        let rounds = self.rounds.map(|rounds| format!("--rounds={rounds}"));
        quick.into_iter().chain(only).chain(rounds).collect()
    }

    /// Where it writes, absolute: cargo runs it elsewhere.
    fn out(&self, workspace: &Workspace) -> Result<PathBuf> {
        match &self.out {
            Some(out) => std::path::absolute(out).context("the current directory is gone: change to the checkout"),
            // Half of the figures must not take the place of all.
            None if self.quick || !self.only.is_empty() => Ok(workspace.target.join("bench")),
            None => Ok(workspace.root.join("docs")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        #[derive(clap::Parser)]
        struct Wrapper {
            #[command(flatten)]
            options: Options,
        }
        let words = std::iter::once("bench").chain(line.split_whitespace());
        <Wrapper as clap::Parser>::parse_from(words).options
    }

    #[test]
    fn arguments_are_passed_on() {
        assert_eq!(options("").arguments(), Vec::<String>::new());
        let all = options("--quick --only xnat --only opening --rounds 2");
        assert_eq!(all.arguments(), ["--quick", "--only=xnat", "--only=opening", "--rounds=2"]);
    }

    #[test]
    fn only_a_whole_run_writes_the_page() {
        let workspace = Workspace { root: "/w".into(), target: "/w/target".into() };
        let out = |line| options(line).out(&workspace).unwrap();
        assert_eq!(out(""), PathBuf::from("/w/docs"));
        assert_eq!(out("--rounds 9"), PathBuf::from("/w/docs"));
        assert_eq!(out("--quick"), PathBuf::from("/w/target/bench"));
        assert_eq!(out("--only xnat"), PathBuf::from("/w/target/bench"));
        assert_eq!(out("--quick --out /there"), PathBuf::from("/there"));
    }
}
