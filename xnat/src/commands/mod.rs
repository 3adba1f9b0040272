//! The commands, one a file.

pub(crate) mod check;
pub(crate) mod conntrack;
pub(crate) mod detach;
pub(crate) mod forward;
pub(crate) mod run;
pub(crate) mod status;

use std::io;

/// Why a command ends without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for cannot be: exit code 2. Nothing has been touched.
    Refused(anyhow::Error),
    /// It went wrong: exit code 1.
    Failed(anyhow::Error),
    /// It went wrong, and why has been told: exit code 1.
    Silent,
}

impl Failure {
    /// Refused, for this reason.
    pub(crate) fn refused(reason: impl Into<anyhow::Error>) -> Self {
        Self::Refused(reason.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Takes a closed pipe for what it is: the reader has seen enough.
pub(crate) fn unless_closed(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
