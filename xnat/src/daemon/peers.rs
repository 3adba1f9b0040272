//! Following the peers: what they say, whose subnets they are, and the routes to them.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use anyhow::Context as _;
use xnat_common::host_port::LINK_PORT;
use xnat_common::subnet::Subnet;
use xnat_common::{Addr, Flow};

use super::Daemon;
use crate::cidr::Cidr;
use crate::loader::Earlier;
use crate::net::route::{PROTOCOL, Route};
use crate::peer::claims::HostRoutes;
use crate::peer::link::PeerLink;
use crate::peer::roster::Event;
use crate::state::note;
use crate::{say, table};

impl Daemon {
    /// Takes up what the maps of an earlier run tell about the peers.
    pub(super) fn recall(&mut self, earlier: &Earlier) -> anyhow::Result<()> {
        if *earlier != Earlier::Reused {
            return Ok(());
        }
        let subnets = self.maps.subnets()?;
        for (address, speaks) in self.maps.peers()? {
            let its = subnets.iter().filter(|(_, it)| it.peer == address.into()).map(|(&range, _)| range);
            self.roster.remember(address, speaks, its.collect());
        }
        Ok(())
    }

    /// Opens the peer link, anew where the uplink or its address has changed.
    pub(super) fn open_link(&mut self) {
        let (address, uplink) = (self.plan.address, &self.plan.uplink);
        if self.settings.peers.is_empty() || self.link.as_ref().is_some_and(|it| it.is_at(address, uplink.index)) {
            return;
        }
        self.link = None;
        match PeerLink::open(address, uplink.index, &uplink.name) {
            Ok(link) => {
                self.link = Some(link);
                self.link_failure = None;
            }
            Err(error) => {
                let text =
                    format!("the peer link cannot be opened at {address}:{LINK_PORT}: {error}; peers are not heard");
                if self.link_failure.as_ref() != Some(&text) {
                    say::warning(&text);
                }
                self.link_failure = Some(text);
            }
        }
    }

    /// Sends every peer the message of the second.
    pub(super) async fn greet(&mut self) {
        if self.link.is_none() && !self.away {
            self.open_link();
        }
        self.send_all(false).await;
    }

    /// Tells every peer that this host leaves.
    pub(super) async fn say_goodbye(&mut self) {
        // Twice: a lost one would leave the peer tagging for nobody.
        for _ in 0..2 {
            self.send_all(true).await;
        }
    }

    async fn send_all(&self, goodbye: bool) {
        let Some(link) = &self.link else { return };
        for &peer in self.roster.peers().keys() {
            link.send(peer, &self.roster.message_to(peer, goodbye)).await;
        }
    }

    /// Takes in a datagram of the peer link.
    pub(super) async fn hear(&mut self, from: SocketAddrV4, bytes: &[u8]) -> anyhow::Result<()> {
        let heard = self.roster.hear(from, bytes, Instant::now());
        let from = *from.ip();
        if heard.answer
            && let Some(link) = &self.link
        {
            link.send(from, &self.roster.message_to(from, false)).await;
        }
        tell(heard.events.iter().map(|event| (from, event)));
        if heard.forgot {
            let flows = self.maps.flows().context("mapping the flow table into memory")?;
            table::unconfirm(&flows, from.into());
        }
        let settled = self.roster.settle();
        tell(settled.iter().map(|(peer, event)| (*peer, event)));
        if !heard.events.is_empty() || !settled.is_empty() {
            self.follow_peers().await?;
        }
        Ok(())
    }

    /// Makes maps and routes those of the peers' subnets.
    pub(super) async fn follow_peers(&mut self) -> anyhow::Result<()> {
        if self.away {
            return Ok(());
        }
        let routes = self.netlink.routes().await?;
        self.roster.set_ground(self.plan.address, self.host_routes(&routes));
        let settled = self.roster.settle();
        tell(settled.iter().map(|(peer, event)| (*peer, event)));

        // Whether a peer understands tags is known before anything is sent to its subnets.
        let peers: HashMap<Ipv4Addr, bool> =
            self.roster.peers().iter().map(|(&address, peer)| (address, peer.speaks)).collect();
        self.maps.set_peers(&peers)?;
        let mut subnets = self.plan.own_subnets(&self.settings);
        subnets.extend(self.roster.owned().map(|(peer, it)| (it, Subnet { inside: 0, peer: peer.into() })));
        let before = self.maps.subnets()?;
        let new = self.maps.set_subnets(&subnets);
        if new.is_err() || before != subnets {
            // What was remembered of the ways to destinations knows nothing of their owners.
            self.vigil.raise();
        }
        let new = new?;
        let granted: Vec<Cidr> = new.into_iter().filter(|(_, it)| !it.is_own()).map(|(range, _)| range).collect();
        self.end_flows_to(&granted)?;
        self.follow_routes(&routes).await
    }

    /// Ends the flows that were opened toward the outside before it was known that a peer owns their destinations.
    fn end_flows_to(&mut self, ranges: &[Cidr]) -> anyhow::Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let flows = self.maps.flows().context("mapping the flow table into memory")?;
        let astray = |flow: &Flow| {
            let dst: Ipv4Addr = flow.original.dst.into();
            flow.peer == Addr::UNSPECIFIED && ranges.iter().any(|range| range.contains(dst))
        };
        if table::doom(&flows, astray) > 0 {
            self.collect_all()?;
        }
        Ok(())
    }

    /// What this host has to do with ranges by itself.
    fn host_routes(&self, routes: &[Route]) -> HostRoutes {
        let uplink = self.plan.uplink.index;
        // A route of the user's through the uplink serves as well as one of ours would.
        let elsewhere = routes.iter().filter(|route| !route.is_ours() && route.link != Some(uplink));
        let describe = |route: &Route| match (route.gateway, route.link) {
            (Some(gateway), _) => format!("via {gateway}"),
            (None, Some(link)) => format!("through {}", self.there.name(link)),
            (None, None) => "over several ways".to_owned(),
        };
        let connected = self.there.addresses.iter().filter(|it| it.link != uplink && !it.ip.is_loopback());
        HostRoutes {
            routed: elsewhere.map(|route| (route.destination, describe(route))).collect(),
            connected: connected.map(|it| (it.network(), self.there.name(it.link))).collect(),
        }
    }

    async fn follow_routes(&mut self, routes: &[Route]) -> anyhow::Result<()> {
        let uplink = self.plan.uplink.index;
        let mut gateways = BTreeMap::new();
        for &peer in self.roster.peers().keys() {
            let way = self.netlink.way_to(peer).await?.filter(|way| way.link == uplink);
            gateways.extend(way.map(|way| (peer, way.gateway.unwrap_or(peer))));
        }
        let route = |(peer, destination): (Ipv4Addr, Cidr)| {
            let gateway = Some(*gateways.get(&peer)?);
            let source = Some(self.plan.address);
            Some(Route { destination, link: Some(uplink), gateway, source, protocol: PROTOCOL, metric: 0 })
        };
        let users = |destination| routes.iter().any(|it| !it.is_ours() && it.destination == destination);
        let wanted: Vec<Route> =
            self.roster.owned().filter_map(route).filter(|route| !users(route.destination)).collect();
        let ours = routes.iter().filter(|route| route.is_ours() && route.link == Some(uplink));
        for stale in ours.clone().filter(|route| !wanted.contains(route)) {
            self.netlink.remove_route(stale).await?;
        }
        let there: Vec<&Route> = ours.collect();
        for new in wanted.iter().filter(|route| !there.contains(route)) {
            self.undo.change(|list| note(&mut list.routes, uplink))?;
            if let Err(error) = self.netlink.add_route(new).await {
                say::warning(format_args!("{}: {error}", new.destination));
            }
        }
        Ok(())
    }
}

fn tell<'a>(events: impl IntoIterator<Item = (Ipv4Addr, &'a Event)>) {
    for (peer, event) in events {
        let text = format_args!("peer {peer} {event}");
        if event.is_warning() { say::warning(text) } else { say::event(text) }
    }
}
