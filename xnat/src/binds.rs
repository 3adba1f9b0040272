//! Programs at the root cgroup, which stamp the ports to which the host's sockets are bound.
//!
//! They spare each opening the question to the kernel whether a socket has the port. Where they cannot be attached, the
//! kernel is asked.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, ProgramError};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use thiserror::Error;
use xnat_common::names::program;

use crate::instance::Instance;
use crate::loader::{Dataplane, LoadError};

/// Where the root of the control groups of version 2 is, alone or beside those of version 1.
const ROOTS: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
/// Whose view of the file system is asked: `ip netns exec` hides cgroups from what it starts, but not from the first process.
const VIEWS: [&str; 2] = ["/", "/proc/1/root"];
/// The inode of the root (kernel `kernfs_create_root`). In a control group namespace what looks like the root is another, and
/// does not see all sockets.
const ROOT_INODE: u64 = 1;

/// Why the programs could not be attached.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    #[error("the root of the control groups (version 2) is not to be seen")]
    NoRoot,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("attaching {program}: {error}")]
    Attach { program: &'static str, error: ProgramError },
    #[error("pinning {program}: {error}")]
    Pin { program: &'static str, error: PinError },
    #[error("{path}: {error}", path = path.display())]
    File { path: PathBuf, error: io::Error },
}

/// The attached programs, which are pinned.
#[derive(Debug)]
pub(crate) struct Binds {
    _links: Vec<FdLink>,
}

impl Binds {
    /// Loads and attaches the programs, in the place of those of an earlier run.
    pub(crate) fn attach(dataplane: &mut Dataplane, instance: &Instance) -> Result<Self, BindError> {
        let root = root().ok_or(BindError::NoRoot)?;
        let folder = instance.binds();
        fs::create_dir_all(&folder).map_err(|error| BindError::File { path: folder.clone(), error })?;
        let mut links = Vec::new();
        for name in program::AT_BINDS {
            let wrong = |error| BindError::Attach { program: name, error };
            let program = dataplane.socket_program(name)?;
            let id = program.attach(&root, CgroupAttachMode::Single).map_err(wrong)?;
            let link: Result<FdLink, LinkError> = program.take_link(id).map_err(wrong)?.try_into();
            let link = link.map_err(|error| wrong(error.into()))?;
            let path = folder.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(BindError::File { path, error }),
                _ => {}
            }
            links.push(link.pin(&path).map_err(|error| BindError::Pin { program: name, error })?.into());
        }
        Ok(Self { _links: links })
    }
}

/// Whether there is where to attach them.
pub(crate) fn can_be_attached() -> bool {
    root().is_some()
}

/// The root of the control groups of version 2.
fn root() -> Option<File> {
    let paths = VIEWS.iter().flat_map(|view| ROOTS.iter().map(move |root| PathBuf::from(view).join(root)));
    paths.filter_map(|path| OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).ok()).find(is_root)
}

fn is_root(folder: &File) -> bool {
    fstatfs(folder).is_ok_and(|system| system.filesystem_type() == CGROUP2_SUPER_MAGIC)
        && folder.metadata().is_ok_and(|folder| folder.ino() == ROOT_INODE)
}
