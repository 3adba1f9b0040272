//! What the maps of mappings, forwards and quotas say, and whether it is what the live flows hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::{Array, HashMap, Map};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::mapping::{
    self, Class, Destination, Forward, ForwardKey, Full, Mapping, Owner, RemoteEntry, RemoteKey,
};
use xnat_common::names::map;
use xnat_common::packet::proto;
use xnat_common::timeout::Timeouts;
use xnat_common::{Addr, Flow, Kind, Port};

use crate::dataplane::{clear, map};
use crate::packet::End;
use crate::tuples;
use crate::world::{SLOTS, World};

/// A port on the wire, by protocol.
type Wire = (u8, u16);

/// By class.
const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::ICMP];

/// What all flows, or the maps, say of mappings.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ledger {
    /// The endpoint and its sessions toward everybody.
    owners: BTreeMap<Wire, (Ipv4Addr, u16, u32)>,
    /// The sessions with the remote address in a mapping's own record.
    near: BTreeMap<Wire, (Ipv4Addr, u32)>,
    /// The endpoint and its sessions by remote address.
    far: BTreeMap<(Wire, Ipv4Addr), (Ipv4Addr, u16, u32)>,
    /// Endpoints whose port is not their own; with the remote address where the mapping depends on it.
    moved: BTreeSet<(u8, Ipv4Addr, u16, Ipv4Addr, u16)>,
    /// How many ports a container has.
    quotas: BTreeMap<Ipv4Addr, u64>,
}

impl World {
    /// Forgets mappings, forwards and quotas.
    pub fn forget_mappings(&mut self) {
        clear::<RemoteKey, RemoteEntry>(map(&mut self.ebpf, map::REMOTES));
        clear::<ForwardKey, Forward>(map(&mut self.ebpf, map::FORWARDS));
        clear::<Addr, u64>(map(&mut self.ebpf, map::QUOTAS));
        clear::<Destination, Full>(map(&mut self.ebpf, map::FULL));
        if self.count(Counter::MappingsOpened) == 0 {
            return;
        }
        for (index, _) in self.ports() {
            let mut ports: Array<_, Mapping> = map(&mut self.ebpf, map::PORTS);
            ports.set(index, &Mapping::default(), 0).expect("a port");
        }
        for (index, _) in self.taken() {
            let mut taken: Array<_, u64> = map(&mut self.ebpf, map::TAKEN);
            taken.set(index, &0_u64, 0).expect("a word");
        }
    }

    /// The entries of `PORTS` that are not zero.
    fn ports(&self) -> Vec<(u32, Mapping)> {
        self.entries(map::PORTS, mapping::ENTRIES)
    }

    /// The words of `TAKEN` that are not zero.
    fn taken(&self) -> Vec<(u32, u64)> {
        self.entries(map::TAKEN, mapping::TAKEN_WORDS)
    }

    /// The entries of an array that are not zero. In one call, because there are many.
    fn entries<T: aya::Pod + Default + PartialEq>(&self, name: &str, count: u32) -> Vec<(u32, T)> {
        let Some(Map::Array(ports)) = self.ebpf.map(name) else { panic!("no array {name}") };
        let count = count as usize;
        let (mut keys, mut values) = (vec![0_u32; count], vec![T::default(); count]);
        let mut position = 0_u64;
        // SAFETY: a plain C union for which all zeroes are valid.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the member of this command; every pointer below outlives the call and is as long as said.
        let batch = unsafe { &mut attributes.batch };
        batch.out_batch = (&raw mut position).expose_provenance() as u64;
        batch.keys = keys.as_mut_ptr().expose_provenance() as u64;
        batch.values = values.as_mut_ptr().expose_provenance() as u64;
        batch.count = count as u32;
        batch.map_fd = ports.fd().as_fd().as_raw_fd().cast_unsigned();
        let command = bpf_cmd::BPF_MAP_LOOKUP_BATCH as libc::c_long;
        // SAFETY: the attributes are those of the command. At the end of the map it fails with ENOENT, all values read.
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<bpf_attr>()) };
        // SAFETY: as above; the kernel has filled it in.
        assert_eq!(unsafe { attributes.batch }.count as usize, count, "{}", std::io::Error::last_os_error());
        keys.into_iter().zip(values).filter(|(_, value)| *value != T::default()).collect()
    }

    /// What is different between what flows hold of mappings and what the maps say.
    pub fn unbalanced(&mut self) -> Option<String> {
        let quota = self.config().max_ports != 0;
        let flows: Vec<Flow> = self.flows().into_iter().map(|(_, flow)| flow).collect();
        let (held, said) = (held_by(&flows, quota), self.said(quota));
        let (moved, counted) = (said.moved.len() as u64, self.cursors().moved);
        if moved != counted {
            return Some(format!("{counted} endpoints are counted that have moved, {moved} are there"));
        }
        (held != said).then(|| format!("flows hold\n  {held:?}\nand the maps say\n  {said:?}"))
    }

    fn said(&mut self, quota: bool) -> Ledger {
        let mut ledger = Ledger::default();
        let ports = if self.count(Counter::MappingsOpened) == 0 { Vec::new() } else { self.ports() };
        let mut owned = BTreeMap::<u32, u64>::new();
        for (index, Mapping { owner, remote }) in ports {
            let protocol = PROTOCOLS[(index >> 16) as usize];
            let wire = (protocol, index as u16);
            if owner != Owner::NONE {
                ledger.owners.insert(wire, endpoint(owner));
                let (word, bit) = mapping::taken_bit(index);
                *owned.entry(word).or_default() |= bit;
            }
            if remote.sessions() != 0 {
                ledger.near.insert(wire, (remote.address().into(), remote.sessions()));
            }
        }
        if self.count(Counter::MappingsOpened) != 0 {
            assert_eq!(self.taken(), owned.into_iter().collect::<Vec<_>>(), "bits of ports that have an owner");
        }
        for (key, entry) in self.all::<RemoteKey, RemoteEntry>(map::REMOTES) {
            assert_eq!(entry.key, key);
            ledger.far.insert(((key.proto, key.port.number()), key.remote.into()), endpoint(entry.owner));
        }
        for (bucket, entry, port) in tuples::moved(&mut self.ebpf) {
            let protocol = PROTOCOLS[(port >> 16) as usize];
            let ports: Array<_, Mapping> = map(&mut self.ebpf, map::PORTS);
            let everybodys = (Addr::UNSPECIFIED, ports.get(&port, 0).expect("a port").owner);
            let remotes = self.all::<RemoteKey, RemoteEntry>(map::REMOTES).into_iter();
            let remotes = remotes.filter(|(key, _)| (key.proto, key.port.number()) == (protocol, port as u16));
            let mut whose = remotes.map(|(key, entry)| (key.remote, entry.owner)).chain([everybodys]);
            let is_it = |(remote, owner): &(Addr, Owner)| {
                let own = port & !0xffff | u32::from(owner.port().number());
                tuples::is_of_endpoint(bucket, entry, owner.address(), *remote, own)
            };
            let (remote, found) = whose.find(is_it).unwrap_or_else(|| panic!("{entry:?} is nobody's"));
            let address = found.address().into();
            ledger.moved.insert((protocol, address, found.port().number(), remote.into(), port as u16));
        }
        if quota {
            let counts = self.all::<Addr, u64>(map::QUOTAS).into_iter().filter(|(_, count)| *count != 0);
            ledger.quotas = counts.map(|(address, count)| (address.into(), count)).collect();
        }
        ledger
    }

    fn all<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Vec<(K, V)> {
        let all: HashMap<_, K, V> = map(&mut self.ebpf, name);
        all.iter().map(|entry| entry.expect("an entry")).collect()
    }

    /// The configuration.
    pub fn config(&mut self) -> Config {
        let configs: Array<_, Config> = map(&mut self.ebpf, map::CONFIG);
        configs.get(&0, 0).expect("the configuration")
    }

    /// Whose a port on the wire is, and how many sessions there are.
    pub fn owner(&mut self, class: Class, port: u16) -> Option<(Ipv4Addr, u16, u32)> {
        let ports: Array<_, Mapping> = map(&mut self.ebpf, map::PORTS);
        let owner = ports.get(&mapping::index(class, Port::new(port)), 0).expect("a port").owner;
        (owner != Owner::NONE).then(|| endpoint(owner))
    }

    /// How many endpoints have a port that is not their own.
    pub fn moved(&mut self) -> usize {
        tuples::moved(&mut self.ebpf).len()
    }

    /// How many ports have sessions with remote addresses beyond the first.
    pub fn far_remotes(&mut self) -> usize {
        self.all::<RemoteKey, RemoteEntry>(map::REMOTES).len()
    }

    /// Adds a forward.
    pub fn forward(&mut self, protocol: u8, port: u16, to: End) {
        let key = ForwardKey { port: Port::new(port), proto: protocol, zero: 0 };
        let forward = Forward { address: to.0.into(), port: Port::new(to.1), flags: 0 };
        let mut forwards: HashMap<_, ForwardKey, Forward> = map(&mut self.ebpf, map::FORWARDS);
        forwards.insert(&key, &forward, 0).expect("a forward");
    }

    /// Ends a live flow, as `xnat flush` does.
    pub fn end(&mut self, slot: u32) {
        let mut flows: Array<_, Flow> = map(&mut self.ebpf, map::FLOWS);
        let flow = flows.get(&slot, 0).expect("a slot");
        flows.set(slot, &Flow { state: flow.state | State::DOOMED, ..flow }, 0).expect("a slot");
        self.collect();
    }

    /// Lets all flows run out.
    #[track_caller]
    pub fn expire(&mut self) {
        let config = self.config();
        let mut configs: Array<_, Config> = map(&mut self.ebpf, map::CONFIG);
        let timeouts = Timeouts { ..bytemuck::Zeroable::zeroed() };
        configs.set(0, &Config { timeouts, ..config }, 0).expect("the configuration");
        self.collect();
        let mut configs: Array<_, Config> = map(&mut self.ebpf, map::CONFIG);
        configs.set(0, &config, 0).expect("the configuration");
        assert_eq!(self.flows().len(), 0);
    }

    /// Everything has ended, and nothing is left of it.
    #[track_caller]
    pub fn expect_nothing_left(&mut self) {
        self.expire();
        assert_eq!(self.damage(), None);
        assert_eq!((self.moved(), self.far_remotes()), (0, 0));
        let held: Vec<_> = self.ports().into_iter().filter(|(_, port)| port.owner != Owner::NONE).collect();
        assert_eq!(held, [], "of {SLOTS} slots none is live");
    }
}

fn endpoint(owner: Owner) -> (Ipv4Addr, u16, u32) {
    (owner.address().into(), owner.port().number(), owner.sessions().into())
}

/// What flows hold of mappings, by what they say themselves.
fn held_by(flows: &[Flow], quota: bool) -> Ledger {
    let mut ledger = Ledger::default();
    let mut ports = BTreeMap::<Ipv4Addr, u64>::new();
    for flow in flows {
        let state = State(flow.state);
        let of_container = flow.kind == Kind::Outside as u8 || flow.kind == Kind::Hairpin as u8 && flow.inside != 0;
        let (own, port, remote) = if flow.kind == Kind::Mapped as u8 {
            ((flow.reply.src, flow.reply.sport), flow.original.dport, flow.reply.dst)
        } else if of_container {
            ((flow.original.src, flow.original.sport), flow.reply.dport, flow.original.dst)
        } else {
            continue;
        };
        let (address, own): (Ipv4Addr, u16) = (own.0.into(), own.1.number());
        let (wire, remote): (Wire, Ipv4Addr) = ((flow.proto, port.number()), remote.into());
        let mut new = false;
        if state.has(State::MAPPED) {
            let owner = ledger.owners.entry(wire).or_insert((address, own, 0));
            owner.2 += 1;
            new = owner.2 == 1;
            if new && own != port.number() {
                ledger.moved.insert((flow.proto, address, own, Ipv4Addr::UNSPECIFIED, port.number()));
            }
            if state.has(State::REMOTE_NEAR) {
                ledger.near.entry(wire).or_insert((remote, 0)).1 += 1;
            }
        }
        if state.has(State::REMOTE_FAR) {
            let entry = ledger.far.entry((wire, remote)).or_insert((address, own, 0));
            entry.2 += 1;
            if !state.has(State::MAPPED) {
                new = entry.2 == 1;
                if new && own != port.number() {
                    ledger.moved.insert((flow.proto, address, own, remote, port.number()));
                }
            }
        }
        let alone = of_container && !state.has(State::MAPPED) && !state.has(State::REMOTE_FAR);
        *ports.entry(address).or_default() += u64::from(new || alone);
    }
    if quota {
        ledger.quotas = ports.into_iter().filter(|(_, count)| *count != 0).collect();
    }
    ledger
}
