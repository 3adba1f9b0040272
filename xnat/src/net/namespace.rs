//! Network namespaces: which one this is, and the way back into one.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

/// What tells a network namespace from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespace {
    /// Never used twice between two starts of the machine.
    pub(crate) cookie: u64,
    /// By which the namespace is found; may be used again after it has gone.
    pub(crate) inode: u64,
}

const OWN: &str = "/proc/thread-self/ns/net";

impl Namespace {
    /// That of the calling thread.
    pub(crate) fn current() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        Ok(Self { cookie: socket.cookie_of_namespace()?, inode: fs::metadata(OWN)?.ino() })
    }

    /// Takes the calling thread into this namespace. False when it has gone.
    pub(crate) fn enter(self) -> io::Result<bool> {
        if Self::current()? == self {
            return Ok(true);
        }
        let home = File::open(OWN)?;
        for path in candidates() {
            if fs::metadata(&path).is_ok_and(|it| it.ino() == self.inode) {
                let Ok(file) = File::open(&path) else { continue };
                if setns(file.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
                    continue;
                }
                if Self::current()? == self {
                    return Ok(true);
                }
                setns(home.as_fd(), CloneFlags::CLONE_NEWNET)?;
            }
        }
        Ok(false)
    }
}

/// Where namespaces are to be found: named ones, Docker's, and those of processes.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let named = ["/run/netns", "/run/docker/netns"].into_iter().flat_map(entries);
    let processes = entries("/proc").filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.bytes().all(|it| it.is_ascii_digit()))
    });
    named.chain(processes.map(|path| path.join("ns/net")))
}

fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

trait NamespaceCookie {
    fn cookie_of_namespace(&self) -> io::Result<u64>;
}

impl NamespaceCookie for Socket {
    fn cookie_of_namespace(&self) -> io::Result<u64> {
        /// `SO_NETNS_COOKIE` of asm-generic/socket.h (Linux 5.14), which libc lacks.
        const SO_NETNS_COOKIE: libc::c_int = 71;
        let mut cookie = 0u64;
        let mut len = size_of::<u64>() as libc::socklen_t;
        // SAFETY: `cookie` and `len` are valid for writes, and `len` tells the size of `cookie`.
        let result = unsafe {
            libc::getsockopt(
                std::os::fd::AsRawFd::as_raw_fd(self),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_entered_without_looking() {
        let own = Namespace::current().unwrap();
        assert_ne!(own.cookie, 0);
        assert!(own.enter().unwrap());
        let gone = Namespace { cookie: u64::MAX, inode: own.inode };
        // Finds the inode, enters, sees that the cookie differs, and comes back.
        if nix::unistd::geteuid().is_root() {
            assert!(!gone.enter().unwrap());
            assert_eq!(Namespace::current().unwrap(), own);
        }
    }
}
