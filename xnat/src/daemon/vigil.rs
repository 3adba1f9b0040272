//! Watching the network for the dataplane, which remembers next hops only as long as somebody does.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use xnat_common::{Ticks, hop};

use super::serve::every;
use crate::clock;
use crate::mapped::Mapped;
use crate::net::watch::Watch;

/// How often the dataplane is told that changes are watched for.
const RENEWAL: Duration = Duration::from_secs(1);
/// After a change the next one is heard of this much later at the least, so that a storm of them takes little time.
const PAUSE: Duration = Duration::from_millis(2);

/// What whoever watches shares with the rest of the daemon.
#[derive(Debug)]
pub(crate) struct Vigil {
    /// The one entry of `memory`.
    entry: NonNull<hop::Watch>,
    _memory: Mapped<hop::Watch>,
    /// The interfaces beyond which neighbours matter.
    links: RefCell<BTreeSet<u32>>,
    interfaces: Notify,
}

impl Vigil {
    /// Takes over the epoch of an earlier run. What was remembered then is so no more.
    ///
    /// # Errors
    /// Fails if there is no entry.
    pub(crate) fn new(memory: Mapped<hop::Watch>) -> io::Result<Self> {
        let entry = memory.entry(0).ok_or(io::ErrorKind::InvalidData)?;
        let vigil = Self { entry, _memory: memory, links: RefCell::default(), interfaces: Notify::new() };
        vigil.raise();
        vigil.set_until(clock::now());
        Ok(vigil)
    }

    /// Watches. Begins with what the kernel has told since the socket was opened.
    pub(crate) async fn keep(&self, watch: &mut Watch) -> Infallible {
        let mut renewal = every(RENEWAL);
        loop {
            tokio::select! {
                // Word first: it must not be relied on what is already known to be wrong.
                biased;
                change = watch.changed(|link| self.links.borrow().contains(&link)) => {
                    if change.hops {
                        self.raise();
                    }
                    if change.interfaces {
                        self.interfaces.notify_one();
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                _ = renewal.tick() => {}
            }
            if watch.is_complete() {
                self.set_until(Ticks(clock::now().0.wrapping_add(Ticks::from_secs(hop::Watch::SECONDS).0)));
            }
        }
    }

    /// Waits until interfaces, addresses or our routes have changed.
    pub(crate) async fn interfaces_changed(&self) {
        self.interfaces.notified().await;
    }

    /// Which interfaces neighbours matter beyond.
    pub(crate) fn mind(&self, links: BTreeSet<u32>) {
        self.links.replace(links);
    }

    /// Has everybody ask the kernel for their next hops again.
    pub(crate) fn raise(&self) {
        // Nobody else writes.
        let epoch = self.field(offset_of!(hop::Watch, epoch));
        epoch.store(next(epoch.load(Ordering::Relaxed)), Ordering::Release);
    }

    fn set_until(&self, until: Ticks) {
        self.field(offset_of!(hop::Watch, until)).store(until.0, Ordering::Release);
    }

    /// A field of the map's one entry.
    fn field(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as `self`, has one entry, and both of its fields are aligned 32-bit words that
        // are accessed atomically here and read in one piece by the dataplane.
        unsafe { AtomicU32::from_ptr(self.entry.as_ptr().byte_add(offset).cast()) }
    }
}

/// The epoch after this one; zero is none.
const fn next(epoch: u32) -> u32 {
    match epoch.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_epoch_is_zero() {
        assert_eq!([0, 1, u32::MAX].map(next), [1, 2, 1]);
    }
}
