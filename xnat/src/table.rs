//! The flow table, mapped into memory and read without a system call a flow.

use std::io;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use aya::maps::{Array, Map, MapData, MapError};
use thiserror::Error;
use xnat_common::Addr;
use xnat_common::config::Config;
use xnat_common::flow::{Flow, Kind, State, Word};
use xnat_common::names::map;

use crate::instance::Instance;
use crate::mapped::{Access, Mapped};

/// How often a record that changes hands while it is read is read again.
const ATTEMPTS: usize = 4;

/// Why the flow table cannot be read.
#[derive(Debug, Error)]
pub(crate) enum TableError {
    #[error("xnat is not running as instance `{instance}` and has left no flow table ({path} does not exist)", path = path.display())]
    Missing { instance: String, path: PathBuf },
    #[error(
        "what instance `{instance}` runs or has left is of another version of xnat, which alone can read it; xnat detach{flag} removes what was left"
    )]
    OtherLayout { instance: String, flag: String },
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
    slots: Mapped<Flow>,
    config: Config,
}

impl FlowTable {
    /// Opens the pinned flow table of `instance`.
    pub(crate) fn open(instance: &Instance) -> Result<Self, TableError> {
        let pin = |name| open_pin(instance, name);
        let config = read_one(map::CONFIG, pin)?;
        let slots = Mapped::new(&pin(map::FLOWS)?, Access::Read).map_err(TableError::Mmap)?;
        Ok(Self { slots, config })
    }

    /// The configuration under which the flows live.
    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// The live flows, each a whole record.
    pub(crate) fn flows(&self) -> impl Iterator<Item = Flow> + '_ {
        (0..self.slots.len()).filter_map(|index| read(&self.slots, index))
    }
}

/// The record of a live slot; none when the slot is free or keeps changing hands.
fn read(slots: &Mapped<Flow>, index: usize) -> Option<Flow> {
    let slot = slots.entry(index)?;
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

/// Makes the flows toward `peer` unconfirmed, so that the next packet of each tells the peer of it again. For when the
/// peer has lost its flow table.
pub(crate) fn unconfirm(slots: &Mapped<Flow>, peer: Addr) {
    let to_peer = |flow: &Flow| flow.peer == peer && flow.kind != Kind::Inbound as u8;
    change_state(slots, to_peer, |state| {
        state.fetch_and(!State::CONFIRMED, Ordering::AcqRel);
    });
}

/// Dooms the flows for which `which` holds; the collector ends them. Returns how many there were.
pub(crate) fn doom(slots: &Mapped<Flow>, which: impl Fn(&Flow) -> bool) -> usize {
    change_state(slots, which, |state| {
        state.fetch_or(State::DOOMED, Ordering::AcqRel);
    })
}

/// Changes the state of the flows for which `which` holds, and lets them tell their peers of themselves again. Returns
/// how many there were.
fn change_state(slots: &Mapped<Flow>, which: impl Fn(&Flow) -> bool, change: impl Fn(&AtomicU32)) -> usize {
    let chosen = (0..slots.len()).filter(|&index| read(slots, index).as_ref().is_some_and(&which));
    let apply = |index: usize| {
        let slot = slots.entry(index)?;
        // SAFETY: the state is 4 bytes, aligned, and changed atomically only. Should the slot have changed hands since it
        // was read, another flow sends a tag too many, or is ended and opened again by its next packet.
        change(unsafe { AtomicU32::from_ptr(&raw mut (*slot.as_ptr()).state) });
        // SAFETY: one byte, of which the dataplane as well loses a race now and then.
        unsafe { (&raw mut (*slot.as_ptr()).tagged).write_volatile(0) };
        Some(())
    };
    chosen.filter_map(apply).count()
}

/// Opens a pinned map.
pub(crate) fn open_pin(instance: &Instance, name: &'static str) -> Result<MapData, TableError> {
    let path = instance.map(name);
    MapData::from_pin(&path).map_err(|error| match io_kind(&error) {
        Some(io::ErrorKind::NotFound) if instance.has_other_layout() => {
            TableError::OtherLayout { instance: instance.name().to_owned(), flag: instance.flag() }
        }
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
