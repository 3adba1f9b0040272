//! A row of the table: what is known, a packet in, its fate, and what was counted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use socket2::Type;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::fragment::FragmentKey;
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_common::{Addr, Direction, Flow, FlowKey, Kind, Port, Side, Ticks, Tuple, tcp};
use xnat_tests::packet as judge;
use xnat_tests::topology::NODE1;

use crate::packet::{End, ISN, Packet};
use crate::skb::Outcome;
use crate::world::{Hook, INSIDE, World, now};

/// `TC_ACT_UNSPEC` of `linux/pkt_cls.h`: the packet goes on.
pub const PASS: i32 = -1;
/// `TC_ACT_SHOT`: the packet is dropped.
pub const SHOT: i32 = 2;
/// `TC_ACT_REDIRECT`: the packet goes where a helper has said.
pub const REDIRECT: i32 = 7;

/// A row.
pub struct Fixture {
    /// What it shows.
    pub what: &'static str,
    /// Which program runs.
    pub at: Hook,
    /// What is known before.
    pub given: Vec<Given>,
    /// The packet in.
    pub packet: Packet,
    /// What becomes of it.
    pub fate: Fate,
    /// Everything that is counted, once for each count.
    pub counts: &'static [Counter],
}

/// Something that is known before the packet comes.
pub enum Given {
    /// A flow.
    Known(Known),
    /// A tuple of the kernel's own, seen this many seconds ago.
    Kernels(FlowKey, u32),
    /// The first fragment of a datagram, of the first flow and in this direction, this many seconds ago.
    FirstFragment(FragmentKey, Direction, u32),
    /// A TCP socket of the host that listens.
    Listener(u16),
    /// A UDP socket of the host.
    UdpSocket(u16),
    /// The inside interface takes packets of this length.
    InsideMtu(u32),
    /// Another configuration.
    Configured(fn(&mut Config)),
}

/// What becomes of a packet.
pub enum Fate {
    /// It goes on its way through the kernel as it came.
    Pass,
    /// It goes on its way through the kernel, translated.
    PassAs(Packet),
    /// The same, marked so that the hook on the inside does not take it for the kernel's own.
    PassFinished(Packet),
    /// It is sent out of the other interface, translated.
    Redirect(Packet),
    /// It is sent back to where it came from, as something else.
    SentBack(Packet),
    /// It is dropped, or it was a message and is consumed: what was counted tells which.
    Gone,
}

/// A flow in the making. Its times are still how long ago they are, because a table is written down before the world is
/// loaded in which that begins to count.
#[derive(Clone, Copy)]
pub struct Known(Flow);

/// A flow from a container to the outside, on its original port.
pub fn outside(proto: u8, container: End, server: End) -> Known {
    known(Kind::Outside, proto, tuple(container, server), tuple(server, (NODE1, container.1)))
}

/// A flow from a container to a container behind `peer`, on its original port.
pub fn to_peer(proto: u8, container: End, destination: End, peer: Ipv4Addr) -> Known {
    let reply = tuple((peer, destination.1), (NODE1, container.1));
    known(Kind::Peer, proto, tuple(container, destination), reply).peer(peer)
}

/// A flow that a peer has opened to a container.
pub fn inbound(proto: u8, peer: End, container: End) -> Known {
    let known = known(Kind::Inbound, proto, tuple(peer, (NODE1, container.1)), tuple(container, peer));
    known.peer(peer.0).bits(State::CONFIRMED)
}

/// A flow of the host itself to a container behind `peer`.
pub fn from_host(proto: u8, host: End, destination: End, peer: Ipv4Addr) -> Known {
    let reply = tuple((peer, destination.1), (NODE1, host.1));
    let mut known = known(Kind::Host, proto, tuple(host, destination), reply).peer(peer);
    known.0.inside = 0;
    known
}

/// A flow from the outside to a container, by a forward: `port` is the one that was addressed.
pub fn forwarded(proto: u8, client: End, port: u16, container: End) -> Known {
    known(Kind::Forward, proto, tuple(client, (NODE1, port)), tuple(container, client))
}

/// A flow from the outside to a container, through a mapping of the container's.
pub fn mapped(proto: u8, client: End, port: u16, container: End) -> Known {
    known(Kind::Mapped, proto, tuple(client, (NODE1, port)), tuple(container, client))
}

/// A flow from `near` to `far`, both inside, by `port` of this host's address; `near` is seen there on its own port.
pub fn hairpin(proto: u8, near: End, port: u16, far: End) -> Known {
    known(Kind::Hairpin, proto, tuple(near, (NODE1, port)), tuple(far, (NODE1, near.1)))
}

/// The tuple of a packet between two ends. An ICMP identifier is the port of the end that asks, 0 that of the other.
pub fn tuple(src: End, dst: End) -> Tuple {
    Tuple { src: src.0.into(), dst: dst.0.into(), sport: Port::new(src.1), dport: Port::new(dst.1) }
}

fn known(kind: Kind, proto: u8, original: Tuple, reply: Tuple) -> Known {
    Known(Flow { original, reply, proto, kind: kind as u8, inside: INSIDE, ..bytemuck::Zeroable::zeroed() })
}

impl Known {
    fn peer(mut self, peer: Ipv4Addr) -> Self {
        self.0.peer = Addr::from(peer);
        self
    }

    /// On another port on the wire.
    pub fn port(mut self, port: u16) -> Self {
        self.0.reply.dport = Port::new(port);
        self
    }

    /// With these status bits.
    pub fn bits(mut self, bits: u32) -> Self {
        self.0.state |= bits;
        self
    }

    /// In this TCP state. A SYN that has been sent is that of [`crate::packet::tcp`]; of other states no windows are known.
    pub fn tcp(mut self, state: tcp::State) -> Self {
        self.0.state = State(self.0.state).with_tcp(state).0;
        if state == tcp::State::SynSent {
            // In units of 64 octets.
            let max_window = (u32::from(tcp::window::Scale::NONE.0) << 24) + 64_240_u32.div_ceil(64);
            self.0.window[0] = tcp::Window { end: ISN + 1, max_end: ISN + 1, max_window };
        }
        self
    }

    /// Answered, which a peer's knowledge of the flow follows from.
    pub fn answered(self) -> Self {
        let bits = State::REPLIED | State::CONFIRMED;
        if self.0.proto == proto::TCP {
            self.bits(bits | State::ASSURED).tcp(tcp::State::Established)
        } else {
            self.bits(bits | State::ASSURED)
        }
    }

    /// Last seen this many seconds ago.
    pub fn idle(mut self, seconds: u32) -> Self {
        self.0.word = u64::from(Ticks::from_secs(seconds).0);
        self
    }

    /// Tagged this often, at last this many seconds ago.
    pub fn tagged(mut self, times: u8, seconds: u32) -> Self {
        self.0.tagged = times;
        self.0.tag_time = Ticks::from_secs(seconds).0;
        self
    }

    /// The flow as it is now.
    fn flow(self) -> Flow {
        let Ticks(now) = now();
        let word = u64::from(now.wrapping_sub(self.0.word as u32));
        let tag_time = if self.0.tagged == 0 { 0 } else { now.wrapping_sub(self.0.tag_time) };
        Flow { word, tag_time, ..self.0 }
    }

    /// Behind another interface.
    pub fn behind(mut self, interface: u32) -> Self {
        self.0.inside = interface;
        self
    }
}

/// A moment in the past.
pub fn ago(seconds: u32) -> Ticks {
    Ticks(now().0.wrapping_sub(Ticks::from_secs(seconds).0))
}

/// The key of a datagram.
pub fn datagram(side: Side, src: Ipv4Addr, dst: Ipv4Addr, proto: u8, id: u16) -> FragmentKey {
    FragmentKey { src: src.into(), dst: dst.into(), id: id.to_be(), proto, side: side as u8 }
}

/// Runs the rows of a table, as plain packets and, where that matters, as packets that a network card has summed up.
#[track_caller]
pub fn run(table: impl IntoIterator<Item = Fixture>) {
    let mut world = World::new();
    run_in(&mut world, table, true);
}

/// Runs the rows of a table as plain packets only.
#[track_caller]
pub fn run_plain(table: impl IntoIterator<Item = Fixture>) {
    let mut world = World::new();
    run_in(&mut world, table, false);
}

#[track_caller]
fn run_in(world: &mut World, table: impl IntoIterator<Item = Fixture>, sums: bool) {
    let (mut rows, mut failures) = (0, Vec::new());
    for row in table {
        rows += 1;
        for summed in [false, true] {
            if summed && !(sums && row.sum_matters()) {
                continue;
            }
            world.reset();
            if let Err(failure) = row.check(world, summed) {
                let how = if summed { " (summed up by the network card)" } else { "" };
                failures.push(format!("* {}{how}: {failure}", row.what));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {rows} rows:\n{}", failures.len(), failures.join("\n"));
}

impl Fixture {
    /// Whether somebody may look at a network card's sum after this: it is there at the way in only, and it does not
    /// matter for what is dropped or goes back to the card.
    fn sum_matters(&self) -> bool {
        matches!(self.at, Hook::InsideIn | Hook::UplinkIn) && !matches!(self.fate, Fate::Gone | Fate::SentBack(_))
    }

    fn check(&self, world: &mut World, summed: bool) -> Result<(), String> {
        for given in &self.given {
            given.prepare(world);
        }
        let outcome = match world.run(self.at, &self.packet, summed) {
            Ok(outcome) => outcome,
            Err(error) if error.raw_os_error() == Some(libc::EBADMSG) => {
                return Err("the packet was changed, and the sum of the network card was not".to_owned());
            }
            Err(error) => return Err(format!("the run failed: {error}")),
        };
        self.judge(&outcome)?;
        let expected = tally(self.counts.iter().map(|counter| (*counter, 1)));
        let counted = tally(world.counters());
        if counted != expected {
            return Err(format!("counted {counted:?}, not {expected:?}"));
        }
        world.damage().map_or(Ok(()), Err)
    }

    fn judge(&self, outcome: &Outcome) -> Result<(), String> {
        let (action, packet, mark) = match &self.fate {
            Fate::Pass => (PASS, Some(&self.packet), 0),
            Fate::PassAs(packet) => (PASS, Some(packet), 0),
            Fate::PassFinished(packet) => (PASS, Some(packet), mark::KERNEL),
            Fate::Redirect(packet) | Fate::SentBack(packet) => (REDIRECT, Some(packet), mark::DONE),
            Fate::Gone => (SHOT, None, 0),
        };
        if outcome.action != action {
            return Err(format!("action {}, not {action}, {}", outcome.action, describe(&outcome.frame)));
        }
        let Some(packet) = packet else { return Ok(()) };
        let mut macs = self.at.macs();
        if let Fate::SentBack(_) = self.fate {
            macs.reverse();
        }
        let frame = packet.frame(macs);
        if outcome.frame != frame {
            return Err(format!(
                "\n  in       {}\n  expected {}\n  got      {}",
                describe(&self.packet.frame(self.at.macs())),
                describe(&frame),
                describe(&outcome.frame)
            ));
        }
        if packet.is_intact() && !judge::Packet::parse(Duration::ZERO, &frame).checksums_right() {
            return Err(format!("a wrong checksum: {}", describe(&frame)));
        }
        if outcome.mark != mark {
            return Err(format!("mark {:#x}, not {mark:#x}", outcome.mark));
        }
        Ok(())
    }
}

impl Given {
    /// Makes it known.
    pub fn prepare(&self, world: &mut World) {
        match self {
            Self::Known(known) => world.add_flow(known.flow()),
            Self::Kernels(key, seconds) => world.add_kernel_flow(*key, ago(*seconds)),
            Self::FirstFragment(key, direction, seconds) => world.add_fragment(*key, 0, *direction, ago(*seconds)),
            Self::Listener(port) => world.bind(Type::STREAM, *port),
            Self::UdpSocket(port) => world.bind(Type::DGRAM, *port),
            Self::InsideMtu(mtu) => world.set_inside_mtu(*mtu),
            Self::Configured(change) => world.configure(change),
        }
    }
}

fn describe(frame: &[u8]) -> String {
    let octets = &frame[..frame.len().min(120)];
    format!("{:?}\n           {octets:02x?}", judge::Packet::parse(Duration::ZERO, frame))
}

/// The names of counters with what they have counted, in the order of their numbers.
pub fn tally(counts: impl IntoIterator<Item = (Counter, u64)>) -> Vec<(&'static str, u64)> {
    let mut tally = BTreeMap::new();
    for (counter, count) in counts {
        tally.entry(counter as u32).or_insert((counter.name(), 0)).1 += count;
    }
    tally.into_values().collect()
}

/// Packets that a flow has counted, by direction.
pub fn packets(flow: &Flow) -> [u64; 2] {
    [Direction::Original, Direction::Reply].map(|direction| flow.packets(direction))
}

/// Bytes that it has counted.
pub fn bytes(flow: &Flow) -> [u64; 2] {
    [Direction::Original, Direction::Reply].map(|direction| flow.bytes(direction))
}
