//! A host for the programs to run on: node1 of the reference document, in a network namespace of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, PerCpuArray, PerCpuValues, Queue, Stack, lpm_trie::Key};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use xnat_common::collection::{self, Look};
use xnat_common::config::{Config, Cursors};
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::fragment::{
    Datagram, DatagramKey, Fate, Fragment, FragmentKey, Handle, Held, Sent, SentKey, Source, SourceUse,
};
use xnat_common::host_port;
use xnat_common::names::{map, program};
use xnat_common::subnet::{Inside, Peer, Subnet};
use xnat_common::timeout::Timeouts;
use xnat_common::{Addr, Direction, Flow, FlowKey, FlowRef, Port, Side, Ticks};
use xnat_tests::netns::Namespace;
use xnat_tests::topology::{NODE1, NODE2, NODE3};

use crate::dataplane::{clear, load, map, object};
use crate::packet::{Macs, Packet};
use crate::skb::{Outcome, Run};
use crate::tuples;

/// How many flows there may be.
pub const MAX_FLOWS: u32 = 32;
/// Slots of the flow table.
pub const SLOTS: u32 = xnat_common::index::slots(MAX_FLOWS);
/// The inside interface, which holds 192.168.110.1.
pub const INSIDE: u32 = 101;
/// The other end of its veth: the container's.
pub const CONTAINER: u32 = 102;
/// The uplink, which holds 172.29.0.4.
pub const UPLINK: u32 = 201;
/// The other end of its veth: the wire.
pub const WIRE: u32 = 202;
/// The loopback interface.
pub const LOOPBACK: u32 = 1;
/// The address of the inside interface.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 1);
/// Largest packet of both interfaces.
pub const MTU: u32 = 1500;

const CONTAINER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
const INSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 2, 4];
const WIRE_MAC: [u8; 6] = [2, 0, 0, 0, 2, 0x17];

/// A program, where it is attached, and which MAC addresses the frames have there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// From a container.
    InsideIn,
    /// To a container.
    InsideOut,
    /// From the wire.
    UplinkIn,
    /// To the wire.
    UplinkOut,
    /// From the host to itself.
    LoopbackOut,
}

impl Hook {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::InsideIn => program::INSIDE_INGRESS,
            Self::InsideOut => program::INSIDE_EGRESS,
            Self::UplinkIn => program::UPLINK_INGRESS,
            Self::UplinkOut => program::UPLINK_EGRESS,
            Self::LoopbackOut => program::LOOPBACK_EGRESS,
        }
    }

    fn ifindex(self) -> u32 {
        match self {
            Self::InsideIn | Self::InsideOut => INSIDE,
            Self::UplinkIn | Self::UplinkOut => UPLINK,
            Self::LoopbackOut => LOOPBACK,
        }
    }

    /// Destination and source of the frames.
    pub fn macs(self) -> Macs {
        match self {
            Self::InsideIn => [INSIDE_MAC, CONTAINER_MAC],
            Self::InsideOut => [CONTAINER_MAC, INSIDE_MAC],
            Self::UplinkIn => [UPLINK_MAC, WIRE_MAC],
            Self::UplinkOut => [WIRE_MAC, UPLINK_MAC],
            Self::LoopbackOut => [[0; 6]; 2],
        }
    }
}

/// The host, its programs and their maps.
pub struct World {
    /// Where it is.
    pub ns: Namespace,
    /// The programs and their maps.
    pub ebpf: Ebpf,
    /// Sockets that the host has open.
    sockets: Vec<Socket>,
    /// Whether somebody watches the network when a packet comes.
    pub watched: bool,
}

impl World {
    /// node1, with two peers: 172.29.0.17 with 192.168.220.0/24 speaks xnat, 172.29.0.30 with 192.168.130.0/24 does not.
    pub fn new() -> Self {
        let object = object();
        let ns = Namespace::new("packets");
        ns.set_sysctl("net/ipv4/ip_forward", "1");
        ns.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        let mac = |octets: [u8; 6]| octets.map(|octet| format!("{octet:02x}")).join(":");
        let veths = [
            (("in0", INSIDE, INSIDE_MAC), ("c0", CONTAINER, CONTAINER_MAC)),
            (("up0", UPLINK, UPLINK_MAC), ("wire0", WIRE, WIRE_MAC)),
        ];
        for ((near, near_index, near_mac), (far, far_index, far_mac)) in veths {
            ns.ip(&format!(
                "link add {near} index {near_index} address {} type veth peer name {far} index {far_index} address {}",
                mac(near_mac),
                mac(far_mac)
            ));
            // The far ends are other machines: nothing of this host answers there.
            ns.ip(&format!("link set {far} arp off up"));
            ns.ip(&format!("link set {near} up"));
        }
        ns.ip(&format!("address add {GATEWAY}/24 dev in0"));
        ns.ip(&format!("address add {NODE1}/24 dev up0"));
        ns.ip("route add default via 172.29.0.100");
        for host in ["172.29.0.17", "172.29.0.30", "172.29.0.100"] {
            ns.ip(&format!("neighbour add {host} lladdr {} dev up0", mac(WIRE_MAC)));
        }
        ns.ip(&format!("neighbour add 192.168.110.11 lladdr {} dev in0", mac(CONTAINER_MAC)));
        let ebpf = ns.within(|| load(&object));
        let mut world = Self { ns, ebpf, sockets: Vec::new(), watched: false };
        let own = Subnet { inside: INSIDE, peer: Addr::UNSPECIFIED };
        let of = |peer: Ipv4Addr| Subnet { inside: 0, peer: peer.into() };
        let mut subnets: LpmTrie<_, Addr, Subnet> = map(&mut world.ebpf, map::SUBNETS);
        for (network, subnet) in
            [([192, 168, 110, 0], own), ([192, 168, 220, 0], of(NODE2)), ([192, 168, 130, 0], of(NODE3))]
        {
            subnets.insert(&Key::new(24, Addr::new(network)), &subnet, 0).expect("a subnet");
        }
        world.reset();
        // Announcements are made at this hook, of copies that a program at another sends.
        world.attach(Hook::UplinkOut);
        world
    }

    /// Attaches a program to its interface.
    pub fn attach(&mut self, hook: Hook) {
        let (interface, side) = match hook {
            Hook::InsideIn => (c"in0", TcAttachType::Ingress),
            Hook::InsideOut => (c"in0", TcAttachType::Egress),
            Hook::UplinkIn => (c"up0", TcAttachType::Ingress),
            Hook::UplinkOut => (c"up0", TcAttachType::Egress),
            Hook::LoopbackOut => (c"lo", TcAttachType::Egress),
        };
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(hook.program()).expect("a program").try_into().expect("TC");
        self.ns.within(|| program.attach(interface, side)).expect("a hook");
    }

    /// Forgets everything that packets have left behind.
    pub fn reset(&mut self) {
        self.sockets.clear();
        self.forget_mappings();
        tuples::clear(&mut self.ebpf);
        clear::<FlowKey, u32>(map(&mut self.ebpf, map::KERNEL_FLOWS));
        clear::<FragmentKey, Fragment>(map(&mut self.ebpf, map::FRAGMENTS));
        clear::<DatagramKey, u32>(map(&mut self.ebpf, map::DATAGRAM_KEYS));
        clear::<Source, SourceUse>(map(&mut self.ebpf, map::FRAGMENT_SOURCES));
        clear::<SentKey, Sent>(map(&mut self.ebpf, map::SENT));
        let mut flows: Array<_, Flow> = map(&mut self.ebpf, map::FLOWS);
        for slot in 0..SLOTS {
            flows.set(slot, &bytemuck::Zeroable::zeroed(), 0).expect("a slot");
        }
        let mut free: Stack<_, u32> = map(&mut self.ebpf, map::FREE);
        while free.pop(0).is_ok() {}
        let mut closed: Queue<_, u64> = map(&mut self.ebpf, map::CLOSED);
        while closed.pop(0).is_ok() {}
        self.set_cursors(Cursors::default());
        self.clear_host_ports();
        let cpus = aya::util::nr_cpus().expect("the number of processors").get() as usize;
        let mut counters: PerCpuArray<_, u64> = map(&mut self.ebpf, map::COUNTERS);
        for counter in Counter::ALL {
            let zeroes = PerCpuValues::try_from(vec![0; cpus]).expect("a value a processor");
            counters.set(*counter as u32, zeroes, 0).expect("a counter");
        }
        self.set_peer(NODE2, Peer { flags: Peer::SPEAKS_XNAT, ..Peer::default() });
        self.set_peer(NODE3, Peer::default());
        self.set_inside_mtu(MTU);
        // Nobody watches the network, so every packet takes the long way.
        self.set_watch(0, 0);
        self.configure(|_| {});
    }

    /// Writes the configuration, changed by `change`.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = Config {
            uplink: UPLINK,
            uplink_mtu: MTU,
            address: NODE1.into(),
            max_flows: MAX_FLOWS,
            seed: tuples::SEED,
            bucket_mask: tuples::MASK,
            least_idle: Timeouts::default().least().0,
            ..Config::default()
        };
        change(&mut config);
        // Some test or other has some.
        config.flags |= Config::FORWARDS;
        let mut configs: Array<_, Config> = map(&mut self.ebpf, map::CONFIG);
        configs.set(0, &config, 0).expect("the configuration");
    }

    /// Writes what is known of a peer.
    pub fn set_peer(&mut self, address: Ipv4Addr, peer: Peer) {
        let mut peers: HashMap<_, Addr, Peer> = map(&mut self.ebpf, map::PEERS);
        peers.insert(&Addr::from(address), &peer, 0).expect("a peer");
    }

    /// Sets the MTU of the inside interface, as far as the programs know.
    pub fn set_inside_mtu(&mut self, mtu: u32) {
        let inside = Inside { ifindex: INSIDE, mtu, mac: INSIDE_MAC, flags: 0, address: GATEWAY.into() };
        let mut insides: HashMap<_, u32, Inside> = map(&mut self.ebpf, map::INSIDES);
        insides.insert(&INSIDE, &inside, 0).expect("an inside interface");
    }

    /// Puts a flow into the next slot, live, in generation 1.
    pub fn add_flow(&mut self, mut flow: Flow) {
        let mut cursors = self.cursors();
        let slot = cursors.fresh as u32;
        flow.word = (1 << 32) | flow.word & 0xffff_ffff;
        flow.state |= State::PUBLISHED;
        tuples::insert(&mut self.ebpf, slot, &flow);
        let mut flows: Array<_, Flow> = map(&mut self.ebpf, map::FLOWS);
        flows.set(slot, &flow, 0).expect("a slot");
        cursors.fresh += 1;
        cursors.used += 1;
        self.set_cursors(cursors);
    }

    /// Notes a tuple as the kernel's own, last seen at `time`.
    pub fn add_kernel_flow(&mut self, key: FlowKey, time: Ticks) {
        let mut flows: HashMap<_, FlowKey, u32> = map(&mut self.ebpf, map::KERNEL_FLOWS);
        flows.insert(&key, &time.0, 0).expect("a tuple of the kernel's");
        let cursors = Cursors { kernel_flows: 1, ..self.cursors() };
        self.set_cursors(cursors);
    }

    /// Notes where the later fragments of a datagram go, both where they come in and where the kernel sends them out.
    pub fn add_fragment(&mut self, key: FragmentKey, slot: u32, direction: Direction, time: Ticks) {
        // The hand starts at the other end.
        const LAST: u32 = xnat_common::fragment::DATAGRAMS - 1;
        let flow = FlowRef::new(slot, 1, direction);
        if key.side == Side::Inside as u8 {
            let fragment = Fragment { flow, time: time.0, wire_id: key.id, zero: 0 };
            let mut fragments: HashMap<_, FragmentKey, Fragment> = map(&mut self.ebpf, map::FRAGMENTS);
            fragments.insert(&key, &fragment, 0).expect("a datagram");
        }
        let ifindex = if key.side == Side::Inside as u8 { INSIDE } else { UPLINK };
        let key = DatagramKey { src: key.src, dst: key.dst, id: key.id, proto: key.proto, zero: 0, ifindex };
        let datagram = Datagram {
            word: 1 << 32 | u64::from(time.0),
            fate: Fate::Flow as u64,
            flow,
            has_flow: 1,
            key,
            wire_id: key.id.into(),
            ..bytemuck::Zeroable::zeroed()
        };
        let mut datagrams: Array<_, Datagram> = map(&mut self.ebpf, map::DATAGRAMS);
        datagrams.set(LAST, &datagram, 0).expect("a slot");
        let mut keys: HashMap<_, DatagramKey, u32> = map(&mut self.ebpf, map::DATAGRAM_KEYS);
        keys.insert(&key, &Handle::new(LAST, 1).0, 0).expect("a datagram");
    }

    /// Makes what is known of datagrams and their fragments older.
    pub fn age_fragments(&mut self, seconds: u32) {
        let ago = Ticks::from_secs(seconds).0;
        let keys: HashMap<_, DatagramKey, u32> = map(&mut self.ebpf, map::DATAGRAM_KEYS);
        let handles: Vec<Handle> = keys.iter().map(|entry| Handle(entry.expect("a datagram").1)).collect();
        let mut datagrams: Array<_, Datagram> = map(&mut self.ebpf, map::DATAGRAMS);
        for handle in handles {
            let mut datagram = datagrams.get(&handle.slot(), 0).expect("a slot");
            datagram.word -= u64::from(ago);
            datagrams.set(handle.slot(), &datagram, 0).expect("a slot");
        }
        let mut fragments: Array<_, Held> = map(&mut self.ebpf, map::HELD);
        for index in 0..xnat_common::fragment::HELD {
            let mut held = fragments.get(&index, 0).expect("a slot");
            held.time = held.time.wrapping_sub(ago);
            fragments.set(index, &held, 0).expect("a slot");
        }
    }

    /// How many datagrams are awaited.
    pub fn datagrams(&mut self) -> usize {
        let keys: HashMap<_, DatagramKey, u32> = map(&mut self.ebpf, map::DATAGRAM_KEYS);
        keys.keys().count()
    }

    /// Binds a socket of the host, a listening one for TCP.
    pub fn bind(&mut self, kind: Type, port: u16) {
        let socket = self.ns.within(|| {
            let socket = Socket::new(Domain::IPV4, kind, None::<Protocol>)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            if kind == Type::STREAM {
                socket.listen(1)?;
            }
            io::Result::Ok(socket)
        });
        self.sockets.push(socket.expect("a socket"));
    }

    /// Runs a program on a packet. `summed` is for `Run::summed`.
    pub fn run(&mut self, hook: Hook, packet: &Packet, summed: bool) -> io::Result<Outcome> {
        if self.watched {
            self.keep_watch();
        }
        let program: &SchedClassifier = self.ebpf.program(hook.program()).expect("a program").try_into().expect("TC");
        let program = program.fd().expect("loaded").as_fd();
        let frame = packet.frame(hook.macs());
        let run = Run { frame: &frame, ifindex: hook.ifindex(), mark: packet.mark, gso_size: packet.gso_size, summed };
        self.ns.within(|| run.on(program))
    }

    /// Runs collection over all that there is.
    pub fn collect(&mut self) {
        let mut place = 0;
        while place < collection::places(MAX_FLOWS) {
            place += self.collect_from(place).places();
        }
    }

    /// Runs one slice of collection.
    pub fn collect_from(&mut self, place: u32) -> Look {
        let program: &SchedClassifier = self.ebpf.program(program::COLLECT).expect("a program").try_into().expect("TC");
        let program = program.fd().expect("loaded").as_fd();
        let mut frame = [0; 64];
        frame[..4].copy_from_slice(&place.to_ne_bytes());
        let run = Run { frame: &frame, ifindex: 0, mark: 0, gso_size: 0, summed: false };
        Look(run.on(program).expect("a slice").action.cast_unsigned())
    }

    /// The counters that are not zero, by number.
    pub fn counters(&mut self) -> Vec<(Counter, u64)> {
        let values: PerCpuArray<_, u64> = map(&mut self.ebpf, map::COUNTERS);
        let sum = |counter: &Counter| {
            let values = values.get(&(*counter as u32), 0).expect("a counter");
            (*counter, values.iter().sum::<u64>())
        };
        Counter::ALL.iter().map(sum).filter(|(_, value)| *value != 0).collect()
    }

    /// The live flows, by slot.
    pub fn flows(&mut self) -> Vec<(u32, Flow)> {
        let flows: Array<_, Flow> = map(&mut self.ebpf, map::FLOWS);
        let read = |slot| {
            let mut flow = flows.get(&slot, 0).expect("a slot");
            // What is the slot's, not the flow's.
            flow.state &= !(State::PUBLISHED | State::LISTED);
            (slot, flow)
        };
        (0..SLOTS).map(read).filter(|(_, flow)| flow.is_live()).collect()
    }

    /// Changes the one flow that there is.
    #[track_caller]
    pub fn change_flow(&mut self, change: impl FnOnce(&mut Flow)) {
        let (slot, _) = self.flows()[0];
        let mut flows: Array<_, Flow> = map(&mut self.ebpf, map::FLOWS);
        let mut flow = flows.get(&slot, 0).expect("a slot");
        change(&mut flow);
        flows.set(slot, &flow, 0).expect("a slot");
    }

    /// The one flow that there is.
    #[track_caller]
    pub fn flow(&mut self) -> Flow {
        let flows = self.flows();
        assert_eq!(flows.len(), 1, "one flow, not {flows:?}");
        flows[0].1
    }

    /// What is wrong with the flow table as a whole, if anything is: every live flow has both its references and nobody
    /// else has any, and what flows hold of mappings is what the mappings say.
    pub fn damage(&mut self) -> Option<String> {
        let flows = self.flows();
        let mut entries = tuples::entries(&mut self.ebpf);
        for (slot, flow) in &flows {
            for direction in [Direction::Original, Direction::Reply] {
                if !tuples::take(&mut entries, *slot, flow, direction) {
                    return Some(format!("slot {slot} has no entry for {:?}", flow.key(direction)));
                }
            }
        }
        for (slot, flow) in flows.iter().filter(|(_, flow)| State(flow.state).has(State::REMOTE_INDEXED)) {
            if !tuples::take_admission(&mut entries, *slot, flow) {
                return Some(format!("slot {slot} has no entry for its remote address: {flow:?}"));
            }
        }
        // Those of endpoints are looked at with their ports.
        entries.retain(|(_, entry)| entry.port().is_none());
        if !entries.is_empty() {
            return Some(format!("entries that lead to nothing: {entries:?}"));
        }
        let used = self.cursors().used;
        if used != flows.len() as u64 {
            return Some(format!("{used} flows counted, {} found", flows.len()));
        }
        self.unbalanced()
    }

    /// Forgets which ports the host uses.
    fn clear_host_ports(&self) {
        self.with_host_ports(|entries| entries.fill(0));
    }

    /// Notes that the host has used a port just now.
    pub fn stamp_host_port(&self, protocol: u8, port: u16) {
        let index = host_port::index(protocol, Port::new(port)).expect("a protocol with ports");
        let (word, bit) = host_port::bit(index);
        self.with_host_ports(|entries| {
            entries[index as usize] = now().0.into();
            entries[word as usize] |= bit;
        });
    }

    /// Changes the map of the host's ports through its memory, because its entries are many.
    fn with_host_ports(&self, change: impl FnOnce(&mut [u64])) {
        let Some(Map::Array(ports)) = self.ebpf.map(map::HOST_PORTS) else { panic!("no array of ports") };
        let len = NonZeroUsize::new(host_port::ENTRIES as usize * size_of::<u64>()).expect("entries");
        let (fd, access) = (ports.fd().as_fd(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: so many entries are mapped; no program runs meanwhile, and the mapping is gone before this returns.
        unsafe {
            let memory = mmap(None, len, access, MapFlags::MAP_SHARED, fd, 0).expect("the map's memory");
            change(std::slice::from_raw_parts_mut(memory.cast().as_ptr(), host_port::ENTRIES as usize));
            munmap(memory, len.get()).expect("a mapping");
        }
    }

    /// Where the allocator and the collector stand.
    pub fn cursors(&mut self) -> Cursors {
        let cursors: Array<_, Cursors> = map(&mut self.ebpf, map::CURSORS);
        cursors.get(&0, 0).expect("the cursors")
    }

    fn set_cursors(&mut self, cursors: Cursors) {
        let mut all: Array<_, Cursors> = map(&mut self.ebpf, map::CURSORS);
        all.set(0, &cursors, 0).expect("the cursors");
    }
}

/// The clock that the programs read, who may be a jiffy behind.
pub fn now() -> Ticks {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
    let (seconds, nanoseconds) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
    Ticks::from_ns(seconds * 1_000_000_000 + nanoseconds)
}
