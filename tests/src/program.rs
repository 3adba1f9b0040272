//! Programs that nobody here wrote, run inside a namespace, and their output read.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::netns::Namespace;
use crate::process::{self, Finished, Running};
use crate::wait;

/// What ping reported.
#[derive(Debug, Clone)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Who answered, and the TTL that arrived, for each reply.
    pub replies: Vec<(Ipv4Addr, u8)>,
    /// Everything ping said.
    pub output: String,
}

impl Ping {
    /// Panics unless every request was answered by this address.
    #[track_caller]
    pub fn expect_answered_by(&self, address: Ipv4Addr) -> &Self {
        assert!(self.sent > 0 && self.received == self.sent, "lost replies:\n{}", self.output);
        assert!(self.replies.iter().all(|(from, _)| *from == address), "not from {address}:\n{}", self.output);
        self
    }

    /// Panics if anything was answered.
    #[track_caller]
    pub fn expect_silence(&self) -> &Self {
        assert!(self.sent > 0 && self.received == 0, "somebody answered:\n{}", self.output);
        self
    }
}

/// Runs ping with these words (`-c 3 -s 1472`) toward an address; an answer is waited for two seconds.
#[track_caller]
pub fn ping(ns: &Namespace, words: &str, target: Ipv4Addr) -> Ping {
    let mut command = ns.command("ping");
    command.args(["-n", "-i", "0.05", "-W", "2"]).args(words.split_whitespace()).arg(target.to_string());
    read_ping(&process::run(&mut command, Duration::from_secs(60)))
}

/// Reads what a ping of iputils said, wherever it ran.
#[track_caller]
pub fn read_ping(finished: &Finished) -> Ping {
    let output = finished.to_string();
    let number = |words: &str, marker: &str| -> Option<u32> {
        words.lines().find_map(|line| {
            let before = line.split(marker).next().filter(|before| before.len() < line.len())?;
            before.split_whitespace().last()?.parse().ok()
        })
    };
    let sent = number(&finished.stdout, " packets transmitted");
    let received = number(&finished.stdout, " received");
    let (Some(sent), Some(received)) = (sent, received) else { panic!("ping did not run: {output}") };
    let reply = |line: &str| -> Option<(Ipv4Addr, u8)> {
        let (_, rest) = line.split_once(" bytes from ")?;
        let from = rest.split(':').next()?.parse().ok()?;
        let ttl = rest.split_once("ttl=")?.1.split_whitespace().next()?.parse().ok()?;
        Some((from, ttl))
    };
    let replies = finished.stdout.lines().filter_map(reply).collect();
    Ping { sent, received, replies, output }
}

/// The hops that traceroute reports with these words (`-U`, `-I`, `-T -p 80`); `None` where nobody answered.
#[track_caller]
pub fn traceroute(ns: &Namespace, words: &str, target: Ipv4Addr) -> Vec<Option<Ipv4Addr>> {
    let mut command = ns.command("traceroute");
    command.args(["-n", "-q", "1", "-w", "2", "-m", "6"]).args(words.split_whitespace()).arg(target.to_string());
    let output = process::run(&mut command, Duration::from_secs(60)).expect_success();
    let hop = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    output.lines().skip(1).map(hop).collect()
}

/// What tracepath reports.
#[track_caller]
pub fn tracepath(ns: &Namespace, words: &str, target: Ipv4Addr) -> String {
    let mut command = ns.command("tracepath");
    command.arg("-n").args(words.split_whitespace()).arg(target.to_string());
    process::run(&mut command, Duration::from_secs(60)).expect_success()
}

/// Runs curl, which gives up after 10 seconds.
#[track_caller]
pub fn curl(ns: &Namespace, words: &[&str]) -> Finished {
    let mut command = ns.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*"]).args(words);
    process::run(&mut command, Duration::from_secs(20))
}

/// An iperf3 server that listens.
#[track_caller]
pub fn iperf3_server(ns: &Namespace, port: u16) -> Running {
    let mut command = ns.command("iperf3");
    command.args(["-s", "--forceflush", "-p", &port.to_string()]);
    let mut server = Running::start(&mut command);
    server.expect_line("that it listens", wait::SOON, |line| line.contains("listening on"));
    server
}

/// Runs an iperf3 client and returns its JSON report, which must be without an error.
#[track_caller]
pub fn iperf3(ns: &Namespace, words: &str, target: Ipv4Addr, port: u16) -> serde_json::Value {
    let mut command = ns.command("iperf3");
    command.args(["-J", "-c", &target.to_string(), "-p", &port.to_string()]).args(words.split_whitespace());
    let finished = process::run(&mut command, Duration::from_secs(120));
    let report: serde_json::Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    assert!(report.get("error").is_none() && finished.success(), "{finished}");
    report
}
