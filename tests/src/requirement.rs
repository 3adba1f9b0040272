//! What the tests need of the machine. A test that cannot run fails and says why; none passes in silence.

use std::env;
use std::path::PathBuf;

/// Panics unless the tests run as root.
pub fn root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests make network namespaces and load eBPF programs: run them as root (sudo -E cargo xtask test)"
    );
}

/// Where a program is; panics with the package that has it when it is nowhere.
pub fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        // Debian leaves these two out of an ordinary user's PATH.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing on this machine: apt-get install {}", package(name)))
}

/// Debian's package for a program.
fn package(program: &str) -> &str {
    match program {
        "dockerd" | "docker" => "docker.io",
        "ip" | "tc" | "bridge" => "iproute2",
        "nsenter" | "unshare" => "util-linux",
        "sysctl" => "procps",
        "busybox" => "busybox-static",
        "ping" | "tracepath" => "iputils-ping iputils-tracepath",
        "iptables-save" => "iptables",
        other => other,
    }
}
