//! A bridge made anew.

use super::*;

/// Deletes node1's bridge and makes it again, as a restart of the network does.
fn make_anew(reference: &Reference) {
    let (host, n1) = (&reference.node1.host, reference.n1());
    host.ns().ip("link delete br0");
    host.bridge("br0", "192.168.110.1/24");
    let port = n1.port().1;
    host.ns().ip(&format!("link set {port} master br0"));
    wait::until_true("the bridge port forwards", SOON, || {
        host.ns().ip(&format!("-d link show dev {port}")).contains("state forwarding")
    });
    // The new bridge has another MAC address.
    n1.ns().ip("neighbour flush all");
}

#[test]
fn does_not_lose_a_udp_flow_that_its_container_uses() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let in_n2 = udp::Server::echo(reference.n2().ns(), 5300);
    let outside = udp::Server::echo(reference.outside.ns(), 5300);
    let socket = udp::socket(reference.n1().ns(), 41000);
    let places = [(N2, &in_n2), (OUTSIDE, &outside)];
    for (place, _) in places {
        expect_echo_among_others(&socket, (place, 5300), b"before");
    }
    make_anew(&reference);
    for (place, server) in places {
        expect_echo_among_others(&socket, (place, 5300), b"after");
        let last = server.received().pop().expect("what was echoed");
        assert_eq!(last, (SocketAddrV4::new(NODE1, 41000), b"after".to_vec()), "as before");
    }
    assert!(one.status().running);
}

#[test]
fn does_not_lose_a_udp_flow_whose_other_end_speaks_first() {
    let reference = Reference::new();
    let (_one, _two) = xnat::start_both(&reference);
    let in_n2 = udp::Server::silent(reference.n2().ns(), 5300);
    let in_n1 = udp::Server::silent(reference.n1().ns(), 41000);
    in_n1.send((N2, 5300), b"before");
    wait::until_true("n2 is asked", SOON, || !in_n2.received().is_empty());
    in_n2.send((NODE1, 41000), b"before");
    wait::until_true("n1 is answered", SOON, || !in_n1.received().is_empty());
    make_anew(&reference);
    let after = (SocketAddrV4::new(N2, 5300), b"after".to_vec());
    wait::until_true("n1 hears from n2", SOON, || {
        in_n2.send((NODE1, 41000), b"after");
        in_n1.received().contains(&after)
    });
    let answer = (SocketAddrV4::new(NODE1, 41000), b"answer".to_vec());
    wait::until_true("n2 hears from n1", SOON, || {
        in_n1.send((N2, 5300), b"answer");
        in_n2.received().contains(&answer)
    });
}

#[test]
fn does_not_lose_a_udp_flow_that_a_peers_container_has_opened() {
    let reference = Reference::new();
    let (_one, _two) = xnat::start_both(&reference);
    let in_n1 = udp::Server::echo(reference.n1().ns(), 5300);
    let socket = udp::socket(reference.n2().ns(), 41000);
    expect_echo_among_others(&socket, (N1, 5300), b"before");
    make_anew(&reference);
    expect_echo_among_others(&socket, (N1, 5300), b"after");
    in_n1.send((NODE2, 41000), b"unasked");
    let mut buffer = [0; 64];
    wait::until_true("n2 hears from n1", SOON, || {
        in_n1.send((NODE2, 41000), b"unasked");
        socket.recv_from(&mut buffer).is_ok_and(|(length, _)| &buffer[..length] == b"unasked")
    });
}

#[test]
fn does_not_lose_a_connection() {
    let reference = Reference::new();
    let (_one, _two) = xnat::start_both(&reference);
    let _in_n2 = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let _outside = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    let mut streams = [N2, OUTSIDE].map(|place| tcp::expect_connect(reference.n1().ns(), 40000, (place, 80)));
    for stream in &mut streams {
        tcp::expect_echo(stream, 1, 5000);
    }
    make_anew(&reference);
    for stream in &mut streams {
        tcp::expect_echo(stream, 2, 5000);
    }
}
