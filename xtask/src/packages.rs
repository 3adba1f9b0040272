//! The Debian packages that tests, benchmark and demo need.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{capture, note, run},
    workspace::{find_program, is_root},
};

/// One thing that is needed besides what xtask builds.
pub(crate) struct Need {
    /// The packages that provide it, the one to install first.
    packages: &'static [&'static str],
    /// What to look for on a system without dpkg.
    program: &'static str,
}

/// A need that any of these packages meets.
pub(crate) const fn need(packages: &'static [&'static str], program: &'static str) -> Need {
    Need { packages, program }
}

/// What the tests need.
pub(crate) const TESTS: &[Need] = &[
    need(&["bash"], "bash"),
    // On Ubuntu it comes with the kernel's tools.
    need(&["bpftool", "linux-tools-common"], "bpftool"),
    // Static: the containers of the Docker tests consist of it and nothing else.
    need(&["busybox-static"], "busybox"),
    need(&["conntrack"], "conntrack"),
    need(&["coturn"], "turnserver"),
    need(&["curl"], "curl"),
    need(&["dnsmasq-base"], "dnsmasq"),
    need(&["docker.io", "docker-ce", "moby-engine"], "dockerd"),
    need(&["ethtool"], "ethtool"),
    need(&["iperf3"], "iperf3"),
    need(&["iproute2"], "ip"),
    need(&["iptables"], "iptables"),
    need(&["iputils-ping"], "ping"),
    need(&["iputils-tracepath"], "tracepath"),
    need(&["netcat-openbsd"], "nc"),
    need(&["nftables"], "nft"),
    need(&["procps"], "ps"),
    need(&["socat"], "socat"),
    need(&["tcpdump"], "tcpdump"),
    need(&["traceroute"], "traceroute"),
];

/// What the benchmark needs.
pub(crate) const BENCH: &[Need] = &[
    need(&["conntrack"], "conntrack"),
    need(&["iperf3"], "iperf3"),
    need(&["iproute2"], "ip"),
    // Both of its flavours are in the one package.
    need(&["iptables"], "iptables-legacy"),
    need(&["nftables"], "nft"),
    need(&["util-linux"], "nsenter"),
];

/// What the tests on other kernels need besides.
pub(crate) const KERNELS: &[Need] = &[need(&["cpio"], "cpio"), need(&["qemu-system-x86"], "qemu-system-x86_64")];

/// Makes sure of all that `who` (such as "the tests") needs: installs what is missing, or says how to.
pub(crate) fn ensure(who: &str, needs: &[Need]) -> Result<()> {
    if find_program("dpkg-query").is_none() {
        return ensure_programs(who, needs);
    }
    let installed = installed(needs)?;
    let missing = missing(needs, &installed);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        let names: Vec<_> = missing.iter().map(|need| need.packages[0]).collect();
        bail!(
            "packages that {who} cannot do without are missing; run: sudo apt-get install \
             --no-install-recommends {}",
            names.join(" ")
        );
    }
    install(&missing)
}

/// Elsewhere than on Debian, programs are looked for, and installing them is left to the user.
fn ensure_programs(who: &str, needs: &[Need]) -> Result<()> {
    let missing: Vec<_> =
        needs.iter().map(|need| need.program).filter(|program| find_program(program).is_none()).collect();
    if !missing.is_empty() {
        bail!(
            "programs that {who} cannot do without are missing: {}; install them with your system's \
             package manager",
            missing.join(" ")
        );
    }
    Ok(())
}

/// Which of the packages are installed.
fn installed(needs: &[Need]) -> Result<BTreeSet<String>> {
    let output = Command::new("dpkg-query")
        .arg("--show")
        .arg("--showformat=${db:Status-Status} ${Package}\n")
        .args(needs.iter().flat_map(|need| need.packages))
        .output()
        .context("cannot start dpkg-query")?;
    // It fails whenever it does not know one of them, and still lists the others.
    Ok(parse_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_installed(listing: &str) -> BTreeSet<String> {
    listing.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect()
}

fn missing<'a>(needs: &'a [Need], installed: &BTreeSet<String>) -> Vec<&'a Need> {
    needs.iter().filter(|need| !need.packages.iter().any(|name| installed.contains(*name))).collect()
}

fn install(missing: &[&Need]) -> Result<()> {
    note("refreshing the package lists");
    run(apt_get(["update"])).context("the package lists cannot be refreshed; that needs the network")?;

    let mut policy = Command::new("apt-cache");
    policy.arg("policy").args(missing.iter().flat_map(|need| need.packages)).env("LC_ALL", "C");
    let policy = capture(policy)?;
    let names = choose(missing, &parse_available(&policy));

    note(&format!("installing {}", names.join(" ")));
    let guard = ServiceGuard::place(Path::new("/usr/sbin/policy-rc.d"))?;
    let outcome =
        run(apt_get(["install", "--yes", "--no-install-recommends"].into_iter().chain(names.iter().copied())));
    drop(guard);
    outcome.with_context(|| format!("packages cannot be installed: {}", names.join(" ")))
}

fn apt_get<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("apt-get");
    command
        // A fresh machine is often at its own upgrades just then.
        .arg("--option=DPkg::Lock::Timeout=300")
        .arg("--quiet")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The packages that could be installed, from what `apt-cache policy` prints.
fn parse_available(policy: &str) -> BTreeSet<&str> {
    let mut available = BTreeSet::new();
    let mut package = None;
    for line in policy.lines() {
        if !line.starts_with(' ') {
            package = line.strip_suffix(':');
        } else if let Some(candidate) = line.trim_start().strip_prefix("Candidate: ") {
            if candidate != "(none)" {
                available.extend(package);
            }
        }
    }
    available
}

/// For each need the first package that this distribution has; the usual one if it has none, so
/// that apt's complaint names it.
fn choose<'a>(missing: &[&'a Need], available: &BTreeSet<&str>) -> Vec<&'a str> {
    missing
        .iter()
        .map(|need| {
            let found = need.packages.iter().find(|name| available.contains(**name));
            *found.unwrap_or(&need.packages[0])
        })
        .collect()
}

/// Keeps freshly installed packages from starting their services (a Docker engine would change the
/// machine's firewall), for as long as it lives.
struct ServiceGuard {
    path: PathBuf,
}

impl ServiceGuard {
    /// 101 is "action forbidden by policy".
    const SCRIPT: &str = "#!/bin/sh\n\
        # Placed by xnat's xtask while it installs packages; remove it if that is over.\n\
        exit 101\n";

    /// Places the policy script; does nothing where the user has one. One that an interrupted
    /// installation left behind is ours.
    fn place(path: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) if text != Self::SCRIPT => return Ok(None),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            _ => {}
        }
        // From here on it is removed, should its mode not be settable, too.
        let guard = Self { path: path.to_owned() };
        fs::write(path, Self::SCRIPT)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(guard))
    }
}

impl Drop for ServiceGuard {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            note(&format!("cannot remove {} ({error}): remove it by hand, or no service starts", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(needs: &[&'static Need]) -> Vec<&'static str> {
        needs.iter().map(|need| need.packages[0]).collect()
    }

    fn all_but(absent: &[&str]) -> BTreeSet<String> {
        TESTS.iter().map(|need| need.packages[0]).filter(|name| !absent.contains(name)).map(str::to_owned).collect()
    }

    #[test]
    fn only_what_is_installed_counts() {
        let listing = "installed bash\nconfig-files socat\nnot-installed curl\n";
        assert_eq!(parse_installed(listing), BTreeSet::from(["bash".to_owned()]));
    }

    #[test]
    fn the_difference_is_what_is_missing() {
        assert!(missing(TESTS, &all_but(&[])).is_empty());
        let missing = missing(TESTS, &all_but(&["socat", "curl"]));
        assert_eq!(names(&missing), ["curl", "socat"]);
    }

    #[test]
    fn another_docker_serves_as_well() {
        let mut installed = all_but(&["docker.io"]);
        assert_eq!(names(&missing(TESTS, &installed)), ["docker.io"]);
        installed.insert("docker-ce".to_owned());
        assert!(missing(TESTS, &installed).is_empty());
    }

    #[test]
    fn the_first_available_package_is_chosen() {
        let policy = "bpftool:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n\
                      linux-tools-common:\n  Installed: (none)\n  Candidate: 6.8.0-1\n";
        let available = parse_available(policy);
        assert_eq!(available, BTreeSet::from(["linux-tools-common"]));

        let missing = missing(TESTS, &all_but(&["bpftool", "socat"]));
        assert_eq!(choose(&missing, &available), ["linux-tools-common", "socat"]);
    }

    #[test]
    fn the_service_guard_comes_and_goes() {
        let path = scratch("guard");
        let guard = ServiceGuard::place(&path).unwrap();
        assert!(guard.is_some());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn a_policy_of_the_user_stays() {
        let path = scratch("policy");
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        assert!(ServiceGuard::place(&path).unwrap().is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 0\n");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_guard_left_behind_is_taken_over() {
        let path = scratch("leftover");
        fs::write(&path, ServiceGuard::SCRIPT).unwrap();
        drop(ServiceGuard::place(&path).unwrap());
        assert!(!path.exists());
    }

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()))
    }
}
