//! The express lane, opened, looked into and upset from outside of the programs.

use std::io;

use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::hop::{Hop, Route, Station, StationKey, Watch};
use xnat_common::names::map as names;
use xnat_common::subnet::Inside;
use xnat_common::{Direction, Flow, Ticks};

use crate::dataplane::{clear, map};
use crate::fixture::{ago, tally};
use crate::packet::Packet;
use crate::skb::Outcome;
use crate::world::Hook::{self, InsideIn, InsideOut, UplinkIn, UplinkOut};
use crate::world::{INSIDE, World, now};

/// The epoch in which the lane is opened.
pub const EPOCH: u32 = 1;

/// Keeps the calling thread where it is: what a processor has learnt of openings another one does not know.
pub fn stay_on_this_processor() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().expect("a processor")).expect("a processor");
    sched_setaffinity(Pid::from_raw(0), &here).expect("staying on it");
}

impl World {
    /// Lets packets of established flows take the express lane: somebody watches the network, and the inside interface
    /// takes packets directly. Nothing is remembered yet.
    pub fn open_lane(&mut self) {
        self.watched = true;
        let mut insides: HashMap<_, u32, Inside> = map(&mut self.ebpf, names::INSIDES);
        let inside = insides.get(&INSIDE, 0).expect("an inside interface");
        insides.insert(&INSIDE, &Inside { flags: Inside::DIRECT, ..inside }, 0).expect("an inside interface");
        clear::<StationKey, Station>(map(&mut self.ebpf, names::STATIONS));
        self.change_hops(|hop| *hop = Hop::default());
        let cpus = aya::util::nr_cpus().expect("the number of processors").get() as usize;
        let mut routes: PerCpuArray<_, Route> = map(&mut self.ebpf, names::ROUTES);
        for slot in 0..Route::SLOTS {
            let none = PerCpuValues::try_from(vec![Route::default(); cpus]).expect("a value a processor");
            routes.set(slot, none, 0).expect("a route");
        }
    }

    /// Has all packets take the long way; all else stays configured as it is.
    pub fn close_lane(&mut self) {
        let config = self.config();
        let mut configs: Array<_, Config> = map(&mut self.ebpf, names::CONFIG);
        configs.set(0, &Config { flags: config.flags | Config::SLOW_PATH, ..config }, 0).expect("the configuration");
    }

    /// Says that somebody watches the network, as the daemon does again and again.
    pub fn keep_watch(&mut self) {
        self.write_watch(EPOCH, now().0.wrapping_add(Ticks::from_secs(Watch::SECONDS).0));
    }

    /// Says in which epoch the network is, and until when, in ticks, somebody watches it.
    pub fn set_watch(&mut self, epoch: u32, until: u32) {
        self.watched = false;
        self.write_watch(epoch, until);
    }

    fn write_watch(&mut self, epoch: u32, until: u32) {
        let mut watch: Array<_, Watch> = map(&mut self.ebpf, names::WATCH);
        watch.set(0, &Watch { epoch, until }, 0).expect("the watch");
    }

    /// The next hop that a flow remembers.
    pub fn hop(&mut self, flow: &Flow, direction: Direction) -> Option<Hop> {
        let name = flow.next_hop[direction as usize];
        let hops: Array<_, Hop> = map(&mut self.ebpf, names::HOPS);
        let hop = hops.get(&Hop::slot(name), 0).expect("a hop");
        (name != 0 && hop.name == name).then_some(hop)
    }

    /// Changes all hops that there are.
    pub fn change_hops(&mut self, change: impl Fn(&mut Hop)) {
        let mut hops: Array<_, Hop> = map(&mut self.ebpf, names::HOPS);
        for slot in 0..Hop::SLOTS {
            let mut hop = hops.get(&slot, 0).expect("a hop");
            if hop != Hop::default() {
                change(&mut hop);
                hops.set(slot, &hop, 0).expect("a hop");
            }
        }
    }

    /// Changes the flow in a slot.
    pub fn change_slot(&mut self, slot: u32, change: impl Fn(&mut Flow)) {
        let mut flows: Array<_, Flow> = map(&mut self.ebpf, names::FLOWS);
        let mut flow = flows.get(&slot, 0).expect("a slot");
        change(&mut flow);
        flows.set(slot, &flow, 0).expect("a slot");
    }

    /// Has a flow learn its ways by a packet from its container, and be done with asking the kernel's neighbours for now.
    #[track_caller]
    pub fn learn(&mut self, packet: &Packet) {
        let outcome = self.run(InsideIn, packet, false).expect("a run");
        assert!(!is_of_the_lane(InsideIn, &outcome), "nothing was known before");
        self.change_hops(|hop| hop.asked = now().0);
    }

    /// Runs a packet, and says what has come of it.
    #[track_caller]
    pub fn trace(&mut self, hook: Hook, packet: &Packet, summed: bool) -> Traced {
        let before = self.counters();
        let outcome = match self.run(hook, packet, summed) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{error}{}", network_cards(&error)),
        };
        let flows = self.flows().into_iter().map(|(slot, flow)| (slot, without_hops(flow))).collect();
        Traced { outcome, counted: since(&before, &self.counters()), flows }
    }
}

fn network_cards(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(libc::EBADMSG) { " (the sum of the network card is wrong)" } else { "" }
}

/// What has come of a packet.
pub struct Traced {
    /// The packet's fate.
    pub outcome: Outcome,
    /// What was counted.
    pub counted: Vec<(Counter, u64)>,
    /// The flows there are then, by slot, without what they remember of next hops.
    pub flows: Vec<(u32, Flow)>,
}

impl Traced {
    /// What was counted, by name.
    pub fn tally(&self) -> Vec<(&'static str, u64)> {
        tally(self.counted.iter().copied())
    }

    /// Asserts that the same was done, counted and left behind in the flows; of the frames the MAC addresses may differ,
    /// which the lane has written and on the long way the kernel writes later.
    #[track_caller]
    pub fn expect_same(&self, other: &Self) {
        assert_eq!(self.outcome.action, other.outcome.action);
        assert_eq!(self.outcome.frame[12..], other.outcome.frame[12..]);
        assert_eq!(self.tally(), other.tally());
        assert_eq!(self.flows.len(), other.flows.len());
        for ((slot, flow), (other_slot, other)) in self.flows.iter().zip(&other.flows) {
            assert!(slot == other_slot && is_same(flow, other), "\n  {flow:?}\n  {other:?}");
        }
    }
}

/// What counters say more than they said before.
pub fn since(before: &[(Counter, u64)], after: &[(Counter, u64)]) -> Vec<(Counter, u64)> {
    let old = |counter| before.iter().find(|(other, _)| *other == counter).map_or(0, |(_, value)| *value);
    after.iter().map(|(counter, value)| (*counter, value - old(*counter))).filter(|(_, more)| *more > 0).collect()
}

pub fn without_hops(flow: Flow) -> Flow {
    Flow { next_hop: [0; 2], ..flow }
}

/// Whether two flows are the same but for their times, which clocks let differ by a moment.
pub fn is_same(one: &Flow, other: &Flow) -> bool {
    let near = |a: u32, b: u32| Ticks(a).since(Ticks(b)).0.max(Ticks(b).since(Ticks(a)).0) < Ticks::from_secs(2).0;
    let like_one = Flow {
        word: other.word & !0xffff_ffff | one.word & 0xffff_ffff,
        opened: one.opened,
        tag_time: one.tag_time,
        ..*other
    };
    let times = [(one.word as u32, other.word as u32), (one.opened, other.opened), (one.tag_time, other.tag_time)];
    times.into_iter().all(|(a, b)| near(a, b)) && bytemuck::bytes_of(one) == bytemuck::bytes_of(&like_one)
}

/// The hook at which a packet that came in at `hook` leaves.
pub fn way_out(hook: Hook) -> Hook {
    match hook {
        InsideIn => UplinkOut,
        UplinkIn => InsideOut,
        InsideOut | UplinkOut | Hook::LoopbackOut => panic!("no way in"),
    }
}

/// Whether a packet has its new MAC addresses already: on the long way the kernel fills them in later.
pub fn is_of_the_lane(hook: Hook, outcome: &Outcome) -> bool {
    outcome.frame.starts_with(&way_out(hook).macs().concat())
}

/// Whether a flow was seen within the last second.
pub fn is_fresh(flow: &Flow) -> bool {
    Ticks(flow.word as u32).since(ago(1)).0 > 0
}
