//! The express lane and the long way, with the same packets through both: nobody outside can tell them apart.
//!
//! The seed is fixed, `XNAT_SEED=N` takes another one; a failure prints it, and the frame.

use std::io;
use std::time::Duration;

use xnat_common::checksum;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::packet::proto;
use xnat_common::{Flow, Ticks};
use xnat_tests::packet::{ACK, FIN, PSH, Packet as Judged, RST, SYN};
use xnat_tests::random::Random;
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2};

use crate::fixture::{Given, Known, REDIRECT, ago, outside, tally, to_peer};
use crate::lane::{is_of_the_lane, is_same, since, stay_on_this_processor, way_out, without_hops};
use crate::packet::{self, End, ISN, Packet, Tag, tcp, udp};
use crate::skb::Outcome;
use crate::world::Hook::{self, InsideIn, UplinkIn};
use crate::world::{World, now};

/// Rounds, each from a table with the same flows, and packets in each.
const ROUNDS: usize = 60;
const PACKETS: usize = 100;

const ETHERNET: usize = 14;
const TRANSPORT: usize = 34;
/// The shortest frame that the kernel runs a program on (6.18, `bpf_prog_test_run_skb`).
const SHORTEST: usize = ETHERNET + 20;

const CONTAINER: End = (N1, 40000);
const SERVER: End = (ANYWHERE, 80);
const CLIENT: End = (ANYWHERE, 50000);
const SERVICE: End = (N1, 8080);

/// How a flow comes to be.
#[derive(Clone, Copy)]
enum Opened {
    /// By its container.
    Inside,
    /// By somebody outside.
    Outside,
    /// By a peer.
    ByPeer,
    /// It is there, and nothing is known of TCP's windows.
    Known(Known),
}

/// A flow, with its near and its far end as its container has them, and as the wire has them.
#[derive(Clone)]
struct Conversation {
    proto: u8,
    opened: Opened,
    inside: [End; 2],
    wire: [End; 2],
}

fn conversations() -> Vec<Conversation> {
    let mut all = Vec::new();
    for proto in [proto::UDP, proto::TCP] {
        let mut add = |opened, inside, wire| all.push(Conversation { proto, opened, inside, wire });
        add(Opened::Inside, [CONTAINER, SERVER], [(NODE1, 40000), SERVER]);
        add(Opened::Outside, [CONTAINER, CLIENT], [(NODE1, 40000), CLIENT]);
        add(Opened::Inside, [CONTAINER, (N2, 80)], [(NODE1, 40000), (NODE2, 80)]);
        add(Opened::ByPeer, [SERVICE, (NODE2, 50000)], [(NODE1, 8080), (NODE2, 50000)]);
        add(Opened::Outside, [SERVICE, CLIENT], [(NODE1, 2222), CLIENT]);
        let known = outside(proto, (N1, 40001), SERVER).port(50505).answered();
        add(Opened::Known(known), [(N1, 40001), SERVER], [(NODE1, 50505), SERVER]);
        let known = to_peer(proto, (N1, 40001), (N2, 80), NODE2).port(50505).answered();
        add(Opened::Known(known), [(N1, 40001), (N2, 80)], [(NODE1, 50505), (NODE2, 80)]);
    }
    all
}

impl Conversation {
    /// One that n1 opens from this port, to where it has opened others.
    fn new(proto: u8, port: u16) -> Self {
        Self { proto, opened: Opened::Inside, inside: [(N1, port), SERVER], wire: [(NODE1, port), SERVER] }
    }

    /// A packet that comes in at `hook`.
    fn packet(&self, hook: Hook, flags: u8) -> Packet {
        let [src, dst] = if hook == InsideIn { self.inside } else { [self.wire[1], self.wire[0]] };
        if self.proto == proto::TCP { tcp(src, dst, flags) } else { udp(src, dst) }
    }

    fn open(&self, world: &mut World) {
        let (first, second) = match self.opened {
            Opened::Inside | Opened::Known(_) => (InsideIn, UplinkIn),
            Opened::Outside | Opened::ByPeer => (UplinkIn, InsideIn),
        };
        if let Opened::Known(known) = self.opened {
            Given::Known(known).prepare(world);
        } else {
            let opening = self.packet(first, SYN);
            let tagged = matches!(self.opened, Opened::ByPeer);
            let opening = if tagged { opening.tagged(Tag::Open, self.inside[0].0) } else { opening };
            run(world, first, &opening);
            run(world, second, &self.packet(second, SYN | ACK));
        }
        // From now on both ways are known where they may be remembered.
        for hook in [first, second, InsideIn] {
            run(world, hook, &self.packet(hook, ACK));
        }
    }
}

fn run(world: &mut World, hook: Hook, packet: &Packet) {
    let outcome = world.run(hook, packet, false).expect("a run");
    assert_eq!(outcome.action, REDIRECT, "{:?}", tally(world.counters()));
}

/// A world with all the conversations under way.
fn prepare(world: &mut World, conversations: &[Conversation], flags: u32) {
    world.reset();
    world.open_lane();
    world.configure(|config| (config.filtering, config.flags) = ([0; 4], flags));
    for proto in [proto::UDP, proto::TCP] {
        world.forward(proto, 2222, SERVICE);
    }
    for conversation in conversations {
        conversation.open(world);
    }
    world.change_hops(|hop| hop.asked = now().0);
}

#[test]
fn both_ways_are_the_same_to_everybody() {
    let seed = Random::seed(4);
    let mut random = Random::new(seed);
    let conversations = conversations();
    stay_on_this_processor();
    let (mut fast, mut slow) = (World::new(), World::new());
    let mut tried = Seen::default();
    for round in 0..ROUNDS {
        let mut conversations = conversations.clone();
        prepare(&mut fast, &conversations, 0);
        prepare(&mut slow, &conversations, Config::SLOW_PATH);
        let time = now();
        for world in [&mut fast, &mut slow] {
            assert_eq!(world.damage(), None);
            assert_eq!(world.flows().len(), conversations.len());
            stamp(world, time);
        }
        for number in 0..PACKETS {
            let opens = random.chance(15);
            if opens {
                let proto = random.pick(&[proto::UDP, proto::TCP]);
                conversations.push(Conversation::new(proto, 41_000 + number as u16));
            }
            let any = random.below(conversations.len());
            let conversation = &conversations[if opens { conversations.len() - 1 } else { any }];
            let hook = if opens { InsideIn } else { random.pick(&[InsideIn, UplinkIn]) };
            let frame = generate(&mut random, conversation, hook, opens);
            let segment = if random.chance(3) { 100 + random.below(1500) as u32 } else { 0 };
            let summed = random.chance(25);
            let idle = idle(&mut random);
            let results = [&mut fast, &mut slow].map(|world| {
                if let Some(seconds) = idle {
                    stamp(world, ago(seconds));
                }
                Result::of(world, hook, &input(&frame, segment), summed)
            });
            if let Err(what) = tried.compare(hook, &frame, &results) {
                let [one, other] = results;
                panic!(
                    "XNAT_SEED={seed}, round {round}, packet {number} at {hook:?}, idle for {idle:?}, segments of \
                     {segment}, summed: {summed}: {what}\n  in   {:?}\n       {frame:02x?}\n  fast {one}\n  slow {other}",
                    parse(&frame),
                );
            }
            if results.iter().any(Result::is_random) {
                break;
            }
        }
    }
    println!("XNAT_SEED={seed}: {tried:?}");
    assert!(tried.express * 3 > tried.packets, "{tried:?}");
    assert!(tried.express < tried.packets * 9 / 10, "{tried:?}");
    assert!(tried.dropped > 0 && tried.left_to_kernel > 0 && tried.damaged > 0, "{tried:?}");
    assert!(tried.opened_express * 2 > tried.opened, "{tried:?}");
}

/// Makes this the time when all flows were last seen, opened and tagged.
fn stamp(world: &mut World, Ticks(time): Ticks) {
    for (slot, _) in world.flows() {
        world.change_slot(slot, |flow| {
            flow.word = flow.word & !0xffff_ffff | u64::from(time);
            (flow.opened, flow.tag_time) = (time, time);
        });
    }
}

/// How long every flow has been idle before the packet comes, if that is set.
fn idle(random: &mut Random) -> Option<u32> {
    match random.below(1000) {
        0 => Some(7500),
        1 => Some(400),
        2..30 => Some(100),
        30..200 => Some(20),
        _ => None,
    }
}

fn input(frame: &[u8], segment: u32) -> Packet {
    let ether_type = u16::from_be_bytes([frame[12], frame[13]]);
    let macs = [0, 6].map(|at| frame[at..at + 6].try_into().expect("six octets"));
    packet::frame(ether_type, frame[ETHERNET..].to_vec()).macs(macs).segmented(segment)
}

fn generate(random: &mut Random, conversation: &Conversation, hook: Hook, opens: bool) -> Vec<u8> {
    let is_tcp = conversation.proto == proto::TCP;
    let any = flags(random);
    let mut packet = conversation.packet(hook, if opens && random.chance(90) { SYN } else { any });
    let any = random.below(1401);
    let len = if random.chance(10) { random.pick(&[0, 1, 1460, 1461, 1472, 1473]) } else { any };
    packet = packet.carrying(len);
    packet = packet.tos(random.bits() as u8).id(random.bits() as u16);
    let ttl = random.bits() as u8;
    packet = packet.ttl(if random.chance(5) { random.pick(&[0, 1, 2, 255]) } else { ttl });
    if random.chance(30) {
        packet = packet.may_fragment();
    }
    if is_tcp {
        let [seq, ack] = [(); 2].map(|()| number(random));
        packet = packet.window(random.bits() as u16);
        packet = packet.numbers(seq, ack);
        let options = random.pick(&[0, 0, 4, 12, 40]);
        packet = packet.tcp_options(&vec![1; options]);
    } else if random.chance(15) {
        packet = packet.without_checksum();
    }
    if random.chance(4) {
        packet = packet.options(&vec![1; 4 * (1 + random.below(10))]);
    }
    if random.chance(4) {
        let start = random.pick(&[0, 0, 8, 64]);
        packet = packet.carrying(800).fragment(start, 8 * (1 + random.below(100)));
    }
    if random.chance(20) {
        packet = packet.padded(random.below(40));
    }
    let mut frame = packet.frame(hook.macs());
    spoil_checksums(random, &mut frame, is_tcp);
    if random.chance(5) {
        for _ in 0..=random.below(3) {
            let at = if random.chance(20) { random.below(ETHERNET) } else { ETHERNET + random.below(frame.len() - 14) };
            // The kernel runs a program on frames of IPv6 only if they are longer.
            if !(12..14).contains(&at) {
                frame[at] ^= 1 << random.below(8);
            }
        }
    }
    if random.chance(1) {
        frame.truncate((ETHERNET + random.below(60)).max(SHORTEST));
    }
    frame
}

fn flags(random: &mut Random) -> u8 {
    match random.below(100) {
        0..3 => random.pick(&[SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, FIN, 0]),
        3..5 => random.bits() as u8,
        5..40 => ACK,
        40..45 => ACK | 0xc0,
        _ => PSH | ACK,
    }
}

/// A distance from the first sequence number, mostly within the window.
fn number(random: &mut Random) -> u32 {
    match random.below(100) {
        0..3 => random.bits() as u32,
        3..5 => u32::MAX - ISN,
        5 => random.pick(&[100_000, 200_000, 1 << 31, u32::MAX]),
        _ => 1 + random.below(30_000) as u32,
    }
}

fn spoil_checksums(random: &mut Random, frame: &mut [u8], is_tcp: bool) {
    let set = |frame: &mut [u8], at: usize, value: u16| {
        // A fragment may end before.
        if let Some(field) = frame.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    };
    if random.chance(3) {
        set(frame, 24, random.bits() as u16);
    }
    let at = TRANSPORT + if is_tcp { 16 } else { 6 };
    match random.below(100) {
        0..4 => set(frame, at, random.bits() as u16),
        4..6 => set(frame, at, 0),
        6..8 => set(frame, at, u16::MAX),
        8..14 => {
            let len = u16::from_be_bytes([frame[16], frame[17]]).wrapping_sub(20).to_be_bytes();
            let pseudo = [&frame[26..34], &[0, frame[23]], &len].concat();
            set(frame, at, !checksum::compute(&pseudo));
        }
        _ => {}
    }
}

/// What has come of a packet in one world.
struct Result {
    outcome: io::Result<Outcome>,
    counted: Vec<(Counter, u64)>,
    flows: Vec<(u32, Flow)>,
}

impl Result {
    fn of(world: &mut World, hook: Hook, packet: &Packet, summed: bool) -> Self {
        let before = world.counters();
        let outcome = world.run(hook, packet, summed);
        let flows = world.flows().into_iter().map(|(slot, flow)| (slot, without_hops(flow))).collect();
        Self { outcome, counted: since(&before, &world.counters()), flows }
    }

    /// Whether something was chosen at random, so that the worlds are not the same any more.
    fn is_random(&self) -> bool {
        self.counted.iter().any(|(counter, _)| matches!(counter, Counter::PortsChanged))
    }
}

impl std::fmt::Display for Result {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.outcome {
            Ok(outcome) => {
                let Outcome { action, frame, mark } = outcome;
                write!(out, "action {action}, mark {mark:#x}: {:?}\n       {frame:02x?}", parse(frame))?;
            }
            Err(error) => write!(out, "{error}")?,
        }
        write!(out, "\n       counted {:?}", tally(self.counted.iter().copied()))
    }
}

fn parse(frame: &[u8]) -> Judged {
    Judged::parse(Duration::ZERO, frame)
}

/// How many packets there were, and what became of them.
#[derive(Debug, Default)]
struct Seen {
    packets: usize,
    express: usize,
    /// Those that opened a flow, and those of them that took the lane.
    opened: usize,
    opened_express: usize,
    left_to_kernel: usize,
    dropped: usize,
    /// Those whose network card's sum was not kept, which only concerns datagrams without a checksum of their own.
    damaged: usize,
}

impl Seen {
    fn compare(&mut self, hook: Hook, frame: &[u8], [fast, slow]: &[Result; 2]) -> std::result::Result<(), String> {
        self.packets += 1;
        if fast.counted.iter().any(|(counter, _)| matches!(counter, Counter::FlowsOpened)) {
            self.opened += 1;
            self.opened_express +=
                usize::from(fast.outcome.as_ref().is_ok_and(|outcome| is_of_the_lane(hook, outcome)));
        }
        if fast.is_random() && slow.is_random() {
            return Ok(());
        }
        match (&fast.outcome, &slow.outcome) {
            (Ok(fast), Ok(slow)) => self.compare_outcomes(hook, frame, fast, slow)?,
            (Err(one), Err(other)) if one.raw_os_error() == other.raw_os_error() => self.damaged += 1,
            _ => return Err("only one of the runs failed".to_owned()),
        }
        if tally(fast.counted.iter().copied()) != tally(slow.counted.iter().copied()) {
            return Err("something else was counted".to_owned());
        }
        let same = |((slot, flow), (other_slot, other)): (&(u32, Flow), &(u32, Flow))| {
            slot == other_slot && is_same(flow, other)
        };
        if fast.flows.len() != slow.flows.len() || !fast.flows.iter().zip(&slow.flows).all(same) {
            return Err(difference(&fast.flows, &slow.flows));
        }
        Ok(())
    }

    fn compare_outcomes(
        &mut self,
        hook: Hook,
        frame: &[u8],
        fast: &Outcome,
        slow: &Outcome,
    ) -> std::result::Result<(), String> {
        if (fast.action, fast.mark) != (slow.action, slow.mark) {
            return Err("another fate".to_owned());
        }
        let express = is_of_the_lane(hook, fast);
        if express && fast.action != REDIRECT || !express && fast.frame[..ETHERNET] != slow.frame[..ETHERNET] {
            return Err(format!("the Ethernet header, which is not that at {:?} either", way_out(hook)));
        }
        if is_of_the_lane(hook, slow) {
            return Err("the slow one took the lane".to_owned());
        }
        let ip = |outcome: &Outcome| {
            let mut ip = outcome.frame[ETHERNET..].to_vec();
            if hook == InsideIn && has_random_identification(frame) && outcome.action == REDIRECT {
                hide_identification(&mut ip);
            }
            ip
        };
        if ip(fast) != ip(slow) {
            return Err("the packets are not the same".to_owned());
        }
        self.express += usize::from(express);
        self.left_to_kernel += usize::from(fast.action == crate::fixture::PASS);
        self.dropped += usize::from(fast.action == crate::fixture::SHOT);
        Ok(())
    }
}

fn difference(fast: &[(u32, Flow)], slow: &[(u32, Flow)]) -> String {
    let missing = |from: &[(u32, Flow)], (slot, flow): &(u32, Flow)| {
        !from.iter().any(|(other_slot, other)| slot == other_slot && is_same(flow, other))
    };
    let only = |of: &[(u32, Flow)], from| of.iter().filter(|flow| missing(from, flow)).copied().collect::<Vec<_>>();
    format!("the flows are not the same\n  only fast {:?}\n  only slow {:?}", only(fast, slow), only(slow, fast))
}

/// Whether a packet may be fragmented later, and is no fragment: it leaves with a random identification.
fn has_random_identification(frame: &[u8]) -> bool {
    matches!(frame[20..22], [0 | 0x80, 0])
}

/// Makes the identification zero, and the header's checksum what it would be then.
fn hide_identification(ip: &mut [u8]) {
    let word = |at: usize| u16::from_ne_bytes([ip[at], ip[at + 1]]);
    let sum = checksum::update(word(10), checksum::delta16(word(4), 0));
    ip[4..6].fill(0);
    ip[10..12].copy_from_slice(&sum.to_ne_bytes());
}
