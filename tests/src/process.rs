//! Running programs with a bounded time, and stopping them by their process id.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub line: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether the exit code was 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a program that must have succeeded.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.success(), "{self}");
        self.stdout
    }

    /// Panics unless the exit code was this one.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "asserting is a use")]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        write!(f, "`{line}` ended with {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Runs a command to its end; kills it and panics when it takes longer than `limit`.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    let mut running = Running::start(command);
    let Some(status) = running.ended_within(limit) else {
        running.kill();
        panic!("killed after {limit:?}: {}", running.finished(None));
    };
    running.finished(Some(status))
}

/// A program in the background, its output collected by line; killed on drop.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Running {
    /// Starts the program.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let line = words.join(" ");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
        let stdout = Lines::collect(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::collect(child.stderr.take().expect("stderr is piped"));
        Self { line, child, stdout, stderr }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Awaits a line, on standard output or standard error, that `wanted` accepts.
    #[track_caller]
    pub fn expect_line(&mut self, what: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let find = |text: &str| text.lines().find(|line| wanted(line)).map(str::to_owned);
        let found = wait::within(limit, || {
            let ended = self.child.try_wait().expect("own child").is_some();
            let line = find(&self.stdout.text()).or_else(|| find(&self.stderr.text()));
            match (line, ended) {
                (Some(line), _) => Some(Some(line)),
                // The reader threads may be behind the end of the process by a moment.
                (None, true) => {
                    self.stdout.finish();
                    self.stderr.finish();
                    Some(find(&self.stdout.text()).or_else(|| find(&self.stderr.text())))
                }
                (None, false) => None,
            }
        });
        let Some(Some(line)) = found else {
            panic!(
                "`{}` never said {what} (waited {limit:?} at most)\n--- stdout\n{}\n--- stderr\n{}",
                self.line,
                self.stdout.text(),
                self.stderr.text()
            );
        };
        line
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_none()
    }

    /// The exit status if it ends by itself in time.
    pub fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait::within(limit, || self.child.try_wait().expect("own child"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // Gone already is fine.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Sends a signal and awaits the end.
    #[track_caller]
    pub fn stop(mut self, signal: Signal, limit: Duration) -> Finished {
        self.signal(signal);
        let Some(status) = self.ended_within(limit) else {
            self.kill();
            panic!("still there {limit:?} after {signal}: {}", self.finished(None));
        };
        self.finished(Some(status))
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn finished(&mut self, status: Option<ExitStatus>) -> Finished {
        self.stdout.finish();
        self.stderr.finish();
        Finished {
            line: self.line.clone(),
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
    }
}

/// Output read by a thread of its own, so that no program ever waits for its reader.
#[derive(Debug)]
struct Lines {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn collect(source: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                sink.lock().expect("no panic while held").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().expect("no panic while held").clone()
    }

    /// Awaits the end of the output, but not for ever: a grandchild may have inherited the pipe.
    fn finish(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        if wait::within(Duration::from_secs(2), || reader.is_finished().then_some(())).is_some() {
            let _ = reader.join();
        }
    }
}
