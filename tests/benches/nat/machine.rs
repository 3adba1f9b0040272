//! The machine: what it is, and what of it is changed while the benchmark runs.

use std::fs::{self, File};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

/// What figures depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    /// Of the start, UTC.
    pub date: String,
    /// The checkout.
    pub commit: String,
    /// What else ran: the load of the minute before.
    pub load: f64,
    pub quick: bool,
}

impl Machine {
    /// Looks.
    pub fn look(quick: bool) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            kernel: first_line(Command::new("uname").arg("-r")),
            processor: model.map_or("unknown", |(_, name)| name).trim().to_owned(),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            date: first_line(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])),
            commit: commit(),
            load: load.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default(),
            quick,
        }
    }
}

/// The commit that the checkout is at, and whether it was changed since.
fn commit() -> String {
    let git = |words: &[&str]| first_line(Command::new("git").args(words).current_dir(env!("CARGO_MANIFEST_DIR")));
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    match (commit.is_empty(), git(&["status", "--porcelain", "--untracked-files=no"]).is_empty()) {
        (true, _) => "unknown".to_owned(),
        (false, true) => commit,
        (false, false) => format!("{commit} and changes"),
    }
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned()
}

/// A setting of the whole machine, which is put back when this is dropped.
#[derive(Debug)]
struct Setting {
    file: &'static str,
    before: String,
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.file, &self.before) {
            eprintln!("{} was {} and cannot be put back: {error}", self.file, self.before.trim());
        }
    }
}

/// Held while a benchmark runs: two at once would spoil each other's figures, and what both set could not be put back.
#[derive(Debug)]
pub struct Alone {
    _lock: Flock<File>,
}

impl Alone {
    /// Fails if another benchmark runs.
    pub fn make_sure() -> Result<Self> {
        let path = std::env::temp_dir().join("xnat-benchmark.lock");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => bail!("another benchmark runs on this machine: wait until it has ended"),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Room for the kernel's own flows, as much as xnat is given. The limit and the table of hashes are the whole machine's.
#[derive(Debug)]
pub struct ConntrackRoom {
    _settings: [Setting; 2],
}

impl ConntrackRoom {
    /// Room for as many flows in each of several namespaces.
    pub fn make(flows: u32, namespaces: u32) -> Self {
        // A bucket for each of a flow's two tuples: all namespaces share the one table, and those of one candidate must
        // not lengthen the chains that another has to follow.
        let buckets = (2 * flows * namespaces).max(262_144).next_power_of_two();
        let set = |file: &'static str, value: u32| {
            let before = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
            fs::write(file, value.to_string()).unwrap_or_else(|error| panic!("{file} = {value}: {error}"));
            Setting { file, before }
        };
        Self {
            _settings: [
                set("/proc/sys/net/netfilter/nf_conntrack_max", (flows * namespaces).max(262_144)),
                set("/proc/sys/net/netfilter/nf_conntrack_buckets", buckets),
            ],
        }
    }
}
