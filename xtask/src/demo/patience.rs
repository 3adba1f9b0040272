//! Waiting for something to happen, and no longer.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::interrupt;

/// How long anything that the demo waits for may take.
pub(super) const LIMIT: Duration = Duration::from_secs(15);

/// Asks again and again until there is an answer; fails after [`LIMIT`], and when the demo is interrupted.
pub(super) fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        interrupt::check()?;
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > LIMIT {
            bail!("waited {} s in vain until {what}", LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}
