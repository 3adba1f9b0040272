//! Openings for which there is no port or no record: refused, told to the container, and taken up again as soon as they
//! can be.

use std::net::Ipv4Addr;

use socket2::Type;
use xnat_common::counter::Counter;
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_common::tcp::State as Tcp;
use xnat_common::{Flow, Port};
use xnat_tests::packet::{ACK, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, NODE1, OUTSIDE};
use xnat_tests::wait::{self, SOON};

use crate::fixture::{Given, REDIRECT, SHOT, outside};
use crate::packet::{End, Packet, echo, icmp, icmp_error, other, tcp, udp};
use crate::wire::{Offload, host, partial};
use crate::world::Hook::{InsideIn, InsideOut, UplinkIn};
use crate::world::{GATEWAY, MAX_FLOWS, World, now};

const SERVER: End = (ANYWHERE, 80);
const ELSEWHERE: End = (OUTSIDE, 80);
/// The first port of the range and the last one.
const RANGE: (u16, u16) = (40000, 40003);

fn container(n: u8) -> End {
    (Ipv4Addr::new(192, 168, 110, 20 + n), 5000)
}

fn syn(src: End, dst: End) -> Packet {
    tcp(src, dst, SYN)
}

/// A host with so small a range of ports.
fn narrow() -> World {
    let mut world = World::new();
    narrow_down(&mut world);
    world
}

fn narrow_down(world: &mut World) {
    world.reset();
    world.configure(|config| (config.first_port, config.last_port) = RANGE);
}

/// Takes all the ports toward a server, each by another container.
fn fill(world: &mut World, make: fn(End, End) -> Packet, server: End) {
    let mut ports: Vec<u16> = (0..4).map(|n| world.port_on_wire(&make(container(n), server))).collect();
    ports.sort_unstable();
    assert_eq!(ports, [40000, 40001, 40002, 40003], "each port once, and none is passed over");
}

/// What a container is told of a packet of which this many octets behind the IP header come back.
fn refusal(packet: &Packet, source: Ipv4Addr, octets: usize) -> Packet {
    icmp_error(GATEWAY, source, (3, 13), packet, octets).tos(0xc0).id(0).may_fragment()
}

#[track_caller]
fn expect_refused(world: &mut World, packet: &Packet, source: Ipv4Addr, octets: usize, counter: Counter) {
    let (before, told) = (world.count(counter), world.count(Counter::Refusals));
    let outcome = world.run(InsideIn, packet, false).expect("a run");
    assert_eq!((outcome.action, outcome.mark), (REDIRECT, mark::DONE), "{:?}", world.counters());
    assert_eq!(outcome.frame, refusal(packet, source, octets).frame(InsideIn.macs()));
    assert_eq!((world.count(counter), world.count(Counter::Refusals)), (before + 1, told + 1));
    assert_eq!(world.damage(), None, "nothing is left of the attempt");
}

/// Waits for the next tick of the programs' clock, in which what was found full is looked at again.
fn next_tick() {
    let then = now();
    wait::until_true("the clock goes on", SOON, || now() != then);
}

#[test]
fn an_opening_without_a_port_is_refused_by_an_icmp_error() {
    let mut world = narrow();
    let source = container(9);
    for (fill_with, packet, octets) in [
        (syn as fn(End, End) -> Packet, syn(source, SERVER), 20),
        (syn, syn(source, SERVER).tcp_options(&[2, 4, 5, 0xb4, 1, 1, 4, 2]).tos(0x2e), 20),
        (syn, syn(source, SERVER).options(&[0x94, 4, 0, 0, 1, 1, 1, 1]).tcp_options(&[2, 4, 5, 0xb4]), 20),
        (udp, udp(source, SERVER), 8),
        (udp, udp(source, SERVER).carrying(1400), 8),
        (udp, udp(source, SERVER).carrying(0), 8),
        (udp, udp(source, SERVER).carrying(3).padded(15), 8),
        (udp, udp(source, SERVER).without_checksum(), 8),
        (udp, udp(source, SERVER).options(&[0x94, 4, 0, 0]), 8),
        (udp, udp(source, SERVER).options(&[1; 40]).carrying(999), 8),
    ] {
        narrow_down(&mut world);
        fill(&mut world, fill_with, SERVER);
        expect_refused(&mut world, &packet, source.0, octets, Counter::PortsExhausted);
        assert_eq!(world.flows().len(), 4);
        world.expect_nothing_left();
    }
}

#[test]
fn an_opening_without_a_record_is_refused_in_the_same_way() {
    let mut world = World::new();
    world.configure(|config| config.max_flows = 1);
    world.port_on_wire(&udp(container(0), SERVER));
    let ping = echo(N1, ANYWHERE, 5);
    expect_refused(&mut world, &ping, N1, 8, Counter::TableFull);
    expect_refused(&mut world, &other(N1, ANYWHERE, 47, &[0, 0, 8, 0, 1, 2, 3, 4]), N1, 8, Counter::TableFull);
    world.expect_nothing_left();
    world.port_on_wire(&ping);
}

#[test]
fn a_packet_shorter_than_what_an_error_carries_is_filled_up() {
    let mut world = World::new();
    world.configure(|config| config.max_flows = 1);
    world.port_on_wire(&udp(container(0), SERVER));
    for body in [&[][..], &[0, 0, 8, 0]] {
        let packet = other(N1, ANYWHERE, 47, body);
        let mut embedded = packet.frame(InsideIn.macs())[14..].to_vec();
        embedded.resize(28, 0);
        let error = icmp(GATEWAY, N1, (3, 13), [0; 4], embedded).tos(0xc0).id(0).may_fragment();
        assert_eq!(world.expect(InsideIn, &packet, REDIRECT), error.frame(InsideIn.macs()));
    }
}

#[test]
fn what_will_be_cut_into_segments_is_only_dropped() {
    let mut world = narrow();
    fill(&mut world, udp, SERVER);
    world.expect(InsideIn, &udp(container(9), SERVER).carrying(2800).segmented(1400), SHOT);
    assert_eq!((world.count(Counter::PortsExhausted), world.count(Counter::Refusals)), (1, 0));
}

/// A frame, with what the device would do to its checksum.
fn completed(mut frame: Vec<u8>, offload: Offload) -> Vec<u8> {
    if let Some((start, field)) = offload.checksum() {
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[start..]).ones_complement();
        frame[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
    }
    frame
}

#[test]
fn a_checksum_that_the_device_was_to_complete_is_right_in_the_error() {
    let (mut world, container, _wire) = host();
    for packet in [
        syn((N1, 5000), SERVER).tcp_options(&[2, 4, 5, 0xb4]),
        syn((N1, 5000), SERVER).options(&[0x94, 4, 0, 0]),
        udp((N1, 5000), SERVER).carrying(700),
    ] {
        world.reset();
        world.configure(|config| config.max_flows = 1);
        world.port_on_wire(&udp(self::container(0), ELSEWHERE));
        let bare = packet.frame(InsideIn.macs());
        let transport = 14 + usize::from(bare[14] & 0xf) * 4;
        let is_tcp = bare[23] == proto::TCP;
        let (frame, offload) = partial(&packet, InsideIn, transport, if is_tcp { 16 } else { 6 });
        container.send(&frame, offload);
        let (offload, frame) = container.receive();
        // The device completes the checksum of what is embedded, and thereby the error's own is right.
        let frame = completed(frame, offload);
        let icmp = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[34..]).ones_complement();
        assert_eq!(icmp, 0, "the error's checksum is right");
        let embedded = if is_tcp { 20 } else { 8 };
        let expected = refusal(&packet, N1, embedded).frame(InsideOut.macs());
        let field = 42 + transport - 14 + if is_tcp { 16 } else { 6 };
        let without = |frame: &[u8]| {
            let mut frame = frame.to_vec();
            // The ICMP checksum and the embedded one.
            frame[36..38].fill(0);
            frame[field..field + 2].fill(0);
            frame
        };
        assert_eq!(without(&frame), without(&expected));
        assert_eq!(world.count(Counter::Refusals), 1);
    }
    container.send(&udp((N1, 5000), SERVER).frame(InsideIn.macs()), Offload::default());
    let (_, frame) = container.receive();
    assert_eq!(frame, refusal(&udp((N1, 5000), SERVER), N1, 8).frame(InsideOut.macs()));
}

#[test]
fn no_more_than_sixteen_refusals_are_told_in_a_tick() {
    let mut world = World::new();
    world.configure(|config| config.max_flows = 1);
    world.port_on_wire(&udp(container(0), SERVER));
    // A tick is long enough for them all, mostly.
    for _ in 0..50 {
        next_tick();
        let (begin, told) = (now(), world.count(Counter::Refusals));
        let outcomes: Vec<i32> =
            (0..20).map(|_| world.run(InsideIn, &udp((N1, 5000), SERVER), false).expect("a run").action).collect();
        if now() != begin {
            continue;
        }
        let expected = [[REDIRECT; 16].as_slice(), &[SHOT; 4]].concat();
        assert_eq!(outcomes, expected);
        assert_eq!(world.count(Counter::Refusals), told + 16);
        next_tick();
        world.expect(InsideIn, &udp((N1, 5000), SERVER), REDIRECT);
        return;
    }
    panic!("no tick was long enough for twenty packets");
}

#[test]
fn ports_are_shared_toward_different_destinations_before_anything_is_refused() {
    let mut world = narrow();
    for (make, octets) in [(syn as fn(End, End) -> Packet, 20), (udp, 8)] {
        narrow_down(&mut world);
        fill(&mut world, make, SERVER);
        for (n, server) in [ELSEWHERE, (ANYWHERE, 81), (OUTSIDE, 53)].into_iter().enumerate() {
            let port = world.port_on_wire(&make(container(9), server));
            assert!((RANGE.0..=RANGE.1).contains(&port));
            assert_eq!(world.count(Counter::PortsShared), n as u64 + 1);
        }
        // What is shared is told apart by the other end.
        let ports: Vec<u16> = (4..7).map(|n| world.port_on_wire(&make(container(n), ELSEWHERE))).collect();
        let unique: std::collections::BTreeSet<&u16> = ports.iter().collect();
        assert_eq!(unique.len(), 3, "toward one end each port is one flow's: {ports:?}");
        expect_refused(&mut world, &make(container(8), ELSEWHERE), container(8).0, octets, Counter::PortsExhausted);
        assert_eq!(world.count(Counter::PortsShared), 6);
        world.expect_nothing_left();
    }
}

#[test]
fn one_flow_that_has_ended_makes_room_for_the_next() {
    let mut world = narrow();
    fill(&mut world, udp, SERVER);
    for round in 0..8 {
        let late = (Ipv4Addr::new(192, 168, 110, 40), 5000 + round);
        next_tick();
        expect_refused(&mut world, &udp(late, SERVER), late.0, 8, Counter::PortsExhausted);
        let (slot, ended) = world.flows()[usize::from(round) % 4];
        world.end(slot);
        next_tick();
        let port = world.port_on_wire(&udp(late, SERVER));
        assert_eq!(port, ended.reply.dport.number(), "the port that has become free");
    }
    world.expect_nothing_left();
}

#[test]
fn closed_connections_give_their_ports_up() {
    let mut world = narrow();
    fill(&mut world, syn, SERVER);
    let (_, flow) = world.flows()[2];
    let port = flow.reply.dport.number();
    world.expect(UplinkIn, &tcp(SERVER, (NODE1, port), RST | ACK), REDIRECT);
    assert_eq!(world.port_on_wire(&syn(container(9), SERVER)), port);
    assert_eq!((world.count(Counter::PortsReclaimed), world.flows().len()), (1, 4));
    assert_eq!(world.count(Counter::PortsShared), 0, "it has become a mapping again");
    world.expect_nothing_left();
}

#[test]
fn closed_connections_give_their_records_up() {
    let mut world = World::new();
    world.configure(|config| config.max_flows = MAX_FLOWS);
    for n in 0..MAX_FLOWS as u16 {
        let flow = outside(proto::TCP, (container(n as u8).0, 3000 + n), SERVER).answered().tcp(Tcp::Established);
        Given::Known(flow).prepare(&mut world);
    }
    world.expect(UplinkIn, &tcp(SERVER, (NODE1, 3017), RST | ACK), REDIRECT);
    world.port_on_wire(&syn((N1, 5000), SERVER));
    assert_eq!(world.count(Counter::PortsReclaimed), 1);
    expect_refused(&mut world, &syn((N1, 5001), SERVER), N1, 20, Counter::TableFull);
}

#[test]
fn a_container_has_no_more_ports_than_its_quota() {
    let mut world = World::new();
    world.configure(|config| config.max_ports = 3);
    for port in [5000, 5001, 5002] {
        world.port_on_wire(&udp((N1, port), SERVER));
    }
    // Another port is refused; another flow of the same is not.
    expect_refused(&mut world, &udp((N1, 5003), SERVER), N1, 8, Counter::QuotaExceeded);
    expect_refused(&mut world, &syn((N1, 5000), SERVER), N1, 20, Counter::QuotaExceeded);
    world.port_on_wire(&udp((N1, 5001), ELSEWHERE));
    world.port_on_wire(&udp(container(0), SERVER));
    // Of a port with two flows, both have to end.
    let end = |world: &mut World, dst: Ipv4Addr| {
        let is_it = |flow: &Flow| flow.original.sport == Port::new(5001) && flow.original.dst == dst.into();
        let slot = world.flows().iter().find(|(_, flow)| is_it(flow)).expect("the flow").0;
        world.end(slot);
    };
    end(&mut world, SERVER.0);
    expect_refused(&mut world, &udp((N1, 5003), SERVER), N1, 8, Counter::QuotaExceeded);
    end(&mut world, ELSEWHERE.0);
    world.port_on_wire(&udp((N1, 5003), SERVER));
    expect_refused(&mut world, &udp((N1, 5004), SERVER), N1, 8, Counter::QuotaExceeded);
    world.expect_nothing_left();
}

#[test]
fn a_quota_counts_whatever_mappings_depend_on() {
    let mut world = World::new();
    for dependence in [1, 2] {
        world.reset();
        world.configure(|config| {
            config.max_ports = 2;
            config.mapping = [dependence; 4];
            config.filtering = [dependence; 4];
        });
        world.port_on_wire(&udp((N1, 5000), SERVER));
        world.port_on_wire(&udp((N1, 5000), ELSEWHERE));
        expect_refused(
            &mut world,
            &udp((N1, 5000), (Ipv4Addr::new(203, 0, 113, 9), 80)),
            N1,
            8,
            Counter::QuotaExceeded,
        );
        world.expect_nothing_left();
    }
}

#[test]
fn ports_that_somebody_else_needs_are_never_taken() {
    let mut world = narrow();
    world.bind(Type::STREAM, 40000);
    world.bind(Type::DGRAM, 40001);
    world.forward(proto::TCP, 40001, (N1, 80));
    world.forward(proto::UDP, 40002, (N1, 80));
    for (make, octets, free) in [(syn as fn(End, End) -> Packet, 20, [40002, 40003]), (udp, 8, [40000, 40003])] {
        let mut ports: Vec<u16> = (0..2).map(|n| world.port_on_wire(&make(container(n), SERVER))).collect();
        ports.sort_unstable();
        assert_eq!(ports, free);
        expect_refused(&mut world, &make(container(9), SERVER), container(9).0, octets, Counter::PortsExhausted);
    }
    world.reset();
    world.configure(|config| (config.first_port, config.last_port) = (9627, 9629));
    let mut ports: Vec<u16> = (0..2).map(|n| world.port_on_wire(&udp((container(n).0, 9628), SERVER))).collect();
    ports.sort_unstable();
    assert_eq!(ports, [9627, 9629], "the peer link's port is nobody else's");
    expect_refused(&mut world, &udp((N1, 9628), SERVER), N1, 8, Counter::PortsExhausted);
}
