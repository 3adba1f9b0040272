//! Packets that get lost: whichever it is, the next one mends it.

use xnat_tests::capture::Capture;
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{Packet, SYN, UDP};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N2, NODE1, Reference};
use xnat_tests::wait::{self, SOON};
use xnat_tests::{udp, xnat};

/// Opening packets of a connection to port 80.
const OPENING: &str = "-p tcp --dport 80 --tcp-flags SYN,ACK SYN";
/// Their answers.
const ANSWER: &str = "-p tcp --sport 80 --tcp-flags SYN,ACK SYN,ACK";

/// A connection from n1 to n2 comes up on one and the same wire tuple, although something gets `lost`; the openings, as
/// the wire shows them, are all tagged.
fn comes_up(openings: usize, lose: impl FnOnce(&Reference)) {
    let reference = Reference::new();
    let (one, two) = xnat::start_both(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let wire = Capture::filtered(reference.node1.host.wire(), "tcp");
    lose(&reference);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    tcp::expect_echo(&mut stream, 1, 50_000);
    let syns = wire.expect_count("an opening", openings, |p| p.has_flags(SYN));
    assert_eq!(syns.len(), openings, "{}", wire.transcript());
    assert!(syns.iter().all(|syn| syn.tag().is_some_and(|tag| tag.address == N2)), "{}", wire.transcript());
    assert_eq!(server.clients(), [std::net::SocketAddrV4::new(NODE1, 40000)]);
    for xnat in [&one, &two] {
        let flows = xnat.flows("--proto tcp");
        assert!(flows.len() == 1 && flows[0].state == "ESTABLISHED", "{flows:?}");
    }
}

/// Loses the first packet that gets into a container and that a rule matches.
fn lose_first_into(container: &Namespace, rule: &str) {
    container.shell(&format!("iptables -A INPUT {rule} -m statistic --mode nth --every 1000000 --packet 0 -j DROP"));
}

#[test]
fn an_opening_that_is_lost_on_the_wire_is_tagged_again() {
    comes_up(2, |reference| reference.lan.lose_first(OPENING));
}

#[test]
fn an_opening_that_is_lost_behind_the_peer_is_tagged_again() {
    comes_up(2, |reference| lose_first_into(reference.n2().ns(), OPENING));
}

#[test]
fn an_answer_may_be_lost_on_the_wire() {
    // Whoever loses patience first repeats itself: the opener, after a second, or both.
    comes_up(2, |reference| reference.lan.lose_first(ANSWER));
}

#[test]
fn an_answer_may_be_lost_before_its_container_gets_it() {
    comes_up(2, |reference| lose_first_into(reference.n1().ns(), ANSWER));
}

#[test]
fn everything_may_be_lost_once() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    reference.lan.lose("-p tcp -m statistic --mode nth --every 8 --packet 0");
    tcp::expect_visits(reference.n1().ns(), (N2, 80), 24);
    assert!(reference.lan.lost() > 24, "{} lost", reference.lan.lost());
}

#[test]
fn the_first_datagrams_may_be_lost() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let server = udp::Server::echo(reference.n2().ns(), 5300);
    let wire = Capture::filtered(reference.node1.host.wire(), "udp port 5300");
    for _ in 0..3 {
        reference.lan.lose_first("-p udp --dport 5300");
    }
    let socket = udp::socket(reference.n1().ns(), 41000);
    for number in 1..=3 {
        socket.send_to(b"lost", (N2, 5300)).expect("a route");
        wait::until_true("it is lost", SOON, || reference.lan.lost() == number);
    }
    udp::expect_echo(&socket, (N2, 5300), 1, 500);
    let sent = |p: &Packet| p.proto == UDP && p.sport == 41000;
    let tagged = wire.expect_count("a datagram", 4, |p| sent(p) && p.tag().is_some_and(|tag| tag.address == N2));
    assert_eq!(tagged.len(), 4);
    udp::expect_echo(&socket, (N2, 5300), 2, 500);
    let last = wire.expect_count("a datagram", 5, sent).pop().expect("five");
    assert!(last.options.is_empty(), "answered, so confirmed: {last:?}");
    assert_eq!(server.received().len(), 2);
}

#[test]
fn an_answer_to_a_datagram_may_be_lost() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let server = udp::Server::echo(reference.n2().ns(), 5300);
    reference.lan.lose_first("-p udp --sport 5300");
    let socket = udp::socket(reference.n1().ns(), 41000);
    socket.send_to(b"answered in vain", (N2, 5300)).expect("a route");
    wait::until_true("the answer is lost", SOON, || reference.lan.lost() == 1);
    udp::expect_echo(&socket, (N2, 5300), 2, 500);
    assert!(server.received().iter().all(|(from, _)| *from == std::net::SocketAddrV4::new(NODE1, 41000)));
}

#[test]
fn an_announcement_may_be_lost() {
    let reference = Reference::new();
    let (one, two) = xnat::start_both(&reference);
    let server = udp::Server::echo(reference.n2().ns(), 5300);
    // A header that is not longer than this is the announcement.
    reference.lan.lose_first("-p udp --dport 5300 -m length --length 0:36");
    let socket = udp::socket(reference.n1().ns(), 41000);
    socket.send_to(&[7; 1472], (N2, 5300)).expect("a route");
    wait::until_true("node1 hears that the flow is unknown", SOON, || one.counter("unknown_flow_received") == 1);
    assert_eq!((reference.lan.lost(), two.counter("unknown_flow_sent"), server.received().len()), (1, 1, 0));
    udp::expect_echo(&socket, (N2, 5300), 2, 1472);
    assert_eq!((one.counter("announces_sent"), two.counter("announces_received")), (2, 1));
}
