//! An instance's name, and where its pins and its running state live.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs};

use thiserror::Error;
use xnat_common::names;

/// Under which every instance keeps its pins.
pub(crate) const PINS: &str = "/sys/fs/bpf/xnat";
/// Under which every instance keeps the rest of its running state.
pub(crate) const RUN: &str = "/run/xnat";

/// The name of an instance: it tells two on one machine apart, in different network namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance(String);

/// Why a text cannot name an instance.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("an instance's name has 1 to 32 letters, digits, `-` or `_`")]
pub(crate) struct InstanceError;

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(name: &str) -> Result<Self, InstanceError> {
        // No dots: bpffs reserves names with them.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=32).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InstanceError)
        }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Instance {
    /// The name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The folder of all its pins, of whatever layout.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new(PINS).join(&self.0)
    }

    /// The folder of the pins of this program's layout.
    pub(crate) fn layout(&self) -> PathBuf {
        self.pins().join(format!("v{}", names::LAYOUT))
    }

    /// Whether there are pins of another program's layout.
    pub(crate) fn has_other_layout(&self) -> bool {
        let own = self.layout();
        fs::read_dir(self.pins()).into_iter().flatten().flatten().any(|entry| entry.path() != own)
    }

    /// The folder of the pinned maps.
    pub(crate) fn maps(&self) -> PathBuf {
        self.layout().join("maps")
    }

    /// Where the map `name` is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The folder of the pinned links.
    pub(crate) fn links(&self) -> PathBuf {
        self.layout().join("links")
    }

    /// The folder of the pinned stages of the dataplane, one entry for each run whose hooks may be there.
    pub(crate) fn stages(&self) -> PathBuf {
        self.layout().join("stages")
    }

    /// The folder of the pinned links of the programs at the root cgroup.
    pub(crate) fn binds(&self) -> PathBuf {
        self.layout().join("binds")
    }

    /// The folder of the running state.
    pub(crate) fn run(&self) -> PathBuf {
        Path::new(RUN).join(&self.0)
    }

    /// The socket on which the daemon answers.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }

    /// `--instance NAME` for a hint, or nothing for the default one.
    pub(crate) fn flag(&self) -> String {
        if self.0 == "default" { String::new() } else { format!(" --instance {}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for name in ["", ".", "..", "a/b", "a b", "a.b", "x".repeat(33).as_str()] {
            assert_eq!(name.parse::<Instance>(), Err(InstanceError), "{name}");
        }
        let instance: Instance = "node-1".parse().unwrap();
        let path = format!("/sys/fs/bpf/xnat/node-1/v{}/maps/FLOWS", names::LAYOUT);
        assert_eq!(instance.map("FLOWS"), Path::new(&path));
        assert_eq!(instance.socket(), Path::new("/run/xnat/node-1/api.sock"));
    }
}
