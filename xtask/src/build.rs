//! `build` and `run`.

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{bpffs, process, toolchain::Toolchain, workspace::is_root};

/// Builds xnat with its dataplane; returns the executable's path.
pub(crate) fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    process::run(toolchain.cargo_step(["build", "--release", "--package", "xnat"]))?;
    Ok(toolchain.workspace.binary())
}

/// Builds, then becomes `xnat run` with these arguments.
pub(crate) fn run(toolchain: &Toolchain, args: &[OsString]) -> Result<()> {
    let binary = build(toolchain)?;
    bpffs::ensure()?;
    let mut command = if is_root() {
        Command::new(binary)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(binary);
        sudo
    };
    command.arg("run").args(args);
    process::replace(command)
}
