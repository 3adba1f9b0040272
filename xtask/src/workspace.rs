//! Where things are.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The checkout, and the directory that everything is built in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The directory of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// cargo's target directory, absolute.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the checkout that this xtask belongs to.
    pub(crate) fn locate() -> Result<Self> {
        // cargo sets the variable for what it runs; a checkout may have moved since the build.
        let xtask =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = xtask
            .parent()
            .filter(|root| root.join("Cargo.lock").exists() || root.join("Cargo.toml").exists())
            .with_context(|| format!("{} is in no checkout of xnat: call it as `cargo xtask`", xtask.display()))?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => {
                env::current_dir().context("the current directory is gone: change to the checkout")?.join(dir)
            }
            _ => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// xnat's executable.
    pub(crate) fn binary(&self) -> PathBuf {
        self.target.join("release/xnat")
    }

    /// Programs that xtask builds for its own use, as an installation prefix.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Where the dataplane is compiled; shared with xnat's build script, so that clippy finds the
    /// procedural macros built.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.target.join("ebpf")
    }

    /// The dataplane's object file, as xnat's build script leaves it there.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.built_for_bpf("xnat")
    }

    /// The benchmark's, which comes about with it.
    pub(crate) fn bench_object(&self) -> PathBuf {
        self.built_for_bpf("bench")
    }

    fn built_for_bpf(&self, name: &str) -> PathBuf {
        let triple = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
        self.ebpf_target().join(triple).join("ebpf").join(name)
    }
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The first program of that name on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_a_program_and_its_directory_is_none() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
        assert!(!is_executable(Path::new("/bin")));
    }
}
