//! The BPF file system, in which xnat keeps its pins. Systemd mounts it on every host; containers and small images lack it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{process, workspace::is_root};

/// Where it belongs.
const PLACE: &str = "/sys/fs/bpf";

/// Mounts the BPF file system if it is not there.
pub(crate) fn ensure() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    if is_mounted(&mounts) || !Path::new(PLACE).exists() {
        // Where there is no place for it, xnat says what this kernel lacks.
        return Ok(());
    }
    process::note(&format!("mounting the BPF file system at {PLACE}"));
    let mut command = Command::new(if is_root() { "mount" } else { "sudo" });
    if !is_root() {
        command.arg("mount");
    }
    command.args(["-t", "bpf", "bpf", PLACE]);
    process::run(command)
}

/// Whether a list in the format of /proc/self/mountinfo has it at its place.
fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let (mount, kind) = line.split_once(" - ").unwrap_or((line, ""));
        mount.split(' ').nth(4) == Some(PLACE) && kind.starts_with("bpf ")
    })
}

#[cfg(test)]
mod tests {
    use super::is_mounted;

    #[test]
    fn it_is_found_among_the_mounts() {
        let other = "24 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n";
        let bpf = "35 24 0:30 / /sys/fs/bpf rw,nosuid shared:11 - bpf bpf rw,mode=700\n";
        assert!(is_mounted(&format!("{other}{bpf}")));
        assert!(!is_mounted(other));
        assert!(!is_mounted("35 24 0:30 / /sys/fs/bpf rw - tmpfs tmpfs rw\n"));
        assert!(!is_mounted("35 24 0:30 / /mnt rw - bpf bpf rw\n"));
    }
}
