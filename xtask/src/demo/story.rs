//! What is shown, step by step.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    hosts::{self, Host, NODE1, NODE2, UPLINK},
    interrupt,
    kept::Kept,
    patience::until,
    ping::Pinged,
    screen::Screen,
    tcp,
    wire::{Capture, Packet},
};
use crate::process::capture;

/// The port on which n2 answers.
const SERVICE: u16 = 80;
/// The port on which only node2 itself answers.
const HOST_ONLY: u16 = 8080;
/// An address in n2's network that no container has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 168, 220, 99);

/// The demo's course.
pub(super) struct Story<'a> {
    screen: &'a Screen,
    kept: &'a Kept,
    failures: u32,
}

impl<'a> Story<'a> {
    pub(super) fn new(screen: &'a Screen, kept: &'a Kept) -> Self {
        Self { screen, kept, failures: 0 }
    }

    /// Tells it. Returns how many checks did not come out right; an error ends it early.
    pub(super) fn tell(mut self) -> Result<u32> {
        self.screen.line("Two hosts with a container each. Between the hosts, nobody knows the containers' networks.");
        self.screen.line("");
        self.screen
            .quote("n1 192.168.110.11 ── node1 172.29.0.4 ═════ the wire ═════ 172.29.0.17 node2 ── 192.168.220.11 n2");
        hosts::make(self.kept)?;
        self.meet()?;
        let capture = Capture::start(self.kept, &self.kept.namespace(NODE1.name), UPLINK)?;
        self.reach()?;
        self.look_at_the_wire(&capture)?;
        self.look_at_the_tables()?;
        Ok(self.failures)
    }

    /// Both hosts learn of each other.
    fn meet(&mut self) -> Result<()> {
        self.screen.heading("1  xnat runs on both hosts, told its own network and the other host's address");
        let start = |host: &Host, other: &Host| {
            let words = format!("run --peer {} --subnet {}", other.address, host.subnet);
            self.screen.does(host.name, &format!("xnat {words}"));
            self.kept.start(self.kept.xnat(host.name, &words), &self.kept.log(host.name))
        };
        let mut running = [(NODE1, start(&NODE1, &NODE2)?), (NODE2, start(&NODE2, &NODE1)?)];
        for (host, process) in &mut running {
            let name = format!("xnat on {}", host.name);
            until("xnat is ready", || process.said(&name, |line| line.starts_with("ready")))?;
        }
        for (host, other) in [(NODE1, NODE2), (NODE2, NODE1)] {
            let learned = until("the hosts have met", || self.subnets(&host, other.address))?;
            let right = learned == other.subnet;
            self.outcome(right, host.name, "", &format!("has learned that {} owns {learned}", other.address));
        }
        Ok(())
    }

    /// The subnets that a host believes a peer to own, once there are any.
    fn subnets(&self, host: &Host, peer: Ipv4Addr) -> Result<Option<String>> {
        let printed = capture(self.kept.xnat(host.name, "status -o json"))?;
        let status: Value = serde_json::from_str(&printed).context("`xnat status -o json` prints no JSON")?;
        let peers = status["peers"].as_array().context("`xnat status -o json` has no peers")?;
        let found = peers.iter().find(|entry| entry["address"] == peer.to_string().as_str());
        let Some(entry) = found.filter(|entry| entry["alive"] == true && entry["speaks_xnat"] == true) else {
            return Ok(None);
        };
        let subnets: Vec<&str> = entry["subnets"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        Ok((!subnets.is_empty()).then(|| subnets.join(", ")))
    }

    /// The containers talk.
    fn reach(&mut self) -> Result<()> {
        self.screen.heading("2  The containers reach each other by their own addresses");
        for (from, to) in [(NODE1, NODE2), (NODE2, NODE1)] {
            let pinged = self.ping(from.container, to.container_address, 2)?;
            let right = pinged.received == 2 && pinged.ttl == Some(62);
            let ttl = pinged.ttl.map_or(String::new(), |ttl| format!(", ttl {ttl}: one hop a host"));
            let outcome = format!("{} of 2 answered{ttl}", pinged.received);
            self.outcome(right, from.container, &format!("ping {}", to.container_address), &outcome);
        }

        let pinged = self.ping(NODE1.container, NOBODY, 1)?;
        let right = pinged.received == 0;
        let outcome = if right { "no answer: there is no such container" } else { "answered, by nobody knows whom" };
        self.outcome(right, NODE1.container, &format!("ping {NOBODY}"), outcome);

        let to = SocketAddrV4::new(NODE2.container_address, SERVICE);
        tcp::answer_one(tcp::listen(&self.kept.namespace(NODE2.container), SERVICE)?, NODE2.container);
        let answer = tcp::ask(&self.kept.namespace(NODE1.container), to);
        let right = answer.as_ref().is_ok_and(|text| text.starts_with(&format!("I am {}", NODE2.container)));
        let outcome = answer.map_or_else(|error| error.to_string(), |text| format!("\"{text}\""));
        self.outcome(right, NODE1.container, &format!("TCP {to}"), &outcome);

        let to = SocketAddrV4::new(NODE2.container_address, HOST_ONLY);
        let listener = tcp::listen(&self.kept.namespace(NODE2.name), HOST_ONLY)?;
        tcp::answer_one(listener, NODE2.name);
        let answer = tcp::ask(&self.kept.namespace(NODE1.container), to);
        let right = answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        let outcome = match answer {
            Err(_) if right => "refused by n2: only node2 itself listens there".to_owned(),
            Err(error) => error.to_string(),
            Ok(text) => format!("\"{text}\""),
        };
        self.outcome(right, NODE1.container, &format!("TCP {to}"), &outcome);
        interrupt::check()
    }

    fn ping(&self, container: &str, to: Ipv4Addr, count: u32) -> Result<Pinged> {
        interrupt::check()?;
        let mut ping = Kept::command(&self.kept.namespace(container), "ping");
        ping.args(["-n", "-i", "0.2", "-W", "1", "-c", &count.to_string(), &to.to_string()]).env("LC_ALL", "C");
        // It fails when nobody answers.
        let output = ping.output().context("cannot start ping")?;
        interrupt::check()?;
        Ok(Pinged::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// What both hosts have put on the wire.
    fn look_at_the_wire(&mut self, capture: &Capture) -> Result<()> {
        self.screen.heading("3  The wire, as tcpdump sees it at node1's uplink");
        let packets = until("the refusal is captured", || {
            let packets = capture.packets()?;
            let refused = packets.iter().any(|packet| packet.is_of(HOST_ONLY) && packet.line.contains("Flags [R"));
            Ok(refused.then_some(packets))
        })?;
        let pings = packets.iter().filter(|packet| packet.is_echo()).take(3);
        let connection = packets.iter().filter(|packet| packet.is_of(SERVICE)).take(5);
        let shown: Vec<&Packet> = pings.chain(connection).collect();
        let width = shown.iter().map(|packet| packet.line.len()).max().unwrap_or(0);
        for packet in &shown {
            self.screen.quote(&packet.show(width));
        }

        let tagged: Vec<bool> = shown.iter().map(|packet| packet.opens_to(NODE2.container_address)).collect();
        let right = tagged == [true, false, false, true, false, false, false, false];
        let outcome = if right {
            "a flow's first packet, and no other, says for which container it is: an IP option"
        } else {
            "the option is not where it belongs: on a flow's first packet, and on no other"
        };
        self.outcome(right, "wire", "", outcome);
        self.screen.remark("         9e, 08 octets long, 10: version 1, open, 00: no key, c0a8dc0b: 192.168.220.11");
        let foreign = packets.iter().find(|packet| packet.line.contains("192.168."));
        let outcome = match foreign {
            None => format!("the two hosts' addresses are the only ones in all {} packets", packets.len()),
            Some(packet) => format!("a container's address: {}", packet.line),
        };
        self.outcome(foreign.is_none(), "wire", "", &outcome);
        Ok(())
    }

    /// What both hosts remember of it.
    fn look_at_the_tables(&mut self) -> Result<()> {
        self.screen.heading("4  The flows on both hosts: one line each, as opened and as answered");
        for host in [NODE1, NODE2] {
            self.screen.does(host.name, "xnat conntrack dump");
            let words = self.kept.xnat(host.name, "conntrack dump");
            let table = capture(words)?;
            self.screen.quote(&table);
            let ping = format!("{} > ", host.container_address);
            if !table.contains(&ping) {
                self.outcome(false, host.name, "", "has no flow of its container");
            }
        }
        Ok(())
    }

    fn outcome(&mut self, right: bool, who: &str, what: &str, outcome: &str) {
        self.screen.outcome(right, who, what, outcome);
        self.failures += u32::from(!right);
    }
}
