//! The xnat binary, run inside a host.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::conntrack::{self, Flow};
use crate::netns::{Namespace, unique};
use crate::process::{self, Finished, Running};
use crate::topology::{Node, Reference};
use crate::{trace, wait};

/// How long a command may take; loading the dataplane is the longest part.
const LIMIT: Duration = Duration::from_secs(30);

/// The binary under test.
pub fn binary() -> PathBuf {
    let Some(path) = std::env::var_os("XNAT_BIN").map(PathBuf::from) else {
        panic!("set XNAT_BIN to the absolute path of the xnat binary, or run cargo xtask test");
    };
    assert!(path.is_absolute() && path.is_file(), "XNAT_BIN: {} is not the path of a file", path.display());
    path
}

/// Whether every packet is to take the slow path: with `XNAT_SLOW=1`.
pub fn takes_slow_path() -> bool {
    std::env::var_os("XNAT_SLOW").is_some_and(|value| value == "1")
}

/// The words of `xnat run`: those of a test, and that packets take the slow path if they are to.
fn run_words(words: &str) -> String {
    format!("run {words}{}", if takes_slow_path() { " --slow-path" } else { "" })
}

/// Runs a command of xnat that is not about an instance (`check`, `--help`) inside a host.
#[track_caller]
pub fn attempt(ns: &Namespace, words: &str) -> Finished {
    process::run(ns.command("env").arg(binary()).args(words.split_whitespace()), LIMIT)
}

/// An instance of xnat in a host, whether it runs or not. Dropping the last clone detaches it.
#[derive(Debug)]
pub struct Instance {
    ns: Namespace,
    name: String,
}

impl Instance {
    /// An instance that has not run yet.
    pub fn new(ns: &Namespace) -> Self {
        Self { ns: ns.clone(), name: unique("x") }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// `xnat` with these words and this instance, not yet started.
    pub fn command(&self, words: &str) -> Command {
        let mut command = self.ns.command("env");
        command.arg(binary()).args(words.split_whitespace()).args(["--instance", &self.name]);
        command
    }

    /// Runs a command of xnat to its end.
    #[track_caller]
    pub fn attempt(&self, words: &str) -> Finished {
        process::run(&mut self.command(words), LIMIT)
    }

    /// Runs `xnat run` with words that it should refuse. Should it accept them, it is ended and the code is not 2.
    #[track_caller]
    pub fn attempt_run(&self, words: &str) -> Finished {
        let mut running = Running::start(&mut self.command(&run_words(words)));
        let accepted = |running: &Running| running.stdout().lines().any(|line| line.starts_with("ready"));
        wait::within(LIMIT, || (!running.is_running() || accepted(&running)).then_some(()));
        running.stop(Signal::SIGTERM, LIMIT)
    }

    /// Runs a command of xnat, which must succeed, and returns its output.
    #[track_caller]
    pub fn run(&self, words: &str) -> String {
        self.attempt(words).expect_success()
    }

    /// Starts `xnat run` and returns when it says that it is ready.
    #[track_caller]
    pub fn start(self, words: &str) -> Xnat {
        let running = self.start_process(words);
        Xnat { running: Some(running), instance: self, words: words.to_owned() }
    }

    /// The flows that match the filters (`--proto tcp --dst 192.168.220.0/24`), read from `-o json`.
    #[track_caller]
    pub fn flows(&self, filters: &str) -> Vec<Flow> {
        conntrack::read_json(&self.run(&format!("conntrack dump -o json {filters}")))
    }

    /// Awaits a flow that `wanted` accepts.
    #[track_caller]
    pub fn expect_flow(&self, what: &str, wanted: impl Fn(&Flow) -> bool) -> Flow {
        let found = wait::within(wait::SOON, || self.flows("").into_iter().find(&wanted));
        found.unwrap_or_else(|| panic!("no flow: {what}\n{}", self.run("conntrack dump")))
    }

    /// What `conntrack count` says.
    #[track_caller]
    pub fn count(&self, filters: &str) -> u64 {
        let output = self.run(&format!("conntrack count {filters}"));
        output.trim().parse().unwrap_or_else(|_| panic!("not a number: {output:?}"))
    }

    /// What `status -o json` says.
    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.run("status -o json");
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error} in: {output}"))
    }

    /// A counter of `status`; one that is not listed is zero.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        self.status().counters.get(name).copied().unwrap_or_default()
    }

    /// The pins and the run-time files of this instance.
    pub fn files(&self) -> Vec<String> {
        let of_mine = |path: &String| path.contains(&self.name);
        let folders = ["/sys/fs/bpf/xnat", "/run/xnat"];
        folders.iter().flat_map(|folder| trace::tree(folder.as_ref())).filter(of_mine).collect()
    }

    #[track_caller]
    fn start_process(&self, words: &str) -> Running {
        let mut running = Running::start(&mut self.command(&run_words(words)));
        running.expect_line("that it is ready", LIMIT, |line| line.starts_with("ready"));
        running
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Not a panic: this may be the unwinding of a failed test. Nothing to detach is fine.
        if std::env::var_os("XNAT_BIN").is_some() {
            let _ = self.command("detach").output();
        }
    }
}

/// A running `xnat run`. Dropping it interrupts it and detaches what it left.
#[derive(Debug)]
pub struct Xnat {
    running: Option<Running>,
    instance: Instance,
    words: String,
}

impl std::ops::Deref for Xnat {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl Xnat {
    /// Starts `xnat run` with these words in a host and returns when it is ready.
    #[track_caller]
    pub fn start(ns: &Namespace, words: &str) -> Self {
        Instance::new(ns).start(words)
    }

    /// The process id.
    #[track_caller]
    pub fn id(&self) -> u32 {
        self.running.as_ref().expect("it runs").id()
    }

    /// What it has said so far.
    pub fn output(&self) -> String {
        self.running.as_ref().map(|running| running.stdout() + &running.stderr()).unwrap_or_default()
    }

    /// Sends a signal and awaits the end.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> Finished {
        self.running.take().expect("it runs").stop(signal, LIMIT)
    }

    /// Starts it again with the same words, after [`Xnat::stop`].
    #[track_caller]
    pub fn restart(&mut self) {
        let words = self.words.clone();
        self.restart_with(&words);
    }

    /// Starts it again with other words, after [`Xnat::stop`].
    #[track_caller]
    pub fn restart_with(&mut self, words: &str) {
        assert!(self.running.is_none(), "stop it first");
        words.clone_into(&mut self.words);
        self.running = Some(self.instance.start_process(words));
    }

    /// Awaits a peer that is alive, speaks xnat and has told its subnets.
    #[track_caller]
    pub fn expect_peer(&self, address: Ipv4Addr) -> Peer {
        let met = |peer: &Peer| peer.address == address && peer.alive && peer.speaks_xnat && !peer.subnets.is_empty();
        let found = wait::within(wait::SOON, || self.status().peers.into_iter().find(met));
        found.unwrap_or_else(|| panic!("never met peer {address}: {:?}\n{}", self.status(), self.output()))
    }
}

impl Drop for Xnat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- xnat in {}: {}", self.instance.ns.name(), self.output());
            if self.running.is_some() {
                for words in ["conntrack dump", "status"] {
                    let output = self.instance.command(words).output();
                    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                    eprintln!("--- {words}\n{}", text.unwrap_or_default());
                }
            }
        }
        if let Some(mut running) = self.running.take() {
            running.signal(Signal::SIGINT);
            let _ = running.ended_within(Duration::from_secs(5));
        }
    }
}

/// `status -o json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The instance's name.
    pub instance: String,
    /// Whether the daemon runs.
    pub running: bool,
    /// The uplink.
    pub uplink: Uplink,
    /// The inside interfaces.
    pub insides: Vec<Inside>,
    /// The peers.
    pub peers: Vec<Peer>,
    /// The flow table.
    pub flows: Flows,
    /// The counters, by name.
    pub counters: BTreeMap<String, u64>,
}

/// The uplink in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its MTU.
    pub mtu: u32,
}

/// An inside interface in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Inside {
    /// Its name.
    pub name: String,
    /// The subnets that it holds.
    pub subnets: Vec<String>,
}

/// A peer in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its subnets, stated or learnt.
    pub subnets: Vec<String>,
    /// Whether it was heard of late.
    pub alive: bool,
    /// Whether it speaks xnat.
    pub speaks_xnat: bool,
}

/// Use of the flow table in [`Status`].
#[derive(Debug, Clone, Deserialize)]
pub struct Flows {
    /// Flows there are.
    pub used: u64,
    /// Flows there can be.
    pub max: u64,
}

/// Starts xnat on both nodes as the reference scenario has it, each told only the other's address,
/// and returns when they have met.
#[track_caller]
pub fn start_both(reference: &Reference) -> (Xnat, Xnat) {
    start_both_with(reference, "")
}

/// As [`start_both`], with further words for both (`--hooks clsact`).
#[track_caller]
pub fn start_both_with(reference: &Reference, words: &str) -> (Xnat, Xnat) {
    use crate::topology::{NODE1, NODE2, SUBNET1, SUBNET2};
    let mut nodes = start_mesh_with(&[(&reference.node1, NODE1, SUBNET1), (&reference.node2, NODE2, SUBNET2)], words);
    let second = nodes.pop().expect("two");
    (nodes.pop().expect("two"), second)
}

/// Starts xnat on every node, each told the addresses of all others, and returns when all have met.
#[track_caller]
pub fn start_mesh(nodes: &[(&Node, Ipv4Addr, &str)]) -> Vec<Xnat> {
    start_mesh_with(nodes, "")
}

#[track_caller]
fn start_mesh_with(nodes: &[(&Node, Ipv4Addr, &str)], words: &str) -> Vec<Xnat> {
    let others = |me: Ipv4Addr| nodes.iter().map(|(_, address, _)| *address).filter(move |address| *address != me);
    let start = |(node, address, subnet): &(&Node, Ipv4Addr, &str)| {
        let peers: Vec<String> = others(*address).map(|peer| format!("--peer {peer}")).collect();
        Xnat::start(node.host.ns(), &format!("{} --subnet {subnet} {words}", peers.join(" ")))
    };
    let running: Vec<Xnat> = nodes.iter().map(start).collect();
    for (xnat, (_, address, _)) in running.iter().zip(nodes) {
        for peer in others(*address) {
            xnat.expect_peer(peer);
        }
    }
    running
}
