//! Which port a flow gets on the wire.

use std::net::Ipv4Addr;

use xnat_common::config::Config;
use xnat_common::counter::Counter::{self, FlowsOpened, MappingsOpened, PortsChanged, PortsExhausted, Refusals};
use xnat_common::packet::proto;
use xnat_common::{Flow, FlowKey, Side, Tuple};
use xnat_tests::packet::SYN;
use xnat_tests::topology::{ANYWHERE, N1, NODE1, OUTSIDE};

use crate::fixture::{Given, REDIRECT, inbound, outside, tally, tuple};
use crate::packet::{Packet, echo, other, tcp, udp};
use crate::world::{Hook, World};

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const OTHER: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 168, 110, 12), 40000);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);

/// Lets a packet open a flow and returns that flow's port on the wire. The packet out must carry it.
fn port_of(world: &mut World, packet: &Packet, original: Tuple) -> u16 {
    let outcome = world.run(Hook::InsideIn, packet, false).expect("a run");
    assert_eq!(outcome.action, REDIRECT, "it is translated: {:?}", world.counters());
    assert_eq!(world.damage(), None);
    let flows = world.flows();
    let protocol = outcome.frame[23];
    let is_it = |flow: &Flow| flow.original == original && flow.proto == protocol;
    let (_, flow) = flows.iter().find(|(_, flow)| is_it(flow)).expect("the flow");
    let port = flow.reply.dport.number();
    if protocol != proto::ICMP {
        assert_eq!(outcome.frame[34..36], port.to_be_bytes(), "the packet has the flow's port");
    }
    port
}

fn counted(world: &mut World, counters: &[Counter]) {
    assert_eq!(tally(world.counters()), tally(counters.iter().map(|counter| (*counter, 1))));
}

#[test]
fn the_original_port_is_kept_while_it_is_free() {
    let mut world = World::new();
    for (given, why) in [
        (vec![], "nobody has it"),
        (vec![Given::Known(outside(proto::TCP, OTHER, (OUTSIDE, 80)))], "toward another server it is another tuple"),
        (vec![Given::Known(outside(proto::UDP, OTHER, SERVER))], "UDP's ports are others"),
        (vec![Given::UdpSocket(40000)], "so are the host's"),
        (
            vec![Given::Kernels(FlowKey::new(tuple(SERVER, (NODE1, 40000)), proto::UDP, Side::Wire), 1)],
            "so are the kernel's",
        ),
    ] {
        world.reset();
        for given in given {
            given.prepare(&mut world);
        }
        let port = port_of(&mut world, &tcp(CONTAINER, SERVER, SYN), tuple(CONTAINER, SERVER));
        assert_eq!(port, 40000, "{why}");
        counted(&mut world, &[FlowsOpened, MappingsOpened]);
    }
}

#[test]
fn another_port_of_the_same_class_is_taken_when_it_is_not() {
    let mut world = World::new();
    let nameserver = (ANYWHERE, 53);
    let low = (N1, 500);
    let wire = |port| FlowKey::new(tuple(SERVER, (NODE1, port)), proto::TCP, Side::Wire);
    let table: [(&str, Given, Packet, Tuple, u8); 8] = [
        (
            "another container has it",
            Given::Known(outside(proto::TCP, OTHER, SERVER)),
            tcp(CONTAINER, SERVER, SYN),
            tuple(CONTAINER, SERVER),
            proto::TCP,
        ),
        (
            "another container has it on UDP",
            Given::Known(outside(proto::UDP, OTHER, nameserver)),
            udp(CONTAINER, nameserver),
            tuple(CONTAINER, nameserver),
            proto::UDP,
        ),
        (
            "another container has the identifier",
            Given::Known(outside(proto::ICMP, (OTHER.0, 5), (ANYWHERE, 0))),
            echo(N1, ANYWHERE, 5),
            tuple((N1, 5), (ANYWHERE, 0)),
            proto::ICMP,
        ),
        (
            "a peer has it",
            Given::Known(inbound(proto::TCP, SERVER, (OTHER.0, 40000))),
            tcp(CONTAINER, SERVER, SYN),
            tuple(CONTAINER, SERVER),
            proto::TCP,
        ),
        (
            "the host listens on it",
            Given::Listener(40000),
            tcp(CONTAINER, SERVER, SYN),
            tuple(CONTAINER, SERVER),
            proto::TCP,
        ),
        (
            "a socket of the host has it",
            Given::UdpSocket(40000),
            udp(CONTAINER, nameserver),
            tuple(CONTAINER, nameserver),
            proto::UDP,
        ),
        (
            "the kernel's own NAT has it",
            Given::Kernels(wire(40000), 10),
            tcp(CONTAINER, SERVER, SYN),
            tuple(CONTAINER, SERVER),
            proto::TCP,
        ),
        (
            "a privileged one is taken",
            Given::Known(outside(proto::UDP, (OTHER.0, 500), (ANYWHERE, 500))),
            udp(low, (ANYWHERE, 500)),
            tuple(low, (ANYWHERE, 500)),
            proto::UDP,
        ),
    ];
    for (what, given, packet, original, protocol) in table {
        world.reset();
        given.prepare(&mut world);
        let port = port_of(&mut world, &packet, original);
        assert_ne!(port, original.sport.number(), "{what}");
        if protocol != proto::ICMP {
            assert_eq!(port < 1024, original.sport.number() < 1024, "{what}: {port} is of another class");
        }
        counted(&mut world, &[FlowsOpened, PortsChanged, MappingsOpened]);
    }
}

#[test]
fn a_port_that_the_host_has_just_used_is_not_taken() {
    let mut world = World::new();
    // Through the hook itself: a test run's packet is of a socket without a port.
    world.ns.within(|| {
        let socket = std::net::UdpSocket::bind((NODE1, 40000)).expect("a socket");
        socket.send_to(b"a datagram", (OUTSIDE, 443)).expect("sent");
    });
    let port = port_of(&mut world, &udp(CONTAINER, SERVER), tuple(CONTAINER, SERVER));
    assert_ne!(port, 40000, "even toward another server, and with the socket gone");
    let tcp_port = port_of(&mut world, &tcp(CONTAINER, SERVER, SYN), tuple(CONTAINER, SERVER));
    assert_eq!(tcp_port, 40000, "TCP's ports are others");
}

#[test]
fn the_kernel_is_asked_about_sockets_unless_they_are_noted_as_they_are_bound() {
    let mut world = World::new();
    for (what, flags, watched, stamped, kept) in [
        ("nobody notes them", 0, true, false, false),
        ("somebody does", Config::BINDS_STAMPED, true, false, true),
        ("it has been noted", Config::BINDS_STAMPED, true, true, false),
        ("no daemon runs, so what was noted is forgotten", Config::BINDS_STAMPED, false, false, false),
        ("the slow path asks", Config::BINDS_STAMPED | Config::SLOW_PATH, true, false, false),
    ] {
        for (given, packet, protocol) in [
            (Given::UdpSocket(40000), udp(CONTAINER, SERVER), proto::UDP),
            (Given::Listener(40000), tcp(CONTAINER, SERVER, SYN), proto::TCP),
        ] {
            world.reset();
            given.prepare(&mut world);
            world.configure(|config| config.flags |= flags);
            world.watched = watched;
            if stamped {
                world.stamp_host_port(protocol, 40000);
            }
            let port = port_of(&mut world, &packet, tuple(CONTAINER, SERVER));
            assert_eq!(port == 40000, kept, "{what}");
        }
    }
}

#[test]
fn two_containers_on_one_port_never_share_a_wire_tuple() {
    let mut world = World::new();
    let mut ports = std::collections::BTreeSet::new();
    for host in 11..31 {
        let container = (Ipv4Addr::new(192, 168, 110, host), 40000);
        assert!(ports.insert(port_of(&mut world, &tcp(container, SERVER, SYN), tuple(container, SERVER))));
    }
    assert!(ports.contains(&40000), "the first has kept it");
}

#[test]
fn what_cannot_change_its_port_is_refused() {
    let mut world = World::new();
    let sctp = [0x9c, 0x40, 0, 80, 0, 0, 0, 0, 1, 2, 3, 4];
    for (packet, protocol, ends) in [
        (other(N1, ANYWHERE, proto::SCTP, &sctp), proto::SCTP, (OTHER, SERVER)),
        (other(N1, ANYWHERE, 47, &[0; 4]), 47, ((OTHER.0, 0), (ANYWHERE, 0))),
    ] {
        world.reset();
        Given::Known(outside(protocol, ends.0, ends.1)).prepare(&mut world);
        let outcome = world.run(Hook::InsideIn, &packet, false).expect("a run");
        assert_eq!(outcome.action, REDIRECT, "the container is told");
        counted(&mut world, &[PortsExhausted, Refusals]);
        assert_eq!(world.damage(), None, "nothing is left of the attempt");
        assert_eq!(world.flows().len(), 1);
    }
}

#[test]
fn a_full_table_refuses_and_a_collected_slot_is_used_again() {
    let mut world = World::new();
    world.configure(|config| config.max_flows = 2);
    for host in [12, 13] {
        let idle = if host == 12 { 121 } else { 0 };
        let flow = outside(proto::UDP, (Ipv4Addr::new(192, 168, 110, host), u16::from(host)), SERVER);
        Given::Known(flow.idle(idle)).prepare(&mut world);
    }
    // The opening pays for a look at the two slots, after which one of them is free.
    let port = port_of(&mut world, &udp(CONTAINER, SERVER), tuple(CONTAINER, SERVER));
    assert_eq!(port, 40000);
    counted(&mut world, &[FlowsOpened, Counter::FlowsExpired, MappingsOpened]);
    let outcome = world.run(Hook::InsideIn, &udp(CONTAINER, (OUTSIDE, 9)), false).expect("a run");
    assert_eq!(outcome.action, REDIRECT, "the container is told");
    counted(&mut world, &[FlowsOpened, Counter::FlowsExpired, Counter::TableFull, MappingsOpened, Refusals]);
    assert_eq!(world.damage(), None);
}
