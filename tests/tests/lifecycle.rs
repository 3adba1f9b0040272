//! Starting, stopping, crashing and coming back: what stays, what goes, and who notices.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use xnat_tests::netns::Namespace;
use xnat_tests::program::ping;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, Reference, SUBNET1, SUBNET2};
use xnat_tests::trace::{self, Snapshot};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};

/// Puts a filter, which lets everything pass, into a clsact qdisc that is there.
fn add_filter(host: &Namespace, interface: &str) {
    let filter = format!("filter add dev {interface} ingress prio 7 protocol all bpf direct-action bytecode");
    let words: Vec<&str> = std::iter::once("tc").chain(filter.split(' ')).chain(["1,6 0 0 4294967295"]).collect();
    host.run(&words);
}

/// Runs xnat on node1 with traffic, ends it, and compares what there is with what there was.
fn leaves_no_trace(words: &str, end: impl FnOnce(&mut Xnat)) {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    // What somebody else has attached stays as it is.
    host.run(&["tc", "qdisc", "add", "dev", "eth0", "clsact"]);
    add_filter(host, "eth0");
    let before = Snapshot::of(host);
    let two = Xnat::start(reference.node2.host.ns(), &format!("--peer {NODE1} --subnet {SUBNET2}"));
    let mut one = Xnat::start(host, &format!("--peer {NODE2} --subnet {SUBNET1} {words}"));
    one.expect_peer(NODE2);
    two.expect_peer(NODE1);
    ping(reference.n1().ns(), "-c 2", N2).expect_answered_by(N2);
    let clsact = host.run(&["tc", "qdisc", "show", "dev", "br0"]).contains("clsact");
    assert_eq!(clsact, words.contains("clsact"), "a qdisc of ours where it is asked for");
    let programs: BTreeSet<u64> = trace::programs_of(host, one.id());
    assert!(!programs.is_empty() && !one.files().is_empty(), "there is something to leave behind");
    end(&mut one);
    Snapshot::of(host).expect_same_as(&before);
    assert_eq!(one.files(), Vec::<String>::new(), "pins and run-time files");
    // The kernel frees programs a moment after the last reference is gone.
    let left = || trace::programs(host).intersection(&programs).copied().collect::<Vec<u64>>();
    wait::until_true("the programs are unloaded", SOON, || left().is_empty());
}

/// Makes a test of each way to end, for each kind of hook.
macro_rules! with_every_hook {
    ($($test:ident $end:expr;)*) => {
        mod with_tcx {
            $(#[test] fn $test() { super::leaves_no_trace("--hooks tcx", $end); })*
        }
        mod with_clsact {
            $(#[test] fn $test() { super::leaves_no_trace("--hooks clsact", $end); })*
        }
    };
}

with_every_hook! {
    ctrl_c_leaves_no_trace super::ended_by_ctrl_c;
    sigterm_leaves_no_trace super::ended_by_sigterm;
    detach_after_kill_9_leaves_no_trace super::killed_and_detached;
}

fn ended_by_ctrl_c(xnat: &mut Xnat) {
    xnat.stop(Signal::SIGINT).expect_code(0);
}

fn ended_by_sigterm(xnat: &mut Xnat) {
    xnat.stop(Signal::SIGTERM).expect_code(0);
}

fn killed_and_detached(xnat: &mut Xnat) {
    xnat.stop(Signal::SIGKILL);
    xnat.run("detach");
}

#[test]
fn a_qdisc_of_ours_stays_when_somebody_else_has_put_a_filter_in() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let mut one = Xnat::start(host, &format!("--subnet {SUBNET1} --hooks clsact"));
    add_filter(host, "br0");
    one.stop(Signal::SIGTERM).expect_code(0);
    let filters = host.run(&["tc", "filter", "show", "dev", "br0", "ingress"]);
    assert!(
        filters.contains("bytecode") && !filters.contains("xnat"),
        "the foreign filter and nothing else: {filters}"
    );
    assert!(!host.run(&["tc", "qdisc", "show", "dev", "eth0"]).contains("clsact"), "nobody needs this one");
}

#[test]
fn a_daemon_that_was_killed_leaves_a_dataplane_that_works() {
    let reference = Reference::new();
    let (mut one, _two) = xnat::start_both(&reference);
    let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    tcp::expect_echo(&mut stream, 1, 1000);
    one.stop(Signal::SIGKILL);
    tcp::expect_echo(&mut stream, 2, 1000);
    reference.n1().ns().within(|| tcp::visit(40001, (N2, 80), 3, 1000)).expect("a new flow without the daemon");
    assert!(!one.status().running);
    assert!(one.count("--proto tcp") >= 1);
}

#[test]
fn a_second_run_is_refused_beside_a_running_one() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    let refused = one.attempt_run(&format!("--peer {NODE2} --subnet {SUBNET1}")).expect_code(2);
    assert!(refused.stderr.contains("running") || refused.stderr.contains("already"), "{refused}");
    assert!(refused.stderr.contains(&one.id().to_string()) || refused.stderr.contains(one.name()), "which: {refused}");
    // The first one did not suffer.
    tcp::expect_echo(&mut stream, 1, 10_000);
    assert!(one.status().running);
}

#[test]
fn two_instances_in_two_namespaces_do_not_know_each_other() {
    let reference = Reference::new();
    let (mut one, two) = xnat::start_both(&reference);
    ping(reference.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    assert_eq!((one.count(""), two.count("")), (1, 1));
    one.stop(Signal::SIGTERM).expect_code(0);
    assert_eq!(two.count(""), 1);
    assert!(two.status().running && !two.files().is_empty());
}

#[test]
fn run_after_kill_9_takes_over_and_connections_survive() {
    let reference = Reference::new();
    let (mut one, _two) = xnat::start_both(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    tcp::expect_echo(&mut stream, 1, 50_000);
    one.stop(Signal::SIGKILL);
    one.restart();
    one.expect_peer(NODE2);
    tcp::expect_echo(&mut stream, 2, 50_000);
    reference.n1().ns().within(|| tcp::visit(0, (N2, 80), 3, 1000)).expect("a new flow");
    assert_eq!(server.clients().len(), 2);
    one.stop(Signal::SIGTERM).expect_code(0);
    assert_eq!(one.files(), Vec::<String>::new());
}

#[test]
fn a_connection_survives_the_loss_of_the_peers_whole_table() {
    let reference = Reference::new();
    let (_one, mut two) = xnat::start_both(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, 80));
    tcp::expect_echo(&mut stream, 1, 1000);
    two.stop(Signal::SIGTERM).expect_code(0);
    two.restart();
    two.expect_peer(NODE1);
    tcp::expect_echo(&mut stream, 2, 50_000);
    assert_eq!(server.clients().len(), 1);
}

#[test]
fn a_ping_reaches_the_container_again_after_the_loss_of_the_peers_whole_table() {
    let reference = Reference::new();
    let (_one, mut two) = xnat::start_both(&reference);
    // One identifier, so one flow; two routers, so the answer is the container's and not the host's.
    let again = || ping(reference.n1().ns(), "-c 1 -e 77", N2).expect_answered_by(N2).replies[0].1;
    assert_eq!(again(), 62);
    two.stop(Signal::SIGTERM).expect_code(0);
    two.restart();
    two.expect_peer(NODE1);
    assert_eq!(again(), 62);
}

#[test]
fn a_peer_may_appear_later() {
    let reference = Reference::new();
    let one = Xnat::start(reference.node1.host.ns(), &format!("--peer {NODE2} --subnet {SUBNET1}"));
    assert!(one.status().peers.iter().all(|peer| !peer.alive));
    let two = Xnat::start(reference.node2.host.ns(), &format!("--peer {NODE1} --subnet {SUBNET2}"));
    one.expect_peer(NODE2);
    two.expect_peer(NODE1);
    ping(reference.n1().ns(), "-c 2", N2).expect_answered_by(N2);
    ping(reference.n2().ns(), "-c 2", N1).expect_answered_by(N1);
}

#[test]
fn a_flow_that_began_before_its_peer_was_known_goes_to_the_peer_then() {
    let reference = Reference::new();
    let one = Xnat::start(reference.node1.host.ns(), &format!("--peer {NODE2} --subnet {SUBNET1}"));
    // One identifier, so one flow, which leaves by the default route at first.
    ping(reference.n1().ns(), "-c 1 -e 78", N2);
    assert_eq!(one.flows("").iter().map(|flow| flow.kind.as_str()).collect::<Vec<_>>(), ["outside"]);
    let _two = Xnat::start(reference.node2.host.ns(), &format!("--peer {NODE1} --subnet {SUBNET2}"));
    one.expect_peer(NODE2);
    assert_eq!(ping(reference.n1().ns(), "-c 1 -e 78", N2).expect_answered_by(N2).replies[0].1, 62);
}

#[test]
fn a_peer_that_goes_is_noticed_and_one_that_returns_is_met_again() {
    let reference = Reference::new();
    let (one, mut two) = xnat::start_both(&reference);
    two.stop(Signal::SIGTERM).expect_code(0);
    wait::until_true("the peer is missed", SOON * 2, || one.status().peers.iter().all(|peer| !peer.alive));
    two.restart();
    one.expect_peer(NODE2);
    two.expect_peer(NODE1);
    ping(reference.n1().ns(), "-c 2", N2).expect_answered_by(N2);
}

#[test]
fn a_peer_may_change_its_subnets() {
    let reference = Reference::new();
    let host = &reference.node2.host;
    host.bridge("br1", "192.168.221.1/24");
    let other = host.container("br1", "n2b", "192.168.221.11/24");
    let (one, mut two) = xnat::start_both(&reference);
    two.stop(Signal::SIGTERM).expect_code(0);
    two.restart_with(&format!("--peer {NODE1} --subnet {SUBNET2} --subnet 192.168.221.0/24"));
    let subnets = || one.status().peers[0].subnets.len();
    wait::until_true("the new subnet is learnt", SOON, || subnets() == 2);
    ping(reference.n1().ns(), "-c 2", other.address()).expect_answered_by(other.address());
    two.stop(Signal::SIGTERM).expect_code(0);
    two.restart_with(&format!("--peer {NODE1} --subnet 192.168.221.0/24"));
    wait::until_true("the old subnet is forgotten", SOON, || subnets() == 1);
    two.expect_peer(NODE1);
    ping(reference.n1().ns(), "-c 2", other.address()).expect_answered_by(other.address());
    assert!(!reference.node1.host.ns().ip("route show").contains("192.168.220.0/24"));
}

#[test]
fn containers_may_come_after_run() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let late = reference.node2.host.container("br0", "late", "192.168.220.12/24");
    wait::until_true("the new container is reached", SOON, || {
        ping(reference.n1().ns(), "-c 1 -W 1", late.address()).received == 1
    });
    ping(late.ns(), "-c 2", N1).expect_answered_by(N1);
    let server = tcp::Server::start(late.ns(), 80, Service::Echo);
    reference.n1().ns().within(|| tcp::visit(0, (late.address(), 80), 3, 10_000)).expect("an echo");
    assert_eq!(*server.clients()[0].ip(), NODE1);
}

#[test]
fn stated_subnets_need_nobody_at_the_other_end() {
    let reference = Reference::new();
    let one = Xnat::start(reference.node1.host.ns(), &format!("--peer {NODE2}={SUBNET2} --subnet {SUBNET1}"));
    let [peer] = &one.status().peers[..] else { panic!("one peer") };
    assert!(peer.subnets == [SUBNET2] && !peer.alive && !peer.speaks_xnat, "{peer:?}");
}

#[test]
fn run_says_what_it_found() {
    let reference = Reference::new();
    let one = Xnat::start(reference.node1.host.ns(), &format!("--peer {NODE2}={SUBNET2} --subnet {SUBNET1}"));
    let said = one.output();
    for word in ["eth0", "172.29.0.4", "br0", SUBNET1, "172.29.0.17", SUBNET2] {
        assert!(said.contains(word), "{word} is not in\n{said}");
    }
}

#[test]
fn check_tells_what_this_machine_supports() {
    let reference = Reference::new();
    let output = xnat::attempt(reference.node1.host.ns(), "check").expect_success();
    assert!(output.contains("TCX") || output.contains("tcx"), "{output}");
}
