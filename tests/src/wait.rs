//! Awaiting a condition with a deadline, in place of sleeping and hoping.

use std::io;
use std::time::{Duration, Instant};

/// Long enough for anything that should happen at once, on a machine that runs other tests too.
pub const SOON: Duration = Duration::from_secs(10);

/// Asks again until there is an answer; panics with `what` when the deadline passes.
pub fn until<T>(what: &str, deadline: Duration, check: impl FnMut() -> Option<T>) -> T {
    within(deadline, check).unwrap_or_else(|| panic!("waited {deadline:?} in vain until {what}"))
}

/// Waits for a condition to hold; panics with `what` when the deadline passes.
pub fn until_true(what: &str, deadline: Duration, mut check: impl FnMut() -> bool) {
    until(what, deadline, || check().then_some(()));
}

/// Asks again until there is an answer or the deadline passes.
pub fn within<T>(deadline: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = check() {
            return Some(answer);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Binds a socket, again as long as the address is in use: where one of ours was closed just now, what another thread is
/// starting may hold it still, until it becomes that program.
pub(crate) fn bound<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let is_in_use = |bound: &io::Result<T>| matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
    within(SOON, || Some(bind()).filter(|bound| !is_in_use(bound))).unwrap_or_else(bind)
}
