//! The dataplane's maps as user space sees them: what it writes, and what it reads for `status`.

use std::collections::HashMap as Table;
use std::hash::Hash;
use std::io;
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray};
use thiserror::Error;
use xnat_common::config::{Config, Cursors};
use xnat_common::counter::Counter;
use xnat_common::flow::Flow;
use xnat_common::mapping::{Forward, ForwardKey};
use xnat_common::names::map;
use xnat_common::subnet::{Inside, Peer, Subnet};
use xnat_common::{Addr, Port, Ticks, hop};

use crate::cidr::Cidr;
use crate::forward::table::{self, Forwards};
use crate::host_ports;
use crate::instance::Instance;
use crate::loader::{Dataplane, LoadError};
use crate::mapped::{Access, Mapped};
use crate::table::{TableError, open_pin};

/// Why a map could not be read or written.
#[derive(Debug, Error)]
#[error("map {name}: {error}")]
pub(crate) struct MapsError {
    name: &'static str,
    error: MapError,
}

/// The maps.
pub(crate) struct Maps {
    config: Array<MapData, Config>,
    cursors: Array<MapData, Cursors>,
    counters: PerCpuArray<MapData, u64>,
    insides: HashMap<MapData, u32, Inside>,
    peers: HashMap<MapData, Addr, Peer>,
    subnets: LpmTrie<MapData, Addr, Subnet>,
    forwards: HashMap<MapData, ForwardKey, Forward>,
    quotas: HashMap<MapData, Addr, u64>,
    flows: MapData,
    host_ports: MapData,
    watch: MapData,
}

fn wrong(name: &'static str) -> impl Fn(MapError) -> MapsError {
    move |error| MapsError { name, error }
}

impl Maps {
    /// Takes the maps out of the dataplane.
    pub(crate) fn of(dataplane: &mut Dataplane) -> Result<Self, LoadError> {
        Self::from(|name| dataplane.take_map(name), |name, error| LoadError::Map { name, error })
    }

    /// Opens the pinned maps of an instance.
    pub(crate) fn pinned(instance: &Instance) -> Result<Self, TableError> {
        let wrong = |name, error| TableError::Map { name, error };
        let open = |name| Map::from_map_data(open_pin(instance, name)?).map_err(|error| wrong(name, error));
        Self::from(open, wrong)
    }

    fn from<E>(
        mut map: impl FnMut(&'static str) -> Result<Map, E>,
        wrong: impl Fn(&'static str, MapError) -> E,
    ) -> Result<Self, E> {
        macro_rules! typed {
            ($name:expr) => {
                map($name)?.try_into().map_err(|error| wrong($name, error))?
            };
        }
        let no_array = |name| wrong(name, MapError::InvalidMapType { map_type: 0 });
        Ok(Self {
            config: typed!(map::CONFIG),
            cursors: typed!(map::CURSORS),
            counters: typed!(map::COUNTERS),
            insides: typed!(map::INSIDES),
            peers: typed!(map::PEERS),
            subnets: typed!(map::SUBNETS),
            forwards: typed!(map::FORWARDS),
            quotas: typed!(map::QUOTAS),
            flows: array(map(map::FLOWS)?).ok_or_else(|| no_array(map::FLOWS))?,
            host_ports: array(map(map::HOST_PORTS)?).ok_or_else(|| no_array(map::HOST_PORTS))?,
            watch: array(map(map::WATCH)?).ok_or_else(|| no_array(map::WATCH))?,
        })
    }

    /// The configuration.
    pub(crate) fn config(&self) -> Result<Config, MapsError> {
        self.config.get(&0, 0).map_err(wrong(map::CONFIG))
    }

    /// Replaces the configuration if it differs, and says whether it did.
    pub(crate) fn set_config(&mut self, config: &Config) -> Result<bool, MapsError> {
        if self.config()? == *config {
            return Ok(false);
        }
        if self.config()?.uplink == 0 {
            // Hooks that are there go by the uplink's being set, and nothing says in which order the kernel copies.
            self.config.set(0, &Config { uplink: 0, ..*config }, 0).map_err(wrong(map::CONFIG))?;
        }
        self.config.set(0, config, 0).map_err(wrong(map::CONFIG))?;
        Ok(true)
    }

    /// By what the tuples in this flow table are spread: `new` in a table that has not been used yet.
    pub(crate) fn seed(&self, new: u64) -> Result<u64, MapsError> {
        let seed = self.config()?.seed;
        Ok(if seed == 0 { new } else { seed })
    }

    /// What the dataplane knows of changes in the network, in memory, to be changed.
    pub(crate) fn watch(&self) -> io::Result<Mapped<hop::Watch>> {
        Mapped::new(&self.watch, Access::ReadWrite)
    }

    /// Where allocator and collector stand.
    pub(crate) fn cursors(&self) -> Result<Cursors, MapsError> {
        self.cursors.get(&0, 0).map_err(wrong(map::CURSORS))
    }

    /// The number that tells this flow table from every other. A table that has none gets `new`; the dataplane may not be
    /// configured yet, for then it moves the cursors.
    pub(crate) fn table_id(&mut self, new: u64) -> Result<u64, MapsError> {
        let mut cursors = self.cursors()?;
        if cursors.table == 0 {
            cursors.table = new;
            self.cursors.set(0, &cursors, 0).map_err(wrong(map::CURSORS))?;
        }
        Ok(cursors.table)
    }

    /// The flow table in memory, to be changed.
    pub(crate) fn flows(&self) -> io::Result<Mapped<Flow>> {
        Mapped::new(&self.flows, Access::ReadWrite)
    }

    /// Tells the dataplane that the host uses these ports, by protocol.
    pub(crate) fn stamp_host_ports(&self, ports: impl IntoIterator<Item = (u8, u16)>, now: Ticks) -> io::Result<()> {
        let mapped = Mapped::<u64>::new(&self.host_ports, Access::ReadWrite)?;
        host_ports::stamp(mapped.atomics(), ports, now);
        Ok(())
    }

    /// All counters, summed over the processors.
    pub(crate) fn counters(&self) -> Result<Vec<(Counter, u64)>, MapsError> {
        let read = |&counter: &Counter| {
            let values = self.counters.get(&(counter as u32), 0).map_err(wrong(map::COUNTERS))?;
            Ok((counter, values.iter().sum()))
        };
        Counter::ALL.iter().map(read).collect()
    }

    /// The inside interfaces.
    pub(crate) fn insides(&self) -> Result<Table<u32, Inside>, MapsError> {
        self.insides.iter().collect::<Result<_, _>>().map_err(wrong(map::INSIDES))
    }

    /// Makes the inside interfaces these, and says whether they were others.
    pub(crate) fn set_insides(&mut self, wanted: &Table<u32, Inside>) -> Result<bool, MapsError> {
        let (stale, new) = difference(&self.insides()?, wanted);
        let changed = !(stale.is_empty() && new.is_empty());
        let wrong = wrong(map::INSIDES);
        for (index, inside) in new {
            self.insides.insert(&index, &inside, 0).map_err(&wrong)?;
        }
        stale.iter().try_for_each(|index| gone(self.insides.remove(index))).map_err(&wrong)?;
        Ok(changed)
    }

    /// The peers, and whether they speak xnat.
    pub(crate) fn peers(&self) -> Result<Table<Ipv4Addr, bool>, MapsError> {
        let read = |entry: Result<(Addr, Peer), MapError>| {
            entry.map(|(address, peer)| (address.into(), peer.flags & Peer::SPEAKS_XNAT != 0))
        };
        self.peers.iter().map(read).collect::<Result<_, _>>().map_err(wrong(map::PEERS))
    }

    /// Makes the peers these.
    pub(crate) fn set_peers(&mut self, wanted: &Table<Ipv4Addr, bool>) -> Result<(), MapsError> {
        let (stale, new) = difference(&self.peers()?, wanted);
        let wrong = wrong(map::PEERS);
        for (address, speaks) in new {
            let flags = if speaks { Peer::SPEAKS_XNAT } else { 0 };
            self.peers.insert(&address.into(), &Peer { flags, ..Peer::default() }, 0).map_err(&wrong)?;
        }
        stale.into_iter().try_for_each(|address| gone(self.peers.remove(&address.into()))).map_err(&wrong)
    }

    /// Whose the subnets are.
    pub(crate) fn subnets(&self) -> Result<Table<Cidr, Subnet>, MapsError> {
        let read = |entry: Result<(Key<Addr>, Subnet), MapError>| {
            entry.map(|(key, subnet)| (Cidr::around(key.data().into(), key.prefix_len().min(32) as u8), subnet))
        };
        self.subnets.iter().map(read).collect::<Result<_, _>>().map_err(wrong(map::SUBNETS))
    }

    /// Makes our own subnets these, leaves those of the peers as they are, and says whether ours were others.
    pub(crate) fn set_own_subnets(&mut self, own: &Table<Cidr, Subnet>) -> Result<bool, MapsError> {
        let there = self.subnets()?;
        let wanted = with_own(there.clone(), own);
        self.set_subnets(&wanted)?;
        Ok(there != wanted)
    }

    /// Makes the subnets these, and returns those that are new.
    pub(crate) fn set_subnets(&mut self, wanted: &Table<Cidr, Subnet>) -> Result<Vec<(Cidr, Subnet)>, MapsError> {
        let (stale, new) = difference(&self.subnets()?, wanted);
        let wrong = wrong(map::SUBNETS);
        for (range, subnet) in &new {
            self.subnets.insert(&key(*range), subnet, 0).map_err(&wrong)?;
        }
        stale.into_iter().try_for_each(|range| gone(self.subnets.remove(&key(range)))).map_err(&wrong)?;
        Ok(new)
    }

    /// The forwards.
    pub(crate) fn forwards(&self) -> Result<Forwards, MapsError> {
        read_forwards(&self.forwards).map_err(wrong(map::FORWARDS))
    }

    /// How many ports are forwarded.
    pub(crate) fn count_forwards(&self) -> Result<usize, MapsError> {
        self.forwards.keys().try_fold(0, |count, key| key.map(|_| count + 1)).map_err(wrong(map::FORWARDS))
    }

    /// Adds forwards, or makes those of the same ports lead where these do.
    pub(crate) fn add_forwards(&mut self, forwards: &Forwards) -> Result<(), MapsError> {
        let mut entries = forwards.iter();
        let add = |(key, target)| self.forwards.insert(&forward_key(key), &Forward::from(target), 0);
        entries.try_for_each(add).map_err(wrong(map::FORWARDS))
    }

    /// Removes forwards.
    pub(crate) fn remove_forwards(&mut self, forwards: &Forwards) -> Result<(), MapsError> {
        let mut keys = forwards.iter().map(|(key, _)| forward_key(key));
        keys.try_for_each(|key| gone(self.forwards.remove(&key))).map_err(wrong(map::FORWARDS))
    }

    /// Forgets how many ports containers have. Without a quota nobody counts them down.
    pub(crate) fn forget_quotas(&mut self) -> Result<(), MapsError> {
        let wrong = wrong(map::QUOTAS);
        let containers: Vec<Addr> = self.quotas.keys().collect::<Result<_, _>>().map_err(&wrong)?;
        containers.iter().try_for_each(|container| gone(self.quotas.remove(container))).map_err(&wrong)
    }
}

fn forward_key((proto, port): table::Key) -> ForwardKey {
    ForwardKey { port: Port::new(port), proto, zero: 0 }
}

fn read_forwards(map: &HashMap<MapData, ForwardKey, Forward>) -> Result<Forwards, MapError> {
    map.iter().map(|entry| entry.map(|(key, forward)| ((key.proto, key.port.number()), forward.into()))).collect()
}

/// The map, if it is an array.
fn array(map: Map) -> Option<MapData> {
    if let Map::Array(map) = map { Some(map) } else { None }
}

fn key(range: Cidr) -> Key<Addr> {
    Key::new(range.len().into(), range.address().into())
}

/// The keys that have to go, and the entries that have to come.
fn difference<K: Copy + Eq + Hash, V: Copy + PartialEq>(
    there: &Table<K, V>,
    wanted: &Table<K, V>,
) -> (Vec<K>, Vec<(K, V)>) {
    let stale = there.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    let new = wanted.iter().filter(|(key, value)| there.get(key) != Some(value));
    (stale, new.map(|(&key, &value)| (key, value)).collect())
}

/// The subnets that there are, with these for our own.
fn with_own(mut there: Table<Cidr, Subnet>, own: &Table<Cidr, Subnet>) -> Table<Cidr, Subnet> {
    there.retain(|_, subnet| !subnet.is_own());
    there.extend(own);
    there
}

fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_subnets_change_without_the_peers() {
        let subnet = |inside, peer| Subnet { inside, peer: Addr(peer) };
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let (kept, old, new, theirs) =
            (cidr("10.1.0.0/16"), cidr("10.2.0.0/16"), cidr("10.3.0.0/16"), cidr("10.4.0.0/16"));
        let there = Table::from([(kept, subnet(3, 0)), (old, subnet(4, 0)), (theirs, subnet(0, 7))]);
        let own = Table::from([(kept, subnet(0, 0)), (new, subnet(5, 0))]);
        let expected = Table::from([(kept, subnet(0, 0)), (new, subnet(5, 0)), (theirs, subnet(0, 7))]);
        assert_eq!(with_own(there, &own), expected);
    }
}
