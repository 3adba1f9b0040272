//! What it cannot be: packets from the wire with addresses that nobody there has, or that nobody there may use.

use super::*;

/// Awaits that node1's dataplane has counted this many under a name.
#[track_caller]
fn expect_counted(xnat: &Xnat, name: &str, count: usize) {
    wait::until_true(name, SOON, || xnat.counter(name) >= count as u64);
    assert_eq!(xnat.counter(name), count as u64, "{name}, no more");
}

/// A loose source route by 203.0.113.9.
fn routed(mut packet: Raw) -> Raw {
    packet.options = vec![0x83, 7, 4, 203, 0, 113, 9, 0];
    packet
}

#[test]
fn a_neighbour_on_the_uplink_cannot_address_a_container_directly() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    // The host itself would forward it.
    reference.node1.host.ns().shell("iptables -P FORWARD ACCEPT");
    believe_every_source(reference.node1.host.ns(), "eth0");
    let neighbour = neighbour(&reference, &[SUBNET1]);
    let server = tcp::Server::start(reference.n1().ns(), 80, Service::Whoami);
    let datagrams = udp::Server::echo(reference.n1().ns(), 5300);
    let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp or icmp");
    let at_n1 = Capture::filtered(reference.n1().inside(), "udp or tcp or icmp");
    // A connection of the container's own, whose other end the neighbour pretends to be.
    let _outside = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
    let me = neighbour.address();
    let packets = [
        Raw::tcp((me, 700), (N1, 80), SYN, 1, 0),
        Raw::udp((me, 700), (N1, 5300), b"direct"),
        Raw::echo_request(me, N1, 700),
        Raw::tcp((OUTSIDE, 80), (N1, 40000), ACK, 1, 1),
        Raw::udp((NODE2, 700), (N1, 5300), b"direct"),
        Raw::udp((N2, 700), (N1, 5300), b"direct"),
        Raw::udp((me, 700), (Ipv4Addr::new(192, 168, 110, 1), 53), b"direct"),
    ];
    for packet in &packets {
        packet.send(neighbour.ns());
    }
    at_node1.expect_count("a direct packet", packets.len(), |p| p.dst.octets()[..3] == [192, 168, 110]);
    expect_counted(&one, "direct_destination", packets.len());
    ping(neighbour.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    tcp::expect_echo(&mut stream, 1, 5000);
    at_n1.expect_none("a direct packet", |p| p.dst == N1 && !(p.src == OUTSIDE && p.ttl == 63));
    assert_eq!((server.clients(), datagrams.received()), (vec![], vec![]));
}

#[test]
fn a_neighbour_cannot_reach_the_hosts_loopback() {
    let reference = Reference::new();
    let one = alone(&reference);
    let host = reference.node1.host.ns();
    believe_every_source(host, "eth0");
    let local = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let server = tcp::Server::at(host, local(8080), Service::Whoami);
    let datagrams = host.within(|| UdpSocket::bind(local(5300))).expect("a port");
    datagrams.set_read_timeout(Some(Duration::from_millis(10))).expect("a valid timeout");
    let neighbour = neighbour(&reference, &[]);
    // To the neighbour 127.0.0.0/8 is behind node1.
    neighbour.ns().ip("route flush table local root 127.0.0.0/8");
    neighbour.ns().ip(&format!("route add 127.0.0.0/8 via {NODE1}"));
    let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp");
    let me = neighbour.address();
    Raw::udp((me, 700), (Ipv4Addr::LOCALHOST, 5300), b"to loopback").send(neighbour.ns());
    Raw::udp((Ipv4Addr::LOCALHOST, 701), (Ipv4Addr::LOCALHOST, 5300), b"to loopback").send(neighbour.ns());
    Raw::tcp((me, 700), (Ipv4Addr::LOCALHOST, 8080), SYN, 1, 0).send(neighbour.ns());
    at_node1.expect_count("a packet to loopback", 3, |p| p.dst == Ipv4Addr::LOCALHOST);
    ping(neighbour.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    at_node1.expect_none("an answer", |p| p.dst == me && (p.proto == TCP || p.proto == UDP));
    assert_eq!(server.clients(), []);
    let nothing = datagrams.recv_from(&mut [0; 64]).expect_err("nothing came");
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    // The listeners are there.
    assert_eq!(tcp::whoami(host, 40001, (Ipv4Addr::LOCALHOST, 8080)), local(40001));
    assert_eq!(one.flows(""), []);
}

#[test]
fn spoofed_sources_are_dropped_and_counted() {
    let reference = Reference::new();
    let one = alone(&reference);
    let host = reference.node1.host.ns();
    believe_every_source(host, "eth0");
    let server = udp::Server::silent(host, 5300);
    let neighbour = neighbour(&reference, &[]);
    let impossible: [(&str, &[[u8; 4]]); 3] = [
        ("spoofed_source", &[[192, 168, 110, 11], [192, 168, 110, 1], [192, 168, 110, 255]]),
        ("martian_source", &[[0, 0, 0, 5], [127, 0, 0, 1], [224, 0, 0, 1], [239, 0, 0, 1], [255, 255, 255, 255]]),
        ("own_source", &[[172, 29, 0, 4]]),
    ];
    for (name, sources) in impossible {
        for source in sources {
            Raw::udp(((*source).into(), 700), (NODE1, 5300), b"spoofed").send(neighbour.ns());
        }
        expect_counted(&one, name, sources.len());
    }
    Raw::udp((neighbour.address(), 700), (NODE1, 5300), b"honest").send(neighbour.ns());
    wait::until_true("the honest datagram arrives", SOON, || !server.received().is_empty());
    let honest = (SocketAddrV4::new(neighbour.address(), 700), b"honest".to_vec());
    assert_eq!(server.received(), [honest]);
}

#[test]
fn a_land_packet_reaches_no_listener() {
    let reference = Reference::new();
    let one = alone(&reference);
    // The kernel would believe it as well.
    believe_every_source(reference.node1.host.ns(), "eth0");
    reference.node1.host.ns().set_sysctl("net/ipv4/conf/all/accept_local", "1");
    let server = tcp::Server::start(reference.node1.host.ns(), 8080, Service::Whoami);
    let datagrams = udp::Server::silent(reference.node1.host.ns(), 5300);
    let neighbour = neighbour(&reference, &[]);
    Raw::tcp((NODE1, 8080), (NODE1, 8080), SYN, 1, 0).send(neighbour.ns());
    Raw::udp((NODE1, 5300), (NODE1, 5300), b"land").send(neighbour.ns());
    expect_counted(&one, "own_source", 2);
    ping(neighbour.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    assert_eq!((server.clients(), datagrams.received()), (vec![], vec![]));
}

#[test]
fn a_source_route_leads_nowhere() {
    let reference = Reference::new();
    let one = alone(&reference);
    let host = reference.node1.host.ns();
    // Hosts that accept source routes are rare, and this is one.
    for scope in ["all", "eth0", "br0"] {
        host.set_sysctl(&format!("net/ipv4/conf/{scope}/accept_source_route"), "1");
    }
    let neighbour = neighbour(&reference, &[]);
    let wire = Capture::filtered(reference.node1.host.wire(), "udp");
    let server = udp::Server::silent(reference.outside.ns(), 5300);
    let socket = udp::socket(reference.n1().ns(), 41000);
    socket.send_to(b"before", (OUTSIDE, 5300)).expect("a route");
    wait::until_true("the flow is there", SOON, || server.received().len() == 1);
    routed(Raw::udp((N1, 41000), (OUTSIDE, 5300), b"by another way")).send(reference.n1().ns());
    routed(Raw::udp((OUTSIDE, 5300), (NODE1, 41000), b"by another way")).send(reference.outside.ns());
    routed(Raw::udp((neighbour.address(), 700), (NODE1, 5300), b"by another way")).send(neighbour.ns());
    expect_counted(&one, "source_route", 3);
    server.send((NODE1, 41000), b"after");
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..length], b"after");
    wire.expect_none("a packet that was led on", |p| p.goes(NODE1, OUTSIDE) && !p.options.is_empty());
    wire.expect_none("a packet that was led on", |p| p.dst == Ipv4Addr::new(203, 0, 113, 9));
    assert_eq!(server.received().len(), 1);
}
