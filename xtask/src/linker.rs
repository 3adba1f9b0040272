//! bpf-linker: found when a usable one is there, else built once.
//!
//! It has to read the bitcode that the pinned rustc writes, so its LLVM must not be older than
//! rustc's. Distributions have none that recent, but the toolchain brings its own, as a shared
//! library: that is what ours is linked with.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{capture, note, run},
    toolchain::{LLVM, RUST, rustup_run},
    workspace::{Workspace, find_program},
};

/// The release that is built here.
const BUILT: &str = "0.13.0";

/// The oldest release that is taken from PATH.
const OLDEST: Version = Version(0, 13);

/// See the file.
const PROBE: &str = include_str!("probe.rs.in");

/// Makes sure of a linker. Returns the directory that PATH has to begin with, or nothing when the
/// linker is on PATH already.
pub(crate) fn ensure(workspace: &Workspace, sysroot: &Path) -> Result<Option<PathBuf>> {
    let tools = workspace.tools();
    let bin = tools.join("bin");
    let ours = bin.join("bpf-linker");
    if ours.exists() && check(&ours, &tools).is_ok() {
        return Ok(Some(bin));
    }
    if let Some(theirs) = find_program("bpf-linker") {
        match check(&theirs, &tools) {
            Ok(()) => return Ok(None),
            Err(why) => note(&format!("passing over {}: {why:#}", theirs.display())),
        }
    }
    build(&tools, sysroot).context(
        "bpf-linker cannot be built; that needs the network once, and a C compiler (on Debian: \
         apt-get install gcc libc6-dev)",
    )?;
    check(&ours, &tools).with_context(|| {
        format!(
            "the bpf-linker built in {} does not work: remove that directory and repeat the \
             command",
            tools.display()
        )
    })?;
    Ok(Some(bin))
}

/// Whether a linker is recent enough and copes with the pinned compiler's output.
fn check(linker: &Path, tools: &Path) -> Result<()> {
    let mut command = process::Command::new(linker);
    command.arg("--version");
    let printed = capture(command)?;
    match parse_version(&printed) {
        Some(version) if version >= OLDEST => {}
        _ => bail!("it is {}, not {OLDEST} or later", printed.trim()),
    }

    // A directory of its own: several xtasks may run at a time, and a link that fails leaves files.
    let dir = tools.join(format!("probe-{}", process::id()));
    create_dir(&dir)?;
    let outcome = link_probe(linker, &dir);
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    outcome.with_context(|| format!("it does not link what Rust {RUST} compiles"))
}

fn link_probe(linker: &Path, dir: &Path) -> Result<()> {
    let source = dir.join("probe.rs");
    fs::write(&source, PROBE).with_context(|| format!("cannot write {}", source.display()))?;
    let mut rustc = rustup_run("rustc");
    rustc
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["--edition=2024", "--crate-type=cdylib", "-Awarnings"])
        .args(["--target=bpfel-unknown-none", "-Ctarget-cpu=v3"])
        .arg(format!("-Clinker={}", linker.display()))
        .arg("-o")
        .args([&dir.join("probe.o"), &source]);
    capture(rustc).map(drop)
}

/// Builds bpf-linker against the toolchain's own LLVM.
fn build(tools: &Path, sysroot: &Path) -> Result<()> {
    note(&format!("building bpf-linker {BUILT} (once, about a minute)"));
    let library = llvm_library(&sysroot.join("lib"))?;
    let prefix = tools.join("llvm");
    create_dir(&prefix.join("lib"))?;
    replace_symlink(&library, &prefix.join("lib/libLLVM.so"))?;

    let build_dir = tools.join("build");
    let mut cargo = rustup_run("cargo");
    cargo
        .args(["install", "bpf-linker", "--version", BUILT, "--locked", "--force"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{LLVM}"))
        .arg("--root")
        .arg(tools)
        .env("LLVM_PREFIX", &prefix)
        .env("CARGO_TARGET_DIR", &build_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rpath_flag(sysroot))
        // cargo's remark that target/tools/bin is not on PATH concerns nobody.
        .current_dir(tools);
    run(cargo)?;
    match fs::remove_dir_all(&build_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", build_dir.display()))
        }
        _ => Ok(()),
    }
}

/// Lets the linker find the toolchain's LLVM when it runs.
fn rpath_flag(sysroot: &Path) -> String {
    format!("-Clink-arg=-Wl,-rpath,{}", sysroot.join("lib").display())
}

/// The shared LLVM that the toolchain's compiler uses.
fn llvm_library(lib: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(lib).with_context(|| format!("cannot read {}", lib.display()))?;
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| is_llvm_library(&name.to_string_lossy())))
        .with_context(|| {
            format!(
                "Rust {RUST} for this machine brings no shared LLVM {LLVM} in {}: install a \
                 bpf-linker built with LLVM {LLVM} on PATH",
                lib.display()
            )
        })
}

/// `libLLVM.so.MAJOR.MINOR-rust-VERSION-stable`, but not the linker script beside it.
fn is_llvm_library(name: &str) -> bool {
    name.strip_prefix("libLLVM.so.")
        .and_then(|rest| rest.strip_prefix(LLVM))
        .is_some_and(|rest| rest.starts_with(['.', '-']))
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

fn replace_symlink(to: &Path, link: &Path) -> Result<()> {
    let _ = fs::remove_file(link);
    symlink(to, link).with_context(|| format!("cannot create {}", link.display()))
}

/// Major and minor version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Reads `bpf-linker 0.13.0`, with whatever may follow.
fn parse_version(printed: &str) -> Option<Version> {
    let mut words = printed.split_whitespace();
    if words.next()? != "bpf-linker" {
        return None;
    }
    let mut numbers = words.next()?.split(['.', '-', '+']);
    Some(Version(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("bpf-linker 0.13.0\n"), Some(Version(0, 13)));
        assert_eq!(parse_version("bpf-linker 1.2.3-dev (abc)"), Some(Version(1, 2)));
        assert_eq!(parse_version("bpf-linker"), None);
        assert_eq!(parse_version("ld 2.40"), None);
        assert!(Version(0, 9) < OLDEST);
        assert!(Version(1, 0) > OLDEST);
    }

    #[test]
    fn the_shared_llvm_is_told_from_its_neighbours() {
        assert!(is_llvm_library(&format!("libLLVM.so.{LLVM}.1-rust-{RUST}-stable")));
        assert!(is_llvm_library(&format!("libLLVM.so.{LLVM}-rust")));
        assert!(!is_llvm_library(&format!("libLLVM.so.{LLVM}0")));
        assert!(!is_llvm_library("libLLVM.so.1.1-rust-1.0.0-stable"));
        assert!(!is_llvm_library(&format!("libLLVM-{LLVM}-rust-{RUST}-stable.so")));
    }

    #[test]
    fn the_run_path_survives_spaces() {
        assert_eq!(rpath_flag(Path::new("/home/a b")), "-Clink-arg=-Wl,-rpath,/home/a b/lib");
    }
}
