//! The one sysctl that xnat sets: forwarding of an interface.
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
