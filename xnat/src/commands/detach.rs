//! `xnat detach`.

use anyhow::Context as _;

use super::Failure;
use crate::cli::DetachArgs;
use crate::instance::Instance;
use crate::maps::Maps;
use crate::net::Netlink;
use crate::say;
use crate::state::{self, Lock, StateError, Undo, UndoFile, note};
use crate::undo::undo;

/// Runs the command.
pub(crate) async fn run(args: &DetachArgs) -> Result<(), Failure> {
    let instance = &args.instance.instance;
    if !state::exists(instance) {
        say::line(format_args!("nothing to detach: instance `{instance}` has left nothing behind"));
        return Ok(());
    }
    let lock = Lock::take(instance).map_err(|error| match &error {
        StateError::Running { pid, .. } => {
            let hint = format!("it is not left behind but running; stop it with Ctrl-C, or: kill {pid}");
            Failure::Failed(anyhow::anyhow!("{error}; {hint}"))
        }
        StateError::Io { .. } => error.into(),
    })?;
    let list = whole_list(instance, UndoFile::open(instance)?.list().clone());
    if let Some(namespace) = list.namespace
        && !namespace.enter().context("entering the network namespace in which it ran")?
    {
        say::event("its network namespace has gone, and everything in it");
    }
    let failures = undo(instance, &list, &Netlink::open()?).await;
    for failure in &failures {
        say::warning(failure);
    }
    if !failures.is_empty() {
        return Err(Failure::Silent);
    }
    lock.remove().context("removing the running state")?;
    say::line(format_args!("instance `{instance}` is detached"));
    Ok(())
}

/// Adds what the pins tell, for when the list itself was lost: routes lead through the uplink.
fn whole_list(instance: &Instance, mut list: Undo) -> Undo {
    let uplink = Maps::pinned(instance).ok().and_then(|maps| maps.config().ok()).map(|config| config.uplink);
    if let Some(uplink) = uplink.filter(|&uplink| uplink != 0) {
        note(&mut list.routes, uplink);
    }
    list
}
