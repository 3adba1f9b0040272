//! The testbed itself, without xnat: what the other tests take for granted.

use std::net::SocketAddrV4;
use std::time::Duration;

use xnat_tests::capture::Capture;
use xnat_tests::docker::{self, Engine};
use xnat_tests::host::{Host, Lan};
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{ACK, Checksum, ICMP, SYN, TCP, UDP};
use xnat_tests::program::{self, ping};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE, Reference};
use xnat_tests::trace::Snapshot;
use xnat_tests::{conntrack, payload, udp};

/// Lets the hosts know each other's container subnets, so that everything is routed and nothing translated.
fn route_between(reference: &Reference) {
    reference.node1.host.ns().ip(&format!("route add 192.168.220.0/24 via {NODE2}"));
    reference.node2.host.ns().ip(&format!("route add 192.168.110.0/24 via {NODE1}"));
}

#[test]
fn a_namespace_and_what_runs_in_it_are_gone_when_its_guard_is() {
    let ns = Namespace::new("gone");
    let path = ns.path();
    let mut sleeper = xnat_tests::process::Running::start(ns.command("sleep").arg("1000"));
    xnat_tests::wait::until_true("sleep runs inside", Duration::from_secs(5), || !ns.processes().is_empty());
    drop(ns);
    assert!(!std::fs::exists(&path).expect("a path that can be asked for"));
    assert!(sleeper.ended_within(Duration::from_secs(5)).is_some(), "killed with its namespace");
}

#[test]
fn two_topologies_with_the_same_addresses_stand_side_by_side() {
    let one = Reference::new();
    let two = Reference::new();
    for reference in [&one, &two] {
        route_between(reference);
        ping(reference.n1().ns(), "-c 2", N2).expect_answered_by(N2);
    }
    // Only in one of them is the container stopped.
    let mut n2 = two.n2().clone();
    n2.stop();
    ping(one.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    ping(two.n1().ns(), "-c 1", N2).expect_silence();
    let before = one.n2().mac();
    n2.start();
    ping(two.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    assert_ne!(n2.mac(), before);
}

#[test]
fn captures_show_ttl_ports_and_checksums_at_each_place() {
    let reference = Reference::new();
    route_between(&reference);
    for offload in [true, false] {
        reference.node1.set_offload(offload);
        reference.node2.set_offload(offload);
        let at_n1 = Capture::on(reference.n1().inside());
        let at_bridge1 = Capture::on(reference.n1().port());
        let at_wire = Capture::on(reference.node1.host.wire());
        let at_n2 = Capture::on(reference.n2().inside());
        let server = tcp::Server::start(reference.n2().ns(), 0, Service::Echo);
        let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, server.port()));
        tcp::expect_echo(&mut stream, 1, 100_000);
        for (capture, ttl) in [(&at_n1, 64), (&at_bridge1, 64), (&at_wire, 63), (&at_n2, 62)] {
            let syn =
                capture.expect("the SYN", |p| p.has_flags(SYN) && p.goes(N1, N2) && p.ports(40000, server.port()));
            assert_eq!((syn.ttl, syn.options.len(), syn.ip_checksum), (ttl, 0, Checksum::Valid));
            let expected = if offload { Checksum::Partial } else { Checksum::Valid };
            assert_eq!(syn.l4_checksum, expected, "offload {offload}");
            let answer = capture.expect("the answer", |p| p.has_flags(SYN | ACK));
            assert!(answer.goes(N2, N1) && answer.checksums_right());
            capture.expect_none("a wrong checksum", |p| !p.checksums_right());
        }
        assert_eq!(server.clients(), [SocketAddrV4::new(N1, 40000)]);
        let large = at_n1.matching(|p| p.proto == TCP && p.len > 1500);
        assert_eq!(large.is_empty(), !offload, "super-packets if and only if segmentation is left to the device");
        // Port 40000 is free again for the second round.
        drop(stream);
    }
}

#[test]
fn udp_and_fragmented_ping_are_captured_whole() {
    let reference = Reference::new();
    route_between(&reference);
    reference.node1.set_offload(false);
    let at_n2 = Capture::on(reference.n2().inside());
    let server = udp::Server::echo(reference.n2().ns(), 5353);
    let socket = udp::socket(reference.n1().ns(), 41000);
    udp::expect_echo(&socket, (N2, 5353), 3, 700);
    let seen = at_n2.expect("the datagram", |p| p.proto == UDP && p.ports(41000, 5353));
    assert_eq!((seen.payload, seen.l4_checksum), (payload::pattern(3, 700), Checksum::Valid));
    assert_eq!(server.received().len(), 1);
    ping(reference.n1().ns(), "-c 1 -s 3000", N2).expect_answered_by(N2);
    let fragments = at_n2.expect_count("a fragment", 3, |p| p.is_fragment() && p.goes(N1, N2));
    assert_eq!(fragments.iter().map(|p| p.fragment_offset).collect::<Vec<_>>(), [0, 1480, 2960]);
}

#[test]
fn oracles_agree_on_a_plain_router() {
    let reference = Reference::new();
    route_between(&reference);
    let n1 = reference.n1().ns();
    let gateway = "192.168.110.1".parse().expect("an address");
    let hops = program::traceroute(n1, "-I", N2);
    assert_eq!(hops, [Some(gateway), Some(NODE2), Some(N2)]);
    let expired = Capture::on(reference.n1().inside());
    ping(n1, "-c 1 -t 1", N2).expect_silence();
    let error = expired.expect("time exceeded", |p| p.proto == ICMP && p.icmp_type == 11);
    let inner = error.embedded().expect("the packet that expired");
    assert!(inner.goes(N1, N2) && inner.icmp_type == 8 && inner.ip_checksum == Checksum::Valid);
    // A closed port.
    let refused = tcp::connect(n1, 0, (N2, 9)).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // iperf3 and curl.
    let _server = program::iperf3_server(reference.n2().ns(), 5201);
    let report = program::iperf3(n1, "-n 20M", N2, 5201);
    assert!(report["end"]["sum_sent"]["bytes"].as_u64() >= Some(20_000_000), "{report}");
    let web = tcp::Server::start(reference.n2().ns(), 80, Service::Whoami);
    let page = program::curl(n1, &["--http0.9", &format!("telnet://{N2}:{}", web.port())]);
    assert_eq!(page.expect_success().split(':').next(), Some("192.168.110.11"));
    assert!(program::tracepath(n1, "-m 5", N2).contains("reached"));
}

#[test]
fn a_big_transfer_is_summed_up_at_both_ends() {
    let reference = Reference::new();
    route_between(&reference);
    let sink = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    tcp::expect_transfer(reference.n1().ns(), (N2, sink.port()), 50_000_000);
}

#[test]
fn many_connections_at_once_are_verified() {
    let reference = Reference::new();
    route_between(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 0, Service::Echo);
    tcp::expect_crowd(reference.n1().ns(), (N2, server.port()), 300, 20_000);
    assert_eq!(server.clients().len(), 300);
    tcp::expect_visits(reference.n1().ns(), (N2, server.port()), 1000);
}

#[test]
fn the_outside_machine_is_a_router_to_anywhere() {
    let reference = Reference::new();
    ping(reference.node1.host.ns(), "-c 1", ANYWHERE).expect_answered_by(ANYWHERE);
    // It does not know the containers: without translation nothing comes back.
    ping(reference.n1().ns(), "-c 1 -W 1", OUTSIDE).expect_silence();
    reference.node1.host.ns().shell("iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE");
    ping(reference.n1().ns(), "-c 1", OUTSIDE).expect_answered_by(OUTSIDE);
    let server = tcp::Server::start(reference.outside.ns(), 0, Service::Whoami);
    assert_eq!(*tcp::whoami(reference.n1().ns(), 0, (ANYWHERE, server.port())).ip(), NODE1);
    let lines = conntrack::read_lines(&reference.node1.host.ns().run(&["conntrack", "-L"]));
    assert!(lines.iter().any(|line| line.proto == "tcp" && line.reply.dst == NODE1), "{lines:#?}");
}

#[test]
fn a_plain_veth_serves_as_an_inside_network() {
    let lan = Lan::new();
    let host = Host::new(&lan, "host", "172.29.0.4/24");
    let machine = host.plain("in0", "10.7.0.1/24", "machine", "10.7.0.2/24");
    ping(machine.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
}

#[test]
fn a_snapshot_notices_what_stays() {
    let reference = Reference::new();
    let ns = reference.node1.host.ns();
    let before = Snapshot::of(ns);
    Snapshot::of(ns).expect_same_as(&before);
    ns.run(&["tc", "qdisc", "add", "dev", "eth0", "clsact"]);
    ns.ip("route add 192.168.220.0/24 via 172.29.0.17 proto 96");
    ns.set_sysctl("net/ipv4/conf/eth0/rp_filter", "2");
    let after = Snapshot::of(ns);
    let difference = std::panic::catch_unwind(|| after.expect_same_as(&before)).expect_err("three traces");
    let message = difference.downcast_ref::<String>().expect("a message");
    for trace in ["clsact", "proto 96", "eth0.rp_filter = 2"] {
        assert!(message.contains(trace), "{trace} is not in {message}");
    }
}

/// DESIGN §1: the four rules of the reference document on two real Docker engines, and who answers.
#[test]
fn the_iptables_recipe_lets_the_wrong_host_answer() {
    let lan = Lan::new();
    let node1 = Host::new(&lan, "node1", "172.29.0.4/24");
    let node2 = Host::new(&lan, "node2", "172.29.0.17/24");
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| Engine::start(node1.ns()));
        let two = scope.spawn(|| Engine::start(node2.ns()));
        (one.join().expect("an engine"), two.join().expect("an engine"))
    });
    one.shell(docker::NODE1_LINES);
    two.shell(docker::NODE2_LINES);
    one.shell(docker::NODE1_RULES);
    two.shell(docker::NODE2_RULES);
    let pings = |target: &str| program::read_ping(&one.inside("n1", &format!("ping -n -c 2 -W 2 {target}")));

    // "n1 reaches n2": there are answers, but not from n2, which never sees a packet.
    let port = two.port("n2");
    let at_n2 = Capture::filtered((two.ns(), &port), "icmp");
    let answered = pings("192.168.220.11");
    answered.expect_answered_by(N2);
    assert!(answered.replies.iter().all(|(_, ttl)| *ttl == 63), "one hop away: node2 itself\n{}", answered.output);
    at_n2.expect_none("a ping", |p| p.proto == ICMP);
    // It is the same for a container that does not exist, and for n2 once it is stopped.
    pings("192.168.220.99").expect_answered_by("192.168.220.99".parse().expect("an address"));
    // A listener in n2 is not reached; one on node2 itself is, in n2's name.
    two.shell("docker exec -d n2 socat TCP-LISTEN:8080,fork,reuseaddr EXEC:cat");
    let refused = one.inside("n1", "echo hello | socat -t 3 - TCP:192.168.220.11:8080,connect-timeout=3");
    assert!(refused.stderr.contains("Connection refused"), "{refused}");
    let on_the_host = tcp::Server::start(node2.ns(), 9090, Service::Whoami);
    let answer = one.inside("n1", "socat -t 3 - TCP:192.168.220.11:9090,connect-timeout=3");
    assert_eq!(answer.expect_success().split(':').next(), Some("172.29.0.4"));
    drop(on_the_host);
    two.shell("docker kill n2");
    pings("192.168.220.11").expect_answered_by(N2);
}
