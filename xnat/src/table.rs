//! The flow table, mapped into memory and read without a system call a flow.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::maps::{Array, Map, MapData, MapError};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{SysconfVar, sysconf};
use thiserror::Error;
use xnat_common::config::{Config, Cursors};
use xnat_common::flow::{Flow, Word};
use xnat_common::names::map;

use crate::instance::Instance;

/// How often a record that changes hands while it is read is read again.
const ATTEMPTS: usize = 4;

/// Why the flow table cannot be read.
#[derive(Debug, Error)]
pub(crate) enum TableError {
    #[error("xnat is not running as instance `{instance}` and has left no flow table ({path} does not exist)", path = path.display())]
    Missing { instance: String, path: PathBuf },
    #[error("reading the flow table needs root (or CAP_BPF and CAP_SYS_ADMIN)")]
    NotAllowed,
    #[error("map {name}: {error}")]
    Map { name: &'static str, error: MapError },
    #[error("mapping the flow table into memory: {0}")]
    Mmap(io::Error),
}

/// The flow table of an instance.
#[derive(Debug)]
pub(crate) struct FlowTable {
    base: NonNull<Flow>,
    bytes: NonZeroUsize,
    max: u32,
    cursors: Cursors,
    config: Config,
}

impl FlowTable {
    /// Opens the pinned flow table of `instance`.
    pub(crate) fn open(instance: &Instance) -> Result<Self, TableError> {
        let pin = |name| open_pin(instance, name);
        let (config, cursors) = (read_one(map::CONFIG, pin)?, read_one(map::CURSORS, pin)?);
        Self::map(&pin(map::FLOWS)?, config, cursors)
    }

    fn map(flows: &MapData, config: Config, cursors: Cursors) -> Result<Self, TableError> {
        let max = flows.info().map_err(|error| TableError::Map { name: map::FLOWS, error })?.max_entries();
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
        let bytes = (max as usize * size_of::<Flow>()).next_multiple_of(page.unwrap_or(4096));
        let bytes = NonZeroUsize::new(bytes).ok_or_else(|| TableError::Mmap(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: a new mapping at an address of the kernel's choice, of a map that only grows with its owner.
        let base = unsafe { mmap(None, bytes, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, flows.fd().as_fd(), 0) };
        let base = base.map_err(|error| TableError::Mmap(error.into()))?.cast();
        Ok(Self { base, bytes, max, cursors, config })
    }

    /// The configuration under which the flows live.
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// The live flows, each a whole record.
    pub(crate) fn flows(&self) -> impl Iterator<Item = Flow> + '_ {
        // Slots beyond the fresh mark have never held a flow. Those taken from now on are not of this moment's list.
        let used = u32::try_from(self.cursors.fresh).unwrap_or(u32::MAX).min(self.max);
        (0..used as usize).filter_map(|index| self.read(index))
    }

    /// The record of a live slot; none when the slot is free or keeps changing hands.
    fn read(&self, index: usize) -> Option<Flow> {
        // SAFETY: `index` is below `max`, and the mapping holds `max` records, aligned to a page.
        let slot = unsafe { self.base.add(index) };
        // SAFETY: the first field of a record is its word, 8 bytes and aligned; others change it atomically only.
        let word = unsafe { AtomicU64::from_ptr(slot.as_ptr().cast()) };
        (0..ATTEMPTS).find_map(|_| {
            let before = Word(word.load(Ordering::Acquire));
            if !before.is_live() {
                return Some(None);
            }
            // SAFETY: as above; every bit pattern is a record, and the word read again tells whether it is whole.
            let flow = unsafe { ptr::read_volatile(slot.as_ptr()) };
            fence(Ordering::Acquire);
            let after = Word(word.load(Ordering::Relaxed));
            (after.generation() == before.generation()).then_some(Some(flow))
        })?
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrowed from it outlives the table: records are copies.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}

/// Opens a pinned map.
pub(crate) fn open_pin(instance: &Instance, name: &'static str) -> Result<MapData, TableError> {
    let path = instance.map(name);
    MapData::from_pin(&path).map_err(|error| match io_kind(&error) {
        Some(io::ErrorKind::NotFound) => TableError::Missing { instance: instance.name().to_owned(), path },
        Some(io::ErrorKind::PermissionDenied) => TableError::NotAllowed,
        _ => TableError::Map { name, error },
    })
}

/// Reads the only entry of a pinned array.
pub(crate) fn read_one<V: aya::Pod>(
    name: &'static str,
    pin: impl Fn(&'static str) -> Result<MapData, TableError>,
) -> Result<V, TableError> {
    let wrong = |error| TableError::Map { name, error };
    let map = Map::from_map_data(pin(name)?).map_err(wrong)?;
    Array::<_, V>::try_from(map).and_then(|array| array.get(&0, 0)).map_err(wrong)
}

/// The I/O error somewhere below an error.
pub(crate) fn io_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

/// Its kind.
pub(crate) fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    io_error(error).map(io::Error::kind)
}
