//! The reference scenario: two real Docker engines, the document's own lines, and xnat in place of its rules.

use std::net::Ipv4Addr;

use xnat_tests::capture::Capture;
use xnat_tests::docker::{self, Engine};
use xnat_tests::host::{Host, Lan};
use xnat_tests::packet::{ICMP, IPV4};
use xnat_tests::program::{Ping, read_ping};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, OUTSIDE, SUBNET1, SUBNET2};
use xnat_tests::trace::Snapshot;
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

/// Two hosts with an engine each and an outside machine. Engines are dropped before their hosts.
struct Scenario {
    one: Engine,
    two: Engine,
    node1: Host,
    node2: Host,
    outside: Host,
}

impl Scenario {
    fn new() -> Self {
        let lan = Lan::new();
        let node1 = Host::new(&lan, "node1", &format!("{NODE1}/24"));
        let node2 = Host::new(&lan, "node2", &format!("{NODE2}/24"));
        let outside = Host::new(&lan, "outside", &format!("{OUTSIDE}/24"));
        for node in [&node1, &node2] {
            node.ns().ip(&format!("route add default via {OUTSIDE}"));
        }
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| Engine::start(node1.ns()));
            let two = scope.spawn(|| Engine::start(node2.ns()));
            (one.join().expect("an engine"), two.join().expect("an engine"))
        });
        Self { one, two, node1, node2, outside }
    }

    /// The two commands.
    fn run_xnat(&self) -> (Xnat, Xnat) {
        let one = Xnat::start(self.node1.ns(), &format!("--peer {NODE2} --subnet {SUBNET1}"));
        let two = Xnat::start(self.node2.ns(), &format!("--peer {NODE1} --subnet {SUBNET2}"));
        one.expect_peer(NODE2);
        two.expect_peer(NODE1);
        (one, two)
    }
}

fn ping(engine: &Engine, container: &str, target: Ipv4Addr) -> Ping {
    read_ping(&engine.inside(container, &format!("ping -n -c 2 -W 2 {target}")))
}

/// A TCP echo by socat in one container, asked by socat in another.
#[track_caller]
fn expect_hello((engine, container): (&Engine, &str), target: Ipv4Addr, port: u16) {
    let asked = engine.inside(container, &format!("echo hello | socat -t 5 - TCP:{target}:{port},connect-timeout=5"));
    assert_eq!(asked.clone().expect_success().trim(), "hello", "{asked}");
}

#[track_caller]
fn serve_hello((engine, container): (&Engine, &str), port: u16) {
    engine.shell(&format!("docker exec -d {container} socat TCP-LISTEN:{port},fork,reuseaddr EXEC:cat"));
    wait::until_true("socat listens", SOON, || {
        let hex = format!(":{port:04X} 00000000:0000 0A");
        engine.inside(container, "cat /proc/net/tcp").expect_success().contains(&hex)
    });
}

#[test]
fn the_documents_containers_reach_each_other() {
    let scenario = Scenario::new();
    let (one, two) = (&scenario.one, &scenario.two);
    one.shell(docker::NODE1_LINES);
    two.shell(docker::NODE2_LINES);
    let _xnat = scenario.run_xnat();
    let wire = Capture::on(scenario.node1.wire());
    let (port1, port2) = (one.port("n1"), two.port("n2"));
    let at_n1 = Capture::filtered((one.ns(), &port1), "icmp");
    let at_n2 = Capture::filtered((two.ns(), &port2), "icmp");

    // The table of DESIGN §1, each line as the document promises it.
    ping(one, "n1", N2).expect_answered_by(N2);
    ping(two, "n2", N1).expect_answered_by(N1);
    at_n2.expect("n1's ping, from its host", |p| p.proto == ICMP && p.icmp_type == 8 && p.goes(NODE1, N2));
    at_n1.expect("n2's ping, from its host", |p| p.proto == ICMP && p.icmp_type == 8 && p.goes(NODE2, N1));
    serve_hello((one, "n1"), 8080);
    serve_hello((two, "n2"), 8080);
    expect_hello((one, "n1"), N2, 8080);
    expect_hello((two, "n2"), N1, 8080);
    ping(one, "n1", Ipv4Addr::new(192, 168, 220, 99)).expect_silence();
    let host = tcp::Server::start(scenario.node2.ns(), 9090, Service::Whoami);
    let refused = one.inside("n1", "socat -t 3 - TCP:192.168.220.11:9090,connect-timeout=3");
    assert!(refused.stderr.contains("Connection refused") && host.clients().is_empty(), "{refused}");
    two.shell("docker kill n2");
    ping(one, "n1", N2).expect_silence();

    wire.expect_none("a container's address", |p| {
        p.eth_type == IPV4 && [p.src, p.dst].iter().any(|a| a.octets()[0] == 192)
    });
}

#[test]
fn containers_may_be_started_and_restarted_after_run() {
    let scenario = Scenario::new();
    let (one, two) = (&scenario.one, &scenario.two);
    // The network must be there, the containers need not.
    let [(network1, run1), (network2, run2)] =
        [docker::NODE1_LINES, docker::NODE2_LINES].map(|lines| lines.split_once('\n').expect("two lines"));
    one.shell(network1);
    two.shell(network2);
    let _xnat = scenario.run_xnat();
    one.shell(run1);
    two.shell(run2);
    let reached = || ping(one, "n1", N2).received > 0;
    wait::until_true("n1 reaches n2", SOON, reached);
    ping(two, "n2", N1).expect_answered_by(N1);
    two.shell("docker restart -t 0 n2");
    wait::until_true("n1 reaches n2 again", SOON, reached);
    ping(two, "n2", N1).expect_answered_by(N1);
    // Another container with the same address.
    two.shell("docker rm -f n2");
    two.shell(run2);
    wait::until_true("n1 reaches the new n2", SOON, reached);
    serve_hello((two, "n2"), 80);
    expect_hello((one, "n1"), N2, 80);
}

#[test]
fn dockers_published_ports_and_its_resolver_work_beside_xnat() {
    let scenario = Scenario::new();
    let (one, two) = (&scenario.one, &scenario.two);
    // A name server for the world, which answers every question with one address.
    let names = udp::Server::answering(scenario.outside.ns(), 53, |question| Some(name_answer(question)));
    one.shell(&format!(
        "docker network create --subnet {SUBNET1} --gateway 192.168.110.1 bridge_a
         docker run -it --net bridge_a --ip {N1} -d --name n1 --dns {OUTSIDE} -p 8080:80 -p 5353:5300/udp ubuntu
         docker run -it --net bridge_a --ip 192.168.110.12 -d --name neighbour --dns {OUTSIDE} ubuntu"
    ));
    two.shell(docker::NODE2_LINES);
    let _xnat = scenario.run_xnat();
    serve_hello((one, "n1"), 80);
    one.shell("docker exec -d n1 socat UDP-LISTEN:5300,fork,reuseaddr EXEC:cat");

    // Published ports, from outside, from the peer's host and from a peer's container.
    for visitor in [scenario.outside.ns(), scenario.node2.ns()] {
        for seed in 0..20 {
            visitor.within(|| tcp::visit(0, (NODE1, 8080), seed, 1000)).expect("the published TCP port");
        }
        udp::expect_echo(&udp::socket(visitor, 0), (NODE1, 5353), 1, 500);
    }
    expect_hello((two, "n2"), NODE1, 8080);

    // Between containers of one network, by name and by address; names outside through Docker's resolver.
    ping(one, "neighbour", N1).expect_answered_by(N1);
    let by_name = read_ping(&one.inside("neighbour", "ping -n -c 1 -W 2 n1"));
    by_name.expect_answered_by(N1);
    let answer = one.inside("n1", "nslookup xnat.example").expect_success();
    assert!(answer.contains("198.51.100.7"), "{answer}");
    assert!(names.received().iter().all(|(from, _)| *from.ip() == NODE1) && !names.received().is_empty());
    expect_hello((one, "neighbour"), N1, 80);
}

#[test]
fn detach_leaves_dockers_hosts_as_they_were() {
    let scenario = Scenario::new();
    scenario.one.shell(docker::NODE1_LINES);
    let before = Snapshot::of(scenario.node1.ns());
    let mut xnat = Xnat::start(scenario.node1.ns(), &format!("--peer {NODE2}={SUBNET2} --subnet {SUBNET1}"));
    xnat.stop(nix::sys::signal::Signal::SIGTERM).expect_code(0);
    Snapshot::of(scenario.node1.ns()).expect_same_as(&before);
}

/// A DNS question with its answer appended: 198.51.100.7 as A record, nothing for other types.
fn name_answer(question: &[u8]) -> Vec<u8> {
    let labels = question[12..].iter().position(|octet| *octet == 0).unwrap_or(0) + 13;
    let end = (labels + 4).min(question.len());
    let address = question.get(labels + 1) == Some(&1);
    let mut message = question[..end].to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[6..12].copy_from_slice(&[0, u8::from(address), 0, 0, 0, 0]);
    if address {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
    }
    message
}
