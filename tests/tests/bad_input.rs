//! Bad input is refused with exit code 2 and a message that names the mistake, before anything is attached.

use std::process::Command;

use xnat_tests::process;
use xnat_tests::tcp;
use xnat_tests::topology::Reference;
use xnat_tests::trace::Snapshot;
use xnat_tests::wait::SOON;
use xnat_tests::xnat::{Instance, attempt};

/// What is passed to `xnat run`, and what the message must contain: the mistake itself, and a word on it.
const CASES: [(&str, &[&str]); 49] = [
    // not an address, not IPv4
    ("--peer node2 --subnet 192.168.110.0/24", &["node2"]),
    ("--peer 172.29.0 --subnet 192.168.110.0/24", &["172.29.0"]),
    ("--peer 172.29.0.256 --subnet 192.168.110.0/24", &["172.29.0.256"]),
    ("--peer fd00::17 --subnet 192.168.110.0/24", &["fd00::17", "IPv6"]),
    ("--peer 172.29.0.17 --subnet fd00:110::/64", &["fd00:110::/64", "IPv6"]),
    ("--peer 172.29.0.17= --subnet 192.168.110.0/24", &["172.29.0.17="]),
    ("--peer 172.29.0.17=nowhere --subnet 192.168.110.0/24", &["nowhere"]),
    ("--peer 0.0.0.0 --subnet 192.168.110.0/24", &["0.0.0.0"]),
    ("--peer 127.0.0.1 --subnet 192.168.110.0/24", &["127.0.0.1"]),
    ("--peer 224.0.0.1 --subnet 192.168.110.0/24", &["224.0.0.1"]),
    // CIDRs
    ("--peer 172.29.0.17 --subnet 192.168.110.0", &["192.168.110.0"]),
    ("--peer 172.29.0.17 --subnet 192.168.110.0/33", &["192.168.110.0/33"]),
    ("--peer 172.29.0.17 --subnet 192.168.110.1/24", &["192.168.110.1/24", "192.168.110.0/24"]),
    ("--peer 172.29.0.17=192.168.220.11/24 --subnet 192.168.110.0/24", &["192.168.220.11/24", "192.168.220.0/24"]),
    // peers that cannot be
    ("--peer 192.168.110.17 --subnet 192.168.110.0/24", &["192.168.110.17", "192.168.110.0/24"]),
    ("--peer 172.29.0.4 --subnet 192.168.110.0/24", &["172.29.0.4"]),
    ("--peer 172.29.0.17 --peer 172.29.0.17 --subnet 192.168.110.0/24", &["172.29.0.17", "twice"]),
    ("--peer 172.29.0.17,172.29.0.30 --subnet 192.168.110.0/24", &["172.29.0.17,172.29.0.30"]),
    // overlaps
    (
        "--peer 172.29.0.17=192.168.220.0/24 --peer 172.29.0.30=192.168.220.128/25 --subnet 192.168.110.0/24",
        &["192.168.220.0/24", "192.168.220.128/25"],
    ),
    ("--peer 172.29.0.17=192.168.0.0/16 --subnet 192.168.110.0/24", &["192.168.0.0/16", "192.168.110.0/24"]),
    ("--peer 172.29.0.17 --subnet 192.168.110.0/24 --subnet 192.168.110.0/24", &["192.168.110.0/24"]),
    // subnets that are not here: how to make the network
    ("--peer 172.29.0.17 --subnet 192.168.111.0/24", &["192.168.111.0/24", "docker network create"]),
    ("--peer 172.29.0.17", &["--subnet"]),
    ("--subnet 172.29.0.0/24", &["172.29.0.0/24", "eth0"]),
    ("--peer 172.29.0.17=172.29.0.0/24 --subnet 192.168.110.0/24", &["172.29.0.0/24", "172.29.0.17"]),
    // interfaces
    ("--peer 172.29.0.17 --subnet 192.168.110.0/24 --uplink eth7", &["eth7"]),
    ("--peer 172.29.0.17 --subnet 192.168.110.0/24 --bridge br7", &["br7"]),
    ("--subnet 192.168.110.0/24 --uplink bare0", &["bare0", "address"]),
    ("--subnet 192.168.110.0/24 --uplink many0", &["many0", "172.30.0.4", "172.31.0.4", "--address"]),
    ("--peer 172.29.0.17 --subnet 192.168.110.0/24 --frobnicate", &["--frobnicate"]),
    // mapping, filtering, ports
    ("--subnet 192.168.110.0/24 --mapping symmetric", &["symmetric", "address-and-port-dependent"]),
    ("--subnet 192.168.110.0/24 --filtering sctp=address-dependent", &["sctp", "icmp"]),
    (
        "--subnet 192.168.110.0/24 --mapping udp=address-dependent --filtering endpoint-independent",
        &["--filtering udp=endpoint-independent", "--mapping udp=address-dependent", "leave --filtering out"],
    ),
    ("--subnet 192.168.110.0/24 --ports 0-1024", &["`0` is no port"]),
    ("--subnet 192.168.110.0/24 --ports 1024-65536", &["65536"]),
    ("--subnet 192.168.110.0/24 --ports 2048-1024", &["2048-1024", "1024-2048"]),
    ("--subnet 192.168.110.0/24 --ports=", &["--ports"]),
    ("--subnet 192.168.110.0/24 --max-ports-per-container 0", &["--max-ports-per-container"]),
    // forwards
    ("--subnet 192.168.110.0/24 --forward tcp:8080", &["tcp:8080", "PROTO:PORTS=ADDRESS"]),
    ("--subnet 192.168.110.0/24 --forward tcp:8080=192.168.220.11", &["192.168.220.11", "192.168.110.0/24"]),
    ("--subnet 192.168.110.0/24 --forward tcp:8080=192.168.110.1", &["192.168.110.1", "own address"]),
    ("--subnet 192.168.110.0/24 --forward tcp:0=192.168.110.11", &["`0` is no port"]),
    ("--subnet 192.168.110.0/24 --forward udp:9628=192.168.110.11", &["9628", "peers"]),
    ("--subnet 192.168.110.0/24 --forward udp:1-5=192.168.110.11:1-6", &["1-5 and 1-6", "same length"]),
    (
        "--subnet 192.168.110.0/24 --forward tcp:80-90=192.168.110.11 --forward both:85=192.168.110.12",
        &["tcp:80-90=192.168.110.11", "both:85=192.168.110.12", "in common"],
    ),
    ("--subnet 192.168.110.0/24 --forward tcp:2222=192.168.110.11:22", &["tcp port 2222", "socket of this host"]),
    // who gets the rest
    ("--subnet 192.168.110.0/24 --default-inbound web", &["web"]),
    ("--subnet 192.168.110.0/24 --default-inbound 192.168.220.11", &["192.168.220.11", "192.168.110.0/24"]),
    ("--subnet 192.168.110.0/24 --default-inbound 192.168.110.1", &["192.168.110.1", "own address"]),
];

#[test]
fn every_mistake_is_named_and_nothing_is_attached() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    host.ip("link add bare0 type veth peer name bare1");
    host.ip("link set bare0 up");
    host.ip("link add many0 type veth peer name many1");
    host.ip("link set many0 up");
    host.ip("address add 172.30.0.4/24 dev many0");
    host.ip("address add 172.31.0.4/24 dev many0");
    let _listener = tcp::Server::start(host, 2222, tcp::Service::Echo);
    let before = Snapshot::of(host);
    let mut wrong = Vec::new();
    for (words, expected) in CASES {
        let instance = Instance::new(host);
        let refused = instance.attempt_run(words);
        let missing: Vec<_> = expected.iter().filter(|word| !refused.stderr.contains(**word)).collect();
        if refused.code != Some(2) || !missing.is_empty() || !refused.stdout.is_empty() {
            wrong.push(format!("expected code 2 and {expected:?} on stderr only, but {refused}"));
        }
        if refused.stderr.contains("panicked") || refused.stderr.lines().count() > 8 {
            wrong.push(format!("not a message for people: {refused}"));
        }
        if !instance.files().is_empty() {
            wrong.push(format!("`{words}` left {:?}", instance.files()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Snapshot::of(host).expect_same_as(&before);
}

#[test]
fn no_route_to_choose_the_uplink_by_is_named() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    host.ip("route flush dev eth0");
    let refused = Instance::new(host).attempt_run("--subnet 192.168.110.0/24").expect_code(2);
    assert!(refused.stderr.contains("--uplink"), "the flag that helps: {refused}");
}

#[test]
fn bad_filters_and_formats_are_named() {
    let reference = Reference::new();
    let instance = Instance::new(reference.node1.host.ns());
    let cases = [
        ("conntrack dump -o yaml", "yaml"),
        ("conntrack dump --proto sctpp", "sctpp"),
        ("conntrack dump --src nowhere", "nowhere"),
        ("conntrack dump --dst 10.0.0.1/40", "10.0.0.1/40"),
        ("conntrack dump --sport 70000", "70000"),
        ("conntrack dump --state ESTABLISHD", "ESTABLISHD"),
        ("conntrack count --peer somebody", "somebody"),
        ("conntrak dump", "conntrak"),
    ];
    for (words, mistake) in cases {
        let refused = instance.attempt(words).expect_code(2);
        assert!(refused.stderr.contains(mistake), "{mistake} is not named: {refused}");
    }
}

#[test]
fn a_user_without_the_right_is_told_what_is_missing() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let binary = xnat_tests::xnat::binary();
    let mut command: Command = host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    // A copy where a user without rights may read it.
    let folder = std::env::temp_dir().join(xnat_tests::netns::unique("unprivileged"));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    std::fs::copy(binary, folder.join("xnat")).expect("a readable binary");
    command.arg(folder.join("xnat")).args("run --peer 172.29.0.17 --subnet 192.168.110.0/24".split(' '));
    let refused = process::run(&mut command, SOON);
    std::fs::remove_dir_all(&folder).expect("own folder");
    let refused = refused.expect_code(2);
    assert!(refused.stderr.contains("root") || refused.stderr.contains("CAP_"), "{refused}");
}

#[test]
fn help_is_written_for_people() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let help = |words: &str| attempt(host, words).expect_success();
    for words in ["--help", "run --help", "conntrack --help", "conntrack dump --help", "status --help", "detach --help"]
    {
        assert!(help(words).lines().count() > 5, "{words}:\n{}", help(words));
    }
    let run = help("run --help");
    assert!(run.contains("xnat run --peer 172.29.0.17"), "an example:\n{run}");
}
