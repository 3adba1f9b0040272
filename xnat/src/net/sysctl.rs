//! The one sysctl that xnat sets, forwarding of an interface, and one that it reads.
//!
//! /proc/sys/net shows the network namespace of the process that reads it.

use std::path::PathBuf;
use std::{fs, io};

fn path(interface: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4/conf").join(interface).join("forwarding")
}

/// Whether the kernel forwards packets that come in through an interface.
pub(crate) fn forwarding(interface: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path(interface))?.trim() != "0")
}

/// Sets it. An interface that has gone took its setting along.
pub(crate) fn set_forwarding(interface: &str, on: bool) -> io::Result<()> {
    match fs::write(path(interface), if on { "1" } else { "0" }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether the kernel looks at ports to choose among the next hops of a route: any policy but by addresses alone. What
/// cannot be read may be so.
pub(crate) fn multipath_looks_at_ports() -> bool {
    match fs::read_to_string("/proc/sys/net/ipv4/fib_multipath_hash_policy") {
        Ok(policy) => policy.trim() != "0",
        // A kernel without multipath routes.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}
