//! What a demo has made: names, and files in a folder under /run, from which any process can remove it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{hosts, interrupt};
use crate::process::{capture, gist};

/// Under which every demo has a folder.
const FOLDER: &str = "/run/xnat-demo";

/// A demo's belongings. Dropping it removes them, unless they were told to stay.
pub(super) struct Kept {
    id: String,
    binary: PathBuf,
    stays: bool,
}

impl Kept {
    /// Begins a demo with this xnat.
    pub(super) fn create(binary: &Path) -> Result<Self> {
        let id = std::process::id().to_string();
        let folder = Path::new(FOLDER).join(&id);
        fs::create_dir_all(FOLDER)
            .and_then(|()| fs::create_dir(&folder))
            .with_context(|| format!("cannot create {}; `cargo xtask demo --remove` may help", folder.display()))?;
        let kept = Self { id, binary: binary.to_owned(), stays: false };
        let write = |name: &str, text: String| {
            let file = kept.file(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write("binary", binary.display().to_string())?;
        write("owner", Process::of(std::process::id())?.to_line())?;
        Ok(kept)
    }

    /// All demos of which there is anything on this machine.
    pub(super) fn all() -> Result<Vec<Self>> {
        let entries = match fs::read_dir(FOLDER) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {FOLDER}"))?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let id = entry?.file_name().to_string_lossy().into_owned();
            let binary = fs::read_to_string(Path::new(FOLDER).join(&id).join("binary")).unwrap_or_default();
            // Removed when asked to, and not by being dropped.
            all.push(Self { id, binary: PathBuf::from(binary), stays: true });
        }
        Ok(all)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The xnat that it runs.
    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The process that tells the story, while it does.
    pub(super) fn running_owner(&self) -> Option<i32> {
        let line = fs::read_to_string(self.file("owner")).ok()?;
        Process::from_line(line.trim()).filter(Process::is_alive).map(|process| process.id)
    }

    /// A file in its folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(&self.id).join(name)
    }

    /// What a host's xnat says.
    pub(super) fn log(&self, host: &str) -> PathBuf {
        self.file(&format!("{host}.log"))
    }

    /// The name of the namespace with this label.
    pub(super) fn namespace(&self, label: &str) -> String {
        format!("xnat-demo-{}-{label}", self.id)
    }

    /// The name of xnat's instance on a host.
    pub(super) fn instance(&self, host: &str) -> String {
        format!("demo-{}-{host}", self.id)
    }

    /// Makes the namespaces.
    pub(super) fn add_namespaces(&self) -> Result<()> {
        for label in hosts::LABELS {
            interrupt::check()?;
            capture(undisturbed("ip", &["netns", "add", &self.namespace(label)]))?;
        }
        Ok(())
    }

    /// Runs lines of `ip` commands in a namespace.
    pub(super) fn ip(&self, label: &str, script: &str) -> Result<()> {
        interrupt::check()?;
        let mut ip = undisturbed("ip", &["-n", &self.namespace(label), "-batch", "-"]);
        ip.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = ip.spawn().context("cannot start ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            // What it refuses it says itself.
            let _ = stdin.write_all(script.as_bytes());
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{label} cannot be set up: {}", gist(&String::from_utf8_lossy(&output.stderr)));
        }
        Ok(())
    }

    /// What an `ip` command shows in a namespace.
    pub(super) fn show(&self, label: &str, words: &[&str]) -> Result<String> {
        let mut ip = undisturbed("ip", &["-n", &self.namespace(label)]);
        ip.args(words);
        capture(ip)
    }

    /// xnat with these words for a host's instance, not yet started.
    pub(super) fn xnat(&self, host: &str, words: &str) -> Command {
        let mut command = Self::command(&self.namespace(host), &self.binary.display().to_string());
        command.args(words.split_whitespace()).args(["--instance", &self.instance(host)]);
        command
    }

    /// A program in a namespace, not yet started. nsenter replaces itself: the process is the program's.
    pub(super) fn command(namespace: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Starts a program that runs on, and notes its process. A Ctrl-C on the terminal does not reach it.
    pub(super) fn start(&self, mut command: Command, log: &Path) -> Result<Running> {
        let said = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.process_group(0).stdout(said.try_clone()?).stderr(said);
        let child = command.spawn().context("cannot start nsenter")?;
        let mut list = OpenOptions::new().create(true).append(true).open(self.file("processes"))?;
        writeln!(list, "{}", Process::of(child.id())?.to_line())?;
        Ok(Running { child, log: log.to_owned() })
    }

    /// Lets everything stay for a later [`Self::remove`].
    pub(super) fn keep(&mut self) -> Result<()> {
        self.stays = true;
        // The owner goes, and with it the reason not to remove its belongings.
        fs::remove_file(self.file("owner")).context("cannot disown the hosts")
    }

    /// Ends the processes, then removes everything else. Goes on after a failure and returns the first.
    pub(super) fn remove(&mut self) -> Result<()> {
        self.stays = true;
        let mut outcome = Ok(());
        let mut note = |result: Result<()>| {
            if outcome.is_ok() {
                outcome = result;
            }
        };
        let processes = fs::read_to_string(self.file("processes")).unwrap_or_default();
        let processes: Vec<Process> = processes.lines().filter_map(Process::from_line).collect();
        for process in &processes {
            process.signal(Signal::SIGTERM);
        }
        for process in &processes {
            note(process.await_end());
        }
        for host in [hosts::NODE1.name, hosts::NODE2.name] {
            note(self.detach(host));
        }
        for label in hosts::LABELS {
            let name = self.namespace(label);
            if Path::new("/run/netns").join(&name).exists() {
                note(capture(undisturbed("ip", &["netns", "delete", &name])).map(drop));
            }
        }
        if outcome.is_ok() {
            let folder = self.file("");
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
            // Others may be in there.
            let _ = fs::remove_dir(FOLDER);
        }
        outcome
    }

    /// Removes what an xnat left that could not do so itself.
    fn detach(&self, host: &str) -> Result<()> {
        let left = ["/run/xnat", "/sys/fs/bpf/xnat"].map(|folder| Path::new(folder).join(self.instance(host)));
        if !left.iter().any(|path| path.exists()) {
            return Ok(());
        }
        let mut detach = self.xnat(host, "detach");
        detach.process_group(0);
        capture(detach).map(drop)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        if let Err(error) = self.remove() {
            eprintln!("xtask: error: {error:#}");
        }
    }
}

/// A program that a Ctrl-C on the terminal does not reach.
fn undisturbed(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).process_group(0);
    command
}

/// A program that runs on.
pub(super) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Ends it.
    pub(super) fn end(&mut self) {
        // Its end is awaited, so it cannot be anybody else by then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has said a line that `wanted` accepts; fails if it has ended instead.
    pub(super) fn said(&mut self, name: &str, wanted: impl Fn(&str) -> bool) -> Result<Option<()>> {
        let ended = self.child.try_wait()?;
        let said = fs::read_to_string(&self.log)?;
        if said.lines().any(wanted) {
            return Ok(Some(()));
        }
        match ended {
            Some(status) => Err(anyhow!("{name} ended ({status}): {}", gist(&said))),
            None => Ok(None),
        }
    }
}

/// A process, told from a later one with the same id by the time at which it began.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: i32,
    start: u64,
}

impl Process {
    fn of(id: u32) -> Result<Self> {
        let id = i32::try_from(id).context("a process id that is none")?;
        let start = Self::start_of(id).with_context(|| format!("process {id} has gone"))?;
        Ok(Self { id, start })
    }

    fn to_line(&self) -> String {
        format!("{} {}", self.id, self.start)
    }

    fn from_line(line: &str) -> Option<Self> {
        let (id, start) = line.split_once(' ')?;
        Some(Self { id: id.parse().ok()?, start: start.parse().ok()? })
    }

    /// When the process began, unless it has ended.
    fn start_of(id: i32) -> Option<u64> {
        parse_start(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    fn is_alive(&self) -> bool {
        Self::start_of(self.id) == Some(self.start)
    }

    fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may have ended just now.
            let _ = kill(Pid::from_raw(self.id), signal);
        }
    }

    /// Awaits the end of a process that was asked to; kills it when it takes its time.
    fn await_end(&self) -> Result<()> {
        for signal in [None, Some(Signal::SIGKILL)] {
            if let Some(signal) = signal {
                self.signal(signal);
            }
            for _ in 0..1000 {
                if !self.is_alive() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Err(anyhow!("process {} does not end", self.id))
    }
}

/// The 22nd field of /proc/PID/stat (see proc(5)); none for a process that is over and only waits to be noticed.
fn parse_start(stat: &str) -> Option<u64> {
    // The second field is the program's name in brackets, and may contain anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    // 18 fields lie between the state and the time.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert_eq!(Process::from_line(&own.to_line()), Some(Process { id: own.id, start: own.start }));
        assert!(!Process { id: own.id, start: own.start + 1 }.is_alive());
        assert_eq!(Process::from_line("12"), None);
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let fields = (5..=21).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(parse_start(&format!("7 (a) S) b) S 4 {fields} 4711 23")), Some(4711));
        assert_eq!(parse_start(&format!("7 (x) Z 4 {fields} 4711 23")), None);
        assert_eq!(parse_start(""), None);
    }
}
