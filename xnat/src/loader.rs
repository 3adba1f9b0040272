//! The dataplane: loading the object that this binary carries, with maps that outlive it.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread::ScopedJoinHandle;
use std::{fs, io};

use aya::maps::{Map, MapError};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfError, EbpfLoader};
use thiserror::Error;
use xnat_common::index;
use xnat_common::names::{map, program};

use crate::instance::Instance;
use crate::undo::remove_tree;

/// The object, as the build script has compiled it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("XNAT_EBPF_OBJECT"));

/// The maps that are pinned. If one is missing, the others are of no use.
const PINNED: [&str; 28] = [
    map::CONFIG,
    map::CURSORS,
    map::COUNTERS,
    map::FLOWS,
    map::TUPLES,
    map::FREE,
    map::CLOSED,
    map::SUBNETS,
    map::PEERS,
    map::INSIDES,
    map::KERNEL_FLOWS,
    map::HOST_PORTS,
    map::PORTS,
    map::MOVED,
    map::REMOTES,
    map::FORWARDS,
    map::QUOTAS,
    map::FULL,
    map::FRAGMENTS,
    map::DATAGRAMS,
    map::DATAGRAM_KEYS,
    map::HELD,
    map::FRAGMENT_SOURCES,
    map::FRAGMENT_HANDS,
    map::WATCH,
    map::HOPS,
    map::STATIONS,
    map::SENT,
];

/// The programs.
const PROGRAMS: [&str; 6] = [
    program::INSIDE_INGRESS,
    program::INSIDE_EGRESS,
    program::UPLINK_INGRESS,
    program::UPLINK_EGRESS,
    program::LOOPBACK_EGRESS,
    program::COLLECT,
];

/// Why the dataplane could not be loaded.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    #[error("{path}: {error}", path = path.display())]
    Pins { path: PathBuf, error: io::Error },
    #[error("loading the dataplane: {0}")]
    Object(#[from] EbpfError),
    #[error("the object has no program `{0}`; it is of another version")]
    NoProgram(&'static str),
    #[error("the object has no map `{0}`; it is of another version")]
    NoMap(&'static str),
    #[error("program {name}: {error}")]
    Program { name: &'static str, error: ProgramError },
    #[error("map {name}: {error}")]
    Map { name: &'static str, error: MapError },
}

/// How the flow table of an earlier run was treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// There was none.
    None,
    /// Its flows live on.
    Reused,
    /// It did not fit, for this reason, and was removed.
    Removed(String),
}

/// The loaded dataplane.
#[derive(Debug)]
pub(crate) struct Dataplane {
    ebpf: Ebpf,
}

impl Dataplane {
    /// Loads programs and maps for `instance`, taking up the maps of an earlier run if they fit. Programs that are not
    /// `needed` from the start are loaded when they are asked for.
    pub(crate) fn load(
        instance: &Instance,
        max_flows: u32,
        needed: impl Fn(&str) -> bool,
    ) -> Result<(Self, Earlier), LoadError> {
        let mut earlier = look(instance);
        if matches!(earlier, Earlier::Removed(_)) {
            clear(instance)?;
        }
        let loaded = match load_pinned(instance, max_flows, &needed) {
            Err(LoadError::Object(EbpfError::MapError(error @ MapError::IncompatiblePinnedMap { .. }))) => {
                earlier = Earlier::Removed(error.to_string());
                clear(instance)?;
                load_pinned(instance, max_flows, &needed)
            }
            loaded => loaded,
        };
        if loaded.is_err() && earlier != Earlier::Reused {
            // Nothing refers to the new maps yet. Those of an earlier run are left to its hooks, which live on.
            let _ = clear(instance);
        }
        Ok((Self { ebpf: loaded? }, earlier))
    }

    /// Loads everything without leaving a trace, and returns how many instructions the verifier saw of each program.
    pub(crate) fn rehearse() -> Result<Vec<(&'static str, u32)>, LoadError> {
        const FEW: u32 = 1024;
        let mut loader = EbpfLoader::new();
        size(&mut loader, FEW);
        let mut dataplane = Self { ebpf: load_programs(&mut loader, |_| true)? };
        let mut counts = Vec::new();
        for name in PROGRAMS {
            let info = dataplane.program(name)?.info().map_err(|error| LoadError::Program { name, error })?;
            counts.push((name, info.verified_instruction_count().unwrap_or(0)));
        }
        Ok(counts)
    }

    /// A program, which is loaded now if it has not been needed before.
    pub(crate) fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        let wrong = |error| LoadError::Program { name, error };
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        let program: &mut SchedClassifier = program.try_into().map_err(wrong)?;
        if program.fd().is_err() {
            program.load().map_err(wrong)?;
        }
        Ok(program)
    }

    /// Takes a map out.
    pub(crate) fn take_map(&mut self, name: &'static str) -> Result<Map, LoadError> {
        self.ebpf.take_map(name).ok_or(LoadError::NoMap(name))
    }

    /// Runs the collector over `slices` slices of the flow table.
    pub(crate) fn collect(&mut self, slices: u32) -> Result<(), LoadError> {
        // The program wants a packet, whatever it says: an Ethernet header with some room behind it.
        // Each slice is a run of its own, because the kernel lets no packet through on this processor before all that were
        // asked for in one are over (`bpf_test_run`).
        let name = program::COLLECT;
        for _ in 0..slices {
            let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() };
            self.program(name)?.test_run(options).map_err(|error| LoadError::Program { name, error })?;
        }
        Ok(())
    }
}

fn look(instance: &Instance) -> Earlier {
    let pinned = PINNED.iter().filter(|name| instance.map(name).exists()).count();
    if instance.has_other_layout() {
        Earlier::Removed("it is of another version's layout".to_owned())
    } else if pinned == PINNED.len() {
        Earlier::Reused
    } else if pinned == 0 {
        Earlier::None
    } else {
        Earlier::Removed("parts of it are missing".to_owned())
    }
}

fn clear(instance: &Instance) -> Result<(), LoadError> {
    let path = instance.pins();
    remove_tree(&path).map_err(|error| LoadError::Pins { path, error })
}

fn load_pinned(instance: &Instance, max_flows: u32, needed: impl Fn(&str) -> bool) -> Result<Ebpf, LoadError> {
    for path in [instance.maps(), instance.links()] {
        fs::create_dir_all(&path).map_err(|error| LoadError::Pins { path, error })?;
    }
    let mut loader = EbpfLoader::new();
    size(&mut loader, max_flows);
    for name in PINNED {
        loader.map_pin_path(name, instance.map(name));
    }
    load_programs(&mut loader, needed)
}

fn size(loader: &mut EbpfLoader<'_>, max_flows: u32) {
    loader.map_max_entries(map::FLOWS, index::slots(max_flows));
    loader.map_max_entries(map::TUPLES, index::buckets(max_flows));
    loader.map_max_entries(map::FREE, index::slots(max_flows));
    loader.map_max_entries(map::CLOSED, max_flows);
    loader.map_max_entries(map::REMOTES, max_flows);
}

fn load_programs(loader: &mut EbpfLoader<'_>, needed: impl Fn(&str) -> bool) -> Result<Ebpf, LoadError> {
    let mut ebpf = loader.load(OBJECT)?;
    if let Some(missing) = PROGRAMS.into_iter().find(|name| ebpf.program(name).is_none()) {
        return Err(LoadError::NoProgram(missing));
    }
    // Side by side: the kernel takes its time to verify each.
    std::thread::scope(|scope| {
        let load = |(name, program)| scope.spawn(move || load_program(name, program));
        let named = |(name, program)| Some((PROGRAMS.into_iter().find(|it| *it == name && needed(name))?, program));
        let loading: Vec<_> = ebpf.programs_mut().filter_map(named).map(load).collect();
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        loading.into_iter().try_for_each(join)
    })?;
    Ok(ebpf)
}

fn load_program(name: &'static str, program: &mut Program) -> Result<(), LoadError> {
    let wrong = |error| LoadError::Program { name, error };
    let program: &mut SchedClassifier = program.try_into().map_err(wrong)?;
    program.load().map_err(wrong)
}
