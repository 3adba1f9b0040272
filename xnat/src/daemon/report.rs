//! What the daemon tells of itself: a few lines at the start, and its status.

use std::time::Instant;

use xnat_common::config::Config;

use super::Daemon;
use crate::peer::roster;
use crate::say;
use crate::status::{self, Flows, Hook, Peer, PeerLink, Status, Uplink};

impl Daemon {
    /// Says in a few lines what was found and done.
    pub(crate) fn introduce(&self) {
        let plan = &self.plan;
        say::line(format_args!("uplink   {} with {}, MTU {}", plan.uplink.name, plan.address, plan.uplink.mtu));
        for (&index, subnets) in &plan.insides {
            let ports: Vec<_> = self.there.ports(index).map(|port| &port.name).collect();
            let bridge = self.there.links.get(&index).is_some_and(|link| link.bridge);
            let ports = match ports.as_slice() {
                [] if bridge => ", no ports yet".to_owned(),
                [] => String::new(),
                ports => format!(", ports {}", say::list(ports)),
            };
            say::line(format_args!("inside   {} holds {}{ports}", self.there.name(index), say::list(subnets)));
        }
        for (address, peer) in self.roster.peers() {
            let subnets = match (&peer.stated, peer.subnets.as_slice()) {
                (Some(_), subnets) => format!("stated to own {}", say::list(subnets)),
                (None, []) => "which will tell its subnets when it is heard".to_owned(),
                (None, subnets) => format!("known to own {}", say::list(subnets)),
            };
            say::line(format_args!("peer     {address}, {subnets}"));
        }
        for forward in self.shown_forwards() {
            let added = if forward.runtime { ", added while running" } else { "" };
            say::line(format_args!("forward  {}{added}", forward.spec()));
        }
        if let Some(address) = self.settings.default_inbound {
            say::line(format_args!("inbound  what peers without xnat send and nothing else claims goes to {address}"));
        }
        let hooks = self.hooks.places().count();
        say::line(format_args!("hooks    {} by {}", say::count(hooks, "program"), self.hooks.kind()));
        let switched = &self.undo.list().forwarding_was_off;
        if !switched.is_empty() {
            let names = say::list(switched.iter().map(|it| &it.name));
            say::line(format_args!("sysctls  forwarding switched on for {names}, until xnat ends"));
        }
    }

    /// The status.
    pub(super) fn status(&self) -> anyhow::Result<Status> {
        let uplink = &self.plan.uplink;
        let config = self.config();
        let hooks = self.hooks.places().map(|(place, program)| Hook {
            interface: self.there.name(place.link),
            program: program.to_owned(),
            kind: self.hooks.kind(),
        });
        Ok(Status {
            instance: self.settings.instance.name().to_owned(),
            running: true,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            pid: Some(std::process::id()),
            uplink: Uplink { name: uplink.name.clone(), address: self.plan.address, mtu: uplink.mtu },
            insides: status::insides(&self.there, self.plan.insides.clone()),
            peers: self.roster.peers().iter().map(|(&address, peer)| report(address, peer)).collect(),
            peer_link: Some(PeerLink { strangers: self.roster.strangers() }),
            hooks: hooks.collect(),
            flows: Flows::read(&self.maps)?,
            mapping: status::kinds(&config, Config::mapping),
            filtering: status::kinds(&config, Config::filtering),
            ports: self.settings.ports,
            max_ports_per_container: self.settings.max_ports,
            forwarded_ports: self.forwards.len(),
            default_inbound: self.settings.default_inbound,
            counters: status::counters(&self.maps)?,
        })
    }
}

fn report(address: std::net::Ipv4Addr, peer: &roster::Peer) -> Peer {
    let now = Instant::now();
    Peer {
        address,
        subnets: peer.subnets.clone(),
        stated: peer.stated.is_some(),
        announced: peer.announced.clone(),
        alive: peer.is_alive(now),
        speaks_xnat: peer.speaks,
        version: peer.version,
        last_heard_seconds: peer.silence(now).map(|silence| silence.as_secs()),
        refused: peer.refused.clone(),
    }
}
