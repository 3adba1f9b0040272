//! DESIGN §2.1, conflict: both hosts open at the same moment, with mirrored wire tuples.
//!
//! The wire loses everything until both hosts have a flow, so every opening meets the other host's flow.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;

use xnat_tests::capture::Capture;
use xnat_tests::conntrack::Flow;
use xnat_tests::host::Container;
use xnat_tests::packet::{ACK, Packet, SYN, TCP, UDP};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, Reference};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};
use xnat_tests::{payload, udp};

/// The port of everybody on node1.
const LEFT: u16 = 40000;
/// The port of everybody on node2.
const RIGHT: u16 = 50000;

/// Two hosts with two containers each, and a wire that loses everything between [`LEFT`] and [`RIGHT`].
struct Crossing {
    reference: Reference,
    one: Xnat,
    two: Xnat,
}

impl Crossing {
    fn new() -> Self {
        let reference = Reference::with_containers(2);
        let (one, two) = xnat::start_both(&reference);
        for proto in ["tcp", "udp"] {
            for port in [LEFT, RIGHT] {
                reference.lan.lose(&format!("-p {proto} --sport {port}"));
            }
        }
        Self { reference, one, two }
    }

    fn left(&self, number: usize) -> &Container {
        &self.reference.node1.containers[number]
    }

    fn right(&self, number: usize) -> &Container {
        &self.reference.node2.containers[number]
    }

    /// Lets packets through once both hosts have opened a flow of their own.
    fn clear_the_wire(&self) {
        let opened = |xnat: &Xnat, port| {
            xnat.expect_flow("the opening", |flow| flow.kind == "peer" && flow.original.sport == Some(port))
        };
        let (left, right) = (opened(&self.one, LEFT), opened(&self.two, RIGHT));
        assert_eq!((left.reply.dport, right.reply.dport), (Some(LEFT), Some(RIGHT)), "mirrored on the wire");
        self.reference.lan.lose_nothing();
    }

    fn counters(&self, name: &str) -> (u64, u64) {
        (self.one.counter(name), self.two.counter(name))
    }

    /// The only flow of the conversation on each host.
    #[track_caller]
    fn only_flows(&self, proto: &str) -> [Flow; 2] {
        [&self.one, &self.two].map(|xnat| {
            let flows = xnat.flows(&format!("--proto {proto}"));
            let [flow] = &flows[..] else { panic!("one flow on each host: {flows:#?}") };
            flow.clone()
        })
    }
}

fn connect(from: &Container, port: u16, to: (Ipv4Addr, u16)) -> JoinHandle<std::io::Result<TcpStream>> {
    from.ns().spawn(move || tcp::connect_here(port, to))
}

#[test]
fn tcp_of_the_same_two_containers_and_ports_is_one_connection() {
    let crossing = Crossing::new();
    let wire = Capture::filtered(crossing.reference.node1.host.wire(), "tcp");
    let (n1, n2) = (crossing.left(0), crossing.right(0));
    let left = connect(n1, LEFT, (N2, RIGHT));
    let right = connect(n2, RIGHT, (N1, LEFT));
    crossing.clear_the_wire();
    let mut left = left.join().expect("no panic").expect("a simultaneous open");
    let right = right.join().expect("no panic").expect("a simultaneous open");
    // Each sends the same octets and gets the other's.
    let there = std::thread::spawn(move || {
        let mut stream = right;
        tcp::round_trip(&mut stream, 1, 50_000).map(|()| stream)
    });
    tcp::round_trip(&mut left, 1, 50_000).expect("the other's octets");
    let _right = there.join().expect("no panic").expect("the other's octets");
    for (flow, kind) in crossing.only_flows("tcp").iter().zip(["peer", "peer"]) {
        assert_eq!((flow.state.as_str(), flow.kind.as_str()), ("ESTABLISHED", kind), "{flow:?}");
    }
    assert_eq!(left.local_addr().expect("connected"), SocketAddrV4::new(N1, LEFT).into());
    wire.expect_none("another port", |p| p.proto == TCP && !p.ports(LEFT, RIGHT) && !p.ports(RIGHT, LEFT));
    let (sent, received) = (crossing.counters("conflict_sent"), crossing.counters("conflict_received"));
    assert!(sent.0 >= 1 && sent.1 >= 1, "each host has asked the other: {sent:?}");
    assert_eq!(received, (0, 0), "nobody moved");
    assert_eq!(crossing.counters("flows_crossed"), (1, 1));
}

#[test]
fn tcp_of_different_containers_becomes_two_connections() {
    let crossing = Crossing::new();
    let [n1, n1b, n2, n2b] = [crossing.left(0), crossing.left(1), crossing.right(0), crossing.right(1)];
    let at = [n1, n1b, n2, n2b].map(|container| Capture::filtered(container.inside(), "tcp"));
    let in_n2 = tcp::Server::start(n2.ns(), RIGHT, Service::Echo);
    let in_n1b = tcp::Server::start(n1b.ns(), LEFT, Service::Echo);
    let left = connect(n1, LEFT, (n2.address(), RIGHT));
    let right = connect(n2b, RIGHT, (n1b.address(), LEFT));
    crossing.clear_the_wire();
    for (seed, stream) in (1..).zip([left, right]) {
        let mut stream = stream.join().expect("no panic").expect("a connection");
        tcp::expect_echo(&mut stream, seed, 50_000);
    }
    let (sent, received) = (crossing.counters("conflict_sent"), crossing.counters("conflict_received"));
    assert!(sent.0 + sent.1 >= 1 && received.0 + received.1 >= 1, "sent {sent:?}, received {received:?}");
    let ([from_left], [from_right]) = (&in_n2.clients()[..], &in_n1b.clients()[..]) else { panic!("one client each") };
    assert_eq!((*from_left.ip(), *from_right.ip()), (NODE1, NODE2));
    assert!(from_left.port() != LEFT || from_right.port() != RIGHT, "one has moved: {from_left} {from_right}");
    // Who opens gets no opening, and who answers gets nothing that is not for its listener.
    for opener in [&at[0], &at[3]] {
        opener.expect_none("an opening", |p| p.has_flags(SYN) && p.ttl < 64);
    }
    for (answerer, port) in [(&at[1], LEFT), (&at[2], RIGHT)] {
        answerer.expect_none("a stray", |p| p.ttl < 64 && p.dport != port);
        answerer.expect_none("the middle of another connection", |p| p.has_flags(SYN | ACK) && p.ttl < 64);
    }
}

/// A container of node1 asks one of node2, which are the numbers of `forth`, and at the same moment one of node2 asks one
/// of node1, which are those of `back`. Whoever is asked answers, and nobody gets what is not for it.
fn datagrams_cross(forth: (usize, usize), back: (usize, usize), length: usize) -> Crossing {
    let crossing = Crossing::new();
    let question = |of: &Container| [b"ask ".as_slice(), &of.address().octets(), &payload::pattern(1, length)].concat();
    let answer = |question: &[u8]| question.starts_with(b"ask ").then(|| [b"answer ", &question[4..8]].concat());
    let left = [0, 1].map(|number| udp::Server::answering(crossing.left(number).ns(), LEFT, answer));
    let right = [0, 1].map(|number| udp::Server::answering(crossing.right(number).ns(), RIGHT, answer));
    let (to_right, to_left) = (crossing.right(forth.1), crossing.left(back.1));
    let ask = || {
        left[forth.0].send((to_right.address(), RIGHT), &question(to_right));
        right[back.0].send((to_left.address(), LEFT), &question(to_left));
    };
    ask();
    crossing.clear_the_wire();
    let answered = |server: &udp::Server, by: (&Container, u16)| {
        let from = SocketAddrV4::new(by.0.address(), by.1);
        server.received().contains(&(from, [b"answer ".as_slice(), &by.0.address().octets()].concat()))
    };
    wait::until_true("both are answered by whom they asked", SOON, || {
        ask();
        answered(&left[forth.0], (to_right, RIGHT)) && answered(&right[back.0], (to_left, LEFT))
    });
    for (servers, asker, asked) in [(&left, forth.0, back.1), (&right, back.0, forth.1)] {
        for (number, server) in servers.iter().enumerate() {
            for (from, mut text) in server.received() {
                text.truncate(12);
                let is_its = if text.starts_with(b"ask ") { number == asked } else { number == asker };
                assert!(is_its, "number {number} got {} from {from}", text.escape_ascii());
            }
        }
    }
    crossing
}

#[test]
fn udp_of_the_same_two_containers_and_ports_is_one_flow() {
    let crossing = datagrams_cross((0, 0), (0, 0), 0);
    let [left, right] = crossing.only_flows("udp");
    assert_eq!(left.original.tuple(), (N1, LEFT, N2, RIGHT));
    assert_eq!(right.original.tuple(), (N2, RIGHT, N1, LEFT));
    assert_eq!(right.reply.tuple(), (NODE1, LEFT, NODE2, RIGHT), "on the port that it asked for");
    assert_eq!(crossing.counters("conflict_received"), (0, 0));
}

#[test]
fn udp_of_different_containers_is_kept_apart() {
    let crossing = datagrams_cross((0, 0), (1, 1), 0);
    let received = crossing.counters("conflict_received");
    assert!(received.0 + received.1 >= 1, "{received:?}");
}

#[test]
fn udp_between_one_container_here_and_two_there_is_kept_apart() {
    datagrams_cross((0, 0), (1, 0), 0);
    datagrams_cross((0, 0), (0, 1), 0);
}

#[test]
fn udp_that_is_announced_is_kept_apart_too() {
    // So long that the tag goes ahead in a header of its own.
    let crossing = datagrams_cross((0, 0), (1, 0), 1464);
    assert!(crossing.one.counter("announces_sent") >= 1);
    let wrong = |p: &Packet| p.proto == UDP && p.len < 36;
    Capture::on(crossing.left(0).inside()).expect_none("a bare header", wrong);
}

/// n1 has asked n2, which has answered; then node2 forgets everything. What node1 still knows is not confirmed again.
fn forgotten_by_node2() -> (Crossing, udp::Server) {
    let mut crossing = Crossing::new();
    crossing.reference.lan.lose_nothing();
    let n2 = udp::Server::echo(crossing.right(0).ns(), RIGHT);
    let n1 = udp::Server::silent(crossing.left(0).ns(), LEFT);
    n1.send((N2, RIGHT), b"before");
    wait::until_true("n1 is answered", SOON, || n1.received().len() == 1);
    drop(n2);
    crossing.two.stop(Signal::SIGTERM).expect_code(0);
    crossing.two.restart();
    crossing.one.expect_peer(NODE2);
    crossing.two.expect_peer(NODE1);
    assert_eq!((crossing.one.count("--proto udp"), crossing.two.count("--proto udp")), (1, 0));
    (crossing, n1)
}

#[test]
fn a_flow_that_the_peer_has_forgotten_is_taken_up_from_its_end() {
    let (crossing, n1) = forgotten_by_node2();
    let n2 = udp::socket(crossing.right(0).ns(), RIGHT);
    let after = (SocketAddrV4::new(N2, RIGHT), b"after".to_vec());
    wait::until_true("n1 hears from n2", SOON, || {
        n2.send_to(b"after", (N1, LEFT)).expect("a route");
        n1.received().contains(&after)
    });
    n1.send((N2, RIGHT), b"answer");
    let (length, from) = n2.recv_from(&mut [0; 64]).expect("the answer");
    assert_eq!((length, from), (6, SocketAddrV4::new(N1, LEFT).into()));
    crossing.only_flows("udp");
}

#[test]
fn a_flow_that_the_peer_has_forgotten_is_not_given_to_another_container() {
    let (crossing, n1) = forgotten_by_node2();
    let n2b = udp::socket(crossing.right(1).ns(), RIGHT);
    wait::until_true("n1 hears from n2b", SOON, || {
        n2b.send_to(b"after", (N1, LEFT)).expect("a route");
        n1.received().len() > 1
    });
    for (from, text) in n1.received().into_iter().skip(1) {
        assert!(*from.ip() == NODE2 && from.port() != RIGHT && text == b"after", "not as from n2: {from}");
    }
}
