//! The one processor that everything measured runs on, and what it has done.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Its number: the last one, since the first has the machine's interrupts.
pub fn number() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1
}

/// Lets a process or thread run there only; zero is the calling thread.
pub fn pin(thread: i32) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(number())?;
    Ok(sched_setaffinity(Pid::from_raw(thread), &set)?)
}

/// Keeps the calling thread away from it, where there are several.
pub fn pin_elsewhere() -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(number().saturating_sub(1))?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Lets every thread of a process run there only.
pub fn pin_process(process: u32) {
    for thread in threads(process) {
        // It may be gone by now.
        let _ = pin(thread);
    }
}

/// Puts the calling thread before what else would run there.
pub fn precede() -> io::Result<()> {
    // SAFETY: plain numbers; zero is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the calling thread run as soon as it is awake, whatever else there is to do.
pub fn at_once() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 50 };
    // SAFETY: the structure outlives the call; zero is the calling thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How long it has been busy since the machine started, with interrupts and packets; in steps of 10 ms.
pub fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{}", number());
    let mut words =
        stat.lines().map(str::split_whitespace).find_map(|mut words| (words.next()? == name).then_some(words));
    let mut next = || words.as_mut().and_then(|words| words.next()?.parse::<u64>().ok()).unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq: of each a hundredth of a second.
    let (user, nice, system, _idle, _waiting, irq, softirq) = (next(), next(), next(), next(), next(), next(), next());
    Duration::from_millis(10 * (user + nice + system + irq + softirq))
}

/// How long a process's threads have run.
pub fn used_by(process: u32) -> Duration {
    let nanoseconds = threads(process).into_iter().filter_map(|thread| {
        let stat = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn threads(process: u32) -> Vec<i32> {
    let Ok(folder) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
