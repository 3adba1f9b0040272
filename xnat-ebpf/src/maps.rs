//! The maps. Sizes here are the defaults; user space sets those of the flow table.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, Queue, Stack};
use aya_ebpf::macros::btf_map;
use xnat_common::config::{Config, Cursors};
use xnat_common::counter::{self, Counter};
use xnat_common::fragment::{
    self, Datagram, DatagramKey, Fragment, FragmentKey, Held, Sent, SentKey, Source, SourceUse,
};
use xnat_common::hop::{Hop, Route, Station, StationKey, Watch};
use xnat_common::host_port;
use xnat_common::index::{self, Bucket};
use xnat_common::mapping::{self, Destination, Forward, ForwardKey, Full, Mapping, RemoteEntry, RemoteKey};
use xnat_common::subnet::{Inside, Peer, Subnet};
use xnat_common::{Addr, Flow, FlowKey, Ticks};

use crate::atomic;
use crate::claim::Noted;
use crate::opener;
use crate::stage::STAGES_LEN;

/// Flows of the table unless user space asks for another number.
const FLOWS_DEFAULT: usize = 262_144;
/// Slots of such a table.
const SLOTS_DEFAULT: usize = index::slots(FLOWS_DEFAULT as u32) as usize;
/// Elements are allocated when they are inserted, from the kernel's own reserve for programs (kernel 6.1): what most hosts
/// use little of takes little.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static STAGES: ProgramArray<STAGES_LEN> = ProgramArray::new();
#[btf_map]
pub static CURSORS: Array<Cursors, 1> = Array::new();
#[btf_map]
pub static CLOCK: Array<u64, 1> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { counter::CAPACITY as usize }> = PerCpuArray::new();
#[btf_map]
pub static FLOWS: Array<Flow, SLOTS_DEFAULT, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
pub static OPENING: PerCpuArray<Noted, 1> = PerCpuArray::new();
#[btf_map]
pub static TUPLES: Array<Bucket, { index::buckets(FLOWS_DEFAULT as u32) as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map]
pub static FREE: Stack<u32, SLOTS_DEFAULT> = Stack::new();
#[btf_map]
pub static CLOSED: Queue<u64, SLOTS_DEFAULT> = Queue::new();
#[btf_map]
pub static SUBNETS: LpmTrie<Addr, Subnet, 1024> = LpmTrie::new();
#[btf_map]
pub static PEERS: HashMap<Addr, Peer, 1024> = HashMap::new();
#[btf_map]
pub static INSIDES: HashMap<u32, Inside, 4096> = HashMap::new();
#[btf_map]
pub static KERNEL_FLOWS: LruHashMap<FlowKey, u32, 65_536> = LruHashMap::new();
#[btf_map]
pub static HOST_PORTS: Array<u64, { host_port::ENTRIES as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
pub static PORTS: Array<Mapping, { mapping::ENTRIES as usize }> = Array::new();
#[btf_map]
pub static TAKEN: Array<u64, { mapping::TAKEN_WORDS as usize }> = Array::new();
#[btf_map]
pub static REMOTES: HashMap<RemoteKey, RemoteEntry, FLOWS_DEFAULT, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static FORWARDS: HashMap<ForwardKey, Forward, 131_072, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static QUOTAS: HashMap<Addr, u64, 65_536, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static FULL: LruHashMap<Destination, Full, 1024> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 4096> = LruHashMap::new();
#[btf_map]
pub static DATAGRAMS: Array<Datagram, { fragment::DATAGRAMS as usize }> = Array::new();
#[btf_map]
pub static DATAGRAM_KEYS: HashMap<DatagramKey, u32, { 2 * fragment::DATAGRAMS as usize }> = HashMap::new();
#[btf_map]
pub static HELD: Array<Held, { fragment::HELD as usize }> = Array::new();
#[btf_map]
pub static FRAGMENT_SOURCES: LruHashMap<Source, SourceUse, { 2 * fragment::DATAGRAMS as usize }> = LruHashMap::new();
#[btf_map]
pub static FRAGMENT_HANDS: Array<u64, 2> = Array::new();
#[btf_map]
pub static WATCH: Array<Watch, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
pub static HOPS: Array<Hop, { Hop::SLOTS as usize }> = Array::new();
#[btf_map]
pub static ROUTES: PerCpuArray<Route, { Route::SLOTS as usize }> = PerCpuArray::new();
#[btf_map]
pub static OPENERS: Array<u32, { opener::SLOTS as usize }> = Array::new();
#[btf_map]
pub static STATIONS: LruHashMap<StationKey, Station, 16_384> = LruHashMap::new();
#[btf_map]
pub static SENT: LruHashMap<SentKey, Sent, 16_384> = LruHashMap::new();

/// The running configuration, once user space has written one.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.uplink != 0)
}

/// Counts.
#[inline(always)]
pub fn count(counter: Counter) {
    count_number(counter as u32);
}

/// Counts under a counter's number.
#[inline(always)]
pub fn count_number(counter: u32) {
    xnat_count(counter);
}

/// As [`count_number`].
///
/// A global function, because there are very many places where something is counted, and each makes the program longer,
/// and the verifier's way through it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_count(counter: u32) -> u32 {
    add_one(counter);
    0
}

/// As [`count`], without a call.
#[inline(always)]
pub fn count_here(counter: Counter) {
    add_one(counter as u32);
}

#[inline(always)]
fn add_one(counter: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the pointer is this processor's own value, and a program is not preempted by itself on it.
        unsafe { *value += 1 };
    }
}

/// What is known of an inside interface. To be read at once: user space replaces elements, and the kernel uses the old
/// ones again.
#[inline(always)]
pub fn inside(ifindex: u32) -> Option<&'static Inside> {
    // SAFETY: as said; what is read of an element that has just been replaced is another interface's, which the packet's
    // next look-up corrects.
    unsafe { INSIDES.get(&ifindex) }
}

/// Whose `address` is, if it is in a subnet of ours or of a peer.
#[inline(always)]
pub fn subnet(address: Addr) -> Option<&'static Subnet> {
    SUBNETS.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(32, address))
}

/// The peer with `address`, if it runs xnat.
#[inline(always)]
pub fn speaking_peer(address: Addr) -> Option<*mut Peer> {
    let peer = PEERS.get_ptr_mut(&address)?;
    // SAFETY: the verifier has seen the null check; user space replaces values in place.
    (unsafe { (*peer).flags } & Peer::SPEAKS_XNAT != 0).then_some(peer)
}

/// Whether any endpoint has another port on the wire than its own.
#[inline(always)]
pub fn has_moved() -> bool {
    // SAFETY: a field of a map value.
    CURSORS.get_ptr(0).is_some_and(|cursors| unsafe { (&raw const (*cursors).moved).read_volatile() } != 0)
}

/// Counts endpoints that have.
#[inline(always)]
pub fn count_moved(change: u64) {
    if let Some(cursors) = CURSORS.get_ptr_mut(0) {
        // SAFETY: a field of a map value.
        unsafe { atomic::add(&raw mut (*cursors).moved, change) };
    }
}

/// Where a port is forwarded.
#[inline(always)]
pub fn forward(config: &Config, key: &ForwardKey) -> Option<Forward> {
    if config.flags & Config::FORWARDS == 0 {
        return None;
    }
    // SAFETY: the value is copied at once.
    unsafe { FORWARDS.get(key) }.copied()
}

/// Whether a search for a port has found nothing of late.
#[inline(always)]
pub fn was_full_within(lifetime: Ticks, now: Ticks) -> bool {
    // SAFETY: a field of a map value.
    let last = CURSORS.get_ptr(0).map_or(0, |cursors| unsafe { (&raw const (*cursors).full).read_volatile() });
    last != 0 && now.since(Ticks(last as u32)).0 < lifetime.0
}

/// Notes that one has.
#[inline(always)]
pub fn note_full(now: Ticks) {
    if let Some(cursors) = CURSORS.get_ptr_mut(0) {
        // SAFETY: a field of a map value. The bit above the time tells it from none.
        unsafe { (&raw mut (*cursors).full).write_volatile(1 << 32 | u64::from(now.0)) };
    }
}

/// Whether the kernel's own NAT has ever been seen to have a flow.
#[inline(always)]
pub fn has_kernel_flows() -> bool {
    // SAFETY: a field of a map value.
    CURSORS.get_ptr(0).is_some_and(|cursors| unsafe { (&raw const (*cursors).kernel_flows).read_volatile() } != 0)
}

/// Notes that it has.
#[inline(always)]
pub fn note_kernel_flows() {
    if let Some(cursors) = CURSORS.get_ptr_mut(0) {
        // SAFETY: a field of a map value, which never becomes zero again.
        unsafe {
            if (*cursors).kernel_flows == 0 {
                (&raw mut (*cursors).kernel_flows).write_volatile(1);
            }
        }
    }
}

/// Counts a flow that has been opened.
#[inline(always)]
pub fn flow_opened() {
    if let Some(cursors) = CURSORS.get_ptr_mut(0) {
        // SAFETY: a field of a map value.
        unsafe { atomic::add(&raw mut (*cursors).used, 1) };
    }
}

/// How many flows are live.
#[inline(always)]
pub fn flows_live() -> u64 {
    // SAFETY: a field of a map value.
    CURSORS.get_ptr(0).map_or(0, |cursors| unsafe { (&raw const (*cursors).used).read_volatile() })
}

/// How many flows have ended.
#[inline(always)]
pub fn flows_ended() -> u64 {
    // SAFETY: a field of a map value.
    CURSORS.get_ptr(0).map_or(0, |cursors| unsafe { (&raw const (*cursors).ended).read_volatile() })
}

/// Counts a flow that has ended.
#[inline(always)]
pub fn flow_ended() {
    if let Some(cursors) = CURSORS.get_ptr_mut(0) {
        // SAFETY: fields of a map value.
        unsafe {
            atomic::add(&raw mut (*cursors).used, u64::MAX);
            atomic::add(&raw mut (*cursors).ended, 1);
        }
    }
}
