//! What `xnat status` tells: the daemon's answer, or what the pins tell when there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use xnat_common::Addr;
use xnat_common::config::Config;
use xnat_common::mapping::{Class, Dependence};
use xnat_common::names::program;
use xnat_common::subnet::Subnet;

use crate::behaviour::{CLASSES, class_name};
use crate::cidr::Cidr;
use crate::hooks::HookKind;
use crate::instance::Instance;
use crate::maps::{Maps, MapsError};
use crate::net::snapshot::{LOOPBACK, Snapshot};
use crate::peer::claims::Refusal;
use crate::port_range::PortRange;
use crate::state::Undo;

/// The state of an instance. The field names are the API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) instance: String,
    /// Whether a daemon runs.
    pub(crate) running: bool,
    /// Its version.
    pub(crate) version: Option<String>,
    /// Its process.
    pub(crate) pid: Option<u32>,
    pub(crate) uplink: Uplink,
    pub(crate) insides: Vec<Inside>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) peer_link: Option<PeerLink>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) flows: Flows,
    /// What mappings and filtering depend on, by protocol.
    pub(crate) mapping: BTreeMap<String, String>,
    pub(crate) filtering: BTreeMap<String, String>,
    /// The ports that flows may have on the wire.
    pub(crate) ports: PortRange,
    pub(crate) max_ports_per_container: Option<u32>,
    /// How many ports are forwarded; with tcp and udp, one counts twice.
    pub(crate) forwarded_ports: usize,
    pub(crate) default_inbound: Option<Ipv4Addr>,
    /// Every counter by name.
    pub(crate) counters: BTreeMap<String, u64>,
}

/// The uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uplink {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) mtu: u32,
}

/// An inside interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inside {
    pub(crate) name: String,
    pub(crate) subnets: Vec<Cidr>,
    /// The bridge's ports; empty for a plain interface.
    pub(crate) ports: Vec<String>,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) address: Ipv4Addr,
    /// What it is believed to own.
    pub(crate) subnets: Vec<Cidr>,
    /// Whether the user said so, rather than the peer.
    pub(crate) stated: bool,
    /// What it says that it owns.
    pub(crate) announced: Vec<Cidr>,
    /// Whether it was heard in the last five seconds.
    pub(crate) alive: bool,
    /// Whether openings toward it are tagged.
    pub(crate) speaks_xnat: bool,
    /// The version of the peer link that it speaks.
    pub(crate) version: Option<u8>,
    pub(crate) last_heard_seconds: Option<u64>,
    /// Claims that were not granted.
    pub(crate) refused: Vec<Refusal>,
}

/// The peer link as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerLink {
    /// Messages from elsewhere than a peer's own end of the link.
    pub(crate) strangers: u64,
}

/// A hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hook {
    pub(crate) interface: String,
    pub(crate) program: String,
    pub(crate) kind: HookKind,
}

/// Use of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flows {
    pub(crate) used: u64,
    pub(crate) max: u64,
}

impl Flows {
    /// Reads it from the maps.
    pub(crate) fn read(maps: &Maps) -> Result<Self, MapsError> {
        let max = u64::from(maps.config()?.max_flows);
        // Updated by many processors, so it may be off for a moment; never beyond what there is room for.
        Ok(Self { used: maps.cursors()?.used.min(max), max })
    }
}

/// What a configuration says of mappings or filtering, by protocol.
pub(crate) fn kinds(config: &Config, of: fn(&Config, Class) -> Dependence) -> BTreeMap<String, String> {
    let kind = |class| (class_name(class).to_owned(), of(config, class).name().to_owned());
    CLASSES.into_iter().map(kind).collect()
}

/// The ports that a configuration allows.
pub(crate) fn ports(config: &Config) -> PortRange {
    PortRange::new(config.first_port, config.last_port).unwrap_or(PortRange::ALL)
}

/// Reads the counters from the maps.
pub(crate) fn counters(maps: &Maps) -> Result<BTreeMap<String, u64>, MapsError> {
    Ok(maps.counters()?.into_iter().map(|(counter, value)| (counter.name().to_owned(), value)).collect())
}

/// The inside interfaces with their ports, by name.
pub(crate) fn insides(there: &Snapshot, subnets: impl IntoIterator<Item = (u32, Vec<Cidr>)>) -> Vec<Inside> {
    let inside = |(index, subnets)| {
        let ports = there.ports(index).map(|port| port.name.clone()).collect();
        Inside { name: there.name(index), subnets, ports }
    };
    subnets.into_iter().map(inside).collect()
}

impl Status {
    /// What the pins of an instance tell while no daemon runs. `there` may be empty when it is in another namespace.
    pub(crate) fn from_pins(
        instance: &Instance,
        maps: &Maps,
        undo: &Undo,
        there: &Snapshot,
    ) -> Result<Self, MapsError> {
        let config = maps.config()?;
        let noted = undo.uplink.as_ref().filter(|it| it.index == config.uplink).map(|it| it.name.clone());
        let uplink = Uplink {
            name: noted.unwrap_or_else(|| there.name(config.uplink)),
            address: config.address.into(),
            mtu: config.uplink_mtu,
        };
        let subnets = maps.subnets()?;
        let of = |wanted: &dyn Fn(&Subnet) -> bool| {
            let mut found: Vec<Cidr> = subnets.iter().filter(|(_, it)| wanted(it)).map(|(&range, _)| range).collect();
            found.sort_unstable();
            found
        };
        let indices: BTreeSet<u32> = maps.insides()?.values().map(|inside| inside.ifindex).collect();
        let own = indices.into_iter().map(|index| (index, of(&|it| it.is_own() && it.inside == index)));
        let peers: BTreeMap<Ipv4Addr, bool> = maps.peers()?.into_iter().collect();
        let peers = peers.into_iter().map(|(address, speaks_xnat)| Peer {
            address,
            subnets: of(&|it| it.peer == address.into()),
            stated: false,
            announced: Vec::new(),
            alive: false,
            speaks_xnat,
            version: None,
            last_heard_seconds: None,
            refused: Vec::new(),
        });
        Ok(Self {
            instance: instance.name().to_owned(),
            running: false,
            version: None,
            pid: None,
            uplink,
            insides: insides(there, own),
            peers: peers.collect(),
            peer_link: None,
            hooks: left_hooks(instance, undo, there, config.uplink),
            flows: Flows::read(maps)?,
            mapping: kinds(&config, Config::mapping),
            filtering: kinds(&config, Config::filtering),
            ports: ports(&config),
            max_ports_per_container: Some(config.max_ports).filter(|&ports| ports != 0),
            forwarded_ports: maps.count_forwards()?,
            default_inbound: Some(config.default_inbound).filter(|&it| it != Addr::UNSPECIFIED).map(Ipv4Addr::from),
            counters: counters(maps)?,
        })
    }
}

/// The hooks that a daemon has left: pinned links, and filters of the undo list.
fn left_hooks(instance: &Instance, undo: &Undo, there: &Snapshot, uplink: u32) -> Vec<Hook> {
    let name = |path: fs::DirEntry| path.file_name().into_string().ok();
    let mut pins: Vec<String> =
        fs::read_dir(instance.links()).into_iter().flatten().flatten().filter_map(name).collect();
    pins.sort_unstable();
    let tcx = pins.iter().filter_map(|pin| {
        let (index, side) = pin.split_once('-')?;
        let index = index.parse().ok()?;
        let program = match (index == uplink, side) {
            (true, "in") => program::UPLINK_INGRESS,
            (true, _) => program::UPLINK_EGRESS,
            (false, _) if index == LOOPBACK => program::LOOPBACK_EGRESS,
            (false, "in") => program::INSIDE_INGRESS,
            (false, _) => program::INSIDE_EGRESS,
        };
        Some(Hook { interface: there.name(index), program: program.to_owned(), kind: HookKind::Tcx })
    });
    let clsact = undo.filters.iter().map(|filter| Hook {
        interface: there.name(filter.link),
        program: filter.program.clone(),
        kind: HookKind::Clsact,
    });
    tcx.chain(clsact).collect()
}
