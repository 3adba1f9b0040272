//! The daemon: sets the dataplane up, keeps it current, and takes it down.

mod collection;
mod forwards;
mod insides;
mod peers;
mod reconcile;
mod report;
mod serve;
mod start;
mod vigil;

pub(crate) use forwards::Refusal;
pub(crate) use serve::Stop;
pub(crate) use start::Prepared;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::rc::Rc;

use self::collection::Collector;
use self::vigil::Vigil;
use crate::binds::Binds;
use crate::config::Settings;
use crate::forward::table::Forwards;
use crate::hooks::{Hooks, Place};
use crate::loader::Dataplane;
use crate::maps::Maps;
use crate::net::Netlink;
use crate::net::snapshot::Snapshot;
use crate::peer::link::PeerLink;
use crate::peer::roster::Roster;
use crate::plan::Plan;
use crate::state::{Lock, UndoFile};

/// A running instance.
pub(crate) struct Daemon {
    settings: Settings,
    lock: Lock,
    undo: UndoFile,
    netlink: Netlink,
    /// The network as it was last seen.
    there: Snapshot,
    /// Where to translate; while the uplink is away, where it was.
    plan: Plan,
    /// Whether the uplink is away, which has been told.
    away: bool,
    dataplane: Dataplane,
    maps: Maps,
    collector: Collector,
    /// The flow table's, by which its tuples are spread.
    seed: u64,
    /// What is told of changes in the network.
    vigil: Rc<Vigil>,
    hooks: Hooks,
    /// Without them the kernel is asked about sockets.
    binds: Option<Binds>,
    /// The address whose sockets' ports were stamped last, if that went well.
    stamped: Option<Ipv4Addr>,
    /// The forwards, as they are in the dataplane.
    forwards: Forwards,
    /// Places at which attaching has failed, which has been told.
    failed: BTreeSet<Place>,
    roster: Roster,
    link: Option<PeerLink>,
    /// Why the peer link could not be opened, which has been told.
    link_failure: Option<String>,
    /// Why the host's ports are not known, which has been told.
    ports_failure: Option<String>,
}
