//! Names that the object file, the pins and user space agree on.

/// The programs' names in the object file and in `bpftool prog`.
pub mod program {
    /// Ingress of the bridge's ports, of the bridge, and of plain inside interfaces.
    pub const INSIDE_INGRESS: &str = "xnat_inside_in";
    /// Egress of the bridge and of plain inside interfaces.
    pub const INSIDE_EGRESS: &str = "xnat_inside_out";
    /// Ingress of the uplink.
    pub const UPLINK_INGRESS: &str = "xnat_uplink_in";
    /// Egress of the uplink.
    pub const UPLINK_EGRESS: &str = "xnat_uplink_out";
    /// Egress of the loopback interface: what the host sends to itself, of which forwards take their part.
    pub const LOOPBACK_EGRESS: &str = "xnat_loopback_out";
    /// One slice of collection, driven by user space.
    pub const COLLECT: &str = "xnat_collect";
    /// At the root cgroup: what sockets of IPv4 and of IPv6 run when they have been bound.
    pub const AT_BINDS: [&str; 2] = ["xnat_bound4", "xnat_bound6"];
    /// What the programs at the hooks have in common, in the order in which they lie in [`STAGES`](super::map::STAGES).
    pub const STAGES: [&str; 5] = ["xnat_classify", "xnat_open", "xnat_translate", "xnat_error", "xnat_fragment"];
}

/// The names of what the object is told when it is loaded.
pub mod global {
    /// `u64`: the cookie of the network namespace that the programs are for (`SO_NETNS_COOKIE`).
    pub const NAMESPACE: &str = "NAMESPACE";
}

/// The maps' names in the object file and under `maps/` of an instance's pins.
pub mod map {
    /// `Array<Config>`, one entry.
    pub const CONFIG: &str = "CONFIG";
    /// `ProgramArray`: the programs of [`STAGES`](super::program::STAGES); one for each run, under `stages/` by its id.
    pub const STAGES: &str = "STAGES";
    /// `Array<Cursors>`, one entry.
    pub const CURSORS: &str = "CURSORS";
    /// `PerCpuArray<u64>` by counter number.
    pub const COUNTERS: &str = "COUNTERS";
    /// `Array<Flow>`, can be mapped into memory.
    pub const FLOWS: &str = "FLOWS";
    /// `Array<Bucket>` by hash: an entry for each tuple; as many as `index::buckets` says.
    pub const TUPLES: &str = "TUPLES";
    /// `Stack<u32>`: slots that have been freed.
    pub const FREE: &str = "FREE";
    /// `Queue<u64>`: references to flows that have closed, in that order; some have ended since.
    pub const CLOSED: &str = "CLOSED";
    /// `LpmTrie<Addr, Subnet>`.
    pub const SUBNETS: &str = "SUBNETS";
    /// `HashMap<Addr, Peer>`.
    pub const PEERS: &str = "PEERS";
    /// `HashMap<u32, Inside>` by interface index.
    pub const INSIDES: &str = "INSIDES";
    /// `LruHashMap<FlowKey, u32>`: tuples of the kernel's own flows, with the time when they were last seen.
    pub const KERNEL_FLOWS: &str = "KERNEL_FLOWS";
    /// `Array<u64>` by `host_port::index`: when the host was last seen to use a port, then by `host_port::bit` whether that
    /// may count; can be mapped into memory.
    pub const HOST_PORTS: &str = "HOST_PORTS";
    /// `Array<Mapping>` by `mapping::index`: who has which port.
    pub const PORTS: &str = "PORTS";
    /// `Array<u64>` by `mapping::taken_bit`: a bit for each port that has an owner in `PORTS`, or nearly so.
    pub const TAKEN: &str = "TAKEN";
    /// `HashMap<RemoteKey, RemoteEntry>`: with which remote addresses a port has sessions, beyond the first one.
    pub const REMOTES: &str = "REMOTES";
    /// `HashMap<ForwardKey, Forward>`.
    pub const FORWARDS: &str = "FORWARDS";
    /// `HashMap<Addr, u64>`: how many ports a container has, while there is a quota.
    pub const QUOTAS: &str = "QUOTAS";
    /// `LruHashMap<Destination, Full>`: toward whom no port is left.
    pub const FULL: &str = "FULL";
    /// `LruHashMap<FragmentKey, Fragment>`: datagrams on their way out whose first fragment has passed.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `Array<Datagram>`: datagrams of which fragments have come in.
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// `HashMap<DatagramKey, u32>`: which of `DATAGRAMS`, as a `fragment::Handle`.
    pub const DATAGRAM_KEYS: &str = "DATAGRAM_KEYS";
    /// `Array<Held>`: fragments whose first one has not come yet.
    pub const HELD: &str = "HELD";
    /// `LruHashMap<Source, SourceUse>`: whose datagrams and fragments these are.
    pub const FRAGMENT_SOURCES: &str = "FRAGMENT_SOURCES";
    /// `Array<u64>`: where to look next for a slot in `DATAGRAMS` and in `HELD`.
    pub const FRAGMENT_HANDS: &str = "FRAGMENT_HANDS";
    /// `Array<Watch>`, one entry, can be mapped into memory.
    pub const WATCH: &str = "WATCH";
    /// `Array<Hop>`: next hops.
    pub const HOPS: &str = "HOPS";
    /// `PerCpuArray<Route>`: ways of openings to the outside; not pinned.
    pub const ROUTES: &str = "ROUTES";
    /// `LruHashMap<StationKey, Station>`: at which port of a bridge a MAC address is.
    pub const STATIONS: &str = "STATIONS";
    /// `LruHashMap<SentKey, Sent>`: identifications of fragmented datagrams on the wire.
    pub const SENT: &str = "SENT";
}

/// The version of the pinned maps' layouts; part of the pins' path, and raised whenever a layout changes.
pub const LAYOUT: u32 = 6;
