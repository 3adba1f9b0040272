//! `lint`: what has to be clean before a change is merged.

use anyhow::{Result, bail};

use crate::{process, toolchain::Toolchain};

/// Checks everything, then fails if anything was found: one round shows all there is to mend.
pub(crate) fn lint(toolchain: &Toolchain) -> Result<()> {
    let format = toolchain.cargo_step(["fmt", "--all", "--check"]);

    let host = toolchain.cargo_step(clippy(&["--workspace", "--exclude=xnat-ebpf", "--all-targets"]));

    let mut dataplane =
        toolchain.cargo_step(clippy(&["--package=xnat-ebpf", "--target=bpfel-unknown-none", "-Zbuild-std=core"]));
    toolchain.for_bpf(&mut dataplane);

    let mut failed = Vec::new();
    for (name, command) in
        [("formatting", format), ("clippy for the host", host), ("clippy for the dataplane", dataplane)]
    {
        process::note(name);
        if process::run(command).is_err() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not clean: {}, see above", failed.join(", "));
    }
    process::note("clean");
    Ok(())
}

fn clippy<'a>(scope: &[&'a str]) -> Vec<&'a str> {
    [&["clippy"], scope, &["--", "-D", "warnings"]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_errors() {
        assert_eq!(clippy(&["--workspace"]), ["clippy", "--workspace", "--", "-D", "warnings"]);
    }
}
