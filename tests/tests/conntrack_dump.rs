//! `xnat conntrack dump` in its three formats, its filters and `count`, against flows in known states.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};

use xnat_tests::conntrack::{Flow, Line, read_lines};
use xnat_tests::netns::Namespace;
use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, NODE1, NODE2, OUTSIDE, Reference, SUBNET1, SUBNET2};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};
use xnat_tests::{process, udp};

/// An address on the wire where nobody is.
const NOBODY: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 200);

/// One flow in each state, from n1 toward `target`, and what keeps them alive.
struct Traffic {
    _established: TcpStream,
    _sockets: [UdpSocket; 2],
    _servers: (tcp::Server, udp::Server, udp::Server),
}

impl Traffic {
    /// TCP 40000 > 80 established, UDP 41000 > 5300 answered, UDP 41001 > 5301 never, ping 777 answered.
    fn make(n1: &Namespace, target: Ipv4Addr, server: &Namespace) -> Self {
        let web = tcp::Server::start(server, 80, Service::Echo);
        let echo = udp::Server::echo(server, 5300);
        let silent = udp::Server::silent(server, 5301);
        let mut established = tcp::expect_connect(n1, 40000, (target, 80));
        tcp::expect_echo(&mut established, 1, 1000);
        let sockets = [udp::socket(n1, 41000), udp::socket(n1, 41001)];
        udp::expect_echo(&sockets[0], (target, 5300), 2, 100);
        sockets[1].send_to(&[0; 50], (target, 5301)).expect("a route");
        wait::until_true("the datagram arrives", SOON, || silent.received().len() == 1);
        ping(n1, "-c 3 -e 777", target).expect_answered_by(target);
        Self { _established: established, _sockets: sockets, _servers: (web, echo, silent) }
    }
}

fn find(flows: &[Flow], proto: &str, port: u16) -> Flow {
    let of = |flow: &&Flow| flow.proto == proto && [flow.original.sport, flow.original.id].contains(&Some(port));
    flows.iter().find(of).unwrap_or_else(|| panic!("no {proto} flow from {port} in {flows:#?}")).clone()
}

#[test]
fn json_tells_every_field_of_flows_to_a_peer_on_both_hosts() {
    let reference = Reference::new();
    let (one, two) = xnat::start_both(&reference);
    let _traffic = Traffic::make(reference.n1().ns(), N2, reference.n2().ns());
    // proto, port, state, timeout at most, packets and octets of each direction where they are certain
    let expected = [
        ("tcp", 40000, "ESTABLISHED", 7440, None, None),
        ("udp", 41000, "REPLIED", 300, Some((1, 128)), Some((1, 128))),
        ("udp", 41001, "UNREPLIED", 120, Some((1, 78)), Some((0, 0))),
        ("icmp", 777, "REPLIED", 60, Some((3, 252)), Some((3, 252))),
    ];
    let dports = BTreeMap::from([(40000, 80), (41000, 5300), (41001, 5301), (777, 777)]);
    for (xnat, kind, peer, inside_out) in [(&one, "peer", NODE2, true), (&two, "inbound", NODE1, false)] {
        let flows = xnat.flows("");
        for (proto, port, state, timeout, forth, back) in expected {
            let flow = find(&flows, proto, port);
            let dport = dports[&port];
            assert_eq!((flow.state.as_str(), flow.kind.as_str(), flow.peer), (state, kind, Some(peer)), "{flow:?}");
            assert!((timeout - 30..=timeout).contains(&flow.timeout), "{timeout} at most and just begun: {flow:?}");
            let (original, reply) = if inside_out {
                ((N1, port, N2, dport), (NODE2, dport, NODE1, port))
            } else {
                ((NODE1, port, NODE2, dport), (N2, dport, NODE1, port))
            };
            assert_eq!(flow.original.tuple(), original, "{flow:?}");
            assert_eq!(flow.reply.tuple(), reply, "{flow:?}");
            for (direction, certain) in [(&flow.original, forth), (&flow.reply, back)] {
                assert_eq!(direction.id.is_some(), proto == "icmp", "{flow:?}");
                assert_eq!(direction.sport.is_some(), proto != "icmp", "{flow:?}");
                match certain {
                    Some(certain) => assert_eq!((direction.packets, direction.bytes), certain, "{flow:?}"),
                    None => assert!(direction.packets >= 2 && direction.bytes >= 1000, "{flow:?}"),
                }
            }
        }
    }
}

#[test]
fn json_tells_flows_to_the_outside_and_of_the_host() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let _traffic = Traffic::make(reference.n1().ns(), OUTSIDE, reference.outside.ns());
    let flow = find(&one.flows("--proto tcp"), "tcp", 40000);
    assert_eq!((flow.kind.as_str(), flow.peer, flow.state.as_str()), ("outside", None, "ESTABLISHED"));
    assert_eq!(flow.original.tuple(), (N1, 40000, OUTSIDE, 80));
    assert_eq!(flow.reply.tuple(), (OUTSIDE, 80, NODE1, 40000));
    ping(reference.node1.host.ns(), "-c 1 -e 888", N2).expect_answered_by(N2);
    let flow = find(&one.flows("--proto icmp"), "icmp", 888);
    assert_eq!((flow.kind.as_str(), flow.peer), ("host", Some(NODE2)));
    assert_eq!((flow.original.dst, flow.reply.src, flow.reply.dst), (N2, NODE2, NODE1));
}

#[test]
fn tcp_goes_through_its_states() {
    let reference = Reference::new();
    let (one, two) = xnat::start_both(&reference);
    let state = |xnat: &Xnat| find(&xnat.flows("--proto tcp --dport 80"), "tcp", 40000).state;
    let awaiting = |xnat: &Xnat, wanted: &str| wait::until_true(wanted, SOON, || state(xnat) == wanted);
    // An address without a container: nothing comes back.
    let lonely = reference.n1().ns().spawn(|| tcp::connect_here(40001, (Ipv4Addr::new(192, 168, 220, 99), 80)));
    one.expect_flow("SYN_SENT", |flow| flow.original.sport == Some(40001) && flow.state == "SYN_SENT");
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    let mut stream = tcp::expect_connect(reference.n1().ns(), 40000, (N2, server.port()));
    tcp::expect_echo(&mut stream, 1, 100);
    for xnat in [&one, &two] {
        awaiting(xnat, "ESTABLISHED");
    }
    drop(stream);
    for xnat in [&one, &two] {
        awaiting(xnat, "TIME_WAIT");
        assert!(find(&xnat.flows("--proto tcp --dport 80"), "tcp", 40000).timeout <= 240);
    }
    assert!(lonely.join().expect("no panic").is_err());
}

#[test]
fn an_unknown_protocol_is_a_number() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    Raw::new(N1, OUTSIDE, 253, b"experiment").send(reference.n1().ns());
    let flow = one.expect_flow("protocol 253", |flow| flow.proto == "253");
    assert!(flow.timeout <= 600 && flow.original.sport.is_none() && flow.reply.dst == NODE1, "{flow:?}");
}

#[test]
fn filters_choose_and_count_agrees() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let _to_peer = Traffic::make(reference.n1().ns(), N2, reference.n2().ns());
    let outside = udp::Server::echo(reference.outside.ns(), 5300);
    udp::expect_echo(&udp::socket(reference.n1().ns(), 41002), (OUTSIDE, outside.port()), 2, 100);
    let cases = [
        ("", 5),
        ("--proto tcp", 1),
        ("--proto udp", 3),
        ("--proto icmp", 1),
        ("--proto 17", 3),
        ("--src 192.168.110.11", 5),
        ("--src 192.168.110.0/24", 5),
        ("--src 192.168.110.12", 0),
        ("--dst 192.168.220.11", 4),
        ("--dst 172.29.0.0/16 --proto udp", 1),
        ("--sport 41000", 1),
        ("--dport 5300", 2),
        ("--dport 5300 --dst 172.29.0.100", 1),
        ("--state ESTABLISHED", 1),
        ("--state established", 1),
        ("--state UNREPLIED", 1),
        ("--peer 172.29.0.17", 4),
        ("--peer 172.29.0.99", 0),
        ("--peer 172.29.0.17 --proto udp --sport 41001", 1),
    ];
    for (filters, expected) in cases {
        assert_eq!(one.flows(filters).len(), expected, "dump {filters}");
        assert_eq!(one.count(filters), expected as u64, "count {filters}");
        assert_eq!(
            read_lines(&one.run(&format!("conntrack dump -o conntrack {filters}"))).len(),
            expected,
            "{filters}"
        );
    }
    assert_eq!(one.status().flows.used, 5);
    // The alias.
    assert_eq!(one.run("ct count").trim(), "5");
}

#[test]
fn the_table_has_one_aligned_line_a_flow() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let _traffic = Traffic::make(reference.n1().ns(), N2, reference.n2().ns());
    let table = one.run("conntrack dump");
    let lines: Vec<&str> = table.lines().collect();
    let row = lines.iter().find(|line| line.contains("41000")).unwrap_or_else(|| panic!("no UDP flow in\n{table}"));
    for word in
        ["udp", "REPLIED", "192.168.110.11:41000", "192.168.220.11:5300", "172.29.0.17:5300", "172.29.0.4:41000", "128"]
    {
        assert!(row.contains(word), "{word} is not in {row:?}\n{table}");
    }
    let column = |line: &str, word: &str| line.find(word);
    let starts: Vec<usize> = lines.iter().filter_map(|line| column(line, "192.168.110.11:")).collect();
    assert!(starts.len() >= 3 && starts.windows(2).all(|pair| pair[0] == pair[1]), "not aligned:\n{table}");
    assert!(!table.contains('\u{1b}'), "no colour in a pipe");
}

#[test]
fn the_conntrack_format_reads_like_the_real_tools_output_for_the_same_traffic() {
    let through_xnat = Reference::new();
    let xnat = Xnat::start(through_xnat.node1.host.ns(), &format!("--subnet {SUBNET1}"));
    let through_kernel = Reference::new();
    let kernel = through_kernel.node1.host.ns();
    kernel.set_sysctl("net/netfilter/nf_conntrack_acct", "1");
    kernel.shell(&format!("iptables -t nat -A POSTROUTING -s {SUBNET1} -o eth0 -j MASQUERADE"));
    let _traffic = [&through_xnat, &through_kernel]
        .map(|reference| Traffic::make(reference.n1().ns(), OUTSIDE, reference.outside.ns()));
    let ours = read_lines(&xnat.run("conntrack dump -o conntrack"));
    let theirs = read_lines(&kernel.run(&["conntrack", "-L"]));
    let key = |line: &Line| (line.proto.clone(), line.original.tuple());
    let theirs: BTreeMap<_, _> = theirs.into_iter().map(|line| (key(&line), line)).collect();
    let mut compared = 0;
    for our in ours {
        let their = theirs.get(&key(&our)).unwrap_or_else(|| panic!("the kernel has no {our:?}"));
        assert_eq!((our.number, &our.state, our.reply.tuple()), (their.number, &their.state, their.reply.tuple()));
        let unreplied = |line: &Line| line.flags.iter().any(|flag| flag == "[UNREPLIED]");
        assert_eq!(unreplied(&our), unreplied(their), "{our:?} {their:?}");
        if our.proto == "tcp" {
            // How many ACKs there are is the hosts' affair.
            assert!(our.flags.contains(&"[ASSURED]".to_owned()) && our.original.packets >= 3, "{our:?}");
        } else {
            let volume = |line: &Line| [&line.original, &line.reply].map(|way| (way.packets, way.bytes));
            assert_eq!(volume(&our), volume(their), "{our:?} {their:?}");
        }
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn an_empty_table_is_no_error() {
    let reference = Reference::new();
    let xnat = Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"));
    assert_eq!((xnat.count(""), xnat.flows("").len()), (0, 0));
    xnat.run("conntrack dump");
    assert_eq!(xnat.run("conntrack dump -o conntrack"), "");
    // Nobody answers, yet there is a flow now.
    ping(reference.n1().ns(), "-c 1 -W 1", NOBODY).expect_silence();
    assert_eq!(xnat.count("--dst 172.29.0.200"), 1);
}

#[test]
fn status_tells_interfaces_peers_flows_and_counters() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    ping(reference.n1().ns(), "-c 1", N2).expect_answered_by(N2);
    let status = one.status();
    assert!(status.running && status.instance == one.name());
    assert_eq!((status.uplink.name.as_str(), status.uplink.address, status.uplink.mtu), ("eth0", NODE1, 1500));
    assert_eq!((status.insides[0].name.as_str(), status.insides[0].subnets.join(",").as_str()), ("br0", SUBNET1));
    let [peer] = status.peers.as_slice() else { panic!("{status:?}") };
    assert_eq!((peer.address, peer.subnets.as_slice()), (NODE2, [SUBNET2.to_owned()].as_slice()));
    assert_eq!((status.flows.used, status.flows.max), (1, 262_144));
    let text = one.run("status");
    for word in ["eth0", "172.29.0.4", "br0", SUBNET1, "172.29.0.17", SUBNET2] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
}

#[test]
fn commands_without_an_instance_that_runs_say_so() {
    let reference = Reference::new();
    let instance = xnat::Instance::new(reference.node1.host.ns());
    for words in ["conntrack dump", "conntrack count", "status"] {
        let finished: process::Finished = instance.attempt(words).expect_code(1);
        assert!(finished.stderr.contains(instance.name()), "which one: {finished}");
    }
    // Nothing to detach is fine.
    instance.run("detach");
}
