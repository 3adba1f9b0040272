//! What xnat needs of the kernel and of its own rights.

use std::path::Path;
use std::{fs, io};

use nix::sys::statfs::{FsType, statfs};
use thiserror::Error;

/// The oldest kernel.
pub(crate) const OLDEST: (u32, u32) = (6, 1);
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// Something without which xnat cannot run, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Lack {
    #[error("xnat run needs root, or the capabilities {0}; run it with sudo")]
    Capabilities(String),
    #[error("this kernel is {0}; xnat needs Linux {major}.{minor} or later", major = OLDEST.0, minor = OLDEST.1)]
    Kernel(String),
    #[error("this kernel has no BTF (/sys/kernel/btf/vmlinux); it needs to be built with CONFIG_DEBUG_INFO_BTF=y")]
    Btf,
    #[error(
        "there is no BPF file system at /sys/fs/bpf; mount it: mount -t bpf bpf /sys/fs/bpf (`ip netns exec` hides it: enter with nsenter --net=/run/netns/NAME)"
    )]
    BpfFs,
}

/// The first of the needs that is not met.
pub(crate) fn require() -> Result<(), Lack> {
    let release = kernel_release();
    if !is_new_enough(&release) {
        return Err(Lack::Kernel(release));
    }
    let missing = missing_capabilities();
    if !missing.is_empty() {
        return Err(Lack::Capabilities(missing.join(", ")));
    }
    if !has_btf() {
        return Err(Lack::Btf);
    }
    if !has_bpffs() {
        return Err(Lack::BpfFs);
    }
    Ok(())
}

/// The kernel's version.
pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".to_owned(), |it| it.trim().to_owned())
}

/// Whether the version is at least [`OLDEST`].
pub(crate) fn is_new_enough(release: &str) -> bool {
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(|it| it.parse().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) >= OLDEST
}

/// Whether the kernel describes its own types.
pub(crate) fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Whether pins can be made.
pub(crate) fn has_bpffs() -> bool {
    statfs("/sys/fs/bpf").is_ok_and(|it| it.filesystem_type() == BPF_FS_MAGIC)
}

/// Capabilities of linux/capability.h: number, name, and another one that includes it.
const NEEDED: [(u32, &str, u32); 3] =
    [(12, "CAP_NET_ADMIN", 12), (38, "CAP_PERFMON", SYS_ADMIN), (39, "CAP_BPF", SYS_ADMIN)];
const SYS_ADMIN: u32 = 21;

/// The capabilities that this process needs and does not have.
pub(crate) fn missing_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_in(&status)
}

fn missing_in(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).unwrap_or(0);
    let has = |number: u32| effective >> number & 1 == 1;
    NEEDED.into_iter().filter(|&(number, _, wider)| !has(number) && !has(wider)).map(|(_, name, _)| name).collect()
}

/// Whether the kernel compiles BPF programs: 1 or 2.
pub(crate) fn jit() -> io::Result<bool> {
    Ok(fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")?.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        for release in ["6.1.0-38-cloud-amd64", "6.18.44", "6.12.0+", "7.0-rc1", "10.0.1"] {
            assert!(is_new_enough(release), "{release}");
        }
        for release in ["6.0.19", "5.15.0-91-generic", "4.19.300", "unknown", ""] {
            assert!(!is_new_enough(release), "{release}");
        }
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(missing_in("CapInh:\t0\nCapEff:\t000001ffffffffff\n"), [] as [&str; 0]);
        assert_eq!(missing_in("CapEff:\t0000000000000000\n"), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        let narrow = 1u64 << 12 | 1 << 38 | 1 << 39;
        assert_eq!(missing_in(&format!("CapEff:\t{narrow:016x}\n")), [] as [&str; 0]);
        let admin = 1u64 << SYS_ADMIN;
        assert_eq!(missing_in(&format!("CapEff:\t{admin:016x}\n")), ["CAP_NET_ADMIN"]);
    }
}
