//! Idle timeouts, made short by their flags: a flow lives until its own is over, and no longer.

use std::time::{Duration, Instant};

use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, OUTSIDE, Reference, SUBNET1};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

/// What every flag is set to, in seconds.
const SHORT: u64 = 3;

/// A flow that `open` opens, in this state, lives for as long as `flag` says after its last packet. What `open` returns is
/// kept for as long.
fn lives_as_long_as<T>(flag: &str, filter: &str, state: &str, open: impl FnOnce(&Reference) -> T) {
    let reference = Reference::new();
    let flags = format!("--subnet {SUBNET1} {flag} {SHORT}");
    let xnat = Xnat::start(reference.node1.host.ns(), &flags);
    // No packet comes later than the return of this, and none earlier than its call: the flow ends in between.
    let opened = Instant::now();
    let kept = open(&reference);
    let flow = xnat.expect_flow(state, |flow| flow.state == state);
    assert!(flow.timeout <= SHORT, "{flow:?}");
    // The daemon's collector comes by every five seconds.
    wait::until_true("the flow is gone", 2 * SOON, || xnat.count(filter) == 0);
    let lived = opened.elapsed();
    assert!(lived >= Duration::from_secs(SHORT), "{lived:?}");
    assert_eq!(xnat.counter("flows_expired"), xnat.counter("flows_opened"));
    drop(kept);
}

#[test]
fn an_established_connection_lives_as_long_as_tcp_established_says() {
    lives_as_long_as("--tcp-established", "--proto tcp", "ESTABLISHED", |reference| {
        let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
        let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
        tcp::expect_echo(&mut stream, 1, 1000);
        (server, stream)
    });
}

#[test]
fn an_opening_that_nobody_answers_lives_as_long_as_tcp_transitory_says() {
    lives_as_long_as("--tcp-transitory", "--proto tcp", "SYN_SENT", |reference| {
        reference.outside.ns().shell("iptables -A INPUT -p tcp -j DROP");
        Raw::tcp((N1, 40000), (OUTSIDE, 80), xnat_tests::packet::SYN, 1, 0).send(reference.n1().ns());
    });
}

#[test]
fn a_refused_connection_lives_as_long_as_tcp_transitory_says() {
    lives_as_long_as("--tcp-transitory", "--proto tcp", "CLOSE", |reference| {
        tcp::connect(reference.n1().ns(), 40000, (OUTSIDE, 80)).expect_err("nobody listens");
    });
}

#[test]
fn an_answered_datagram_lives_as_long_as_udp_says() {
    lives_as_long_as("--udp", "--proto udp", "REPLIED", |reference| {
        let server = udp::Server::echo(reference.outside.ns(), 5300);
        let socket = udp::socket(reference.n1().ns(), 41000);
        udp::expect_echo(&socket, (OUTSIDE, 5300), 1, 100);
        (server, socket)
    });
}

#[test]
fn an_unanswered_datagram_lives_as_long_as_udp_unreplied_says() {
    lives_as_long_as("--udp-unreplied", "--proto udp", "UNREPLIED", |reference| {
        // The error that says that nobody listens is no answer.
        Raw::udp((N1, 41000), (OUTSIDE, 5300), b"hello").send(reference.n1().ns());
    });
}

#[test]
fn a_ping_lives_as_long_as_icmp_says() {
    lives_as_long_as("--icmp", "--proto icmp", "REPLIED", |reference| {
        ping(reference.n1().ns(), "-c 1", OUTSIDE).expect_answered_by(OUTSIDE);
    });
}

#[test]
fn other_protocols_live_as_long_as_other_says() {
    lives_as_long_as("--other", "--proto 253", "UNREPLIED", |reference| {
        Raw::new(N1, OUTSIDE, 253, b"experiment").send(reference.n1().ns());
    });
}
