//! Which port on the wire an endpoint inside has toward whom, whom that port lets in, and how long it lasts.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::mapping::{Class, Dependence};
use xnat_common::packet::proto;
use xnat_common::{Flow, Kind};
use xnat_tests::packet::{ACK, FIN, SYN};
use xnat_tests::topology::{ANYWHERE, N1, NODE1, OUTSIDE};

use crate::fixture::{Given, PASS, REDIRECT, SHOT, outside};
use crate::packet::{End, Packet, echo, echo_reply, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn};
use crate::world::World;

const CONTAINER: End = (N1, 40000);
const WIRE: End = (NODE1, 40000);
const OTHER: End = (Ipv4Addr::new(192, 168, 110, 12), 40000);
/// A third address of the outside.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const SERVERS: [End; 4] = [(ANYWHERE, 80), (ANYWHERE, 443), (OUTSIDE, 80), (ELSEWHERE, 80)];
/// An end toward which nothing has been sent.
const STRANGER: End = (Ipv4Addr::new(203, 0, 113, 77), 7);

type Make = fn(End, End) -> Packet;

fn syn(src: End, dst: End) -> Packet {
    tcp(src, dst, SYN)
}

/// A query from inside, or an answer from outside, by where the identifier is.
fn ping(src: End, dst: End) -> Packet {
    if dst.0 == NODE1 || dst.0 == N1 { echo_reply(src.0, dst.0, dst.1) } else { echo(src.0, dst.0, src.1) }
}

const PROTOCOLS: [(Class, u8, Make); 3] =
    [(Class::Tcp, proto::TCP, syn), (Class::Udp, proto::UDP, udp), (Class::Icmp, proto::ICMP, ping)];

impl World {
    /// Sends a packet from a container to the wire and returns the port that it has there.
    #[track_caller]
    pub fn port_on_wire(&mut self, packet: &Packet) -> u16 {
        let frame = self.expect(InsideIn, packet, REDIRECT);
        assert_eq!(frame[26..30], NODE1.octets(), "with the host's address");
        let at = if frame[23] == proto::ICMP { 38 } else { 34 };
        u16::from_be_bytes([frame[at], frame[at + 1]])
    }
}

fn mapping_by(dependence: Dependence) -> impl Fn(&mut Config) {
    move |config| {
        config.mapping = [dependence as u8; 4];
        config.filtering = [dependence.max(Dependence::Address) as u8; 4];
    }
}

fn filtering_by(dependence: Dependence) -> impl Fn(&mut Config) {
    move |config| config.filtering = [dependence as u8; 4]
}

#[test]
fn an_endpoint_has_one_port_toward_everybody() {
    let mut world = World::new();
    for (class, _, make) in PROTOCOLS {
        world.reset();
        for server in SERVERS {
            assert_eq!(world.port_on_wire(&make(CONTAINER, server)), 40000, "{class:?} toward {server:?}");
        }
        // Queries to one address are of one flow.
        let sessions = if class == Class::Icmp { 3 } else { 4 };
        assert_eq!(world.owner(class, 40000), Some((N1, 40000, sessions)));
        assert_eq!((world.count(Counter::MappingsOpened), world.count(Counter::PortsChanged)), (1, 0));
        world.expect_nothing_left();
    }
}

#[test]
fn protocols_have_their_ports_to_themselves() {
    let mut world = World::new();
    for (_, _, make) in PROTOCOLS {
        assert_eq!(world.port_on_wire(&make(CONTAINER, SERVERS[0])), 40000);
    }
    assert_eq!(world.count(Counter::MappingsOpened), 3);
    world.expect_nothing_left();
}

#[test]
fn a_second_container_gets_another_port_and_keeps_it_toward_everybody() {
    let mut world = World::new();
    for (class, _, make) in PROTOCOLS {
        world.reset();
        assert_eq!(world.port_on_wire(&make(CONTAINER, SERVERS[0])), 40000);
        let port = world.port_on_wire(&make(OTHER, SERVERS[1]));
        assert_ne!(port, 40000, "{class:?}, though toward another server");
        for server in SERVERS {
            assert_eq!(world.port_on_wire(&make(OTHER, server)), port, "{class:?} toward {server:?}");
        }
        assert_eq!(world.moved(), 1);
        assert_eq!(world.count(Counter::MappingsOpened), 2);
        world.expect_nothing_left();
    }
}

#[test]
fn another_port_is_of_the_same_class() {
    let mut world = World::new();
    for own in [123, 500, 1023, 1024, 5353, 65535] {
        for (_, _, make) in &PROTOCOLS[..2] {
            world.reset();
            assert_eq!(world.port_on_wire(&make((N1, own), SERVERS[0])), own);
            let port = world.port_on_wire(&make((OTHER.0, own), SERVERS[0]));
            assert_ne!(port, own);
            assert_eq!(port < 1024, own < 1024, "{port} in place of {own}");
        }
    }
}

#[test]
fn ports_outside_of_the_range_are_not_kept() {
    let mut world = World::new();
    world.configure(|config| (config.first_port, config.last_port) = (2000, 2100));
    for (_, _, make) in &PROTOCOLS[..2] {
        // First, lest one of the others is given it.
        assert_eq!(world.port_on_wire(&make((N1, 2050), SERVERS[0])), 2050);
        for own in [40000, 80, 1999, 2101] {
            let port = world.port_on_wire(&make((N1, own), SERVERS[0]));
            assert!((2000..=2100).contains(&port), "{port} in place of {own}");
        }
    }
    assert_eq!(world.port_on_wire(&ping((N1, 7), SERVERS[0])), 7, "an identifier is no port");
}

#[test]
fn a_mapping_by_address_is_one_for_each_address() {
    let mut world = World::new();
    for (class, _, make) in PROTOCOLS {
        world.reset();
        world.configure(mapping_by(Dependence::Address));
        assert_eq!(world.port_on_wire(&make(CONTAINER, (ANYWHERE, 80))), 40000);
        assert_eq!(
            world.port_on_wire(&make(OTHER, (OUTSIDE, 80))),
            40000,
            "{class:?}: toward another address it is free"
        );
        let port = world.port_on_wire(&make(OTHER, (ANYWHERE, 81)));
        assert_ne!(port, 40000, "{class:?}: toward this address it is taken");
        assert_eq!(world.port_on_wire(&make(OTHER, (ANYWHERE, 82))), port, "{class:?}: and this is kept");
        assert_ne!(world.port_on_wire(&make(CONTAINER, (OUTSIDE, 81))), 40000, "{class:?}: here it is the other's");
        assert_eq!(world.owner(class, 40000), None, "nobody has it toward everybody");
        world.expect_nothing_left();
    }
}

#[test]
fn a_mapping_by_address_and_port_is_one_for_each_flow() {
    let mut world = World::new();
    for (class, _, make) in &PROTOCOLS[..2] {
        world.reset();
        world.configure(mapping_by(Dependence::AddressAndPort));
        assert_eq!(world.port_on_wire(&make(CONTAINER, (ANYWHERE, 80))), 40000);
        assert_eq!(
            world.port_on_wire(&make(OTHER, (ANYWHERE, 81))),
            40000,
            "{class:?}: toward another port it is free"
        );
        assert_ne!(world.port_on_wire(&make(OTHER, (ANYWHERE, 80))), 40000, "{class:?}: toward this it is taken");
        assert_eq!(world.count(Counter::MappingsOpened), 0);
        assert_eq!((world.moved(), world.far_remotes()), (0, 0));
        world.expect_nothing_left();
    }
}

#[test]
fn protocols_are_configured_one_by_one() {
    let mut world = World::new();
    world.configure(|config| {
        config.mapping = [0, 1, 2, 0];
        config.filtering = [0, 1, 2, 0];
    });
    for (make, kept) in [(syn as Make, false), (udp, true), (ping, true)] {
        assert_eq!(world.port_on_wire(&make(CONTAINER, (ANYWHERE, 80))), 40000);
        assert_eq!(world.port_on_wire(&make(OTHER, (OUTSIDE, 80))) == 40000, kept);
    }
    assert_eq!(world.expect(UplinkIn, &syn(STRANGER, WIRE), REDIRECT)[30..34], N1.octets());
    // Toward a stranger nobody has the port, so the host answers.
    world.expect(UplinkIn, &udp(STRANGER, WIRE), PASS);
    world.expect(UplinkIn, &udp((ANYWHERE, 9), WIRE), REDIRECT);
}

/// Opens a mapping toward three addresses and then sees who is let in.
fn filtering(dependence: Dependence, admitted: impl Fn(End) -> bool) {
    let mut world = World::new();
    let remotes =
        [(ANYWHERE, 80), (ANYWHERE, 9), (OUTSIDE, 80), (OUTSIDE, 9), (ELSEWHERE, 80), (ELSEWHERE, 9), STRANGER];
    for (class, protocol, make) in PROTOCOLS {
        for remote in remotes {
            world.reset();
            world.configure(filtering_by(dependence));
            // On a port that is not its own, so that the translation shows.
            world.port_on_wire(&make(OTHER, SERVERS[0]));
            let port = world.port_on_wire(&make(CONTAINER, (ANYWHERE, 80)));
            for server in [(OUTSIDE, 80), (ELSEWHERE, 80)] {
                assert_eq!(world.port_on_wire(&make(CONTAINER, server)), port);
            }
            let flows = world.flows().len();
            let packet = make(remote, (NODE1, port));
            // An echo has no port by which two of one address differ.
            let known = remote.1 == 80 || class == Class::Icmp && remote != STRANGER;
            if known || admitted(remote) {
                let frame = world.expect(UplinkIn, &packet, REDIRECT);
                assert_eq!(frame, make(remote, CONTAINER).ttl(63).frame(UplinkIn.macs()), "{class:?} from {remote:?}");
                assert_eq!(world.count(Counter::Filtered), 0);
                let opened = world.flows().into_iter().filter(|(_, flow)| flow.kind == Kind::Mapped as u8).count();
                assert_eq!(opened, usize::from(!known), "{class:?} from {remote:?}");
                let answer =
                    if protocol == proto::TCP { tcp(CONTAINER, remote, SYN | ACK) } else { make(CONTAINER, remote) };
                if class != Class::Icmp {
                    assert_eq!(world.port_on_wire(&answer), port, "the answer has the same port");
                }
            } else {
                world.expect(UplinkIn, &packet, SHOT);
                assert_eq!(world.count(Counter::Filtered), 1, "{class:?} from {remote:?}");
                assert_eq!(world.flows().len(), flows, "nothing has come of it");
            }
        }
        world.expect_nothing_left();
    }
}

#[test]
fn endpoint_independent_filtering_lets_everybody_in() {
    filtering(Dependence::Endpoint, |_| true);
}

#[test]
fn address_dependent_filtering_lets_in_whom_something_was_sent_to() {
    filtering(Dependence::Address, |remote| remote.0 != STRANGER.0);
}

#[test]
fn address_and_port_dependent_filtering_lets_in_answers_only() {
    filtering(Dependence::AddressAndPort, |_| false);
}

#[test]
fn filtering_by_address_forgets_an_address_with_its_last_flow() {
    let mut world = World::new();
    for server in [(ANYWHERE, 80), (ANYWHERE, 81), (OUTSIDE, 80), (OUTSIDE, 81)] {
        world.port_on_wire(&udp(CONTAINER, server));
    }
    let slot = |world: &mut World, server: End| {
        let is_it =
            |flow: &Flow| Ipv4Addr::from(flow.original.dst) == server.0 && flow.original.dport.number() == server.1;
        world.flows().into_iter().find(|(_, flow)| is_it(flow)).expect("a flow").0
    };
    for address in [OUTSIDE, ANYWHERE] {
        for port in [80, 81] {
            let slot = slot(&mut world, (address, port));
            world.end(slot);
            assert_eq!(world.damage(), None);
            let admitted = port == 80;
            let fate = if admitted {
                REDIRECT
            } else if address == ANYWHERE {
                PASS
            } else {
                SHOT
            };
            world.expect(UplinkIn, &udp((address, 9), WIRE), fate);
            if admitted {
                let slot =
                    world.flows().into_iter().find(|(_, flow)| flow.kind == Kind::Mapped as u8).expect("a flow").0;
                world.end(slot);
            }
        }
    }
    world.expect_nothing_left();
}

#[test]
fn a_mapping_ends_with_its_last_flow() {
    let mut world = World::new();
    world.port_on_wire(&udp(OTHER, SERVERS[0]));
    let port = world.port_on_wire(&udp(CONTAINER, SERVERS[0]));
    world.port_on_wire(&udp(CONTAINER, SERVERS[1]));
    for left in [1, 0] {
        let of_it = |(slot, flow): (u32, Flow)| (Ipv4Addr::from(flow.original.src) == N1).then_some(slot);
        let slot = world.flows().into_iter().find_map(of_it).expect("a flow");
        world.end(slot);
        assert_eq!(world.damage(), None);
        assert_eq!(world.owner(Class::Udp, port), (left != 0).then_some((N1, 40000, left)));
        assert_eq!(world.moved(), left as usize);
    }
    world.expect(UplinkIn, &udp(SERVERS[0], (NODE1, port)), PASS);
    world.expire();
    assert_eq!(world.port_on_wire(&udp(CONTAINER, SERVERS[0])), 40000, "its own port is free again");
}

#[test]
fn what_comes_in_holds_a_mapping_only_when_it_is_answered() {
    let mut world = World::new();
    world.configure(filtering_by(Dependence::Endpoint));
    let own_flow = |world: &mut World| {
        let is_it = |(slot, flow): (u32, Flow)| (flow.kind == Kind::Outside as u8).then_some(slot);
        world.flows().into_iter().find_map(is_it).expect("a flow")
    };
    for answered in [false, true] {
        world.reset();
        world.configure(filtering_by(Dependence::Endpoint));
        world.port_on_wire(&udp(CONTAINER, SERVERS[0]));
        for _ in 0..3 {
            world.expect(UplinkIn, &udp(STRANGER, WIRE), REDIRECT);
        }
        assert_eq!(world.owner(Class::Udp, 40000), Some((N1, 40000, 1)), "an outsider alone holds nothing");
        if answered {
            for _ in 0..3 {
                assert_eq!(world.port_on_wire(&udp(CONTAINER, STRANGER)), 40000);
            }
            assert_eq!(world.owner(Class::Udp, 40000), Some((N1, 40000, 2)), "counted once");
        }
        let slot = own_flow(&mut world);
        world.end(slot);
        assert_eq!(world.owner(Class::Udp, 40000), answered.then_some((N1, 40000, 1)));
        let fate = if answered { REDIRECT } else { PASS };
        world.expect(UplinkIn, &udp((ELSEWHERE, 5), WIRE), fate);
        world.expect_nothing_left();
    }
}

#[test]
fn a_connection_that_is_opened_anew_stays_a_session() {
    let mut world = World::new();
    for _ in 0..3 {
        world.expect(InsideIn, &tcp(CONTAINER, SERVERS[0], SYN), REDIRECT);
        world.expect(UplinkIn, &tcp(SERVERS[0], WIRE, SYN | ACK), REDIRECT);
        world.expect(InsideIn, &tcp(CONTAINER, SERVERS[0], ACK), REDIRECT);
        world.expect(InsideIn, &tcp(CONTAINER, SERVERS[0], FIN | ACK), REDIRECT);
        world.expect(UplinkIn, &tcp(SERVERS[0], WIRE, FIN | ACK), REDIRECT);
        world.expect(InsideIn, &tcp(CONTAINER, SERVERS[0], ACK), REDIRECT);
    }
    assert_eq!(world.count(Counter::FlowsReopened), 2);
    assert!(State(world.flow().state).has(State::MAPPED | State::REMOTE_NEAR));
    assert_eq!(world.owner(Class::Tcp, 40000), Some((N1, 40000, 1)));
    world.expect_nothing_left();
}

/// Toward one end the endpoint's port is somebody else's: that flow has another, and the mapping stays what it is.
#[test]
fn a_flow_that_cannot_have_its_mappings_port_has_one_of_its_own() {
    for moved in [false, true] {
        let mut world = World::new();
        if moved {
            world.port_on_wire(&udp(OTHER, SERVERS[0]));
        }
        let port = world.port_on_wire(&udp(CONTAINER, SERVERS[0]));
        assert_eq!(port != 40000, moved);
        Given::Known(outside(proto::UDP, (OTHER.0, 999), SERVERS[1]).port(port)).prepare(&mut world);
        let alone = world.port_on_wire(&udp(CONTAINER, SERVERS[1]));
        assert_ne!(alone, port);
        assert_eq!(world.port_on_wire(&udp(CONTAINER, SERVERS[2])), port, "toward everybody else it stays");
        let third = (Ipv4Addr::new(192, 168, 110, 13), 40001);
        assert_eq!(world.port_on_wire(&udp(third, SERVERS[1])), 40001, "and others are not affected");
        assert_eq!(world.count(Counter::PortsShared), 0);
        world.expect_nothing_left();
    }
}

/// As xorshift64* is described by Vigna, "An experimental exploration of Marsaglia's xorshift generators" (2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// `World::expect` checks after each step that the maps say what the flows hold.
#[test]
fn whatever_opens_and_ends_nothing_is_left() {
    let mut world = World::new();
    for (seed, dependence) in [(1, Dependence::Endpoint), (2, Dependence::Address), (3, Dependence::AddressAndPort)] {
        let mut random = Random(seed);
        world.reset();
        world.configure(|config| {
            mapping_by(dependence)(config);
            (config.first_port, config.last_port, config.max_ports) = (39_998, 40_003, 4);
        });
        let mut fates = BTreeMap::<i32, u32>::new();
        for _ in 0..150 {
            let container = (Ipv4Addr::new(192, 168, 110, 11 + random.below(4) as u8), 40_000 + random.below(2) as u16);
            let (_, _, make) = PROTOCOLS[random.below(3)];
            let server = SERVERS[random.below(4)];
            let live = world.flows();
            match random.below(10) {
                0..=2 if !live.is_empty() => world.end(live[random.below(live.len())].0),
                3 => {
                    let packet = make(server, (NODE1, 39_998 + random.below(6) as u16));
                    *fates.entry(world.run(UplinkIn, &packet, false).expect("a run").action).or_default() += 1;
                }
                _ => {
                    let packet = make(container, server);
                    *fates.entry(world.run(InsideIn, &packet, false).expect("a run").action).or_default() += 1;
                }
            }
            assert_eq!(world.damage(), None, "with {dependence:?}, seed {seed}");
        }
        assert!(fates[&REDIRECT] > 50, "{fates:?}");
        world.expect_nothing_left();
    }
}
