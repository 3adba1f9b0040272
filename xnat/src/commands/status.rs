//! `xnat status`.

use super::{Failure, unless_closed};
use crate::cli::{Format, StatusArgs};
use crate::instance::Instance;
use crate::maps::Maps;
use crate::net::Netlink;
use crate::net::snapshot::Snapshot;
use crate::state::{Undo, UndoFile};
use crate::status::Status;
use crate::{api, client, output};

/// Runs the command.
pub(crate) async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let instance = &args.instance.instance;
    let status = match client::get(instance, api::STATUS).await? {
        Some(status) => status,
        None => from_pins(instance).await?,
    };
    let mut out = anstream::stdout();
    unless_closed(match args.output.format {
        Format::Text => output::status::print(&mut out, &status),
        Format::Json => output::json::document(&mut out, &status),
    })
}

async fn from_pins(instance: &Instance) -> Result<Status, Failure> {
    let maps = Maps::pinned(instance)?;
    let undo = UndoFile::open(instance).map_or_else(|_| Undo::default(), |file| file.list().clone());
    // Interfaces have names only where they are.
    let here = undo.namespace.is_none_or(|namespace| namespace.enter().unwrap_or(false));
    let there = if here { Netlink::open()?.snapshot().await? } else { Snapshot::default() };
    Ok(Status::from_pins(instance, &maps, &undo, &there)?)
}
