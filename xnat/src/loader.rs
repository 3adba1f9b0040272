//! The dataplane: loading the object that this binary carries, with maps that outlive it.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::{fs, io};

use aya::maps::{Map, MapError, ProgramArray};
use aya::pin::PinError;
use aya::programs::{CgroupSock, Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfError, EbpfLoader};
use thiserror::Error;
use xnat_common::collection::Look;
use xnat_common::index;
use xnat_common::names::{global, map, program};

use crate::instance::Instance;
use crate::net::namespace::Namespace;
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
    map::TAKEN,
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

/// The programs at hooks, those first that are loaded soonest.
const AT_HOOKS: [&str; 5] = [
    program::UPLINK_EGRESS,
    program::LOOPBACK_EGRESS,
    program::INSIDE_EGRESS,
    program::UPLINK_INGRESS,
    program::INSIDE_INGRESS,
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
    #[error("pinning the programs: {0}")]
    Pin(PinError),
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
    /// Where the programs are pinned that those at the hooks go on in.
    stages: Option<PathBuf>,
}

impl Dataplane {
    /// Loads programs and maps for `instance` in this `namespace`, taking up the maps of an earlier run if they fit. If there
    /// are none, `early` gets each program at hooks while the next ones are being loaded, and may attach it: without a
    /// configuration it lets everything through.
    pub(crate) fn load(
        instance: &Instance,
        namespace: Namespace,
        max_flows: u32,
        early: impl Fn(&'static str, &mut SchedClassifier),
    ) -> Result<(Self, Earlier), LoadError> {
        let mut earlier = look(instance);
        if matches!(earlier, Earlier::Removed(_)) {
            clear(instance)?;
        }
        let lives_on = earlier == Earlier::Reused;
        let unless_one_lives_on = |name, program: &mut SchedClassifier| {
            if !lives_on {
                early(name, program);
            }
        };
        let loaded = match load_pinned(instance, namespace, max_flows, unless_one_lives_on) {
            Err(LoadError::Object(EbpfError::MapError(error @ MapError::IncompatiblePinnedMap { .. }))) => {
                earlier = Earlier::Removed(error.to_string());
                clear(instance)?;
                load_pinned(instance, namespace, max_flows, &early)
            }
            loaded => loaded,
        };
        if loaded.is_err() && earlier != Earlier::Reused {
            // With the new maps go the hooks that are attached already. Those of an earlier run live on, with its maps.
            let _ = clear(instance);
        }
        Ok((loaded?, earlier))
    }

    /// Loads everything without leaving a trace, and returns how many instructions the verifier saw of each program.
    pub(crate) fn rehearse() -> Result<Vec<(&'static str, u32)>, LoadError> {
        const FEW: u32 = 1024;
        let mut loader = EbpfLoader::new();
        size(&mut loader, FEW);
        let mut dataplane = Self { ebpf: load_programs(&mut loader, |_, _| {})?, stages: None };
        let mut counts = Vec::new();
        for name in programs_in_order() {
            let info = dataplane.program(name)?.info().map_err(|error| LoadError::Program { name, error })?;
            counts.push((name, info.verified_instruction_count().unwrap_or(0)));
        }
        // A kernel may be without programs of this kind (`CONFIG_CGROUP_BPF`).
        for name in program::AT_BINDS {
            if let Ok(info) = dataplane
                .socket_program(name)
                .and_then(|program| program.info().map_err(|error| LoadError::Program { name, error }))
            {
                counts.push((name, info.verified_instruction_count().unwrap_or(0)));
            }
        }
        Ok(counts)
    }

    /// A program.
    pub(crate) fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, LoadError> {
        let wrong = |error| LoadError::Program { name, error };
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        program.try_into().map_err(wrong)
    }

    /// A program that sockets run when they are bound, loaded.
    pub(crate) fn socket_program(&mut self, name: &'static str) -> Result<&mut CgroupSock, LoadError> {
        let wrong = |error| LoadError::Program { name, error };
        let program = self.ebpf.program_mut(name).ok_or(LoadError::NoProgram(name))?;
        let program: &mut CgroupSock = program.try_into().map_err(wrong)?;
        program.load().map_err(wrong)?;
        Ok(program)
    }

    /// Leads the programs at the hooks to those that they go on in, and pins that before there is a configuration: the kernel
    /// empties such an array when neither a process nor a pin holds it any more, be it in use or not
    /// (`prog_array_map_clear`).
    fn lead_on(&mut self, instance: &Instance) -> Result<(), LoadError> {
        let mut programs = Vec::new();
        for name in program::STAGES {
            let wrong = |error| LoadError::Program { name, error };
            let fd = self.program(name)?.fd().map_err(wrong)?;
            programs.push(fd.try_clone().map_err(|error| wrong(error.into()))?);
        }
        let map = self.ebpf.map_mut(map::STAGES).ok_or(LoadError::NoMap(map::STAGES))?;
        let wrong = |error| LoadError::Map { name: map::STAGES, error };
        let mut stages = ProgramArray::try_from(&mut *map).map_err(wrong)?;
        for (stage, program) in (0..).zip(&programs) {
            stages.set(stage, program, 0).map_err(wrong)?;
        }
        let Map::ProgramArray(data) = map else { return Err(LoadError::NoMap(map::STAGES)) };
        let path = instance.stages().join(data.info().map_err(wrong)?.id().to_string());
        data.pin(&path).map_err(LoadError::Pin)?;
        self.stages = Some(path);
        Ok(())
    }

    /// Lets go of what the hooks of earlier runs went on in. To be called when there are none of those any more.
    pub(crate) fn drop_other_stages(&self, instance: &Instance) -> Result<(), LoadError> {
        let folder = instance.stages();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if self.stages.as_ref() != Some(&path) {
                fs::remove_file(&path).map_err(|error| LoadError::Pins { path, error })?;
            }
        }
        Ok(())
    }

    /// Takes a map out.
    pub(crate) fn take_map(&mut self, name: &'static str) -> Result<Map, LoadError> {
        self.ebpf.take_map(name).ok_or(LoadError::NoMap(name))
    }

    /// Runs the collector over a slice of the places, from `first` on.
    pub(crate) fn collect(&mut self, first: u32) -> Result<Look, LoadError> {
        // The program wants a packet, whatever it says: an Ethernet header with some room behind it. Each slice is a run of
        // its own, because the kernel lets no packet through on this processor before all that were asked for in one are
        // over (`bpf_test_run`).
        let mut packet = [0; 64];
        packet[..size_of::<u32>()].copy_from_slice(&first.to_ne_bytes());
        let name = program::COLLECT;
        let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() };
        let outcome = self.program(name)?.test_run(options).map_err(|error| LoadError::Program { name, error })?;
        Ok(Look(outcome.return_value))
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

/// Removes all pins, and so hooks that nobody else holds.
pub(crate) fn clear(instance: &Instance) -> Result<(), LoadError> {
    let path = instance.pins();
    remove_tree(&path).map_err(|error| LoadError::Pins { path, error })
}

fn load_pinned(
    instance: &Instance,
    namespace: Namespace,
    max_flows: u32,
    early: impl Fn(&'static str, &mut SchedClassifier),
) -> Result<Dataplane, LoadError> {
    for path in [instance.maps(), instance.links(), instance.stages()] {
        fs::create_dir_all(&path).map_err(|error| LoadError::Pins { path, error })?;
    }
    let mut loader = EbpfLoader::new();
    size(&mut loader, max_flows);
    loader.override_global(global::NAMESPACE, &namespace.cookie, true);
    for name in PINNED {
        loader.map_pin_path(name, instance.map(name));
    }
    let mut dataplane = Dataplane { ebpf: load_programs(&mut loader, early)?, stages: None };
    dataplane.lead_on(instance)?;
    Ok(dataplane)
}

fn size(loader: &mut EbpfLoader<'_>, max_flows: u32) {
    loader.map_max_entries(map::FLOWS, index::slots(max_flows));
    loader.map_max_entries(map::TUPLES, index::buckets(max_flows));
    loader.map_max_entries(map::FREE, index::slots(max_flows));
    loader.map_max_entries(map::CLOSED, max_flows);
    loader.map_max_entries(map::REMOTES, max_flows);
}

/// Loads what the object has, the programs at hooks first; `early` gets each of these while others are being loaded.
fn load_programs(
    loader: &mut EbpfLoader<'_>,
    early: impl Fn(&'static str, &mut SchedClassifier),
) -> Result<Ebpf, LoadError> {
    let mut ebpf = loader.load(OBJECT)?;
    let mut programs: BTreeMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let mut queue = VecDeque::new();
    for name in programs_in_order() {
        queue.push_back((name, programs.remove(name).ok_or(LoadError::NoProgram(name))?));
    }
    let queue = Mutex::new(queue);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // Side by side: the kernel takes its time to verify each.
    std::thread::scope(|scope| {
        let (sender, ready) = mpsc::channel();
        let work = |sender: Sender<_>| -> Result<(), LoadError> {
            while let Some((name, program)) = next() {
                let program = load_program(name, program)?;
                if AT_HOOKS.contains(&name) {
                    // Received below, as long as there is a sender.
                    let _ = sender.send((name, program));
                }
            }
            Ok(())
        };
        let worker = |sender: Sender<_>| scope.spawn(move || work(sender));
        let working: Vec<_> = (0..workers).map(|_| worker(sender.clone())).collect();
        drop(sender);
        for (name, program) in ready {
            early(name, program);
        }
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        working.into_iter().try_for_each(join)
    })?;
    Ok(ebpf)
}

/// All programs, in the order in which they are loaded: those that are waited for first, then those that take longest.
fn programs_in_order() -> impl Iterator<Item = &'static str> {
    let [classify, open, translate, error, fragment] = program::STAGES;
    AT_HOOKS.into_iter().chain([open, classify, translate, fragment, error, program::COLLECT])
}

fn load_program<'a>(name: &'static str, program: &'a mut Program) -> Result<&'a mut SchedClassifier, LoadError> {
    let wrong = |error| LoadError::Program { name, error };
    let program: &mut SchedClassifier = program.try_into().map_err(wrong)?;
    program.load().map_err(wrong)?;
    Ok(program)
}
