//! The life of a TCP connection: what ends it, what does not, and what brings it back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use xnat_tests::capture::Capture;
use xnat_tests::packet::{ACK, FIN, IPV4, PSH, RST, SYN, TCP};
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, NODE1, OUTSIDE, Reference, SUBNET1};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

use crate::alone;

/// xnat on node1 alone, with these flags.
fn alone_with(reference: &Reference, flags: &str) -> Xnat {
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1} {flags}"))
}

/// A connection from n1, port 40000, to the outside, port 80: both its ends.
fn connect(reference: &Reference) -> (TcpStream, TcpStream) {
    let listener = reference.outside.ns().within(|| TcpListener::bind("0.0.0.0:80")).expect("a listener");
    let client = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
    let (server, address) = listener.accept().expect("a connection");
    assert_eq!(address, SocketAddr::from((NODE1, 40000)));
    server.set_read_timeout(Some(tcp::PATIENCE)).expect("a socket");
    server.set_nodelay(true).expect("a socket");
    (client, server)
}

/// Octets from one end to the other.
#[track_caller]
fn expect_through(from: &mut TcpStream, to: &mut TcpStream, octets: &[u8]) {
    from.write_all(octets).expect("room in the socket");
    let mut got = vec![0; octets.len()];
    to.read_exact(&mut got).unwrap_or_else(|error| panic!("{octets:?} did not come: {error}"));
    assert_eq!(got, octets);
}

/// The state of the one TCP flow.
#[track_caller]
fn state(xnat: &Xnat) -> String {
    let flows = xnat.flows("--proto tcp");
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows[0].state.clone()
}

#[track_caller]
fn expect_state(xnat: &Xnat, wanted: &str) {
    wait::until_true(&format!("the flow is in {wanted}"), SOON, || state(xnat) == wanted);
}

/// The first sequence numbers of both ends.
fn first_numbers(wire: &Capture) -> (u32, u32) {
    let syn = wire.expect("a SYN", |p| p.has_flags(SYN));
    let answer = wire.expect("its answer", |p| p.has_flags(SYN | ACK));
    (syn.seq, answer.seq)
}

#[test]
fn a_blind_rst_with_a_guessed_port_does_not_end_a_mapping() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let wire = Capture::filtered(reference.node1.host.wire(), "tcp");
    let (mut client, mut server) = connect(&reference);
    expect_through(&mut client, &mut server, b"before");
    let (_, first) = first_numbers(&wire);
    let mut sent = 0;
    for flags in [RST, RST | ACK, FIN | ACK, SYN, SYN | ACK] {
        for distance in [1 << 24, 1 << 30, 3 << 30] {
            let guess = first.wrapping_add(distance);
            Raw::tcp((OUTSIDE, 80), (NODE1, 40000), flags, guess, guess).send(reference.outside.ns());
            sent += 1;
        }
    }
    wait::until_true("all are counted", SOON, || xnat.counter("tcp_implausible") >= sent);
    assert_eq!(state(&xnat), "ESTABLISHED");
    expect_through(&mut server, &mut client, b"after");
    expect_through(&mut client, &mut server, b"and back");
    assert_eq!((state(&xnat), xnat.counter("flows_opened")), ("ESTABLISHED".to_owned(), 1));
}

#[test]
fn a_segment_outside_the_window_never_leaves_untranslated() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let wire = Capture::on(reference.node1.host.wire());
    let (mut client, mut server) = connect(&reference);
    expect_through(&mut client, &mut server, b"before");
    let (first, _) = first_numbers(&wire);
    let guess = first.wrapping_add(1 << 30);
    for flags in [RST, RST | ACK, FIN | ACK, SYN, SYN | ACK, ACK, PSH | ACK] {
        Raw::tcp((N1, 40000), (OUTSIDE, 80), flags, guess, guess).send(reference.n1().ns());
        let seen = wire.expect("it, translated", |p| p.has_flags(flags) && p.seq == guess);
        assert!(seen.goes(NODE1, OUTSIDE) && seen.ports(40000, 80) && seen.checksums_right(), "{seen:?}");
    }
    assert!(xnat.counter("tcp_implausible") >= 7);
    expect_through(&mut server, &mut client, b"after");
    assert_eq!(state(&xnat), "ESTABLISHED");
    wire.expect_none("a container's address", |p| p.eth_type == IPV4 && (p.src == N1 || p.dst == N1));
}

#[test]
fn a_rejected_rst_refreshes_nothing() {
    let reference = Reference::new();
    let xnat = alone_with(&reference, "--tcp-established 3");
    let wire = Capture::filtered(reference.node1.host.wire(), "tcp");
    let (mut client, mut server) = connect(&reference);
    expect_through(&mut client, &mut server, b"a word");
    let guess = first_numbers(&wire).1.wrapping_add(1 << 30);
    // An endless stream of them does not keep the flow from its end.
    wait::until_true("the flow has expired", 2 * SOON, || {
        Raw::tcp((OUTSIDE, 80), (NODE1, 40000), RST, guess, 0).send(reference.outside.ns());
        xnat.count("--proto tcp") == 0
    });
    assert!(xnat.counter("tcp_implausible") > 0);
    assert_eq!(xnat.counter("flows_expired"), 1);
}

#[test]
fn simultaneous_open_is_one_connection() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let (n1, outside) = (reference.n1().ns(), reference.outside.ns());
    // What n1 opens does not get there, so that the openings cross.
    outside.shell("iptables -A INPUT -p tcp --dport 40001 --tcp-flags SYN,ACK SYN -j DROP");
    let wire = Capture::filtered(reference.node1.host.wire(), "tcp");
    let (mut one, mut other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| tcp::expect_connect(n1, 40000, (OUTSIDE, 40001)));
        wire.expect("an opening", |p| p.has_flags(SYN) && p.src == NODE1);
        let other = tcp::expect_connect(outside, 40001, (NODE1, 40000));
        (one.join().expect("a connection"), other)
    });
    expect_through(&mut one, &mut other, b"one way");
    expect_through(&mut other, &mut one, b"the other");
    wire.expect("the other opening", |p| p.has_flags(SYN) && p.src == OUTSIDE);
    assert_eq!(state(&xnat), "ESTABLISHED");
    assert_eq!((xnat.counter("flows_opened"), xnat.counter("tcp_implausible")), (1, 0));
}

#[test]
fn a_half_closed_connection_goes_on() {
    let reference = Reference::new();
    let xnat = alone_with(&reference, "--tcp-transitory 3");
    let (mut client, mut server) = connect(&reference);
    client.shutdown(std::net::Shutdown::Write).expect("a connected socket");
    assert_eq!(server.read(&mut [0; 1]).expect("the end"), 0);
    expect_state(&xnat, "CLOSE_WAIT");
    // For longer than a connection that is closing may be idle, but never so long at a time.
    for number in 0..4_u8 {
        wait::until_true("it has been idle for a while", SOON, || xnat.flows("--proto tcp")[0].timeout <= 1);
        expect_through(&mut server, &mut client, &[number; 1000]);
    }
    assert_eq!(state(&xnat), "CLOSE_WAIT");
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
    wait::until_true("the flow is gone", 2 * SOON, || xnat.count("--proto tcp") == 0);
    assert_eq!(xnat.counter("tcp_implausible"), 0);
}

#[test]
fn data_after_a_reset_brings_the_flow_back() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let wire = Capture::filtered(reference.node1.host.wire(), "tcp");
    let (mut client, mut server) = connect(&reference);
    expect_through(&mut server, &mut client, b"before");
    // Within the window, but not the number that the container expects: RFC 5961 has it ask, and not end.
    let near = first_numbers(&wire).1.wrapping_add(1 + 6 + 100);
    Raw::tcp((OUTSIDE, 80), (NODE1, 40000), RST, near, 0).send(reference.outside.ns());
    expect_state(&xnat, "CLOSE");
    expect_through(&mut server, &mut client, b"after");
    assert_eq!(state(&xnat), "ESTABLISHED");
    expect_through(&mut client, &mut server, b"and back");
    assert_eq!(xnat.counter("flows_opened"), 1);
}

#[test]
fn a_reset_of_a_host_that_has_forgotten_the_connection_ends_it() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let (mut client, mut server) = connect(&reference);
    expect_through(&mut client, &mut server, b"before");
    // Nothing of its end gets through.
    let outside = reference.outside.ns();
    outside.shell("iptables -A OUTPUT -p tcp --sport 80 -j DROP");
    drop(server);
    outside.run(&["ss", "-K", "sport", "=", ":80"]);
    outside.shell("iptables -F OUTPUT");
    client.write_all(b"after").expect("room in the socket");
    let error = client.read(&mut [0; 1]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(state(&xnat), "CLOSE");
}

#[test]
fn a_syn_on_a_closing_flow_reopens_it() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let web = tcp::Server::start(reference.outside.ns(), 80, Service::Whoami);
    for round in 0..4 {
        // The server closes first, so the port is free again at the client's end.
        let here = tcp::whoami(reference.n1().ns(), 40000, (OUTSIDE, 80));
        assert_eq!(here, SocketAddrV4::new(NODE1, 40000));
        wait::until_true("the flow is closing", SOON, || ["LAST_ACK", "TIME_WAIT"].contains(&&*state(&xnat)));
        assert_eq!((xnat.counter("flows_opened"), xnat.counter("flows_reopened")), (1, round));
    }
    assert_eq!((web.clients().len(), xnat.counter("tcp_implausible")), (4, 0));
}

#[test]
fn a_connection_opens_anew_where_both_ends_have_forgotten_the_old_one() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let (n1, outside) = (reference.n1().ns(), reference.outside.ns());
    let (client, server) = connect(&reference);
    // As if both machines had been switched off: nothing tells the flow.
    for ns in [n1, outside] {
        ns.shell("iptables -A OUTPUT -p tcp -j DROP");
    }
    drop((client, server));
    for ns in [n1, outside] {
        ns.run(&["ss", "-K", "dport", "=", ":80", "or", "sport", "=", ":80"]);
        ns.shell("iptables -F OUTPUT");
    }
    assert_eq!(state(&xnat), "ESTABLISHED");
    let _web = tcp::Server::start(outside, 80, Service::Echo);
    let mut stream = tcp::expect_connect(n1, 40000, (OUTSIDE, 80));
    tcp::expect_echo(&mut stream, 1, 500_000);
    assert_eq!((state(&xnat), xnat.counter("flows_reopened")), ("ESTABLISHED".to_owned(), 1));
    let refused = xnat.counter("tcp_implausible");
    tcp::expect_echo(&mut stream, 2, 500_000);
    assert_eq!(xnat.counter("tcp_implausible"), refused, "its segments count");
}

#[test]
fn an_expired_flow_is_not_revived() {
    let reference = Reference::new();
    let xnat = alone_with(&reference, "--tcp-established 2");
    let (mut client, mut server) = connect(&reference);
    expect_through(&mut client, &mut server, b"a word");
    assert_eq!(state(&xnat), "ESTABLISHED");
    let inside = Capture::filtered(reference.n1().inside(), "tcp");
    // The collector comes by every five seconds: most likely after what follows.
    server.set_read_timeout(Some(Duration::from_millis(2100))).expect("a socket");
    let error = server.read(&mut [0; 1]).expect_err("silence, for longer than it may be idle");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    server.set_read_timeout(Some(tcp::PATIENCE)).expect("a socket");
    server.write_all(b"too late").expect("room in the socket");
    // The host, which knows nothing of it, says so.
    let error = server.read(&mut [0; 1]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((xnat.count("--proto tcp"), xnat.counter("flows_expired")), (0, 1));
    inside.expect_none("anything from the server", |p| p.proto == TCP && p.src == OUTSIDE);
}

#[test]
fn window_scaling_and_a_slow_reader_do_not_lead_astray() {
    let reference = Reference::new();
    let xnat = alone(&reference);
    let (mut client, mut server) = connect(&reference);
    let sent = xnat_tests::payload::pattern(7, 8_000_000);
    let closed = Capture::filtered(reference.node1.host.wire(), "tcp[14:2] = 0 and tcp[tcpflags] & tcp-rst = 0");
    std::thread::scope(|scope| {
        scope.spawn(|| server.write_all(&sent).expect("a reader"));
        // Who does not read closes the window.
        closed.expect("a closed window", |p| p.src == NODE1);
        let mut got = vec![0; sent.len()];
        client.read_exact(&mut got).expect("octets");
        assert!(got == sent, "something else came");
    });
    assert_eq!((state(&xnat), xnat.counter("tcp_implausible")), ("ESTABLISHED".to_owned(), 0));
}
