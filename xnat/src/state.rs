//! The running state of an instance under /run/xnat: the lock, and the undo list.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::instance::{Instance, PINS, RUN};
use crate::net::namespace::Namespace;

/// Why an instance's running state could not be had.
#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error("xnat is already running as instance `{instance}` (process {pid})")]
    Running { instance: String, pid: String },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl StateError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path: path.clone(), error }
    }
}

/// The lock of an instance: whoever holds it may change what the instance has set up. The kernel releases it when
/// the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    folder: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock, or tells who has it.
    pub(crate) fn take(instance: &Instance) -> Result<Self, StateError> {
        let folder = instance.run();
        let path = folder.join("lock");
        let wrong = StateError::io(&path);
        loop {
            fs::create_dir_all(&folder).map_err(&wrong)?;
            let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = match opened {
                // The folder went between the two calls, with an instance that ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(&wrong)?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(StateError::Running { instance: instance.name().to_owned(), pid: owner(&file) });
                }
                Err(TryLockError::Error(error)) => return Err(wrong(error)),
            }
            // A lock on a file that its last owner has removed is worth nothing.
            let still_there =
                fs::metadata(&path).is_ok_and(|it| file.metadata().is_ok_and(|own| own.ino() == it.ino()));
            if still_there {
                file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(&wrong)?;
                return Ok(Self { folder, _file: file });
            }
        }
    }

    /// Fails with [`StateError::Running`] if somebody has the lock. Leaves no trace.
    pub(crate) fn holder(instance: &Instance) -> Result<(), StateError> {
        let path = instance.run().join("lock");
        let Ok(file) = File::open(&path) else { return Ok(()) };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                Err(StateError::Running { instance: instance.name().to_owned(), pid: owner(&file) })
            }
            Err(TryLockError::Error(error)) => Err(StateError::io(&path)(error)),
            Ok(()) => Ok(()),
        }
    }

    /// Removes the running state, and the folders of all instances when this was the last.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)?;
        remove_if_empty(Path::new(RUN))?;
        remove_if_empty(Path::new(PINS))
    }
}

fn owner(mut file: &File) -> String {
    let mut pid = String::new();
    let _ = file.read_to_string(&mut pid);
    if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() }
}

/// Removes a folder unless something is in it.
fn remove_if_empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        // bpffs answers EPERM for a folder that is not empty on some kernels.
        Err(_) if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) => Ok(()),
        result => result,
    }
}

/// The instances that have anything on this machine.
pub(crate) fn instances() -> Vec<Instance> {
    let entries = [RUN, PINS].into_iter().flat_map(fs::read_dir).flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut instances: Vec<Instance> = names.filter_map(|name| name.parse().ok()).collect();
    instances.sort_unstable();
    instances.dedup();
    instances
}

/// Whether an instance has anything on this machine.
pub(crate) fn exists(instance: &Instance) -> bool {
    instance.run().exists() || instance.pins().exists()
}

/// An interface, by number and name: both must fit before anything is restored on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
}

/// A filter of ours in a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    pub(crate) link: u32,
    pub(crate) ingress: bool,
    pub(crate) program: String,
    pub(crate) priority: u16,
}

/// What has to be undone. Each entry is written before the change that it undoes is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undo {
    /// The network namespace in which all of it is.
    pub(crate) namespace: Option<Namespace>,
    /// The uplink of the last run, for `status`.
    pub(crate) uplink: Option<Interface>,
    /// Interfaces whose forwarding was off.
    pub(crate) forwarding_was_off: Vec<Interface>,
    /// Interfaces through which we have routes.
    pub(crate) routes: Vec<u32>,
    /// Interfaces to which we have added a clsact qdisc.
    pub(crate) qdiscs: Vec<u32>,
    /// Our filters.
    pub(crate) filters: Vec<Filter>,
}

/// The undo list and its file.
#[derive(Debug)]
pub(crate) struct UndoFile {
    path: PathBuf,
    list: Undo,
}

impl UndoFile {
    /// Reads what an earlier run has left, if anything.
    pub(crate) fn open(instance: &Instance) -> Result<Self, StateError> {
        let path = instance.run().join("undo.json");
        let list = match fs::read(&path) {
            Ok(bytes) => {
                let list = serde_json::from_slice(&bytes).map_err(io::Error::other);
                list.map_err(StateError::io(&path))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Undo::default(),
            Err(error) => return Err(StateError::io(&path)(error)),
        };
        Ok(Self { path, list })
    }

    /// The list.
    pub(crate) const fn list(&self) -> &Undo {
        &self.list
    }

    /// Changes the list, on disk before this returns.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Undo)) -> Result<(), StateError> {
        let mut list = self.list.clone();
        change(&mut list);
        if list == self.list {
            return Ok(());
        }
        let new = self.path.with_extension("new");
        let write = || {
            fs::write(&new, serde_json::to_vec_pretty(&list)?)?;
            fs::rename(&new, &self.path)
        };
        write().map_err(StateError::io(&self.path))?;
        self.list = list;
        Ok(())
    }
}

/// Adds an entry unless it is there.
pub(crate) fn note<T: PartialEq>(list: &mut Vec<T>, entry: T) {
    if !list.contains(&entry) {
        list.push(entry);
    }
}
