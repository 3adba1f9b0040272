//! Next door.

use super::*;

/// Two containers, the first of which sends by way of the bridge's MAC address what it wants to the second.
fn spoofer() -> (Reference, Xnat) {
    let reference = Reference::with_containers(2);
    believe_every_source(reference.node1.host.ns(), "br0");
    let one = alone(&reference);
    let victim = reference.node1.containers[1].address();
    reference.n1().ns().ip(&format!("route add {victim}/32 via 192.168.110.1"));
    (reference, one)
}

/// Sends packets in the outside server's name and waits until the host has had them.
fn send_all(reference: &Reference, packets: &[Raw]) {
    let at_port = Capture::filtered(reference.n1().port(), "udp or tcp");
    for packet in packets {
        packet.send(reference.n1().ns());
    }
    at_port.expect_count("a spoofed packet", packets.len(), |p| p.src == OUTSIDE && p.ttl == 64);
    ping(reference.n1().ns(), "-c 1", Ipv4Addr::new(192, 168, 110, 1));
}

#[test]
fn a_spoofer_does_not_end_a_connection_of_another_container() {
    let (reference, one) = spoofer();
    let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    let victim = &reference.node1.containers[1];
    let mut stream = tcp::expect_connect(victim.ns(), 40000, (OUTSIDE, 80));
    tcp::expect_echo(&mut stream, 1, 5000);
    let segment = |flags| Raw::tcp((OUTSIDE, 80), (victim.address(), 40000), flags, 1, 1);
    send_all(&reference, &[segment(SYN), segment(ACK), segment(SYN | ACK)]);
    for round in 0..3 {
        tcp::expect_echo(&mut stream, round, 5000);
    }
    assert_eq!((server.clients().len(), one.flows("--proto tcp").len()), (1, 1));
}

#[test]
fn a_spoofer_does_not_end_a_udp_flow_of_another_container() {
    let (reference, _one) = spoofer();
    let server = udp::Server::echo(reference.outside.ns(), 5300);
    let victim = &reference.node1.containers[1];
    let socket = udp::socket(victim.ns(), 41000);
    expect_echo_among_others(&socket, (OUTSIDE, 5300), b"before");
    send_all(&reference, &[Raw::udp((OUTSIDE, 5300), (victim.address(), 41000), b"spoofed")]);
    expect_echo_among_others(&socket, (OUTSIDE, 5300), b"after");
    assert!(server.received().iter().all(|(from, _)| *from == SocketAddrV4::new(NODE1, 41000)));
}

#[test]
fn a_spoofer_does_not_keep_another_container_from_connecting() {
    let (reference, _one) = spoofer();
    let victim = &reference.node1.containers[1];
    let _server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    let _echo = udp::Server::echo(reference.outside.ns(), 5300);
    let to = |port| (victim.address(), port);
    send_all(
        &reference,
        &[Raw::tcp((OUTSIDE, 80), to(40000), ACK, 1, 1), Raw::udp((OUTSIDE, 5300), to(41000), b"spoofed")],
    );
    victim.ns().within(|| tcp::visit(40000, (OUTSIDE, 80), 1, 5000)).expect("an echo");
    expect_echo_among_others(&udp::socket(victim.ns(), 41000), (OUTSIDE, 5300), b"after");
}
