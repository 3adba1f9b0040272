//! The pinned Rust toolchain, and cargo commands that use it.
//!
//! It is not named in a rust-toolchain.toml: with `RUSTUP_AUTO_INSTALL=0`, which CI images set,
//! such a file makes every cargo call in the checkout fail before xtask could install anything.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{linker, process, workspace::Workspace};

/// The toolchain that xnat is built with; the one place that names it in full.
pub(crate) const RUST: &str = "1.98.0";

/// LLVM's major version in that toolchain, which a linker of its bitcode must have, too.
pub(crate) const LLVM: &str = "22";

/// What the minimal profile lacks: core's sources, for a target that has none compiled; lint.
const COMPONENTS: [&str; 3] = ["rust-src", "rustfmt", "clippy"];

/// Files that tell that the components are there, relative to the sysroot.
const WITNESSES: [&str; 3] = ["lib/rustlib/src/rust/library/core/Cargo.toml", "bin/cargo-fmt", "bin/cargo-clippy"];

/// The pinned toolchain, installed, together with a linker for its BPF output.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) workspace: Workspace,
    /// PATH for whatever compiles the dataplane.
    path: OsString,
}

impl Toolchain {
    /// Installs and builds what is missing.
    pub(crate) fn ensure(workspace: Workspace) -> Result<Self> {
        let sysroot = ensure_rust()?;
        let path = env::var_os("PATH").unwrap_or_default();
        let path = match linker::ensure(&workspace, &sysroot)? {
            Some(bin) => prepend(&bin, &path)?,
            None => path,
        };
        Ok(Self { workspace, path })
    }

    /// cargo, in the checkout's environment and the caller's directory.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = rustup_run("cargo");
        cargo
            .env("PATH", &self.path)
            // Given always, so that the outcome is where we look, whatever a cargo config says.
            .env("CARGO_TARGET_DIR", &self.workspace.target);
        cargo
    }

    /// cargo at the workspace's root with the arguments of one of our own steps.
    pub(crate) fn cargo_step<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut cargo = self.cargo();
        cargo.args(args).current_dir(&self.workspace.root);
        cargo
    }

    /// cargo with a user's arguments.
    pub(crate) fn cargo_for(&self, args: &[OsString]) -> Command {
        let mut cargo = self.cargo();
        if is_for_bpf(args) {
            self.for_bpf(&mut cargo);
        }
        cargo.args(args);
        cargo
    }

    /// Prepares a cargo command for the BPF target.
    pub(crate) fn for_bpf(&self, cargo: &mut Command) {
        // A stable compiler takes `-Zbuild-std` with this. Several crates' build scripts watch the
        // variable, hence a target directory apart: they would be built anew at every change.
        cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", self.workspace.ebpf_target());
    }
}

/// A program of the pinned toolchain, without the traces of the cargo that runs xtask.
pub(crate) fn rustup_run(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", RUST, program]);
    for (name, _) in env::vars_os() {
        if is_from_cargo_run(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

/// Variables that `cargo run` sets for xtask and that would mislead another cargo's build scripts.
fn is_from_cargo_run(name: &str) -> bool {
    matches!(name, "CARGO" | "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH" | "RUSTUP_TOOLCHAIN")
        || name.starts_with("CARGO_PKG_")
}

/// Whether a cargo command line compiles for the BPF target.
fn is_for_bpf(args: &[OsString]) -> bool {
    args.iter()
        .map(|arg| arg.to_string_lossy())
        .take_while(|arg| arg != "--")
        .any(|arg| arg.contains("bpfel-unknown-none") || arg.contains("bpfeb-unknown-none"))
}

/// Installs the toolchain when it is missing or incomplete; returns its sysroot.
fn ensure_rust() -> Result<PathBuf> {
    if let Some(sysroot) = installed()? {
        return Ok(sysroot);
    }
    process::note(&format!("installing Rust {RUST}"));
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", RUST]);
    rustup.args(["--profile", "minimal", "--no-self-update"]);
    for component in COMPONENTS {
        rustup.args(["-c", component]);
    }
    process::run(rustup).with_context(|| {
        format!(
            "Rust {RUST} cannot be installed; that needs the network once, and a writable rustup \
             directory"
        )
    })?;
    installed()?.with_context(|| {
        format!(
            "Rust {RUST} is still incomplete after its installation: run `rustup toolchain \
             uninstall {RUST}` and repeat the command"
        )
    })
}

/// The toolchain's sysroot, if it is there with all its components.
fn installed() -> Result<Option<PathBuf>> {
    let mut rustc = rustup_run("rustc");
    rustc.args(["--print", "sysroot"]);
    let output = match rustc.output() {
        Ok(output) if output.status.success() => output,
        // rustup says so when the toolchain is not installed.
        Ok(_) => return Ok(None),
        // No rustup: fail as every other use of it would.
        Err(_) => return process::run(rustc).map(|()| None),
    };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let complete = WITNESSES.iter().all(|file| sysroot.join(file).exists());
    Ok(complete.then_some(sysroot))
}

fn prepend(dir: &Path, path: &OsStr) -> Result<OsString> {
    let dirs = std::iter::once(dir.to_owned()).chain(env::split_paths(path));
    env::join_paths(dirs)
        .with_context(|| format!("{} cannot be part of PATH: choose a target directory without `:`", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn commands_for_the_bpf_target_are_recognised() {
        assert!(is_for_bpf(&args("clippy -p xnat-ebpf --target bpfel-unknown-none")));
        assert!(is_for_bpf(&args("check --target=bpfeb-unknown-none")));
        assert!(!is_for_bpf(&args("test -p xnat")));
        assert!(!is_for_bpf(&args("test -- bpfel-unknown-none")));
    }

    #[test]
    fn only_what_cargo_run_sets_is_cleared() {
        assert!(is_from_cargo_run("CARGO_PKG_NAME"));
        assert!(is_from_cargo_run("CARGO_MANIFEST_DIR"));
        assert!(!is_from_cargo_run("CARGO_HOME"));
        assert!(!is_from_cargo_run("CARGO_NET_OFFLINE"));
        assert!(!is_from_cargo_run("RUSTFLAGS"));
    }

    #[test]
    fn our_tools_come_first() {
        let path = prepend(Path::new("/t/bin"), OsStr::new("/usr/bin:/bin")).unwrap();
        assert_eq!(path, "/t/bin:/usr/bin:/bin");
        assert!(prepend(Path::new("/a:b"), OsStr::new("/bin")).is_err());
    }
}
