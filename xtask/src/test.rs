//! `test`: the unit tests, and the tests on real hosts in network namespaces.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    bpffs, build, kernels, packages,
    process::{self, note},
    toolchain::Toolchain,
    workspace::is_root,
};

/// The arguments of `cargo xtask test`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Run only the tests whose names contain this
    filter: Option<String>,
    /// Which tests to run
    #[arg(long, value_enum, default_value_t = Selection::All)]
    tier: Selection,
    /// How many tests on network namespaces run at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    test_threads: u32,
    /// Have every packet take the slow path, to see that the fast one loses nothing
    #[arg(long)]
    slow_path: bool,
    /// Further arguments for the test programs, such as --nocapture
    #[arg(last = true)]
    args: Vec<String>,
}

/// What `--tier` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Selection {
    /// The crates' own tests; needs no root
    Unit,
    /// One packet in, one packet out, through the kernel's test run
    Packets,
    /// Hosts in network namespaces
    Net,
    /// Real Docker engines
    Docker,
    /// Other kernels, each in a virtual machine: fetches Debian's packages of Linux 6.1 and 6.12 and installs qemu
    Kernels,
    /// Everything but other kernels
    All,
}

/// The kinds of end-to-end tests, in the order in which they run: the quickest to fail first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Packets,
    Net,
    Docker,
    Kernels,
}

impl Tier {
    /// The tier of a test program of xnat-tests.
    fn of(program: &str) -> Self {
        if program == "packets" {
            Self::Packets
        } else if program.starts_with("docker") {
            Self::Docker
        } else if program == "kernels" {
            Self::Kernels
        } else {
            Self::Net
        }
    }

    fn is_in(self, selection: Selection) -> bool {
        match selection {
            Selection::All => self != Self::Kernels,
            Selection::Unit => false,
            Selection::Packets => self == Self::Packets,
            Selection::Net => self == Self::Net,
            Selection::Docker => self == Self::Docker,
            Selection::Kernels => self == Self::Kernels,
        }
    }
}

impl Options {
    fn runs_unit(&self) -> bool {
        matches!(self.tier, Selection::Unit | Selection::All)
    }

    fn runs_hosts(&self) -> bool {
        self.tier != Selection::Unit
    }

    /// Makes sure that the tests can run on this machine.
    pub(crate) fn prepare(&self) -> Result<()> {
        if !self.runs_hosts() {
            return Ok(());
        }
        if !is_root() {
            bail!(
                "tests on network namespaces need root: run `sudo env \"PATH=$PATH\" \
                 \"HOME=$HOME\" cargo xtask test`, or `cargo xtask test --tier unit` for those \
                 that do not"
            );
        }
        packages::ensure("the tests", packages::TESTS)?;
        if self.tier == Selection::Kernels {
            packages::ensure("the tests", packages::KERNELS)?;
        }
        bpffs::ensure()
    }

    /// Builds and tests; goes on after a failure and names all that failed at the end.
    pub(crate) fn run(&self, toolchain: &Toolchain) -> Result<()> {
        let mut steps = Vec::new();
        if self.runs_unit() {
            for (name, scope) in UNIT_STEPS {
                steps.push((name.to_owned(), self.unit_step(toolchain, scope)));
            }
        }
        if self.runs_hosts() {
            let tests = toolchain.workspace.root.join("tests/tests");
            let programs = select(programs(&tests)?, self.tier);
            if programs.is_empty() && self.tier != Selection::All {
                bail!("{} has no tests of that tier", tests.display());
            }
            let binary = build::build(toolchain)?;
            let kernels = kernels::folder(&toolchain.workspace);
            let absent = if self.tier == Selection::Kernels { kernels::fetch(&kernels)? } else { Vec::new() };
            for program in programs {
                let mut step = self.host_step(toolchain, &program, &binary);
                step.env("XNAT_KERNELS", &kernels);
                for series in &absent {
                    step.arg(format!("--skip={}", kernels::tests_of(series)));
                }
                steps.push((program, step));
            }
        }

        let mut failed = Vec::new();
        for (name, command) in steps {
            note(&format!("testing {name}"));
            if process::run(command).is_err() {
                failed.push(name);
            }
        }
        if !failed.is_empty() {
            bail!("tests failed in {}, see above", failed.join(", "));
        }
        note("all tests passed");
        Ok(())
    }

    fn unit_step(&self, toolchain: &Toolchain, scope: &[&str]) -> Command {
        let mut cargo = toolchain.cargo_step(["test", "--no-fail-fast"]);
        cargo.args(scope).arg("--").args(self.libtest(None));
        cargo
    }

    fn host_step(&self, toolchain: &Toolchain, program: &str, binary: &Path) -> Command {
        let mut cargo = toolchain.cargo_step(["test", "--package=xnat-tests", "--test", program]);
        cargo
            .env("XNAT_BIN", binary)
            .env("XNAT_OBJECT", toolchain.workspace.ebpf_object())
            .arg("--")
            .args(self.libtest(Some(self.test_threads)));
        if self.slow_path {
            cargo.env(SLOW, "1");
        }
        cargo
    }

    /// Arguments for a test program.
    fn libtest(&self, threads: Option<u32>) -> Vec<String> {
        let mut args: Vec<String> = self.filter.iter().cloned().collect();
        if let Some(threads) = threads {
            args.push(format!("--test-threads={threads}"));
        }
        args.extend(self.args.iter().cloned());
        args
    }
}

/// Set to `1`, every `xnat run` of a test has packets take the slow path.
pub(crate) const SLOW: &str = "XNAT_SLOW";

/// What needs neither root nor the built program.
const UNIT_STEPS: [(&str, &[&str]); 3] = [
    ("the crates", &["--package=xnat-common", "--package=xnat", "--package=xtask"]),
    ("the test hosts' library", &["--package=xnat-tests", "--lib"]),
    ("the page on compliance", &["--package=xnat-tests", "--test=compliance"]),
];

/// The test programs of xnat-tests that are among those steps.
const UNIT_PROGRAMS: [&str; 1] = ["compliance"];

/// The test programs of xnat-tests, as cargo finds them: a file each, or a directory with a main.rs.
fn programs(tests: &Path) -> Result<Vec<String>> {
    if !tests.exists() {
        return Ok(Vec::new());
    }
    let mut programs = Vec::new();
    let unreadable = || format!("cannot read {}", tests.display());
    for entry in fs::read_dir(tests).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let is_program = if path.is_dir() {
            path.join("main.rs").exists()
        } else {
            path.extension().is_some_and(|extension| extension == "rs")
        };
        if let (true, Some(stem)) = (is_program, path.file_stem()) {
            programs.push(stem.to_string_lossy().into_owned());
        }
    }
    Ok(programs)
}

/// The programs that were asked for, tier by tier and by name.
fn select(mut programs: Vec<String>, selection: Selection) -> Vec<String> {
    programs.retain(|program| !UNIT_PROGRAMS.contains(&program.as_str()) && Tier::of(program).is_in(selection));
    programs.sort_by(|a, b| (Tier::of(a), a).cmp(&(Tier::of(b), b)));
    programs
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
        let words = std::iter::once("test").chain(line.split_whitespace());
        <Wrapper as clap::Parser>::parse_from(words).options
    }

    #[test]
    fn tiers_are_told_by_name() {
        let all = || ["udp", "docker_compose", "packets", "kernels", "docker", "compliance", "tcp"].map(str::to_owned);
        let selected = |selection| select(all().to_vec(), selection);
        assert_eq!(selected(Selection::All), ["packets", "tcp", "udp", "docker", "docker_compose"]);
        assert_eq!(selected(Selection::Packets), ["packets"]);
        assert_eq!(selected(Selection::Net), ["tcp", "udp"]);
        assert_eq!(selected(Selection::Docker), ["docker", "docker_compose"]);
        assert_eq!(selected(Selection::Kernels), ["kernels"]);
        assert!(selected(Selection::Unit).is_empty());
    }

    #[test]
    fn arguments_for_the_test_programs() {
        let bare = options("");
        assert_eq!(bare.libtest(None), Vec::<String>::new());
        assert_eq!(bare.libtest(Some(bare.test_threads)), ["--test-threads=2"]);

        let full = options("tcp_syn --test-threads 1 --tier net --slow-path -- --nocapture");
        assert_eq!(full.libtest(Some(full.test_threads)), ["tcp_syn", "--test-threads=1", "--nocapture"]);
        assert_eq!(full.tier, Selection::Net);
        assert!(full.slow_path && !bare.slow_path);
    }

    #[test]
    fn only_unit_tests_do_without_root() {
        assert!(options("--tier unit").prepare().is_ok());
        assert!(!options("--tier unit").runs_hosts());
        for tier in ["packets", "net", "docker", "kernels", "all"] {
            assert!(options(&format!("--tier {tier}")).runs_hosts());
        }
    }
}
