//! From a container to a container by this host's address on the wire.

use std::net::Ipv4Addr;

use xnat_common::counter::Counter;
use xnat_common::mapping::Class;
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_common::{FlowKey, Kind, Side};
use xnat_tests::packet::{ACK, PSH, SYN};
use xnat_tests::topology::{ANYWHERE, N1, NODE1};

use crate::fixture::{Given, PASS, REDIRECT, SHOT, packets, tuple};
use crate::packet::{End, Packet, tcp, udp};
use crate::world::Hook::{InsideIn, InsideOut, LoopbackOut, UplinkIn};
use crate::world::{GATEWAY, INSIDE, World};

const CLIENT: End = (N1, 40000);
const SERVER: End = (Ipv4Addr::new(192, 168, 110, 12), 80);
const PUBLIC: End = (NODE1, 8080);
const CLIENT_OUTSIDE: End = (NODE1, 40000);
const SOMEBODY: End = (ANYWHERE, 53);

fn forwarded() -> World {
    let mut world = World::new();
    for protocol in [proto::TCP, proto::UDP] {
        world.forward(protocol, PUBLIC.1, SERVER);
    }
    world
}

/// A packet from a container, which must be delivered to another as that.
#[track_caller]
fn expect_as(world: &mut World, packet: &Packet, delivered: &Packet) {
    let outcome = world.run(InsideIn, packet, false).expect("a run");
    assert_eq!((outcome.action, outcome.mark), (REDIRECT, mark::DONE), "{:?}", world.counters());
    assert_eq!(outcome.frame, delivered.frame(InsideIn.macs()));
    assert_eq!(world.damage(), None);
}

#[test]
fn a_connection_between_containers_through_a_forward() {
    let mut world = forwarded();
    expect_as(&mut world, &tcp(CLIENT, PUBLIC, SYN), &tcp(CLIENT_OUTSIDE, SERVER, SYN).ttl(63));
    let flow = world.flow();
    assert_eq!((flow.kind, flow.inside), (Kind::Hairpin as u8, INSIDE));
    assert_eq!(flow.original, tuple(CLIENT, PUBLIC));
    assert_eq!(flow.reply, tuple(SERVER, CLIENT_OUTSIDE));
    let back = |flags| (tcp(SERVER, CLIENT_OUTSIDE, flags), tcp(PUBLIC, CLIENT, flags).ttl(63));
    let (packet, delivered) = back(SYN | ACK);
    expect_as(&mut world, &packet, &delivered);
    expect_as(&mut world, &tcp(CLIENT, PUBLIC, ACK), &tcp(CLIENT_OUTSIDE, SERVER, ACK).ttl(63));
    let data = |src, dst| tcp(src, dst, PSH | ACK).carrying(1460).tos(0x2e);
    expect_as(&mut world, &data(CLIENT, PUBLIC), &data(CLIENT_OUTSIDE, SERVER).ttl(63));
    expect_as(&mut world, &data(SERVER, CLIENT_OUTSIDE), &data(PUBLIC, CLIENT).ttl(63));
    assert_eq!(packets(&world.flow()), [3, 2]);
    world.expect_nothing_left();
}

#[test]
fn datagrams_of_every_kind() {
    let mut world = forwarded();
    let kinds: [fn(Packet) -> Packet; 4] = [
        |packet| packet,
        Packet::without_checksum,
        |packet| packet.carrying(333).options(&[0x94, 4, 0, 0]),
        |packet| packet.carrying(3).padded(15),
    ];
    for kind in kinds {
        expect_as(&mut world, &kind(udp(CLIENT, PUBLIC)), &kind(udp(CLIENT_OUTSIDE, SERVER)).ttl(63));
        expect_as(&mut world, &kind(udp(SERVER, CLIENT_OUTSIDE)), &kind(udp(PUBLIC, CLIENT)).ttl(63));
    }
}

#[test]
fn a_client_has_the_same_port_toward_containers_as_toward_everybody() {
    let mut world = forwarded();
    let neighbour = (Ipv4Addr::new(192, 168, 110, 13), 40000);
    assert_eq!(world.port_on_wire(&udp(neighbour, SOMEBODY)), 40000);
    let port = world.port_on_wire(&udp(CLIENT, SOMEBODY));
    assert_ne!(port, 40000);
    expect_as(&mut world, &udp(CLIENT, PUBLIC), &udp((NODE1, port), SERVER).ttl(63));
    assert_eq!(world.owner(Class::Udp, port), Some((N1, 40000, 2)));
    expect_as(&mut world, &udp(SERVER, (NODE1, port)), &udp(PUBLIC, CLIENT).ttl(63));
    world.expect_nothing_left();
}

#[test]
fn containers_reach_each_other_by_their_mappings() {
    let mut world = World::new();
    world.configure(|config| config.filtering = [0; 4]);
    let (one, two) = ((N1, 5000), (SERVER.0, 5000));
    assert_eq!(world.port_on_wire(&udp(one, SOMEBODY)), 5000);
    let port = world.port_on_wire(&udp(two, SOMEBODY));
    assert_ne!(port, 5000);
    expect_as(&mut world, &udp(one, (NODE1, port)), &udp((NODE1, 5000), two).ttl(63));
    expect_as(&mut world, &udp(two, (NODE1, 5000)), &udp((NODE1, port), one).ttl(63));
    assert_eq!(world.flows().len(), 3, "the answer is of the same flow");
    world.expect_nothing_left();
}

#[test]
fn a_container_reaches_itself_by_its_mapping() {
    let mut world = World::new();
    world.configure(|config| config.filtering = [0; 4]);
    assert_eq!(world.port_on_wire(&udp(CLIENT, SOMEBODY)), 40000);
    let other = (N1, 40001);
    expect_as(&mut world, &udp(other, CLIENT_OUTSIDE), &udp((NODE1, 40001), CLIENT).ttl(63));
    expect_as(&mut world, &udp(CLIENT, (NODE1, 40001)), &udp(CLIENT_OUTSIDE, other).ttl(63));
    world.expect_nothing_left();
}

/// The sender is the host's address on the wire, whichever container it is.
#[test]
fn filtering_lets_in_who_has_sent_something_to_this_hosts_address() {
    let mut world = forwarded();
    assert_eq!(world.port_on_wire(&udp(CLIENT, SOMEBODY)), 40000);
    world.expect(InsideIn, &udp((SERVER.0, 9), CLIENT_OUTSIDE), SHOT);
    assert_eq!(world.count(Counter::Filtered), 1);
    expect_as(&mut world, &udp(CLIENT, PUBLIC), &udp(CLIENT_OUTSIDE, SERVER).ttl(63));
    expect_as(&mut world, &udp((SERVER.0, 10), CLIENT_OUTSIDE), &udp((NODE1, 10), CLIENT).ttl(63));
    world.expect_nothing_left();
}

/// What is not let in has opened the sender's own mapping, as toward anybody outside: so two containers that know each
/// other's ports reach each other.
#[test]
fn two_containers_make_holes_for_each_other() {
    for filtering in [1, 2] {
        let mut world = World::new();
        world.configure(|config| config.filtering = [filtering; 4]);
        let other = (SERVER.0, 9);
        world.port_on_wire(&udp(CLIENT, SOMEBODY));
        world.port_on_wire(&udp(other, SOMEBODY));
        for _ in 0..2 {
            world.expect(InsideIn, &udp(other, CLIENT_OUTSIDE), SHOT);
        }
        assert_eq!(world.count(Counter::Filtered), 2);
        expect_as(&mut world, &udp(CLIENT, (NODE1, 9)), &udp(CLIENT_OUTSIDE, other).ttl(63));
        expect_as(&mut world, &udp(other, CLIENT_OUTSIDE), &udp((NODE1, 9), CLIENT).ttl(63));
        world.expect_nothing_left();
    }
}

#[test]
fn what_no_forward_and_no_mapping_has_is_the_hosts() {
    let mut world = forwarded();
    for (what, packet) in [
        ("another port", tcp(CLIENT, (NODE1, 22), SYN)),
        ("the middle of a connection", tcp(CLIENT, PUBLIC, ACK)),
        ("the gateway's address", udp(CLIENT, (GATEWAY, 8080))),
    ] {
        let outcome = world.run(InsideIn, &packet, false).expect("a run");
        assert_eq!((outcome.action, outcome.frame), (PASS, packet.frame(InsideIn.macs())), "{what}");
    }
    world.port_on_wire(&udp((SERVER.0, 7000), SOMEBODY));
    world.bind(socket2::Type::DGRAM, 7000);
    let packet = udp(CLIENT, (NODE1, 7000));
    let outcome = world.run(InsideIn, &packet, false).expect("a run");
    assert_eq!((outcome.action, outcome.frame), (PASS, packet.frame(InsideIn.macs())), "a socket of the host's");
    assert_eq!(world.flows().len(), 1);
}

#[test]
fn what_the_kernel_must_answer_goes_to_the_kernel() {
    let mut world = forwarded();
    let outcome = world.run(InsideIn, &udp(CLIENT, PUBLIC).ttl(1), false).expect("a run");
    assert_eq!(outcome.action, PASS);
    assert_eq!(outcome.frame, udp(CLIENT_OUTSIDE, SERVER).ttl(1).frame(InsideIn.macs()));
    world.set_inside_mtu(1280);
    let outcome = world.run(InsideIn, &udp(CLIENT, PUBLIC).carrying(1300), false).expect("a run");
    assert_eq!(outcome.action, PASS);
    assert_eq!((world.count(Counter::ToKernelTtl), world.count(Counter::ToKernelMtu)), (1, 1));
}

/// What has been turned round is delivered at the inside interface, and no program turns it round again.
#[test]
fn nothing_goes_round_twice() {
    let mut world = forwarded();
    let outcome = world.run(InsideIn, &udp(CLIENT, PUBLIC), false).expect("a run");
    let delivered = udp(CLIENT_OUTSIDE, SERVER).ttl(63).marked(outcome.mark);
    let outcome = world.run(InsideOut, &delivered, false).expect("a run");
    assert_eq!((outcome.action, outcome.mark), (PASS, 0));
    assert_eq!(outcome.frame, delivered.frame(InsideOut.macs()));

    // The same, at the loopback interface.
    let outcome = world.run(LoopbackOut, &udp((NODE1, 9), PUBLIC).marked(mark::DONE), false).expect("a run");
    assert_eq!((outcome.action, outcome.mark), (PASS, 0));

    // A forward to this host itself leads nowhere else.
    world.reset();
    world.forward(proto::UDP, 8080, PUBLIC);
    for (hook, packet) in [
        (InsideIn, udp(CLIENT, PUBLIC)),
        (UplinkIn, udp((ANYWHERE, 9), PUBLIC)),
        (LoopbackOut, udp(CLIENT_OUTSIDE, PUBLIC)),
    ] {
        let outcome = world.run(hook, &packet, false).expect("a run");
        assert_eq!((outcome.action, outcome.frame), (PASS, packet.frame(hook.macs())));
    }
    assert_eq!(world.flows().len(), 0);
}

#[test]
fn this_host_reaches_a_container_through_a_forward() {
    let mut world = forwarded();
    for source in [(NODE1, 50000), (GATEWAY, 50001), (Ipv4Addr::LOCALHOST, 50002)] {
        for make in [udp as fn(End, End) -> Packet, |src, dst| tcp(src, dst, SYN)] {
            let port = source.1;
            let outcome = world.run(LoopbackOut, &make(source, PUBLIC), false).expect("a run");
            assert_eq!((outcome.action, outcome.mark), (REDIRECT, mark::DONE));
            assert_eq!(outcome.frame, make((NODE1, port), SERVER).frame(LoopbackOut.macs()));
            assert_eq!(world.damage(), None);
            expect_as(&mut world, &make(SERVER, (NODE1, port)), &make(PUBLIC, source));
        }
    }
    assert_eq!(world.count(Counter::MappingsOpened), 0, "the host has no mappings");
    world.expect_nothing_left();
}

#[test]
fn what_the_host_says_to_itself_is_its_own() {
    let mut world = forwarded();
    for packet in [
        tcp((NODE1, 50000), (NODE1, 22), SYN),
        udp((Ipv4Addr::LOCALHOST, 50000), (Ipv4Addr::LOCALHOST, 8080)),
        tcp((NODE1, 50000), (GATEWAY, 8080), SYN),
        tcp((NODE1, 50000), PUBLIC, ACK),
    ] {
        let outcome = world.run(LoopbackOut, &packet, false).expect("a run");
        assert_eq!((outcome.action, outcome.frame), (PASS, packet.frame(LoopbackOut.macs())));
    }
    assert_eq!(world.flows().len(), 0);
    assert_eq!(world.counters(), []);
}

/// A tuple that the kernel's own NAT has is not turned round.
#[test]
fn what_the_kernel_has_translated_is_the_kernels() {
    let mut world = World::new();
    world.port_on_wire(&udp((SERVER.0, 7000), SOMEBODY));
    let key = FlowKey::new(tuple(CLIENT, (NODE1, 7000)), proto::UDP, Side::Wire);
    Given::Kernels(key, 1).prepare(&mut world);
    let packet = udp(CLIENT, (NODE1, 7000));
    assert_eq!(world.expect(InsideIn, &packet, PASS), packet.frame(InsideIn.macs()));
}
