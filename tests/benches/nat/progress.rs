//! How far it is, and how long it will take yet: on a terminal; quiet in a pipe.

use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// A bar whose length is the whole run's, in steps of roughly equal time.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A run of this many steps.
    pub fn new(steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %, {eta} left  {wide_msg}");
        bar.set_style(style.expect("a template of known fields"));
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar }
    }

    /// Says what comes next; fails once the end was asked for.
    pub fn doing(&self, what: String) -> Result<()> {
        self.bar.set_message(what);
        interrupt::check()
    }

    /// Steps that are done.
    pub fn done(&self, steps: u64) {
        self.bar.inc(steps);
    }

    /// Says something that stays on the screen.
    pub fn note(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("{what}");
        } else {
            self.bar.println(what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
