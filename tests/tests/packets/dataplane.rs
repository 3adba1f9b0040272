//! The object file, its programs loaded with a small flow table, and their maps.

use std::fs;

use aya::maps::{HashMap, Map, MapData, ProgramArray};
use aya::programs::{Program, SchedClassifier};
use aya::{Ebpf, EbpfLoader, Pod};
use xnat_common::names::{map, program};

use crate::tuples;
use crate::world::SLOTS;

/// The object file with the programs.
pub fn object() -> Vec<u8> {
    let path =
        std::env::var_os("XNAT_OBJECT").unwrap_or_else(|| panic!("XNAT_OBJECT is not set: run `cargo xtask test`"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask test`", path.display()))
}

/// Loads the object with a small flow table, and all its programs.
pub fn load(object: &[u8]) -> Ebpf {
    let mut ebpf = EbpfLoader::new()
        .map_max_entries(map::FLOWS, SLOTS)
        .map_max_entries(map::TUPLES, tuples::MASK + 1)
        .map_max_entries(map::FREE, SLOTS)
        .map_max_entries(map::CLOSED, SLOTS)
        .load(object)
        .expect("the object");
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            other => panic!("{name}: {:?}", other.prog_type()),
        };
        loaded.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    lead_on(&mut ebpf);
    ebpf
}

/// Leads the programs at the hooks to those that they go on in.
fn lead_on(ebpf: &mut Ebpf) {
    let fds = program::STAGES.map(|name| {
        let program: &SchedClassifier = ebpf.program(name).expect("a program").try_into().expect("TC");
        program.fd().expect("it is loaded").try_clone().expect("a file descriptor")
    });
    let mut stages: ProgramArray<_> = map(ebpf, map::STAGES);
    for (stage, program) in (0..).zip(&fds) {
        stages.set(stage, program, 0).expect("an entry");
    }
}

/// A map, as what it is.
pub fn map<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> T
where
    T: TryFrom<&'a mut Map>,
    T::Error: std::fmt::Debug,
{
    ebpf.map_mut(name).unwrap_or_else(|| panic!("no map {name}")).try_into().expect("a map of that kind")
}

/// Empties a map.
pub fn clear<K: Pod, V: Pod>(mut map: HashMap<&mut MapData, K, V>) {
    let keys: Vec<K> = map.keys().map(|key| key.expect("a key")).collect();
    for key in keys {
        map.remove(&key).expect("an entry");
    }
}
