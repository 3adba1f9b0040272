//! Mappings that Linux makes anew for each destination, and what they let in.

use std::net::Ipv4Addr;

use xnat_tests::capture::Capture;
use xnat_tests::packet::{ICMP, RST, SYN};
use xnat_tests::program::ping;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, NODE1, OUTSIDE, Reference};

use super::{alone, expect, udp_at};

/// Another address of the outside machine's.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);

#[test]
fn one_ping_identifier_toward_two_hosts_is_one_on_the_wire() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "");
    let wire = Capture::filtered(reference.outside.wire(), "icmp");
    // The other container has the identifier.
    ping(reference.node1.containers[1].ns(), "-c 1 -e 700", OUTSIDE).expect_answered_by(OUTSIDE);
    for target in [OUTSIDE, ANYWHERE] {
        ping(reference.n1().ns(), "-c 1 -e 700", target).expect_answered_by(target);
    }
    let requests = wire.expect_count("a request", 3, |p| p.proto == ICMP && p.icmp_type == 8);
    assert_eq!(requests[0].sport, 700);
    assert_ne!(requests[1].sport, 700, "that is the other container's");
    assert_eq!(requests[1].sport, requests[2].sport, "one identifier toward both");
}

#[test]
fn two_containers_never_share_a_port_while_others_are_free() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "");
    let places = [(OUTSIDE, 5300), (ANYWHERE, 5300)].map(|place| udp_at(reference.outside.ns(), place));
    for port in [40000, 40001, 600] {
        let one = udp_at(reference.n1().ns(), (N1, port));
        let two = udp_at(reference.node1.containers[1].ns(), ([192, 168, 110, 12].into(), port));
        // Toward different destinations, so that Linux lets them share it.
        one.send_to(b"one", (OUTSIDE, 5300)).expect("a route");
        two.send_to(b"two", (ANYWHERE, 5300)).expect("a route");
        let (one, two) = (expect(&places[0], b"one"), expect(&places[1], b"two"));
        assert_eq!(one, (NODE1, port).into(), "the first one keeps its port");
        assert_ne!(one, two);
        assert_eq!(two.port() < 1024, port < 1024, "the class is kept: {two}");
    }
}

#[test]
fn an_unsolicited_syn_to_a_mapping_is_not_answered() {
    let reference = Reference::new();
    let xnat = alone(&reference, "");
    let outside = reference.outside.ns();
    outside.ip(&format!("address add {ELSEWHERE}/32 dev lo"));
    let web = tcp::Server::start(outside, 80, Service::Echo);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, web.port()));
    let wire = Capture::filtered(reference.outside.wire(), "tcp or icmp");
    let inside = Capture::filtered(reference.n1().inside(), "tcp");
    // RFC 5382 REQ-4: for six seconds at least.
    let error = outside.within(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from((ELSEWHERE, 5000)).into()).expect("its address");
        let to = std::net::SocketAddr::from((NODE1, 40000));
        socket.connect_timeout(&to.into(), std::time::Duration::from_secs(7)).expect_err("no answer")
    });
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    wire.expect("the SYN", |p| p.src == ELSEWHERE && p.has_flags(SYN));
    assert!(xnat.counter("filtered") >= 1);
    tcp::expect_echo(&mut stream, 1, 1000);
    wire.expect_none("an answer", |p| p.dst == ELSEWHERE);
    wire.expect_none("a reset", |p| p.flags & RST != 0);
    inside.expect_none("the SYN", |p| p.src == ELSEWHERE);
}

#[test]
fn tcp_is_filtered_apart_from_udp() {
    let reference = Reference::new();
    let xnat = alone(&reference, "--filtering tcp=endpoint-independent,udp=address-dependent");
    let outside = reference.outside.ns();
    let web = tcp::Server::start(outside, 80, Service::Echo);
    let server = udp_at(outside, (OUTSIDE, 5300));
    let stranger = udp_at(outside, (ANYWHERE, 5300));
    // A container that listens on the port from which it has connected.
    let _stream = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, web.port()));
    let listener = tcp::Server::start(reference.n1().ns(), 40000, Service::Whoami);
    let seen = outside.within(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&std::net::SocketAddr::from((ANYWHERE, 0)).into())?;
        socket.connect_timeout(&std::net::SocketAddr::from((NODE1, 40000)).into(), xnat_tests::wait::SOON)?;
        std::io::read_to_string(std::net::TcpStream::from(socket))
    });
    assert!(seen.expect("a connection from a stranger").starts_with(&ANYWHERE.to_string()));
    assert_eq!(listener.clients().len(), 1);
    let container = udp_at(reference.n1().ns(), (N1, 40000));
    container.send_to(b"hello", (OUTSIDE, 5300)).expect("a route");
    let me = expect(&server, b"hello");
    stranger.send_to(b"from a stranger", me).expect("a route");
    xnat_tests::wait::until_true("it is filtered", xnat_tests::wait::SOON, || xnat.counter("filtered") == 1);
    server.send_to(b"answer", me).expect("a route");
    expect(&container, b"answer");
}

/// A port that has to be changed tells nothing of the next one (RFC 6056).
#[test]
fn changed_ports_are_hard_to_guess() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "");
    let server = udp_at(reference.outside.ns(), (OUTSIDE, 5300));
    let mut ports = Vec::new();
    for port in 40000..40032 {
        for (container, address) in [(1, Ipv4Addr::new(192, 168, 110, 12)), (0, N1)] {
            let socket = udp_at(reference.node1.containers[container].ns(), (address, port));
            socket.send_to(b"who am I", (OUTSIDE, 5300)).expect("a route");
            ports.push(expect(&server, b"who am I").port());
        }
    }
    let changed: Vec<i32> = ports.chunks(2).map(|pair| pair[1].into()).collect();
    let mut steps: Vec<i32> = changed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_unstable();
    steps.dedup();
    assert!(steps.len() > 24, "steps that come again: {changed:?}");
    let (low, high) = (changed.iter().min().expect("some"), changed.iter().max().expect("some"));
    assert!(high - low > 20_000, "they are close together: {changed:?}");
}

/// RFC 4787 REQ-7: nodes out there may have the containers' numbers. They cannot be addressed, everybody else can.
#[test]
fn an_outside_network_of_the_same_numbers_does_no_harm() {
    let reference = Reference::with_containers(2);
    let outside = reference.outside.ns();
    let same = reference.node1.containers[1].address();
    outside.ip(&format!("address add {same}/24 dev lo"));
    let _xnat = alone(&reference, "");
    let web = tcp::Server::start(outside, 80, Service::Whoami);
    let neighbour = tcp::Server::start(reference.node1.containers[1].ns(), 80, Service::Whoami);
    for target in [OUTSIDE, ANYWHERE] {
        assert_eq!(*tcp::whoami(reference.n1().ns(), 0, (target, web.port())).ip(), NODE1);
    }
    assert_eq!(*tcp::whoami(reference.n1().ns(), 0, (same, neighbour.port())).ip(), N1, "the container, untranslated");
    assert_eq!((web.clients().len(), neighbour.clients().len()), (2, 1));
}
