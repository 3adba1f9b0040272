//! The machine's network: what there is, and the few things of it that xnat changes.

pub(crate) mod listener;
pub(crate) mod namespace;
pub(crate) mod neighbours;
pub(crate) mod qdisc;
pub(crate) mod route;
pub(crate) mod snapshot;
pub(crate) mod sockets;
pub(crate) mod sysctl;
pub(crate) mod watch;

use std::io;

use thiserror::Error;

/// Why the network could not be asked or changed.
#[derive(Debug, Error)]
pub(crate) enum NetError {
    #[error("opening a netlink socket: {0}")]
    Socket(#[from] io::Error),
    #[error("{what}: {}", describe(error))]
    Netlink { what: &'static str, error: rtnetlink::Error },
}

impl NetError {
    /// For `map_err`: says what was being done.
    pub(crate) fn doing(what: &'static str) -> impl Fn(rtnetlink::Error) -> Self {
        move |error| Self::Netlink { what, error }
    }

    /// The error number of the kernel's answer.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(error) => error.raw_os_error(),
            Self::Netlink { error: rtnetlink::Error::NetlinkError(message), .. } => Some(-message.raw_code()),
            Self::Netlink { .. } => None,
        }
    }
}

/// The kernel's own words instead of a dump of its message.
fn describe(error: &rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
        other => other.to_string(),
    }
}

/// A connection to the kernel's routing, in the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub(crate) struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens the connection; it is driven by the runtime on which this is called.
    pub(crate) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}
