//! Forwards from the wire to containers, and the container that gets what nobody else has.

use std::net::Ipv4Addr;

use xnat_common::counter::Counter;
use xnat_common::flow::State;
use xnat_common::mapping::Class;
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_common::{Addr, Kind};
use xnat_tests::packet::{ACK, PSH, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, NODE3, OUTSIDE};

use crate::fixture::{Given, PASS, REDIRECT, SHOT, packets};
use crate::packet::{End, Packet, echo, other, tcp, udp};
use crate::world::Hook::{InsideIn, UplinkIn};
use crate::world::{INSIDE, World};

const CLIENT: End = (ANYWHERE, 50000);
const PUBLIC: End = (NODE1, 8080);
const SERVER: End = (N1, 80);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 12);

fn world() -> World {
    let mut world = World::new();
    forward(&mut world);
    world
}

fn forward(world: &mut World) {
    world.reset();
    for protocol in [proto::TCP, proto::UDP] {
        world.forward(protocol, PUBLIC.1, SERVER);
    }
}

#[track_caller]
fn expect_as(world: &mut World, packet: &Packet, delivered: &Packet) {
    let frame = world.expect(UplinkIn, packet, REDIRECT);
    assert_eq!(frame, delivered.frame(UplinkIn.macs()));
}

#[test]
fn a_connection_through_a_forward() {
    let mut world = world();
    expect_as(&mut world, &tcp(CLIENT, PUBLIC, SYN), &tcp(CLIENT, SERVER, SYN).ttl(63));
    let flow = world.flow();
    assert_eq!((flow.kind, flow.inside, flow.peer), (Kind::Forward as u8, INSIDE, Addr::UNSPECIFIED));
    let frame = world.expect(InsideIn, &tcp(SERVER, CLIENT, SYN | ACK), REDIRECT);
    assert_eq!(frame, tcp(PUBLIC, CLIENT, SYN | ACK).ttl(63).frame(InsideIn.macs()));
    expect_as(&mut world, &tcp(CLIENT, PUBLIC, ACK), &tcp(CLIENT, SERVER, ACK).ttl(63));
    let data = |src, dst| tcp(src, dst, PSH | ACK).carrying(1460);
    expect_as(&mut world, &data(CLIENT, PUBLIC), &data(CLIENT, SERVER).ttl(63));
    let frame = world.expect(InsideIn, &data(SERVER, CLIENT), REDIRECT);
    assert_eq!(frame, data(PUBLIC, CLIENT).ttl(63).frame(InsideIn.macs()));
    assert!(State(world.flow().state).has(State::ASSURED));
    assert_eq!(packets(&world.flow()), [3, 2]);
    assert_eq!(world.count(Counter::FlowsOpened), 1);
    assert_eq!(world.count(Counter::MappingsOpened), 0);
    world.expect_nothing_left();
}

#[test]
fn datagrams_through_a_forward() {
    let mut world = world();
    for make in [udp as fn(End, End) -> Packet, |src, dst| udp(src, dst).without_checksum()] {
        expect_as(&mut world, &make(CLIENT, PUBLIC), &make(CLIENT, SERVER).ttl(63));
        let frame = world.expect(InsideIn, &make(SERVER, CLIENT), REDIRECT);
        assert_eq!(frame, make(PUBLIC, CLIENT).ttl(63).frame(InsideIn.macs()));
    }
    let with_options = |src, dst| udp(src, dst).options(&[0x94, 4, 0, 0]).carrying(77);
    expect_as(&mut world, &with_options(CLIENT, PUBLIC), &with_options(CLIENT, SERVER).ttl(63));
}

#[test]
fn what_the_kernel_must_answer_goes_to_the_kernel_translated() {
    let mut world = world();
    let outcome = world.run(UplinkIn, &udp(CLIENT, PUBLIC).ttl(1), false).expect("a run");
    assert_eq!((outcome.action, outcome.mark), (PASS, mark::KERNEL));
    assert_eq!(outcome.frame, udp(CLIENT, SERVER).ttl(1).frame(UplinkIn.macs()));
    assert_eq!(world.count(Counter::ToKernelTtl), 1);
    world.set_inside_mtu(1280);
    let outcome = world.run(UplinkIn, &udp(CLIENT, PUBLIC).carrying(1300), false).expect("a run");
    assert_eq!((outcome.action, outcome.mark), (PASS, mark::KERNEL));
    assert_eq!(outcome.frame, udp(CLIENT, SERVER).carrying(1300).frame(UplinkIn.macs()));
    assert_eq!(world.count(Counter::ToKernelMtu), 1);
}

#[test]
fn nothing_else_is_forwarded() {
    let mut world = world();
    for (what, hook, packet) in [
        ("to another port", UplinkIn, tcp(CLIENT, (NODE1, 8081), SYN)),
        ("to another address on the same port", UplinkIn, tcp(CLIENT, (Ipv4Addr::new(172, 29, 0, 5), 8080), SYN)),
        (
            "another protocol",
            UplinkIn,
            other(ANYWHERE, NODE1, proto::SCTP, &[0xc3, 0x50, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("a query", UplinkIn, echo(ANYWHERE, NODE1, 8080)),
        ("the middle of a connection", UplinkIn, tcp(CLIENT, PUBLIC, ACK)),
        ("a reset", UplinkIn, tcp(CLIENT, PUBLIC, RST)),
        (
            "from a container to the gateway's address",
            InsideIn,
            tcp((OTHER, 50000), (crate::world::GATEWAY, 8080), SYN),
        ),
    ] {
        let outcome = world.run(hook, &packet, false).expect("a run");
        assert_eq!((outcome.action, outcome.frame), (PASS, packet.frame(hook.macs())), "{what}");
        assert_eq!(world.flows().len(), 0, "{what}");
    }
}

#[test]
fn a_forward_comes_before_a_mapping() {
    let mut world = World::new();
    world.configure(|config| config.filtering = [0; 4]);
    assert_eq!(world.port_on_wire(&udp((OTHER, 8080), CLIENT)), 8080);
    world.forward(proto::UDP, PUBLIC.1, SERVER);
    let stranger = (OUTSIDE, 9);
    expect_as(&mut world, &udp(stranger, PUBLIC), &udp(stranger, SERVER).ttl(63));
    expect_as(&mut world, &udp(CLIENT, PUBLIC), &udp(CLIENT, (OTHER, 8080)).ttl(63));
    world.expect_nothing_left();
}

#[test]
fn no_mapping_takes_a_forwarded_port() {
    let mut world = world();
    for make in [udp as fn(End, End) -> Packet, |src, dst| tcp(src, dst, SYN)] {
        for container in [OTHER, N1] {
            assert_ne!(world.port_on_wire(&make((container, 8080), CLIENT)), 8080);
        }
    }
    world.reset();
    for port in [40000, 40001, 40003] {
        world.forward(proto::UDP, port, SERVER);
    }
    world.configure(|config| (config.first_port, config.last_port) = (40000, 40003));
    assert_eq!(world.port_on_wire(&udp((OTHER, 8080), CLIENT)), 40002, "the only one that is left");
    assert_eq!(world.owner(Class::Udp, 40002), Some((OTHER, 8080, 1)));
}

/// What the container opens itself from the port that is forwarded to it is another matter.
#[test]
fn the_server_may_be_a_client_on_its_port_too() {
    let mut world = world();
    expect_as(&mut world, &udp(CLIENT, PUBLIC), &udp(CLIENT, SERVER).ttl(63));
    assert_eq!(world.port_on_wire(&udp(SERVER, CLIENT)), 8080, "an answer");
    assert_eq!(world.port_on_wire(&udp(SERVER, (OUTSIDE, 53))), 80, "an opening");
    world.expect_nothing_left();
}

fn with_default(world: &mut World) {
    world.reset();
    world.configure(|config| config.default_inbound = N1.into());
}

#[test]
fn the_default_container_gets_what_a_peer_without_xnat_sends() {
    let mut world = World::new();
    with_default(&mut world);
    let peer = (NODE3, 50000);
    for (make, answer) in [
        (udp(peer, (NODE1, 7000)), udp((N1, 7000), peer)),
        (tcp(peer, (NODE1, 7000), SYN), tcp((N1, 7000), peer, SYN | ACK)),
    ] {
        let frame = world.expect(UplinkIn, &make, REDIRECT);
        assert_eq!(frame[30..34], N1.octets());
        let frame = world.expect(InsideIn, &answer, REDIRECT);
        assert_eq!(frame[26..30], NODE1.octets());
        assert_eq!(frame[34..36], 7000_u16.to_be_bytes());
    }
    assert!(world.flows().iter().all(|(_, flow)| flow.kind == Kind::Forward as u8));
    world.expect_nothing_left();
}

#[test]
fn the_default_container_gets_nothing_else() {
    let mut world = World::new();
    let table: [(&str, Vec<Given>, Packet); 6] = [
        ("from anybody else", vec![], udp(CLIENT, (NODE1, 7000))),
        ("from a peer that speaks xnat", vec![], udp((NODE2, 50000), (NODE1, 7000))),
        ("from such a peer's container", vec![], udp((N2, 50000), (NODE1, 7000))),
        ("where the host listens", vec![Given::Listener(7000)], tcp((NODE3, 50000), (NODE1, 7000), SYN)),
        ("where the host has a socket", vec![Given::UdpSocket(7000)], udp((NODE3, 50000), (NODE1, 7000))),
        ("the middle of a connection", vec![], tcp((NODE3, 50000), (NODE1, 7000), ACK)),
    ];
    for (what, given, packet) in table {
        with_default(&mut world);
        for given in given {
            given.prepare(&mut world);
        }
        let outcome = world.run(UplinkIn, &packet, false).expect("a run");
        assert_eq!((outcome.action, outcome.frame), (PASS, packet.frame(UplinkIn.macs())), "{what}");
        assert_eq!(world.flows().len(), 0, "{what}");
    }
}

#[test]
fn a_forward_and_a_mapping_come_before_the_default() {
    let mut world = World::new();
    with_default(&mut world);
    world.forward(proto::UDP, 7000, (OTHER, 53));
    let frame = world.expect(UplinkIn, &udp((NODE3, 1), (NODE1, 7000)), REDIRECT);
    assert_eq!(frame[30..34], OTHER.octets());
    world.port_on_wire(&udp((OTHER, 40000), CLIENT));
    world.expect(UplinkIn, &udp((NODE3, 1), (NODE1, 40000)), SHOT);
    assert_eq!(world.count(Counter::Filtered), 1);
}

/// Nobody inside has asked for the packet, so nobody inside hears that it was refused.
#[test]
fn the_refusal_of_what_comes_in_is_told_to_nobody() {
    let mut world = world();
    world.configure(|config| config.max_flows = 1);
    expect_as(&mut world, &udp(CLIENT, PUBLIC), &udp(CLIENT, SERVER).ttl(63));
    world.expect(UplinkIn, &udp((ANYWHERE, 50001), PUBLIC), SHOT);
    assert_eq!((world.count(Counter::TableFull), world.count(Counter::Refusals)), (1, 0));
}
