//! Making everything as it should be, whatever has changed: one way for the start and for every event.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Context as _;
use xnat_common::config::Config;
use xnat_common::names::program;

use super::{Daemon, insides};
use crate::binds::{BindError, Binds};
use crate::hooks::{Place, Side};
use crate::loader::Earlier;
use crate::maps::MapsError;
use crate::net::snapshot::{LOOPBACK, Snapshot};
use crate::net::sysctl;
use crate::plan::Plan;
use crate::say;
use crate::state::{Interface, note};
use crate::table;
use crate::undo::remove_tree;

impl Daemon {
    /// Sets everything up for the first time; what fails is a failure.
    pub(super) async fn set_up(&mut self, earlier: &Earlier) -> anyhow::Result<()> {
        self.recall(earlier)?;
        self.stamp_host_ports();
        self.take_forwards()?;
        self.reconcile().await?;
        // Once the dataplane knows that there is none.
        if self.settings.max_ports.is_none() {
            self.maps.forget_quotas()?;
        }
        self.hooks.drop_leftovers(&mut self.undo)?;
        self.dataplane.drop_other_stages(&self.settings.instance)?;
        if let Some(place) = self.failed.first() {
            anyhow::bail!("{} has no hooks", self.there.name(place.link));
        }
        self.attach_binds()
    }

    /// Has ports stamped as the host's sockets are bound to them, from now on, where that is possible.
    fn attach_binds(&mut self) -> anyhow::Result<()> {
        match Binds::attach(&mut self.dataplane, &self.settings.instance) {
            Ok(binds) => self.binds = Some(binds),
            Err(error) => {
                if !matches!(error, BindError::NoRoot) {
                    say::warning(format_args!("{error}; the kernel is asked about sockets instead"));
                }
                // One of the two may be there, or those of an earlier run.
                let folder = self.settings.instance.binds();
                return remove_tree(&folder).with_context(|| folder.display().to_string());
            }
        }
        // Those that are bound already are asked for after that.
        self.follow_sockets()
    }

    /// Looks at the network again and follows it.
    pub(super) async fn follow(&mut self) -> anyhow::Result<()> {
        let there = self.netlink.snapshot().await?;
        let changed = there != self.there;
        self.there = there;
        let followed = self.reconcile().await;
        // Hops that were learnt with only a part of it followed.
        if changed {
            self.vigil.raise();
        }
        followed
    }

    async fn reconcile(&mut self) -> anyhow::Result<()> {
        match self.plan.again(&self.settings, &self.there) {
            Some(plan) => {
                if std::mem::take(&mut self.away) {
                    say::event(format_args!("uplink {} is back", plan.uplink.name));
                }
                self.tell_changes(&plan);
                let left = self.plan.address;
                self.plan = plan;
                if self.plan.address != left {
                    // With the new address first: what opens flows from now on has it.
                    self.write_interfaces()?;
                    // Until then the dataplane does not rely on stamps.
                    self.follow_sockets()?;
                    self.end_flows_at(left)?;
                }
            }
            None if !self.away => {
                self.away = true;
                say::warning(format_args!("uplink {} has gone or lost its address", self.plan.uplink.name));
            }
            None => {}
        }
        // What a hook looks up is there before the hook is, or before it is told to look.
        self.write_interfaces()?;
        self.attach_hooks().await?;
        if self.away {
            return Ok(());
        }
        self.switch_forwarding_on()?;
        self.open_link();
        self.follow_peers().await
    }

    fn tell_changes(&self, new: &Plan) {
        let old = &self.plan;
        if old.address != new.address {
            say::event(format_args!("uplink {} has the address {} now", new.uplink.name, new.address));
        }
        for &subnet in &self.settings.subnets {
            match new.holder(subnet) {
                holder if holder == old.holder(subnet) => {}
                Some(index) => say::event(format_args!("{} holds {subnet}", self.there.name(index))),
                None => say::warning(format_args!("no interface holds {subnet} any more; nothing from it goes out")),
            }
        }
    }

    /// Ends the flows that have an address on the wire which is this host's no more: their answers do not come here.
    fn end_flows_at(&mut self, address: Ipv4Addr) -> anyhow::Result<()> {
        let flows = self.maps.flows().context("mapping the flow table into memory")?;
        if table::doom(&flows, |flow| Ipv4Addr::from(flow.wire_address()) == address) > 0 {
            self.collect_all()?;
        }
        Ok(())
    }

    fn write_interfaces(&mut self) -> anyhow::Result<()> {
        let insides = insides::find(&self.plan.insides, &self.there);
        let mut changed = self.maps.set_insides(&insides)?;
        changed |= self.maps.set_own_subnets(&self.plan.own_subnets(&self.settings))?;
        // Last: without it hooks that are there already let everything through.
        changed |= self.write_config()?;
        self.vigil.mind(self.plan.insides.keys().copied().chain([self.plan.uplink.index]).collect());
        if changed {
            self.vigil.raise();
        }
        Ok(())
    }

    /// Writes the configuration, and says whether it was another.
    pub(super) fn write_config(&mut self) -> Result<bool, MapsError> {
        self.maps.set_config(&self.config())
    }

    /// The dataplane's configuration.
    pub(super) fn config(&self) -> Config {
        let uplink = &self.plan.uplink;
        let settled = self.settings.dataplane(self.seed, uplink.index, uplink.mtu, self.plan.address);
        let found = [
            (!self.forwards.is_empty(), Config::FORWARDS),
            (self.there.routes_look_at.ports, Config::ROUTES_BY_PORT),
            (self.there.routes_look_at.each_packet, Config::ROUTES_BY_PACKET),
            (self.binds.is_some() && self.stamped == Some(self.plan.address), Config::BINDS_STAMPED),
        ];
        let flags = found.iter().filter(|(is_so, _)| *is_so).fold(settled.flags, |flags, (_, flag)| flags | flag);
        Config { flags, ..settled }
    }

    pub(super) async fn attach_hooks(&mut self) -> anyhow::Result<()> {
        let wanted = wanted_hooks(&self.plan, &self.there, !self.forwards.is_empty());
        let before: Vec<_> = self.hooks.places().map(|(place, _)| place).collect();
        self.hooks.retain(&wanted, &mut self.undo, &self.netlink).await?;
        self.failed.retain(|place| wanted.contains_key(place));
        let mut order: Vec<_> = wanted.into_iter().collect();
        // The uplink first: what the inside lets through must find its translation there.
        order.sort_by_key(|(place, _)| place.link != self.plan.uplink.index);
        for (place, program) in order {
            let attached = self.hooks.attach(place, program, &mut self.dataplane, &mut self.undo, &self.netlink).await;
            match attached {
                Ok(true) if !before.is_empty() => self.tell_hook(place),
                Ok(_) => {}
                Err(error) if error.is_vanished() => {}
                Err(error) => {
                    if self.failed.insert(place) {
                        say::warning(format_args!("{}: {error}", self.there.name(place.link)));
                    }
                    continue;
                }
            }
            self.failed.remove(&place);
        }
        Ok(())
    }

    fn tell_hook(&self, place: Place) {
        let Some(link) = self.there.links.get(&place.link).filter(|_| place.side == Side::In) else { return };
        if let Some(bridge) = link.master.filter(|master| self.plan.insides.contains_key(master)) {
            say::event(format_args!("{} joined {}", link.name, self.there.name(bridge)));
        }
    }

    fn switch_forwarding_on(&mut self) -> anyhow::Result<()> {
        let insides = self.plan.insides.keys().filter_map(|index| self.there.links.get(index));
        for link in insides.chain([&self.plan.uplink]) {
            let name = &link.name;
            match sysctl::forwarding(name) {
                Ok(true) => continue,
                Ok(false) => {}
                // It has just gone.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("reading whether {name} forwards")),
            }
            let interface = Interface { index: link.index, name: name.clone() };
            self.undo.change(|list| note(&mut list.forwarding_was_off, interface))?;
            sysctl::set_forwarding(name, true).with_context(|| format!("switching forwarding of {name} on"))?;
        }
        Ok(())
    }
}

/// Which program belongs where.
pub(super) fn wanted_hooks(plan: &Plan, there: &Snapshot, forwards: bool) -> BTreeMap<Place, &'static str> {
    let mut wanted = BTreeMap::new();
    let mut want = |link, side, program| wanted.insert(Place { link, side }, program);
    // Away or not: as long as anything can leave there, nothing of the containers' may leave untranslated.
    if there.links.contains_key(&plan.uplink.index) {
        want(plan.uplink.index, Side::In, program::UPLINK_INGRESS);
        want(plan.uplink.index, Side::Out, program::UPLINK_EGRESS);
    }
    for &index in plan.insides.keys().filter(|index| there.links.contains_key(index)) {
        want(index, Side::In, program::INSIDE_INGRESS);
        want(index, Side::Out, program::INSIDE_EGRESS);
        for port in there.ports(index) {
            want(port.index, Side::In, program::INSIDE_INGRESS);
        }
    }
    // What the host sends to its own address on the wire goes this way, and forwards have a part in it.
    if forwards && there.links.contains_key(&LOOPBACK) {
        want(LOOPBACK, Side::Out, program::LOOPBACK_EGRESS);
    }
    wanted
}
