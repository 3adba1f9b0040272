//! Network namespaces that are gone when the test is.

use std::fs::{self, File};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{self, Finished};
use crate::{requirement, wait};

/// A name that nobody else on this machine uses, now or in another test run: process id and a counter.
pub fn unique(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("xt{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A network namespace with its loopback up. Clones are the same namespace; when the last of them is dropped,
/// the processes inside are killed and the namespace is removed.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Guard>);

#[derive(Debug)]
struct Guard {
    name: String,
}

impl Namespace {
    /// Makes a namespace.
    #[track_caller]
    pub fn new(label: &str) -> Self {
        static SWEEP: Once = Once::new();
        requirement::root();
        requirement::program("nsenter");
        SWEEP.call_once(sweep);
        let name = unique(label);
        process::run(ip().args(["netns", "add", &name]), wait::SOON).expect_success();
        let namespace = Self(Arc::new(Guard { name }));
        namespace.ip("link set lo up");
        namespace
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file to enter it through.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.0.name)
    }

    /// A command that will run inside. Entered with nsenter and not `ip netns exec`, which mounts a fresh /sys
    /// and so hides bpffs and the cgroups. nsenter replaces itself, so the process id is the program's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(requirement::program("nsenter"));
        command.arg(format!("--net={}", self.path())).arg("--").arg(requirement::program(program));
        command
    }

    /// Runs a program inside and returns how it ended.
    #[track_caller]
    pub fn attempt(&self, words: &[&str]) -> Finished {
        process::run(self.command(words[0]).args(&words[1..]), Duration::from_secs(60))
    }

    /// Runs a program inside, which must succeed, and returns its output.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        self.attempt(words).expect_success()
    }

    /// Runs lines of shell inside, which must succeed.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.run(&["sh", "-e", "-c", script])
    }

    /// Runs `ip` with these words inside.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        let words: Vec<&str> = std::iter::once("ip").chain(words.split_whitespace()).collect();
        self.run(&words)
    }

    /// Sets a sysctl of this namespace, by its path below /proc/sys.
    #[track_caller]
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let file = format!("/proc/sys/{key}");
        self.within(|| fs::write(&file, value)).unwrap_or_else(|error| panic!("{file} = {value}: {error}"));
    }

    /// Runs a closure in a thread that is inside. Sockets it opens and threads it starts are inside too.
    #[track_caller]
    pub fn within<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            self.enter();
            closure()
        };
        match std::thread::scope(|scope| scope.spawn(enter).join()) {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a thread that is inside.
    pub fn spawn<T: Send + 'static>(&self, closure: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let namespace = self.clone();
        std::thread::spawn(move || {
            namespace.enter();
            drop(namespace);
            closure()
        })
    }

    fn enter(&self) {
        let path = self.path();
        let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        setns(&file, CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("setns {path}: {error}"));
    }

    /// The process ids inside.
    pub fn processes(&self) -> Vec<i32> {
        processes(self.name())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn ip() -> Command {
    Command::new(requirement::program("ip"))
}

fn processes(name: &str) -> Vec<i32> {
    let Ok(output) = ip().args(["netns", "pids", name]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Kills what runs inside, by process id, and removes the namespace.
fn remove(name: &str) {
    // What is left after a second keeps the namespace, which is said below.
    wait::within(Duration::from_secs(1), || {
        let alive = processes(name);
        for &pid in &alive {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        alive.is_empty().then_some(())
    });
    // Not a panic: this may be the unwinding of a failed test.
    match ip().args(["netns", "delete", name]).output() {
        Ok(output) if output.status.success() => {}
        other => eprintln!("could not remove namespace {name}: {other:?}"),
    }
}

/// Removes the namespaces of test processes that were killed before they could clean up.
fn sweep() {
    let Ok(folder) = fs::read_dir("/run/netns") else { return };
    for name in folder.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix("xt").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            remove(&name);
        }
    }
}
