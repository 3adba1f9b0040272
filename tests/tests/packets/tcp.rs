//! TCP's life in the record: what each segment of a conversation does to state, windows and idle time, and that what does
//! not belong to it does nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use xnat_common::counter::Counter;
use xnat_common::flow::{State, Word};
use xnat_common::packet::proto;
use xnat_common::tcp::State as Tcp;
use xnat_common::tcp::window::Scale;
use xnat_common::{Flow, Kind, Ticks};
use xnat_tests::packet::{ACK, FIN, PSH, Packet as Seen, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2};

use crate::fixture::{PASS, REDIRECT, SHOT, ago, tally, tuple};
use crate::packet::{Packet, Tag, icmp_error, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn};
use crate::world::{INSIDE, World};

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const WIRE: (Ipv4Addr, u16) = (NODE1, 40000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);

/// Which end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Container,
    Server,
}
use By::{Container, Server};

fn segment(from: By, flags: u8) -> Packet {
    match from {
        Container => tcp(CONTAINER, SERVER, flags),
        Server => tcp(SERVER, WIRE, flags),
    }
}

impl World {
    /// Runs a segment, which must leave translated.
    #[track_caller]
    fn pass(&mut self, from: By, packet: &Packet) {
        let hook = if from == Container { InsideIn } else { UplinkIn };
        let outcome = self.run(hook, packet, false).expect("a run");
        let seen = Seen::parse(Duration::ZERO, &outcome.frame);
        assert_eq!(outcome.action, REDIRECT, "{from:?} {seen:?}");
        let translated = if from == Container { seen.goes(NODE1, ANYWHERE) } else { seen.goes(ANYWHERE, N1) };
        assert!(translated, "{seen:?}");
        assert_eq!(self.damage(), None);
    }

    /// Runs segments one after the other, each of which must lead to this state.
    #[track_caller]
    fn follow(&mut self, steps: &[(By, Packet, Tcp)]) {
        for (from, packet, state) in steps {
            let before = self.times(Counter::TcpImplausible);
            self.pass(*from, packet);
            assert_eq!(State(self.flow().state).tcp(), *state, "after {packet:?}");
            assert_eq!(self.times(Counter::TcpImplausible), before, "{packet:?}");
        }
    }

    /// A connection between whose ends only the handshake has passed, last seen a minute ago.
    fn connect(&mut self) {
        self.reset();
        self.follow(&[
            (Container, segment(Container, SYN), Tcp::SynSent),
            (Server, segment(Server, SYN | ACK), Tcp::SynRecv),
            (Container, segment(Container, ACK), Tcp::Established),
        ]);
        self.age(60);
    }

    /// Runs a segment that must leave translated and has no effect on the flow.
    #[track_caller]
    fn ignore(&mut self, from: By, packet: &Packet) {
        let (before, counted) = (self.flow(), self.times(Counter::TcpImplausible));
        self.pass(from, packet);
        let after = self.flow();
        assert_eq!(after.word, before.word, "no idle time begins: {packet:?}");
        assert_eq!((State(after.state), after.window), (State(before.state), before.window), "{packet:?}");
        assert_eq!(self.times(Counter::TcpImplausible), counted + 1, "{packet:?}");
    }

    /// How long the flow has been idle, in seconds.
    fn idle(&mut self) -> u64 {
        let last_seen = Word(self.flow().word).last_seen();
        crate::world::now().since(last_seen).as_ns() / 1_000_000_000
    }

    /// Makes the flow one that was last seen this many seconds ago.
    fn age(&mut self, seconds: u32) {
        self.change_flow(|flow| flow.word = Word::new(Word(flow.word).generation(), ago(seconds)).0);
    }

    fn times(&mut self, counter: Counter) -> u64 {
        self.counters().into_iter().find(|(which, _)| *which == counter).map_or(0, |(_, value)| value)
    }
}

#[test]
fn a_segment_outside_the_window_is_translated_and_has_no_effect() {
    let mut world = World::new();
    for from in [Container, Server] {
        for flags in [RST, RST | ACK, FIN | ACK, SYN, SYN | ACK, ACK, PSH | ACK, FIN] {
            for (seq, ack) in [(1 << 20, 1), (1 << 31, 1), (u32::MAX - (1 << 20), 1), (1 << 20, 1 << 20)] {
                world.connect();
                world.ignore(from, &segment(from, flags).numbers(seq, ack));
                // The connection has not noticed.
                world.follow(&[
                    (from, segment(from, PSH | ACK).carrying(100), Tcp::Established),
                    (from, segment(from, FIN | ACK).numbers(101, 1), Tcp::FinWait),
                ]);
            }
        }
    }
}

#[test]
fn a_reset_counts_in_an_opening_only_if_it_acknowledges_the_syn() {
    let mut world = World::new();
    world.follow(&[(Container, segment(Container, SYN), Tcp::SynSent)]);
    world.age(60);
    world.ignore(Server, &segment(Server, RST));
    world.ignore(Server, &segment(Server, RST | ACK).numbers(0, 0));
    world.ignore(Server, &segment(Server, RST | ACK).numbers(1, 77));
    world.ignore(Server, &segment(Server, SYN | ACK).numbers(0, 77));
    assert!(!State(world.flow().state).replied(), "nobody has answered");
    world.follow(&[(Server, segment(Server, RST | ACK).numbers(0, 1), Tcp::Close)]);
}

#[test]
fn a_rejected_rst_refreshes_nothing() {
    let mut world = World::new();
    world.connect();
    world.ignore(Server, &segment(Server, RST).numbers(1 << 24, 0));
    assert!((60..70).contains(&world.idle()));
    // One that counts does, and is not repeated to any effect, whoever sends it.
    world.follow(&[(Server, segment(Server, RST), Tcp::Close)]);
    assert!(world.idle() < 10);
    world.age(100);
    world.follow(&[(Server, segment(Server, RST), Tcp::Close), (Container, segment(Container, RST), Tcp::Close)]);
    assert!((100..110).contains(&world.idle()));
}

#[test]
fn data_after_a_reset_bring_the_flow_back() {
    let mut world = World::new();
    for from in [Container, Server] {
        world.connect();
        world.follow(&[
            (Server, segment(Server, RST), Tcp::Close),
            (from, segment(from, ACK), Tcp::Close),
            (from, segment(from, PSH | ACK).carrying(10), Tcp::Established),
        ]);
    }
}

#[test]
fn a_simultaneous_open_is_one_connection() {
    let mut world = World::new();
    world.follow(&[
        (Container, segment(Container, SYN), Tcp::SynSent),
        (Server, segment(Server, SYN), Tcp::SynSent2),
        (Container, segment(Container, SYN | ACK), Tcp::SynRecv),
        (Server, segment(Server, SYN | ACK), Tcp::Established),
        (Container, segment(Container, PSH | ACK).carrying(10), Tcp::Established),
        (Server, segment(Server, PSH | ACK).numbers(1, 11).carrying(10), Tcp::Established),
    ]);
    assert_eq!(tally(world.counters()), [("flows_opened", 1), ("mappings_opened", 1)]);
}

#[test]
fn a_half_closed_connection_goes_on() {
    let mut world = World::new();
    world.connect();
    world.follow(&[
        (Container, segment(Container, FIN | ACK), Tcp::FinWait),
        (Server, segment(Server, ACK).numbers(1, 2), Tcp::CloseWait),
    ]);
    for round in 0..20 {
        // Longer in all than a connection that is closing may be idle.
        world.age(200);
        world.follow(&[
            (Server, segment(Server, PSH | ACK).numbers(1 + 1000 * round, 2).carrying(1000), Tcp::CloseWait),
            (Container, segment(Container, ACK).numbers(2, 1001 + 1000 * round), Tcp::CloseWait),
        ]);
    }
    world.follow(&[
        (Server, segment(Server, FIN | ACK).numbers(20_001, 2), Tcp::LastAck),
        (Container, segment(Container, ACK).numbers(2, 20_002), Tcp::TimeWait),
    ]);
}

#[test]
fn a_syn_on_a_closing_or_closed_flow_reopens_it_from_either_end() {
    let mut world = World::new();
    let fins = [
        (Container, segment(Container, FIN | ACK), Tcp::FinWait),
        (Server, segment(Server, FIN | ACK).numbers(1, 2), Tcp::LastAck),
        (Container, segment(Container, ACK).numbers(2, 2), Tcp::TimeWait),
    ];
    let reset = [(Server, segment(Server, RST), Tcp::Close)];
    for end in [&fins[..2], &fins[..], &reset[..]] {
        for (opener, other) in [(Container, Server), (Server, Container)] {
            world.connect();
            world.follow(end);
            let far = 1 << 30;
            world.follow(&[
                (opener, segment(opener, SYN).numbers(far, 0), Tcp::SynSent),
                (other, segment(other, SYN | ACK).numbers(far, far + 1), Tcp::SynRecv),
                (opener, segment(opener, ACK).numbers(far + 1, far + 1), Tcp::Established),
            ]);
            let bits = State::REPLIED | State::CONFIRMED | State::ASSURED | State::MAPPED | State::REMOTE_NEAR;
            assert_eq!(State(world.flow().state).0 & !0xff, bits, "nothing is left of the old connection");
            assert_eq!(tally(world.counters()), [("flows_opened", 1), ("flows_reopened", 1), ("mappings_opened", 1)]);
        }
    }
}

#[test]
fn what_belongs_to_the_flow_stays_when_it_is_reopened() {
    let mut world = World::new();
    world.connect();
    world.follow(&[(Server, segment(Server, RST), Tcp::Close)]);
    let kept = State::MAPPED | State::REMOTE_NEAR;
    world.change_flow(|flow| flow.state |= kept);
    world.follow(&[(Container, segment(Container, SYN), Tcp::SynSent)]);
    assert_eq!(State(world.flow().state), State(kept).with_tcp(Tcp::SynSent));
}

#[test]
fn ends_that_have_both_forgotten_the_connection_open_another() {
    let mut world = World::new();
    world.connect();
    let far = 1 << 30;
    world.ignore(Container, &segment(Container, SYN).numbers(far, 0));
    world.ignore(Server, &segment(Server, SYN | ACK).numbers(far, 77));
    world.follow(&[
        (Server, segment(Server, SYN | ACK).numbers(far, far + 1), Tcp::SynRecv),
        (Container, segment(Container, ACK).numbers(far + 1, far + 1), Tcp::Established),
    ]);
    assert_eq!(world.times(Counter::FlowsReopened), 1);
}

#[test]
fn an_expired_flow_is_not_revived() {
    let mut world = World::new();
    for (from, packet) in
        [(Server, segment(Server, PSH | ACK).carrying(10)), (Container, segment(Container, PSH | ACK).carrying(10))]
    {
        world.connect();
        world.age(7439);
        world.follow(&[(from, packet.clone(), Tcp::Established)]);
        world.age(7441);
        let outcome = world.run(if from == Server { UplinkIn } else { InsideIn }, &packet, false).expect("a run");
        assert_eq!(outcome.action, PASS, "nothing is known of it");
        assert!(world.flows().is_empty());
        assert_eq!(tally(world.counters()), [("flows_opened", 1), ("flows_expired", 1), ("mappings_opened", 1)]);
        assert_eq!(world.damage(), None);
        // What opens a flow opens another.
        world.follow(&[(Container, segment(Container, SYN), Tcp::SynSent)]);
        assert_eq!(world.times(Counter::FlowsOpened), 2);
    }
}

#[test]
fn the_scale_of_a_window_is_read_from_a_syn() {
    let table: [(&str, &[u8], u8); 9] = [
        ("none", &[], Scale::NONE.0),
        ("alone", &[3, 3, 7, 0], 7),
        ("as Linux sends it", &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 9], 9),
        ("at the very end", &[1, 3, 3, 2], 2),
        ("too great", &[3, 3, 15, 0], 14),
        ("of another length", &[3, 4, 7, 0], Scale::NONE.0),
        ("behind the end of the list", &[0, 3, 3, 7], Scale::NONE.0),
        ("behind a damaged option", &[2, 1, 3, 3, 7, 0, 0, 0], Scale::NONE.0),
        ("reaching beyond the header", &[1, 1, 3, 3], Scale::NONE.0),
    ];
    let mut world = World::new();
    for (what, options, scale) in table {
        world.reset();
        world.pass(Container, &segment(Container, SYN).tcp_options(options));
        let [window, other] = world.flow().window;
        assert_eq!((window.max_window >> 24) as u8, scale, "{what}");
        assert_eq!(window.max_window & 0x00ff_ffff, 64_240_u32.div_ceil(64), "{what}");
        assert!(!other.is_known(), "{what}");
    }
    // From the wire, behind IP options.
    world.reset();
    world.pass(Container, &segment(Container, SYN).tcp_options(&[3, 3, 7, 0]));
    world.pass(Server, &segment(Server, SYN | ACK).options(&[1, 1, 1, 1]).tcp_options(&[1, 3, 3, 5]));
    world.pass(Container, &segment(Container, ACK).window(1000));
    let [window, other] = world.flow().window;
    assert_eq!((window.max_window >> 24, other.max_window >> 24), (7, 5));
    assert_eq!(other.max_end.wrapping_sub(other.end), 1000 << 7);
}

#[test]
fn a_header_that_is_longer_than_its_packet_has_no_effect() {
    let mut world = World::new();
    // The data offset, behind 14 and 20 octets.
    for octet in [0x00, 0x40, 0x60, 0xf0] {
        for flags in [ACK, RST, FIN | ACK, SYN] {
            world.connect();
            let before = world.flow();
            let segment = segment(Server, flags).edited(14 + 20 + 12, &[octet]);
            assert_eq!(world.run(UplinkIn, &segment, false).expect("a run").action, SHOT);
            assert_eq!(world.times(Counter::Malformed), 1);
            assert_eq!(bytemuck::bytes_of(&world.flow()), bytemuck::bytes_of(&before), "the record is untouched");
        }
    }
}

#[test]
fn fragments_do_not_disturb_the_windows() {
    let mut world = World::new();
    world.connect();
    let whole = || segment(Container, PSH | ACK).may_fragment().carrying(4000);
    for part in [(0, 1480), (1480, 1480), (2960, 1480)] {
        world.pass(Container, &whole().fragment(part.0, part.1));
    }
    world.follow(&[
        (Server, segment(Server, ACK).numbers(1, 4001), Tcp::Established),
        (Container, segment(Container, PSH | ACK).numbers(4001, 1).carrying(10), Tcp::Established),
    ]);
    assert_eq!(tally(world.counters()), [("flows_opened", 1), ("mappings_opened", 1)]);
}

/// A flow through a mapping, from outside to a container that has not answered yet, last seen a minute ago.
fn mapped(world: &mut World, protocol: u8) {
    world.reset();
    world.add_flow(Flow {
        word: u64::from(ago(60).0),
        original: tuple(SERVER, WIRE),
        reply: tuple(CONTAINER, SERVER),
        proto: protocol,
        kind: Kind::Mapped as u8,
        inside: INSIDE,
        ..bytemuck::Zeroable::zeroed()
    });
}

#[test]
fn a_mapping_that_its_container_does_not_answer_on_is_not_kept_from_outside() {
    let mut world = World::new();
    let request = udp(SERVER, WIRE);
    mapped(&mut world, proto::UDP);
    world.pass(Server, &request);
    assert!((60..70).contains(&world.idle()), "nobody has answered");
    world.pass(Container, &udp(CONTAINER, SERVER));
    assert!(world.idle() < 10, "what leaves refreshes");
    world.age(60);
    world.pass(Server, &request);
    assert!(world.idle() < 10, "of a session, what comes in does, too");
    mapped(&mut world, proto::TCP);
    world.pass(Server, &segment(Server, SYN));
    assert!((60..70).contains(&world.idle()), "nobody has answered");
    world.follow(&[(Container, segment(Container, SYN | ACK), Tcp::SynRecv)]);
    assert!(world.idle() < 10);
}

#[test]
fn an_error_refreshes_nothing() {
    let mut world = World::new();
    world.connect();
    let about = tcp(WIRE, SERVER, PSH | ACK);
    for kind in [(3, 3), (3, 4), (11, 0)] {
        world.run(UplinkIn, &icmp_error(ANYWHERE, NODE1, kind, &about, 20), false).expect("a run");
    }
    assert!((60..70).contains(&world.idle()));
    assert_eq!(State(world.flow().state).tcp(), Tcp::Established);
}

#[test]
fn what_was_announced_has_come_whether_it_counts_or_not() {
    let mut world = World::new();
    let (peer, host) = ((NODE2, 40000), (NODE1, 80));
    let open = tcp(peer, host, SYN).tagged(Tag::Open, N1);
    assert_eq!(world.run(UplinkIn, &open, false).expect("a run").action, REDIRECT);
    let announcement = tcp(peer, host, ACK).tagged(Tag::Announce, N1);
    assert_eq!(world.run(UplinkIn, &announcement, false).expect("a run").action, SHOT);
    assert!(State(world.flow().state).has(State::ANNOUNCED));
    world.run(UplinkIn, &tcp(peer, host, ACK).numbers(1 << 30, 1), false).expect("a run");
    assert!(!State(world.flow().state).has(State::ANNOUNCED));
    assert_eq!(world.times(Counter::TcpImplausible), 1);
}

#[test]
fn a_connection_with_a_peer_is_learnt_in_the_middle() {
    let mut world = World::new();
    let (container, there) = ((N1, 40000), (N2, 80));
    let (wire, peer) = ((NODE1, 40000), (NODE2, 80));
    let out = tcp(container, there, PSH | ACK).numbers(5_000_000, 7_000_000).carrying(1000);
    let back = |flags| tcp(peer, wire, flags);
    let mut run = |hook, packet: &Packet| {
        assert_eq!(world.run(hook, packet, false).expect("a run").action, REDIRECT, "{packet:?}");
        (State(world.flow().state).tcp(), world.times(Counter::TcpImplausible))
    };
    assert_eq!(run(InsideIn, &out), (Tcp::Established, 0));
    assert_eq!(run(UplinkIn, &back(ACK).numbers(7_000_000, 5_001_000)), (Tcp::Established, 0));
    assert_eq!(run(UplinkIn, &back(RST).numbers(1 << 30, 0)), (Tcp::Established, 1));
    assert_eq!(run(UplinkIn, &back(FIN | ACK).numbers(1 << 30, 5_001_000)), (Tcp::Established, 2));
    assert_eq!(run(UplinkIn, &back(FIN | ACK).numbers(7_000_000, 5_001_000)), (Tcp::FinWait, 2));
    assert_eq!(run(UplinkIn, &back(RST).numbers(7_000_001, 0)), (Tcp::Close, 2));
}

#[test]
fn a_busy_flow_is_stamped_in_its_own_tick() {
    let mut world = World::new();
    world.connect();
    world.follow(&[(Server, segment(Server, ACK), Tcp::Established)]);
    assert!(crate::world::now().since(Word(world.flow().word).last_seen()).0 <= Ticks::from_secs(1).0);
}
