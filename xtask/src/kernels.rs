//! Other kernels to test on: Debian's packages, as they are in the archive that this machine uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{capture, note, run},
    workspace::{Workspace, find_program},
};

/// The kernels: the oldest that is supported, and the first long-term one with TCX.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Where the packages are kept.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("kernels")
}

/// What the names of the tests on a kernel begin with.
pub(crate) fn tests_of(series: &str) -> String {
    format!("linux_{}_", series.replace('.', "_"))
}

/// Fetches the packages that are not there yet. Returns those that cannot be had, after saying why.
pub(crate) fn fetch(folder: &Path) -> Result<Vec<&'static str>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut absent = Vec::new();
    for series in SERIES {
        if let Err(reason) = fetch_one(folder, series) {
            note(&format!("Linux {series} is skipped: {reason:#}"));
            absent.push(series);
        }
    }
    Ok(absent)
}

fn fetch_one(folder: &Path, series: &str) -> Result<()> {
    let there = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let prefix = format!("linux-image-{series}.");
    let is_it = |file: &Path| {
        let name = file.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&prefix) && file.extension().is_some_and(|it| it == "deb")
    };
    if there.flatten().any(|entry| is_it(&entry.path())) {
        return Ok(());
    }
    if !cfg!(target_arch = "x86_64") {
        bail!("the packages are for x86-64");
    }
    if find_program("apt-get").is_none() {
        bail!("there is no apt-get to fetch Debian's package with");
    }
    let mut list = Command::new("apt-cache");
    list.args(["--names-only", "search", &format!("^linux-image-{}\\..*-cloud-amd64$", series.replace('.', "\\."))]);
    let list = capture(list)?;
    let name = newest(&list).context("the archive has no package of it; `apt-get update` may help")?;
    note(&format!("fetching {name}"));
    let mut apt = Command::new("apt-get");
    // As root: apt's own user need not be able to write here.
    apt.args(["--quiet", "--option=APT::Sandbox::User=root", "download", name]).current_dir(folder);
    run(apt)
}

/// The newest of the packages that `apt-cache search` lists.
fn newest(list: &str) -> Option<&str> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.max_by_key(|name| numbers(name))
}

/// The numbers in a name, which order versions of one series.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_told_by_numbers() {
        let list = "linux-image-6.12.9+deb12-cloud-amd64 - Linux 6.12\n\
                    linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12\n\
                    linux-image-6.12.38+deb12-cloud-amd64 - Linux 6.12\n";
        assert_eq!(newest(list), Some("linux-image-6.12.117+deb12-cloud-amd64"));
        assert_eq!(newest(""), None);
    }

    #[test]
    fn tests_are_told_by_name() {
        assert_eq!(SERIES.map(tests_of), ["linux_6_1_", "linux_6_12_"]);
    }
}
