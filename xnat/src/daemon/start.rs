//! From settings to a running dataplane.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::time::Instant;

use anyhow::Context as _;
use aya::programs::SchedClassifier;

use super::collection::Collector;
use super::vigil::Vigil;
use super::{Daemon, reconcile};
use crate::cli::HookChoice;
use crate::commands::Failure;
use crate::config::{ConfigError, Settings};
use crate::forward::table::Forwards;
use crate::forward::{self, ForwardError};
use crate::hooks::{HookKind, Hooks, has_tcx};
use crate::instance::Instance;
use crate::loader::{self, Dataplane, Earlier};
use crate::maps::Maps;
use crate::net::Netlink;
use crate::net::namespace::Namespace;
use crate::net::snapshot::Snapshot;
use crate::net::sockets;
use crate::peer::roster::Roster;
use crate::plan::{Plan, Ways};
use crate::state::{Interface, Lock, StateError, UndoFile};
use crate::undo::undo;
use crate::{say, state};

/// What has been found fit, with nothing touched yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    settings: Settings,
    netlink: Netlink,
    there: Snapshot,
    plan: Plan,
    kind: HookKind,
    /// Nobody else serves this uplink as long as this socket is open.
    claim: UnixDatagram,
}

impl Prepared {
    /// Looks at the machine.
    pub(crate) async fn new(settings: Settings) -> Result<Self, Failure> {
        Lock::holder(&settings.instance).map_err(running)?;
        let kind = hook_kind(settings.hooks)?;
        let netlink = Netlink::open()?;
        let there = netlink.snapshot().await?;
        let mut ways = Ways::default();
        for peer in settings.peer_addresses() {
            ways.peers.push((peer, netlink.way_to(peer).await?));
        }
        if settings.uplink.is_none() && settings.peers.is_empty() {
            ways.default = netlink.default_way().await?;
        }
        let plan = Plan::find(&settings, &there, &ways).map_err(Failure::refused)?;
        check_inbound(&settings, &there, &plan)?;
        let claim = claim_uplink(&plan)?;
        refuse_left_behind(&settings.instance, &plan)?;
        Ok(Self { settings, netlink, there, plan, kind, claim })
    }

    /// Sets everything up. What fails after something has been changed is taken back.
    pub(crate) async fn start(self) -> Result<(Daemon, UnixDatagram), Failure> {
        let Self { settings, netlink, there, plan, kind, claim } = self;
        let instance = settings.instance.clone();
        let fresh = !state::exists(&instance);
        let lock = Lock::take(&instance).map_err(running)?;
        let (undo, hooks, loaded) = match load(&settings, &plan, &there, kind) {
            Ok(loaded) => loaded,
            Err(failure) if fresh => {
                let _ = lock.remove();
                return Err(failure);
            }
            Err(failure) => return Err(failure),
        };
        let Loaded { dataplane, earlier, maps, seed, vigil, roster } = loaded;
        tell_earlier(&earlier);
        let collector = Collector::new(settings.max_flows, &settings.timeouts, Instant::now());
        let mut daemon = Daemon {
            settings,
            lock,
            undo,
            netlink,
            there,
            plan,
            away: false,
            dataplane,
            maps,
            collector,
            seed,
            vigil: Rc::new(vigil),
            hooks,
            binds: None,
            stamped: None,
            forwards: Forwards::default(),
            failed: BTreeSet::new(),
            roster,
            link: None,
            link_failure: None,
            ports_failure: None,
        };
        if let Err(error) = daemon.set_up(&earlier).await {
            for failure in daemon.stop().await {
                say::warning(failure);
            }
            return Err(error.into());
        }
        Ok((daemon, claim))
    }
}

/// A failure to get the lock: somebody running is a reason to refuse.
fn running(error: StateError) -> Failure {
    match error {
        StateError::Running { .. } => {
            Failure::refused(anyhow::anyhow!("{error}; stop it first, or choose another name with --instance"))
        }
        error @ StateError::Io { .. } => error.into(),
    }
}

struct Loaded {
    dataplane: Dataplane,
    earlier: Earlier,
    maps: Maps,
    seed: u64,
    vigil: Vigil,
    roster: Roster,
}

/// Loads the dataplane, which lets everything through until it is configured, unless an earlier run's lives on.
fn load(
    settings: &Settings,
    plan: &Plan,
    there: &Snapshot,
    kind: HookKind,
) -> Result<(UndoFile, Hooks, Loaded), Failure> {
    let instance = &settings.instance;
    let namespace = Namespace::current().context("asking for the network namespace")?;
    let mut undo = UndoFile::open(instance)?;
    let earlier = undo.list().namespace;
    if earlier.is_some_and(|earlier| earlier != namespace) {
        return Err(Failure::refused(anyhow::anyhow!(
            "instance `{instance}` was left behind in another network namespace; remove it with `xnat detach{}`, or \
             choose another name with --instance",
            instance.flag()
        )));
    }
    let uplink = Interface { index: plan.uplink.index, name: plan.uplink.name.clone() };
    undo.change(|list| {
        list.namespace = Some(namespace);
        list.uplink = Some(uplink);
    })?;
    let adopt = earlier.is_some();
    // Attaching takes as long as loading, nearly all of it waiting for grace periods, so both are done at the same time.
    let early = RefCell::new(Hooks::new(instance, kind, false));
    let wanted = reconcile::wanted_hooks(plan, there, !settings.forwards.is_empty());
    let filters = !undo.list().filters.is_empty();
    let attach = |name: &'static str, program: &mut SchedClassifier| {
        // Where an earlier run's filters are still attached, one takes the place of the other.
        if !filters {
            early.borrow_mut().attach_early(&wanted, name, program);
        }
    };
    let (mut dataplane, earlier) = Dataplane::load(instance, namespace, settings.max_flows, attach)?;
    let hooks = if earlier == Earlier::Reused { Hooks::new(instance, kind, adopt) } else { early.into_inner() };
    let (maps, boot, seed, vigil) = match opened(&mut dataplane) {
        Ok(opened) => opened,
        Err(failure) => {
            if earlier != Earlier::Reused {
                drop(hooks);
                loader::clear(instance)?;
            }
            return Err(failure);
        }
    };
    let roster = Roster::new(&settings.peers, &settings.subnets, plan.address, boot);
    Ok((undo, hooks, Loaded { dataplane, earlier, maps, seed, vigil, roster }))
}

/// The maps of a dataplane, the number of its flow table, and what spreads the tuples of that.
fn opened(dataplane: &mut Dataplane) -> Result<(Maps, u64, u64, Vigil), Failure> {
    let mut maps = Maps::of(dataplane)?;
    let boot = maps.table_id(random()?)?;
    let seed = maps.seed(random()?)?;
    let vigil = maps.watch().and_then(Vigil::new).context("mapping the map WATCH into memory")?;
    Ok((maps, boot, seed, vigil))
}

fn tell_earlier(earlier: &Earlier) {
    match earlier {
        Earlier::None => {}
        Earlier::Reused => say::event("an earlier run's flows live on"),
        Earlier::Removed(reason) => {
            say::warning(format_args!("an earlier run's flow table does not fit and was removed: {reason}"));
        }
    }
}

/// A number that is not zero and that nobody else will draw.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes).max(1))
}

fn hook_kind(choice: HookChoice) -> Result<HookKind, Failure> {
    match choice {
        HookChoice::Auto | HookChoice::Tcx if has_tcx() => Ok(HookKind::Tcx),
        HookChoice::Auto | HookChoice::Clsact => Ok(HookKind::Clsact),
        HookChoice::Tcx => Err(Failure::refused(anyhow::anyhow!(
            "--hooks tcx: this kernel has no TCX, which came with Linux 6.6; leave --hooks out, or say --hooks clsact"
        ))),
    }
}

/// Makes sure that what comes in goes to containers, and that nothing is taken from the host's own sockets.
fn check_inbound(settings: &Settings, there: &Snapshot, plan: &Plan) -> Result<(), Failure> {
    let own = || there.addresses.iter().map(|it| it.ip);
    if let Some(address) = settings.default_inbound.filter(|&address| own().any(|it| it == address)) {
        return Err(Failure::refused(anyhow::anyhow!(
            "--default-inbound {address} is this host's own address; name a container"
        )));
    }
    if settings.forwards.is_empty() {
        return Ok(());
    }
    let listening = sockets::listening(plan.address).context("asking for the host's sockets")?;
    let check = |forward| forward::check_host(forward, &listening, own());
    let refused = |error: ForwardError| Failure::refused(ConfigError::from(error));
    settings.forwards.iter().try_for_each(check).map_err(refused)
}

/// Makes sure that no other instance serves the uplink. An abstract unix socket is a network namespace's own, and goes
/// with the process.
fn claim_uplink(plan: &Plan) -> Result<UnixDatagram, Failure> {
    let name = format!("xnat/uplink/{}", plan.uplink.index);
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::bind_addr(&address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::refused(anyhow::anyhow!(
            "uplink {} is already served by {}; stop that first, or name another uplink",
            plan.uplink.name,
            who_serves(plan.uplink.index)
        )),
        _ => error.into(),
    })
}

/// The instances that serve an uplink in this network namespace, or did when they were killed.
fn instances_at(uplink: u32) -> impl Iterator<Item = Instance> {
    let here = Namespace::current().ok();
    let at = move |instance: &Instance| {
        UndoFile::open(instance).is_ok_and(|file| {
            let list = file.list();
            list.namespace == here && list.uplink.as_ref().is_some_and(|it| it.index == uplink)
        })
    };
    state::instances().into_iter().filter(at)
}

/// The running instance that serves an uplink.
fn who_serves(uplink: u32) -> String {
    let found = instances_at(uplink).find(|instance| Lock::holder(instance).is_err());
    found.map_or_else(|| "another xnat".to_owned(), |instance| format!("instance `{instance}`"))
}

/// The dataplane of an instance that was killed works on: two on one uplink would translate everything twice.
fn refuse_left_behind(own: &Instance, plan: &Plan) -> Result<(), Failure> {
    match instances_at(plan.uplink.index).find(|instance| instance != own) {
        Some(other) => Err(Failure::refused(anyhow::anyhow!(
            "uplink {} is still served by what instance `{other}` has left behind; remove it with `xnat detach{}`, or \
             go on with it: --instance {other}",
            plan.uplink.name,
            other.flag()
        ))),
        None => Ok(()),
    }
}

impl Daemon {
    /// Takes everything back. Returns what could not be.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.say_goodbye().await;
        self.hooks.release();
        let mut failures = undo(&self.settings.instance, self.undo.list(), &self.netlink).await;
        // With something left to undo, its list has to stay.
        if failures.is_empty()
            && let Err(error) = self.lock.remove()
        {
            failures.push(format!("removing the running state: {error}"));
        }
        failures
    }
}
