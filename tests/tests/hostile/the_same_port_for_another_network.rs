//! The same port for another network.

use super::*;

#[test]
fn tcp_of_ours_goes_on() {
    let reference = Reference::new();
    let foreigner = another_network(&reference);
    let one = alone(&reference);
    let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
    let mut ours = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
    tcp::expect_echo(&mut ours, 1, 5000);
    assert_eq!(server.clients(), [SocketAddrV4::new(NODE1, 40000)]);
    let sent = Capture::filtered(foreigner.port(), "tcp");
    let _theirs = foreigner.ns().within(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
        socket.set_reuse_address(true).expect("a socket");
        socket.bind(&SocketAddr::from((FOREIGNER, 40000)).into()).expect("a free port");
        // It is in progress, for as long as the socket is there.
        let _ = socket.connect(&SocketAddr::from((OUTSIDE, 80)).into());
        socket
    });
    // The opening and its repetition a second later.
    for openings in 1..=2 {
        sent.expect_count("their opening", openings, |p| p.src == FOREIGNER && p.proto == TCP);
        ping(foreigner.ns(), "-c 1", OUTSIDE).expect_answered_by(OUTSIDE);
        for round in 0..3 {
            tcp::expect_echo(&mut ours, round, 5000);
        }
    }
    assert_eq!(one.flows("--proto tcp").len(), 1);
}

#[test]
fn udp_of_ours_goes_on() {
    let reference = Reference::new();
    let foreigner = another_network(&reference);
    let _one = alone(&reference);
    let server = udp::Server::echo(reference.outside.ns(), 5300);
    let ours = udp::socket(reference.n1().ns(), 41000);
    let theirs = udp::socket(foreigner.ns(), 41000);
    expect_echo_among_others(&ours, (OUTSIDE, 5300), b"ours before");
    for round in [b"ours 1", b"ours 2", b"ours 3"] {
        theirs.send_to(b"theirs", (OUTSIDE, 5300)).expect("a route");
        ping(foreigner.ns(), "-c 1", OUTSIDE).expect_answered_by(OUTSIDE);
        expect_echo_among_others(&ours, (OUTSIDE, 5300), round);
    }
    let from = |text: &[u8]| server.received().into_iter().find(|it| it.1 == text).map(|it| it.0);
    assert_eq!(from(b"ours 3"), Some(SocketAddrV4::new(NODE1, 41000)), "from the same port: {:?}", server.received());
}
