//! `demo`: two hosts with a container each, in network namespaces of this machine, and xnat on both.

mod hosts;
mod interrupt;
mod kept;
mod patience;
mod ping;
mod screen;
mod story;
mod tcp;
mod wire;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{kept::Kept, screen::Screen, story::Story};
use crate::{
    bpffs, build,
    packages::{self, Need, need},
    toolchain::Toolchain,
    workspace::is_root,
};

/// The arguments of `cargo xtask demo`.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Leave the hosts up at the end, and say how to enter them
    #[arg(long)]
    keep: bool,
    /// Remove the hosts of earlier demos and do nothing else
    #[arg(long, conflicts_with = "keep")]
    pub(crate) remove: bool,
}

/// What the demo runs besides xnat.
const NEEDS: &[Need] = &[
    need(&["iproute2"], "ip"),
    need(&["iputils-ping"], "ping"),
    need(&["tcpdump"], "tcpdump"),
    need(&["util-linux"], "nsenter"),
];

impl Options {
    /// Makes sure that the demo can run on this machine.
    pub(crate) fn prepare(&self) -> Result<()> {
        if !is_root() {
            let remove = if self.remove { " --remove" } else { "" };
            bail!(
                "the demo makes network namespaces, which needs root: run `sudo env \"PATH=$PATH\" \"HOME=$HOME\" \
                 cargo xtask demo{remove}`"
            );
        }
        packages::ensure("the demo", NEEDS)?;
        bpffs::ensure()
    }

    /// Builds xnat and shows what it does. Fails if anything did not behave.
    pub(crate) fn run(&self, toolchain: &Toolchain) -> Result<()> {
        let binary = build::build(toolchain)?;
        // From here on an interruption is noticed where the demo waits, and what it has made is removed.
        interrupt::catch()?;
        let mut kept = Kept::create(&binary)?;
        let screen = Screen::of_stdout();
        let outcome = Story::new(&screen, &kept).tell();
        let stays = self.keep && !interrupt::came();
        if !matches!(outcome, Ok(0)) && !interrupt::came() {
            hosts::say_what_xnat_said(&screen, &kept);
        }
        if stays {
            kept.keep()?;
            hosts::say_how_to_enter(&screen, &kept);
        } else {
            kept.remove().context("the demo's hosts cannot be removed")?;
            screen.line("");
            screen.line("Removed: both instances of xnat, the namespaces, everything in them.");
        }
        let failures = outcome?;
        if failures > 0 {
            bail!("{failures} of the demo's checks did not come out as promised, see above");
        }
        Ok(())
    }
}

/// `demo --remove`.
pub(crate) fn remove() -> Result<()> {
    interrupt::catch()?;
    let screen = Screen::of_stdout();
    let all = Kept::all()?;
    if all.is_empty() {
        screen.line("There are no hosts of an earlier demo.");
    }
    for mut kept in all {
        if let Some(owner) = kept.running_owner() {
            screen.line(&format!("demo {} is still running as process {owner}: end it with Ctrl-C", kept.id()));
            continue;
        }
        kept.remove().with_context(|| format!("demo {} cannot be removed", kept.id()))?;
        screen.line(&format!("removed demo {}", kept.id()));
    }
    Ok(())
}
