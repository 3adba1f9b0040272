//! When ports run short.

use std::net::{SocketAddrV4, UdpSocket};

use xnat_tests::netns::Namespace;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, OUTSIDE, Reference};
use xnat_tests::wait::{self, SOON};

use crate::{alone, expect_datagram, local, pass, udp_at};

/// The pool that a test can fill.
const POOL: u16 = 400;
const RANGE: &str = "--ports 20000-20399";

/// Opens this many mappings toward a server; each must succeed. The sockets keep their ports inside.
fn fill(container: &Namespace, server: &UdpSocket, count: u16) -> Vec<UdpSocket> {
    let open = |_| {
        let socket = container.within(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        pass(&socket, local(server), server, b"one more");
        socket
    };
    (0..count).map(open).collect()
}

/// Whether an opening from a fresh socket arrives; if not, the container is told so.
fn opens(container: &Namespace, server: &UdpSocket) -> bool {
    let socket = container.within(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a valid timeout");
    socket.connect(local(server)).expect("a connected socket");
    socket.send(b"is there room?").expect("nothing has come back yet");
    server.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("a valid timeout");
    let arrived = server.recv_from(&mut [0; 64]).is_ok();
    if !arrived {
        let error = socket.recv(&mut [0; 16]).expect_err("a refusal");
        assert_eq!(error.raw_os_error(), Some(113), "EHOSTUNREACH: {error}");
    }
    arrived
}

#[test]
fn with_nearly_all_ports_in_use_every_connection_that_can_succeed_does() {
    let reference = Reference::new();
    let xnat = alone(&reference, RANGE);
    let server = udp_at(reference.outside.ns(), ANYWHERE, 5300);
    let n1 = reference.n1().ns();
    let mut sockets = fill(n1, &server, POOL * 95 / 100);
    // The last five in a hundred, one by one, to the very last.
    sockets.extend(fill(n1, &server, POOL - POOL * 95 / 100));
    assert_eq!(xnat.counter("ports_exhausted"), 0);
    assert_eq!(xnat.counter("mappings_opened"), u64::from(POOL));
    assert!(!opens(n1, &server), "there is none left toward this server");
    assert!(xnat.counter("ports_exhausted") >= 1 && xnat.counter("refusals") >= 1);
    // Toward another one, ports are shared rather than anybody refused.
    let other = udp_at(reference.outside.ns(), OUTSIDE, 5301);
    let more = udp_at(n1, reference.n1().address(), 0);
    let seen = pass(&more, local(&other), &other, b"elsewhere");
    assert!((20000..20400).contains(&seen.port()), "{seen}");
    assert_eq!(pass(&other, seen, &more, b"and back"), local(&other));
    assert!(xnat.counter("ports_shared") >= 1);
    // Those that have a port go on.
    for socket in &sockets {
        pass(socket, local(&server), &server, b"still here");
    }
}

#[test]
fn recovery_comes_as_soon_as_one_is_free() {
    let reference = Reference::new();
    let xnat = alone(&reference, &format!("{RANGE} --udp-unreplied 3"));
    let server = udp_at(reference.outside.ns(), ANYWHERE, 5300);
    let n1 = reference.n1().ns();
    let sockets = fill(n1, &server, POOL);
    assert!(!opens(n1, &server));
    // All but one are kept busy.
    wait::until_true("one flow expires", SOON * 2, || {
        for socket in &sockets[1..] {
            pass(socket, local(&server), &server, b"busy");
        }
        xnat.count("--proto udp") < u64::from(POOL)
    });
    wait::until_true("its port is somebody else's", SOON, || opens(n1, &server));
}

#[test]
fn short_lived_connections_find_ports_for_ever() {
    let reference = Reference::new();
    let xnat = alone(&reference, "--ports 20000-20063");
    let server = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
    // Ten times as many connections as there are ports; each stays in TIME_WAIT for four minutes.
    for _ in 0..640 {
        tcp::whoami(reference.n1().ns(), 0, (OUTSIDE, 80));
    }
    assert_eq!(server.clients().len(), 640);
    assert_eq!(xnat.counter("ports_exhausted"), 0);
    assert!(xnat.counter("ports_reclaimed") > 0);
}

#[test]
fn two_containers_share_a_port_toward_different_servers_without_mixing_up() {
    let reference = Reference::with_containers(2);
    let _xnat = alone(&reference, "--ports 20000-20000");
    let servers =
        [(ANYWHERE, 5300), (OUTSIDE, 5301)].map(|(address, port)| udp_at(reference.outside.ns(), address, port));
    let sockets = [0, 1].map(|n| {
        let container = &reference.node1.containers[n];
        udp_at(container.ns(), container.address(), 20000)
    });
    let mut seen = Vec::new();
    for (socket, server) in sockets.iter().zip(&servers) {
        seen.push(pass(socket, local(server), server, b"hello"));
    }
    let port = |address: &SocketAddrV4| address.port();
    assert_eq!(seen.iter().map(port).collect::<Vec<_>>(), [20000, 20000]);
    for ((socket, server), at) in sockets.iter().zip(&servers).zip(&seen) {
        server.send_to(local(socket).to_string().as_bytes(), at).expect("sent");
        expect_datagram(socket, local(socket).to_string().as_bytes());
    }
}
