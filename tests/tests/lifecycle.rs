//! Starting, stopping, crashing and coming back: what stays, what goes, and who notices.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use nix::sys::signal::Signal;

use xnat_tests::capture::Capture;
use xnat_tests::netns::Namespace;
use xnat_tests::packet::TCP;
use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, Reference, SUBNET1, SUBNET2};
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
    let stages =
        |one: &Xnat| -> Vec<String> { one.files().into_iter().filter(|file| file.contains("/stages/")).collect() };
    let first = stages(&one);
    one.stop(Signal::SIGKILL);
    assert_eq!(stages(&one), first, "what its hooks go on in");
    one.restart();
    one.expect_peer(NODE2);
    tcp::expect_echo(&mut stream, 2, 50_000);
    reference.n1().ns().within(|| tcp::visit(0, (N2, 80), 3, 1000)).expect("a new flow");
    assert_eq!(server.clients().len(), 2);
    let second = stages(&one);
    assert!(first.len() == 1 && second.len() == 1 && first != second, "{first:?}, then {second:?}");
    assert_eq!(one.counter("stage_missing"), 0);
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
fn what_another_version_has_left_is_named_and_makes_way() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let before = Snapshot::of(host);
    for kind in ["tcx", "clsact"] {
        let mut one = Xnat::start(host, &format!("--subnet {SUBNET1} --hooks {kind}"));
        one.stop(Signal::SIGKILL);
        let pins = std::path::Path::new("/sys/fs/bpf/xnat").join(one.name());
        let layout = std::fs::read_dir(&pins).expect("pins").flatten().next().expect("a layout").path();
        std::fs::rename(layout, pins.join("v0")).expect("bpffs renames folders");
        let refused = one.attempt("conntrack dump").expect_code(1);
        assert!(refused.stderr.contains("of another version of xnat"), "{refused}");
        one.restart();
        assert!(one.output().contains("it is of another version's layout"), "{}", one.output());
        let filters_a_hook = usize::from(kind == "clsact");
        for (interface, side) in [("eth0", "ingress"), ("eth0", "egress"), ("br0", "ingress"), ("br0", "egress")] {
            assert_eq!(filters(host, interface, side), filters_a_hook, "{interface} {side}");
        }
        assert!(!one.files().iter().any(|path| path.contains("/v0")), "{:?}", one.files());
        one.stop(Signal::SIGTERM).expect_code(0);
        Snapshot::of(host).expect_same_as(&before);
    }
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
    let one = Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"));
    let output = one.run("check");
    assert!(output.contains(&format!("`{}` is running as process {}", one.name(), one.id())), "{output}");
}

/// How many filters of ours a hook has.
fn filters(host: &Namespace, interface: &str, side: &str) -> usize {
    host.run(&["tc", "filter", "show", "dev", interface, side]).matches("name xnat_").count()
}

#[test]
fn no_hook_stays_when_a_run_with_another_kind_or_table_takes_over() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let before = Snapshot::of(host);
    let run = |words: &str| format!("--peer {NODE2} --subnet {SUBNET1} {words}");
    let _two = Xnat::start(reference.node2.host.ns(), &format!("--peer {NODE1} --subnet {SUBNET2}"));
    let mut one = Xnat::start(host, &run("--hooks clsact"));
    for (words, filters_a_hook) in [
        ("--hooks tcx", 0),
        ("--hooks clsact", 1),
        // A table of another size does not fit, so nothing is taken over and the old filter keeps its priority.
        ("--hooks clsact --max-flows 4096", 1),
        ("--hooks tcx --max-flows 8192", 0),
    ] {
        one.stop(Signal::SIGKILL);
        one.restart_with(&run(words));
        for (interface, side) in [("eth0", "ingress"), ("eth0", "egress"), ("br0", "ingress"), ("br0", "egress")] {
            assert_eq!(filters(host, interface, side), filters_a_hook, "{interface} {side} after {words}");
        }
        let links = one.files().iter().filter(|path| path.contains("/links/")).count();
        assert_eq!(links > 0, filters_a_hook == 0, "{links} TCX links after {words}");
        one.expect_peer(NODE2);
        ping(reference.n1().ns(), "-c 2", N2).expect_answered_by(N2);
    }
    one.stop(Signal::SIGTERM).expect_code(0);
    Snapshot::of(host).expect_same_as(&before);
    assert_eq!(one.files(), Vec::<String>::new());
}

/// A segment in the middle of a connection that nobody knows: it opens no flow, so it is not translated.
fn stray_segment() -> Raw {
    let mut body = [40000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat();
    body.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    Raw::new(N1, ANYWHERE, TCP, &body)
}

/// Whether the uplink's last gate drops what is not translated, and nothing of it is on the wire.
fn expect_gate(reference: &Reference, one: &Xnat) {
    let wire = Capture::on(reference.node1.host.wire());
    let before = one.counter("private_source");
    stray_segment().send(reference.n1().ns());
    let dropped = wait::within(SOON, || (one.counter("private_source") > before).then_some(()));
    wire.expect_none("a container's address", |p| p.src == N1);
    assert!(dropped.is_some(), "it went somewhere else:\n{}", reference.node1.host.ns().ip("route"));
}

#[test]
fn a_second_interface_in_the_subnet_changes_nothing() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let one = Xnat::start(host, &format!("--subnet {SUBNET1}"));
    // What gives the host itself a way to containers of a macvlan network.
    host.ip("link add shim0 link br0 type macvlan mode bridge");
    host.ip("link set shim0 up");
    host.ip("address add 192.168.110.2/32 dev shim0");
    // What comes after it tells that the daemon has looked.
    host.ip("link set eth0 mtu 1490");
    wait::until_true("the daemon has seen the uplink's MTU", SOON, || one.status().uplink.mtu == 1490);
    let insides = one.status().insides;
    assert!(insides.len() == 1 && insides[0].name == "br0" && insides[0].subnets == [SUBNET1], "{insides:?}");
    ping(reference.n1().ns(), "-c 2", ANYWHERE).expect_answered_by(ANYWHERE);
    expect_gate(&reference, &one);
}

#[test]
fn a_container_does_not_leak_while_nobody_holds_its_subnet() {
    let reference = Reference::new();
    let (host, n1) = (reference.node1.host.ns(), reference.n1().ns());
    let one = Xnat::start(host, &format!("--subnet {SUBNET1}"));
    // The gateway stays where it is, though nobody answers for it.
    let line = host.ip("-o link show dev br0");
    let mac = line.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC address");
    n1.ip(&format!("neighbour replace 192.168.110.1 lladdr {mac} dev eth0 nud permanent"));
    host.ip("address del 192.168.110.1/24 dev br0");
    wait::until_true("nobody holds the subnet", SOON, || one.status().insides.is_empty());
    expect_gate(&reference, &one);
    host.ip("address add 192.168.110.1/24 dev br0");
    wait::until_true("the bridge holds it again", SOON, || one.status().insides.len() == 1);
    ping(n1, "-c 2", ANYWHERE).expect_answered_by(ANYWHERE);
    expect_gate(&reference, &one);
}

#[test]
fn a_container_does_not_leak_while_the_uplink_has_no_address_of_its_own() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let one = Xnat::start(host, &format!("--subnet {SUBNET1}"));
    // Which of two it is to be, nobody knows; the routes stay.
    host.ip("address add 172.29.0.50/32 dev eth0");
    host.ip("address add 172.29.0.51/32 dev eth0");
    host.ip(&format!("address del {NODE1}/24 dev eth0"));
    wait::until_true("it is noticed", SOON, || one.output().contains("has gone or lost its address"));
    assert!(host.ip("route").contains("default via"), "the packets have somewhere to go");
    expect_gate(&reference, &one);
    host.ip("address del 172.29.0.51/32 dev eth0");
    wait::until_true("the other one is taken", SOON, || one.status().uplink.address.to_string() == "172.29.0.50");
    expect_gate(&reference, &one);
}

#[test]
fn a_peers_container_does_not_speak_for_its_host() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let strangers = || {
        let status: serde_json::Value = serde_json::from_str(&one.run("status -o json")).expect("JSON");
        status["peer_link"]["strangers"].as_u64().expect("a number")
    };
    assert_eq!(strangers(), 0);
    // A goodbye as node2's daemon would send it; on the wire it has node2's address.
    let goodbye = [b"xnat\x01\x01\x00\x00".as_slice(), &[7; 8], &[0; 8]].concat();
    reference.n2().ns().within(|| {
        let socket = UdpSocket::bind("0.0.0.0:9628").expect("the container's own port");
        socket.send_to(&goodbye, (NODE1, 9628)).expect("sent");
    });
    wait::until_true("it is counted", SOON, || strangers() == 1);
    assert!(!one.output().contains("goodbye"), "{}", one.output());
    ping(reference.n1().ns(), "-c 2", N2).expect_answered_by(N2);
}
