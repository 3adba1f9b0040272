//! Ctrl-C and its relatives: noticed, so that the demo ends by its ordinary way out.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static CAME: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: i32) {
    CAME.store(true, Ordering::Relaxed);
}

/// From now on signals that ask for the end are only noticed.
pub(super) fn catch() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic. A program that is started gets the default back.
        unsafe { sigaction(signal, &action) }.context("cannot catch signals")?;
    }
    Ok(())
}

/// Whether the end was asked for.
pub(super) fn came() -> bool {
    CAME.load(Ordering::Relaxed)
}

/// Fails once the end was asked for.
pub(super) fn check() -> Result<()> {
    if came() {
        bail!("interrupted");
    }
    Ok(())
}
