//! The main loop.

use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use xnat_common::host_port;

use super::Daemon;
use crate::api::Request;
use crate::net::sockets;
use crate::net::watch::Watch;
use crate::peer::link::PeerLink;
use crate::{clock, say};

/// How often peers are told that this host is there.
const GREETING: Duration = Duration::from_secs(1);
/// How often the dataplane is told which ports the host uses.
const STAMPING: Duration = Duration::from_secs(host_port::STAMP_SECONDS);
/// How often everything is looked at without a reason.
const CHECK: Duration = Duration::from_secs(10);

/// The signals that end the daemon.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    /// None under nohup, which wants the daemon to outlive its terminal.
    hangup: Option<Signal>,
}

impl Stop {
    /// Catches them from now on.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = if ignores_hangup(&status) { None } else { Some(signal(SignalKind::hangup())?) };
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup })
    }

    /// Waits for one.
    pub(crate) async fn requested(&mut self) {
        let Self { interrupt, terminate, hangup } = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            Some(()) = async { hangup.as_mut()?.recv().await } => {}
        }
    }
}

/// Whether /proc/self/status tells that SIGHUP (1) is ignored.
fn ignores_hangup(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).is_some_and(|ignored| ignored & 1 == 1)
}

enum Wake {
    Stop,
    Network,
    Datagram(std::io::Result<(SocketAddrV4, Vec<u8>)>),
    Greet,
    Collect,
    Stamp,
    Check,
    Request(Request),
}

/// Ticks in this period, without making up for ticks that were missed.
pub(super) fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Daemon {
    /// Serves until a signal comes.
    pub(crate) async fn serve(&mut self, stop: &mut Stop, watch: &mut Watch, requests: &mut mpsc::Receiver<Request>) {
        let vigil = Rc::clone(&self.vigil);
        // Side by side, so that changes are heard of while others are still being followed.
        tokio::select! {
            never = vigil.keep(watch) => match never {},
            () = self.work(stop, requests) => {}
        }
    }

    async fn work(&mut self, stop: &mut Stop, requests: &mut mpsc::Receiver<Request>) {
        let (mut greeting, mut stamping, mut check) = (every(GREETING), every(STAMPING), every(CHECK));
        let has_peers = !self.settings.peers.is_empty();
        self.greet().await;
        loop {
            let wake = tokio::select! {
                () = stop.requested() => Wake::Stop,
                () = self.vigil.interfaces_changed() => Wake::Network,
                datagram = receive(self.link.as_ref()) => Wake::Datagram(datagram),
                _ = greeting.tick(), if has_peers => Wake::Greet,
                () = sleep_until(self.collector.next().into()) => Wake::Collect,
                _ = stamping.tick() => Wake::Stamp,
                _ = check.tick() => Wake::Check,
                Some(request) = requests.recv() => Wake::Request(request),
            };
            let result = match wake {
                Wake::Stop => return,
                Wake::Network | Wake::Check => self.follow().await,
                Wake::Datagram(Ok((from, bytes))) => self.hear(from, &bytes).await,
                Wake::Datagram(Err(_)) => {
                    // The interface is down or has gone; the next greeting opens the link again.
                    self.link = None;
                    Ok(())
                }
                Wake::Greet => {
                    self.greet().await;
                    Ok(())
                }
                Wake::Collect => self.collect(),
                Wake::Stamp => self.follow_sockets(),
                Wake::Request(request) => {
                    self.answer(request).await;
                    Ok(())
                }
            };
            if let Err(error) = result {
                say::warning(format_args!("{error:#}"));
            }
        }
    }

    /// Does what a client wants. One that has gone gets no answer.
    async fn answer(&mut self, request: Request) {
        match request {
            Request::Status(answer) => _ = answer.send(self.status().map_err(|error| error.to_string())),
            Request::Forwards(answer) => _ = answer.send(self.shown_forwards()),
            Request::AddForward(spec, answer) => _ = answer.send(self.add_forward(&spec).await),
            Request::RemoveForward(what, answer) => _ = answer.send(self.remove_forward(&what).await),
        }
    }

    /// Tells the dataplane which ports the host uses, so that no flow gets one. Without, it knows those that it has seen.
    pub(super) fn stamp_host_ports(&mut self) {
        let stamp = || {
            let ports = sockets::ports(self.plan.address).context("asking which ports the host uses")?;
            self.maps.stamp_host_ports(ports, clock::now()).context("telling which ports the host uses")
        };
        let failure = stamp().err().map(|error| format!("{error:#}"));
        if let Some(text) = failure.as_ref().filter(|_| failure != self.ports_failure) {
            say::warning(text);
        }
        self.stamped = failure.is_none().then_some(self.plan.address);
        self.ports_failure = failure;
    }

    /// As [`Self::stamp_host_ports`], and tells the dataplane whether it may rely on that.
    pub(super) fn follow_sockets(&mut self) -> anyhow::Result<()> {
        self.stamp_host_ports();
        self.write_config()?;
        Ok(())
    }
}

async fn receive(link: Option<&PeerLink>) -> std::io::Result<(SocketAddrV4, Vec<u8>)> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_respected() {
        assert!(ignores_hangup("SigBlk:\t0\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
