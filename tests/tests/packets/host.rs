//! The host's own connections beside the containers'. A packet of a test run is the host's own.

use std::net::Ipv4Addr;

use xnat_common::Kind;
use xnat_common::counter::Counter;
use xnat_common::packet::proto;
use xnat_tests::packet::{ACK, PSH, SYN};
use xnat_tests::topology::{ANYWHERE, N1, NODE1, OUTSIDE};

use crate::fixture::{PASS, SHOT};
use crate::packet::{End, Packet, echo, echo_reply, tcp, udp};
use crate::world::Hook::{UplinkIn, UplinkOut};
use crate::world::World;

const CONTAINER: End = (N1, 40000);
const HOST: End = (NODE1, 40000);
const SERVER: End = (ANYWHERE, 80);

fn syn(src: End, dst: End) -> Packet {
    tcp(src, dst, SYN)
}

/// Sends a packet of the host's that must be translated, and returns its port on the wire.
#[track_caller]
fn host_port(world: &mut World, packet: &Packet, with_port: impl Fn(u16) -> Packet) -> u16 {
    let frame = world.expect(UplinkOut, packet, PASS);
    let at = if frame[23] == proto::ICMP { 38 } else { 34 };
    let port = u16::from_be_bytes([frame[at], frame[at + 1]]);
    assert_eq!(frame, with_port(port).frame(UplinkOut.macs()));
    port
}

#[test]
fn a_connection_of_the_host_that_collides_is_translated() {
    let mut world = World::new();
    assert_eq!(world.port_on_wire(&syn(CONTAINER, SERVER)), 40000);
    let port = host_port(&mut world, &syn(HOST, SERVER), |port| syn((NODE1, port), SERVER));
    assert_ne!(port, 40000);
    assert_eq!(world.count(Counter::HostTranslated), 1);
    let mut kinds: Vec<u8> = world.flows().iter().map(|(_, flow)| flow.kind).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [Kind::Outside as u8, Kind::Host as u8]);

    let answer = world.expect(UplinkIn, &tcp(SERVER, (NODE1, port), SYN | ACK), PASS);
    assert_eq!(answer, tcp(SERVER, HOST, SYN | ACK).frame(UplinkIn.macs()), "to the socket that has asked");
    let data = |src| tcp(src, SERVER, PSH | ACK).carrying(77);
    assert_eq!(host_port(&mut world, &data(HOST), |port| data((NODE1, port))), port);
    let frame = world.expect(UplinkIn, &tcp(SERVER, HOST, SYN | ACK), crate::fixture::REDIRECT);
    assert_eq!(frame[30..34], N1.octets(), "the container's answers are the container's");
    assert_eq!(world.count(Counter::HostTranslated), 1);
    world.expect_nothing_left();
}

#[test]
fn datagrams_and_pings_of_the_host_that_collide_are_translated() {
    let mut world = World::new();
    assert_eq!(world.port_on_wire(&udp(CONTAINER, SERVER)), 40000);
    let port = host_port(&mut world, &udp(HOST, SERVER), |port| udp((NODE1, port), SERVER));
    assert_ne!(port, 40000);
    let answer = world.expect(UplinkIn, &udp(SERVER, (NODE1, port)), PASS);
    assert_eq!(answer, udp(SERVER, HOST).frame(UplinkIn.macs()));

    assert_eq!(world.port_on_wire(&echo(N1, ANYWHERE, 7)), 7);
    let id = host_port(&mut world, &echo(NODE1, ANYWHERE, 7), |id| echo(NODE1, ANYWHERE, id));
    assert_ne!(id, 7);
    let answer = world.expect(UplinkIn, &echo_reply(ANYWHERE, NODE1, id), PASS);
    assert_eq!(answer, echo_reply(ANYWHERE, NODE1, 7).frame(UplinkIn.macs()));
    assert_eq!(world.count(Counter::HostTranslated), 2);
    world.expect_nothing_left();
}

#[test]
fn what_does_not_collide_is_not_touched() {
    let mut world = World::new();
    for container in [syn(CONTAINER, SERVER), udp(CONTAINER, SERVER), echo(N1, ANYWHERE, 7)] {
        world.port_on_wire(&container);
    }
    for packet in [
        syn((NODE1, 40001), SERVER),
        syn(HOST, (ANYWHERE, 81)),
        syn(HOST, (OUTSIDE, 80)),
        udp((NODE1, 40001), SERVER),
        udp(HOST, (OUTSIDE, 80)),
        echo(NODE1, ANYWHERE, 8),
        echo(NODE1, OUTSIDE, 7),
        tcp((NODE1, 40000), (OUTSIDE, 80), ACK),
    ] {
        let frame = world.expect(UplinkOut, &packet, PASS);
        assert_eq!(frame, packet.frame(UplinkOut.macs()));
    }
    assert_eq!((world.flows().len(), world.count(Counter::HostTranslated)), (3, 0));
}

/// A ping has no socket that could be looked up.
#[test]
fn the_answer_to_a_ping_of_the_host_is_not_filtered() {
    let mut world = World::new();
    for filtering in [0, 1, 2] {
        world.reset();
        world.configure(|config| config.filtering = [filtering; 4]);
        assert_eq!(world.port_on_wire(&echo(N1, ANYWHERE, 7)), 7);
        world.expect(UplinkOut, &echo(NODE1, OUTSIDE, 7), PASS);
        let answer = echo_reply(OUTSIDE, NODE1, 7);
        assert_eq!(world.expect(UplinkIn, &answer, PASS), answer.frame(UplinkIn.macs()), "filtering {filtering}");
        assert_eq!(world.count(Counter::Filtered), 0);
    }
    world.expect(UplinkIn, &echo_reply(Ipv4Addr::new(203, 0, 113, 9), NODE1, 7), SHOT);
}

#[test]
fn a_socket_of_the_host_gets_what_comes_to_it_whoever_has_the_mapping() {
    let mut world = World::new();
    world.configure(|config| config.filtering = [0; 4]);
    world.port_on_wire(&udp(CONTAINER, SERVER));
    world.port_on_wire(&syn(CONTAINER, SERVER));
    world.bind(socket2::Type::DGRAM, 40000);
    world.bind(socket2::Type::STREAM, 40000);
    let flows = world.flows().len();
    for packet in [udp((OUTSIDE, 9), HOST), syn((OUTSIDE, 9), HOST)] {
        assert_eq!(world.expect(UplinkIn, &packet, PASS), packet.frame(UplinkIn.macs()));
    }
    assert_eq!(world.flows().len(), flows, "and no state comes of it");
}
