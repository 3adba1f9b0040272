//! A flow table that is full: who is refused, who is not, and how room is made.

use std::net::{TcpStream, UdpSocket};

use nix::sys::signal::Signal;

use xnat_tests::program::ping;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, OUTSIDE, Reference, SUBNET1};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};

/// The smallest table there is.
const SLOTS: u64 = 64;

/// xnat on node1 with the smallest table, and an established connection through it that must never suffer.
struct Small {
    xnat: Xnat,
    connection: TcpStream,
    _echo: tcp::Server,
    sink: udp::Server,
    reference: Reference,
    next_port: u16,
}

impl Small {
    fn new(timeouts: &str) -> Self {
        let reference = Reference::new();
        let xnat =
            Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1} --max-flows {SLOTS} {timeouts}"));
        assert_eq!(xnat.status().flows.max, SLOTS);
        let echo = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
        let sink = udp::Server::silent(reference.outside.ns(), 5300);
        let connection = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
        let mut small = Self { xnat, connection, _echo: echo, sink, reference, next_port: 20_000 };
        small.expect_connection();
        small
    }

    #[track_caller]
    fn expect_connection(&mut self) {
        tcp::expect_echo(&mut self.connection, 1, 10_000);
    }

    /// Sends a datagram from a port that has not been used yet.
    fn open(&mut self) -> u16 {
        self.next_port += 1;
        let socket: UdpSocket = udp::socket(self.reference.n1().ns(), self.next_port);
        socket.send_to(b"one way", (OUTSIDE, 5300)).expect("a route");
        self.next_port
    }

    fn arrived(&self, port: u16) -> bool {
        self.sink.received().iter().any(|(from, _)| *from.ip() == NODE1 && from.port() == port)
    }

    /// Opens one flow more than there is room for.
    #[track_caller]
    fn fill(&mut self) {
        for _ in 0..SLOTS {
            self.open();
        }
        let full = || Some(self.xnat.status()).filter(|status| status.counters.contains_key("table_full"));
        let status = wait::until("the table is full", SOON, full);
        assert_eq!((status.flows.used, status.counters["table_full"]), (SLOTS, 1));
    }
}

#[test]
fn openings_are_refused_and_counted_and_what_is_established_works_on() {
    let mut small = Small::new("");
    small.fill();
    let before = small.xnat.counter("table_full");
    for number in 1..=5 {
        let port = small.open();
        wait::until_true("the refusal is counted", SOON, || small.xnat.counter("table_full") == before + number);
        assert!(!small.arrived(port));
    }
    small.expect_connection();
    assert_eq!(small.xnat.count(""), SLOTS);
    // Of the datagrams before, none was lost.
    wait::until_true("63 arrive", SOON, || small.sink.received().len() as u64 == SLOTS - 1);
    // A flow that is known goes on whatever the table's state.
    let socket = udp::socket(small.reference.n1().ns(), 20_001);
    socket.send_to(b"again", (OUTSIDE, 5300)).expect("a route");
    wait::until_true("it arrives", SOON, || small.sink.received().len() as u64 == SLOTS);
}

#[test]
fn the_daemon_collects_without_any_traffic() {
    let mut small = Small::new("--udp-unreplied 4");
    small.fill();
    wait::until_true("all but the connection are collected", SOON, || small.xnat.count("") == 1);
    assert_eq!(small.xnat.counter("flows_expired"), small.xnat.counter("flows_opened") - 1);
    small.expect_connection();
    let port = small.open();
    wait::until_true("there is room again", SOON, || small.arrived(port));
}

#[test]
fn openings_collect_without_the_daemon() {
    let mut small = Small::new("--udp-unreplied 4");
    small.xnat.stop(Signal::SIGKILL);
    small.fill();
    // Nobody collects but the openings themselves, refused ones included.
    wait::until_true("openings are let in again", SOON, || {
        let port = small.open();
        wait::within(std::time::Duration::from_millis(200), || small.arrived(port).then_some(())).is_some()
    });
    assert!(small.xnat.counter("flows_expired") >= 1);
    // Four slots an opening: after a round over the table all that had expired have gone.
    for _ in 0..SLOTS / 4 {
        small.open();
    }
    wait::until_true("the table is not full any more", SOON, || small.xnat.status().flows.used < SLOTS);
    small.expect_connection();
}

#[test]
fn a_connection_that_has_closed_gives_its_slot_back() {
    let mut small = Small::new("--tcp-transitory 2");
    let echo = tcp::Server::start(small.reference.outside.ns(), 81, Service::Echo);
    for seed in 0..20 {
        small.reference.n1().ns().within(|| tcp::visit(0, (OUTSIDE, echo.port()), seed, 100)).expect("an echo");
    }
    assert!(small.xnat.count("--proto tcp") >= 2);
    wait::until_true("all but the connection are collected", SOON, || small.xnat.count("") == 1);
    small.expect_connection();
}

#[test]
fn openings_of_a_peer_are_refused_too_and_not_answered_by_the_host() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both_with(&reference, &format!("--max-flows {SLOTS} --icmp 2"));
    let _host = udp::Server::echo(reference.node1.host.ns(), 5301);
    let silent = udp::Server::silent(reference.n1().ns(), 5300);
    // Flows of node1's own, which node2's table has nothing of.
    let sink = udp::Server::silent(reference.outside.ns(), 5302);
    for port in 0..u16::try_from(SLOTS).expect("small") {
        let socket = udp::socket(reference.n1().ns(), 20_000 + port);
        socket.send_to(b"fill", (OUTSIDE, 5302)).expect("a route");
    }
    wait::until_true("the table is full", SOON, || one.status().flows.used == SLOTS);
    ping(reference.n2().ns(), "-c 2", N1).expect_silence();
    let client = udp::socket(reference.n2().ns(), 0);
    for port in [5300, 5301] {
        client.send_to(b"anybody?", (N1, port)).expect("a route");
    }
    wait::until_true("the refusals are counted", SOON, || one.counter("table_full") >= 4);
    assert!(silent.received().is_empty() && sink.received().len() as u64 == SLOTS);
    client.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("a valid timeout");
    assert!(client.recv_from(&mut [0; 64]).is_err(), "nobody answers in the container's name");
    ping(reference.n1().ns(), "-c 1", N2).expect_silence();
}
