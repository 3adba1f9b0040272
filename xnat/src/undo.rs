//! Taking everything back, at the end of a run and after a crash.

use std::path::Path;
use std::{fs, io};

use aya::programs::TcAttachType;
use aya::programs::links::Link as _;
use aya::programs::tc::{SchedClassifierLink, TcHandle};

use crate::hooks::HANDLE;
use crate::instance::Instance;
use crate::net::{Netlink, sysctl};
use crate::state::{Filter, Undo};

/// Takes back what `list` tells and what the pins show. Goes on whatever fails, and returns what did.
pub(crate) async fn undo(instance: &Instance, list: &Undo, netlink: &Netlink) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |what: &str, result: Result<(), String>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error}"));
        }
    };
    // Hooks last: until nothing is forwarded any more, they keep containers' addresses off the uplink.
    for &link in &list.routes {
        check("removing routes", netlink.remove_our_routes(link).await.map_err(|error| error.to_string()));
    }
    let there = netlink.snapshot().await.unwrap_or_default();
    for interface in &list.forwarding_was_off {
        // An interface that was made anew has its own setting.
        if there.links.get(&interface.index).is_some_and(|link| link.name == interface.name) {
            let restored = sysctl::set_forwarding(&interface.name, false);
            check("restoring a sysctl", restored.map_err(|error| format!("forwarding of {}: {error}", interface.name)));
        }
    }
    check("unpinning the hooks", remove_links(instance).map_err(|error| error.to_string()));
    for filter in &list.filters {
        check("removing a filter", remove_filter(filter));
    }
    for &link in &list.qdiscs {
        check("removing a qdisc", netlink.remove_empty_clsact(link).await.map_err(|error| error.to_string()));
    }
    check("removing the pins", remove_tree(&instance.pins()).map_err(|error| error.to_string()));
    failures
}

/// Unpins the links of every layout: the last reference, so the kernel detaches the programs.
fn remove_links(instance: &Instance) -> io::Result<()> {
    for layout in entries(&instance.pins())? {
        remove_tree(&layout.join("links"))?;
    }
    Ok(())
}

/// Removes a filter of ours; one that has gone, with its interface or without, is no failure.
pub(crate) fn remove_filter(filter: &Filter) -> Result<(), String> {
    let side = if filter.ingress { TcAttachType::Ingress } else { TcAttachType::Egress };
    // By priority and handle: the name of the program is also that of every other filter of ours there.
    let link = SchedClassifierLink::attached(filter.link, TcHandle::from(side), filter.priority, HANDLE, None);
    match link.map_err(|error| error.to_string())?.detach() {
        Ok(()) => Ok(()),
        Err(error) => match crate::table::io_error(&error).and_then(io::Error::raw_os_error) {
            Some(libc::ENODEV | libc::ENOENT | libc::EINVAL | libc::ESRCH) => Ok(()),
            _ => Err(error.to_string()),
        },
    }
}

fn entries(folder: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Removes a folder with everything in it; one that is not there is no failure.
pub(crate) fn remove_tree(folder: &Path) -> io::Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            remove_tree(&path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
