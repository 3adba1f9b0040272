//! Forwards: those of the flags, and those that come and go while the daemon runs.

use anyhow::Context as _;

use super::Daemon;
use crate::forward::spec::{ForwardSpec, RemoveSpec};
use crate::forward::table::{Forwards, Shown};
use crate::forward::{self, ForwardError};
use crate::net::sockets;
use crate::say;

/// Why a request about forwards is not granted.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It cannot be, as it is asked for.
    Forward(ForwardError),
    /// It went wrong.
    Failed(anyhow::Error),
}

impl From<ForwardError> for Refusal {
    fn from(error: ForwardError) -> Self {
        Self::Forward(error)
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Daemon {
    /// Makes the forwards of the dataplane those of the flags, and those that were added while an earlier run ran.
    pub(super) fn take_forwards(&mut self) -> anyhow::Result<()> {
        let earlier = self.maps.forwards()?;
        let taken = Forwards::take_over(&self.settings.forwards, &earlier, &self.settings.subnets);
        for forward in &taken.replaced {
            say::warning(format_args!("forward {}, added while running, gives way to --forward", forward.spec()));
        }
        for forward in &taken.outside {
            let spec = forward.spec();
            say::warning(format_args!("forward {spec}, added while running, is dropped: its target is in no --subnet"));
        }
        let (mut stale, mut new) = (earlier.clone(), taken.forwards.clone());
        stale.remove(&taken.forwards);
        new.retain(|key, target| earlier.get(key) != Some(target));
        self.maps.remove_forwards(&stale)?;
        self.maps.add_forwards(&new)?;
        self.forwards = taken.forwards;
        Ok(())
    }

    /// The forwards.
    pub(super) fn shown_forwards(&self) -> Vec<Shown> {
        self.forwards.shown()
    }

    /// Adds a forward. False if there was nothing to add, because all of it is there.
    pub(super) async fn add_forward(&mut self, spec: &ForwardSpec) -> Result<bool, Refusal> {
        forward::check(spec, &self.settings.subnets)?;
        let missing = self.forwards.missing(spec)?;
        if missing.is_empty() {
            return Ok(false);
        }
        let listening = sockets::listening(self.plan.address).context("asking for the host's sockets")?;
        // A socket at a port that is forwarded already came later, and changes nothing.
        let listening = listening.into_iter().filter(|&key| missing.get(key).is_some()).collect();
        forward::check_host(spec, &listening, self.there.addresses.iter().map(|it| it.ip))?;
        let before = self.forwards.clone();
        self.forwards.add(missing.clone());
        // The dataplane looks for forwards only once it knows that there are some.
        if let Err(error) = self.write_config().and_then(|_| self.maps.add_forwards(&missing)) {
            self.forwards = before;
            let _ = self.maps.remove_forwards(&missing);
            return Err(Refusal::Failed(error.into()));
        }
        self.attach_hooks().await?;
        Ok(true)
    }

    /// Removes forwards, and returns which.
    pub(super) async fn remove_forward(&mut self, spec: &RemoveSpec) -> Result<Vec<Shown>, Refusal> {
        let meant = self.forwards.meant(spec)?;
        self.maps.remove_forwards(&meant).map_err(anyhow::Error::from)?;
        self.forwards.remove(&meant);
        self.attach_hooks().await?;
        Ok(meant.shown())
    }
}
