//! First packets by many threads at the same instant.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Barrier;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use xnat_tests::netns::Namespace;
use xnat_tests::topology::{N1, NODE1, OUTSIDE, Reference, SUBNET1};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;
use xnat_tests::{tcp, udp};

const THREADS: u8 = 128;
const ROUNDS: u16 = 6;
const PORT: u16 = 40000;

/// Another container has had the port first, so that one has to be found.
fn occupy(reference: &Reference, port: u16, to: (Ipv4Addr, u16)) {
    let socket = udp::socket(reference.node1.containers[1].ns(), port);
    udp::expect_echo(&socket, to, 1, 100);
}

/// Runs a closure in as many threads as there are, all let go at one instant.
fn at_once(ns: &Namespace, send: impl Fn(u8) + Sync) {
    let barrier = Barrier::new(THREADS.into());
    let run = |n| {
        barrier.wait();
        send(n);
    };
    ns.within(|| {
        std::thread::scope(|scope| {
            for n in 0..THREADS {
                scope.spawn(move || run(n));
            }
        });
    });
}

#[test]
fn first_packets_of_128_threads_on_one_socket_are_one_flow() {
    let reference = Reference::with_containers(2);
    let xnat = Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"));
    let server = udp::Server::echo(reference.outside.ns(), 5300);
    let to = (OUTSIDE, server.port());
    for round in 0..ROUNDS {
        let port = PORT + round;
        if round % 2 == 1 {
            occupy(&reference, port, to);
        }
        let socket = udp::socket(reference.n1().ns(), port);
        socket.set_read_timeout(Some(SOON)).expect("a valid time-out");
        at_once(reference.n1().ns(), |n| {
            socket.send_to(&[n, round as u8, 0xaa], to).expect("a route");
        });
        let mut buffer = [0; 16];
        let answers: BTreeSet<u8> = (0..THREADS)
            .map(|got| {
                let (length, from) = socket
                    .recv_from(&mut buffer)
                    .unwrap_or_else(|error| panic!("round {round}: {got} answers of {THREADS}, then {error}"));
                assert_eq!(from, SocketAddr::from(to), "round {round}");
                assert_eq!(buffer[1..length], [round as u8, 0xaa]);
                buffer[0]
            })
            .collect();
        assert_eq!(answers.len(), usize::from(THREADS), "round {round}: each packet was answered once");
        let of_round = |datagram: &&udp::Datagram| datagram.1.len() == 3 && datagram.1[1] == round as u8;
        let received = server.received();
        let sources: BTreeSet<SocketAddrV4> = received.iter().filter(of_round).map(|(from, _)| *from).collect();
        assert_eq!(sources.len(), 1, "round {round}: one port on the wire, not {sources:?}");
        let source = sources.first().expect("one");
        assert_eq!(*source.ip(), NODE1);
        assert_eq!(source.port() == port, round % 2 == 0, "round {round}: the port is kept where it is free: {source}");
        let flows = xnat.flows(&format!("--proto udp --src {N1} --sport {port}"));
        assert_eq!(flows.len(), 1, "round {round}: {flows:#?}");
        assert_eq!(flows[0].original.packets, u64::from(THREADS), "round {round}: every packet is counted");
    }
    assert_eq!(xnat.counter("flow_busy"), 0, "nobody lost a packet to a race");
}

#[test]
fn first_packets_to_128_destinations_at_once_have_one_port() {
    let reference = Reference::with_containers(2);
    let _xnat = Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"));
    let outside = reference.outside.ns();
    outside.ip("route add local 203.0.113.0/24 dev lo");
    let address = |n: u8| Ipv4Addr::new(203, 0, 113, n + 1);
    let servers: Vec<UdpSocket> = outside.within(|| {
        (0..THREADS).map(|n| UdpSocket::bind((address(n), 5300)).expect("an address of the outside's")).collect()
    });
    for round in 0..ROUNDS {
        let port = PORT + round;
        if round % 2 == 1 {
            // Toward one of them is enough.
            let other = udp::socket(reference.node1.containers[1].ns(), port);
            other.send_to(b"first", (address(77), 5300)).expect("a route");
            let length = servers[77].recv(&mut [0; 16]).expect("the other container's packet");
            assert_eq!(length, 5);
        }
        let sockets: Vec<UdpSocket> =
            reference.n1().ns().within(|| (0..THREADS).map(|n| shared(port, (address(n), 5300))).collect());
        at_once(reference.n1().ns(), |n| {
            sockets[usize::from(n)].send(&[n, round as u8]).expect("a route");
        });
        let mut sources = BTreeSet::new();
        for server in &servers {
            server.set_read_timeout(Some(SOON)).expect("a valid time-out");
            let mut buffer = [0; 16];
            let (length, from) = server.recv_from(&mut buffer).expect("a packet for each destination");
            server.send_to(&buffer[..length], from).expect("a route");
            sources.insert(from);
        }
        assert_eq!(sources.len(), 1, "round {round}: one port toward everybody, not {sources:?}");
        let kept = sources.first().expect("one").port() == port;
        assert_eq!(kept, round % 2 == 0, "round {round}: the port is kept where it is free: {sources:?}");
        for (n, socket) in sockets.iter().enumerate() {
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("round {round}, answer {n}: {error}"));
            assert_eq!(buffer[..length], [n as u8, round as u8]);
        }
    }
}

#[test]
fn connections_of_128_threads_from_one_port_share_one_on_the_wire() {
    let reference = Reference::with_containers(2);
    let _xnat = Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"));
    let outside = reference.outside.ns();
    outside.ip("route add local 203.0.113.0/24 dev lo");
    let server = tcp::Server::start(outside, 80, tcp::Service::Whoami);
    let destination = |n: u8| (Ipv4Addr::new(203, 0, 113, n + 1), server.port());
    // Another container has the port toward one of them.
    let other = tcp::whoami(reference.node1.containers[1].ns(), PORT, destination(77));
    assert_eq!(other, SocketAddrV4::new(NODE1, PORT));
    let told: BTreeSet<SocketAddrV4> = std::thread::scope(|scope| {
        let ns = reference.n1().ns();
        let whoami = |n| move || tcp::whoami(ns, PORT, destination(n));
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(whoami(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a connection")).collect()
    });
    assert_eq!(told.len(), 1, "one port toward everybody, not {told:?}");
    assert_ne!(told.first().expect("one").port(), PORT, "the other container's connection has it still");
    wait::until_true("all were served", SOON, || server.clients().len() == usize::from(THREADS) + 1);
}

/// A UDP socket that shares its port with others, each of which talks with another machine.
fn shared(port: u16, to: (Ipv4Addr, u16)) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("an option");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).expect("the port");
    socket.connect(&SocketAddr::from(to).into()).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid time-out");
    socket.into()
}
