//! What containers, neighbours and other networks of the host may try, and what must not break while they do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use nix::sys::signal::Signal;
use socket2::{Domain, SockRef, Socket, Type};
use xnat_common::{FlowKey, Ticks};

use xnat_tests::capture::Capture;
use xnat_tests::host::{Container, Host};
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{ACK, ICMP, IPV4, Packet, SYN, TCP, UDP};
use xnat_tests::program::ping;
use xnat_tests::raw::Raw;
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE, Reference, SUBNET1, SUBNET2};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};

/// The port of the peer link.
const LINK: u16 = 9628;
/// A container of [`another_network`].
const FOREIGNER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);

/// xnat on node1 alone, without any peer.
fn alone(reference: &Reference) -> Xnat {
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"))
}

/// Lets a host take packets whatever their source, as hosts with several uplinks do.
fn believe_every_source(host: &Namespace, interface: &str) {
    for scope in ["all", interface] {
        host.set_sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0");
    }
}

/// A machine on the wire that takes node1 for its router toward `destinations`.
fn neighbour(reference: &Reference, destinations: &[&str]) -> Host {
    let neighbour = Host::new(&reference.lan, "neighbour", "172.29.0.66/24");
    for destination in destinations {
        neighbour.ns().ip(&format!("route add {destination} via {NODE1}"));
    }
    // Who is where is known: nothing is flooded to where a test looks.
    ping(neighbour.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
    neighbour
}

/// A network of node1's that is none of xnat's business, masqueraded by the kernel as Docker does it, and its container.
fn another_network(reference: &Reference) -> Container {
    let host = &reference.node1.host;
    host.bridge("br9", "10.9.0.1/24");
    host.ns().shell("iptables -t nat -A POSTROUTING -s 10.9.0.0/24 ! -o br9 -j MASQUERADE");
    host.container("br9", "foreigner", &format!("{FOREIGNER}/24"))
}

/// Sends a datagram and awaits its echo, whatever else comes; a flow may need a moment and another attempt.
#[track_caller]
fn expect_echo_among_others(socket: &UdpSocket, to: (Ipv4Addr, u16), text: &[u8]) {
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a valid timeout");
    wait::until_true("the echo comes back", SOON, || {
        socket.send_to(text, to).expect("a route");
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if from == SocketAddr::from(to) && &buffer[..length] == text {
                return true;
            }
        }
        false
    });
}

mod on_the_wire {
    use super::*;

    #[test]
    fn a_neighbour_does_not_reach_a_peers_containers_through_this_host() {
        let reference = Reference::new();
        let (one, two) = xnat::start_both(&reference);
        let neighbour = neighbour(&reference, &[SUBNET2]);
        let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Whoami);
        let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp or icmp");
        let at_node2 = Capture::filtered(reference.node2.host.wire(), "udp or tcp or icmp");
        let at_n2 = Capture::filtered(reference.n2().inside(), "udp or tcp or icmp");
        let me = neighbour.address();
        Raw::udp((me, 700), (N2, 5300), b"astray").send(neighbour.ns());
        Raw::echo_request(me, N2, 700).send(neighbour.ns());
        Raw::tcp((me, 700), (N2, 80), SYN, 1, 0).send(neighbour.ns());
        at_node1.expect("the last of them at node1", |p| p.goes(me, N2) && p.has_flags(SYN));
        ping(neighbour.ns(), "-c 1 -e 4711", NODE1).expect_answered_by(NODE1);
        ping(reference.n1().ns(), "-c 1 -e 4712", N2).expect_answered_by(N2);
        let astray = |p: &Packet| {
            p.ports(700, 5300) || p.ports(700, 80) || p.ports(700, 700) || p.payload == b"astray" || p.src == me
        };
        at_node2.expect_none("a packet of the neighbour's", astray);
        at_n2.expect_none("a packet of the neighbour's", |p| astray(p) || p.proto != ICMP);
        for xnat in [&one, &two] {
            let flows = xnat.flows("");
            assert!(flows.iter().all(|flow| flow.original.id == Some(4712)), "only the container's ping: {flows:#?}");
        }
    }

    #[test]
    fn a_neighbour_is_not_masqueraded_when_it_borrows_a_containers_address() {
        let reference = Reference::new();
        believe_every_source(reference.node1.host.ns(), "eth0");
        let one = alone(&reference);
        let neighbour = neighbour(&reference, &["172.29.0.100/32", "198.51.100.7/32"]);
        let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp or icmp");
        let at_outside = Capture::filtered(reference.outside.wire(), "udp or tcp or icmp");
        for target in [OUTSIDE, ANYWHERE] {
            Raw::udp((N1, 700), (target, 5300), b"borrowed").send(neighbour.ns());
            Raw::echo_request(N1, target, 700).send(neighbour.ns());
            Raw::tcp((N1, 700), (target, 80), SYN, 1, 0).send(neighbour.ns());
            at_node1.expect("the last of them at node1", |p| p.goes(N1, target) && p.has_flags(SYN));
        }
        ping(neighbour.ns(), "-c 1 -e 4711", NODE1).expect_answered_by(NODE1);
        ping(reference.node1.host.ns(), "-c 1 -e 4712", OUTSIDE).expect_answered_by(OUTSIDE);
        at_outside.expect_none("a packet of the neighbour's", |p| p.sport == 700 || p.dport == 700 || p.src == N1);
        at_node1.expect_none("a packet sent on", |p| (p.sport == 700 || p.dport == 700) && p.ttl != 64);
        assert_eq!(one.flows(""), [], "nothing was opened");
    }

    #[test]
    fn a_neighbour_that_borrows_a_containers_address_does_not_reach_a_peers_containers() {
        let reference = Reference::new();
        believe_every_source(reference.node1.host.ns(), "eth0");
        let (one, two) = xnat::start_both(&reference);
        let neighbour = neighbour(&reference, &[SUBNET2]);
        let at_node1 = Capture::filtered(reference.node1.host.wire(), "udp or tcp");
        let at_node2 = Capture::filtered(reference.node2.host.wire(), "udp or tcp");
        let at_n2 = Capture::filtered(reference.n2().inside(), "udp or tcp");
        Raw::udp((N1, 700), (N2, 5300), b"borrowed").send(neighbour.ns());
        Raw::tcp((N1, 700), (N2, 80), SYN, 1, 0).send(neighbour.ns());
        at_node1.expect("the last of them at node1", |p| p.goes(N1, N2) && p.has_flags(SYN));
        ping(neighbour.ns(), "-c 1", NODE1).expect_answered_by(NODE1);
        ping(reference.n1().ns(), "-c 1", N2).expect_answered_by(N2);
        at_node2.expect_none("a packet of the neighbour's", |p| p.sport == 700 || p.dport == 700);
        at_n2.expect_none("anything but pings", |p| p.eth_type == IPV4);
        for filter in ["--proto udp", "--proto tcp"] {
            assert_eq!((one.count(filter), two.count(filter)), (0, 0), "nothing was opened");
        }
    }
}

mod in_the_name_of_the_host {
    use super::*;

    /// A message of the peer link that node1 has never sent.
    fn forged(goodbye: bool, subnets: &[(Ipv4Addr, u8)]) -> Vec<u8> {
        let mut bytes = b"xnat".to_vec();
        bytes.extend([1, u8::from(goodbye), u8::try_from(subnets.len()).expect("few"), 0]);
        bytes.extend(0x6666_6666_6666_6666_u64.to_be_bytes());
        bytes.extend(0_u64.to_be_bytes());
        for (address, length) in subnets {
            bytes.extend(address.octets());
            bytes.extend([*length, 0, 0, 0]);
        }
        bytes
    }

    fn is_forged(p: &Packet) -> bool {
        p.proto == UDP && p.payload.get(8..16) == Some(&[0x66; 8])
    }

    /// Messages from a container to node2's daemon, from its own port and from others: node2 believes none.
    fn speaks_to_node2s_daemon(reference: &Reference, speaker: &Container, one: &Xnat, two: &Xnat) {
        two.expect_peer(NODE1);
        let wire = Capture::filtered(reference.node1.host.wire(), "udp");
        let echo = udp::Server::echo(reference.node2.host.ns(), 5300);
        for port in [LINK, LINK + 1, 700, 40000] {
            let socket = udp::socket(speaker.ns(), port);
            for message in [
                forged(false, &[(Ipv4Addr::new(10, 66, 0, 0), 16)]),
                forged(false, &[]),
                forged(true, &[(Ipv4Addr::new(192, 168, 110, 0), 24)]),
            ] {
                socket.send_to(&message, (NODE2, LINK)).expect("a route");
            }
            udp::expect_echo(&socket, (NODE2, echo.port()), port.into(), 100);
        }
        let from_daemon = |p: &Packet| p.goes(NODE1, NODE2) && p.dport == LINK && !is_forged(p);
        let heard = wire.matching(from_daemon).len();
        // Two of node1's own messages come after all that was forged; node2 is asked all the time until then.
        wait::until_true("node1 has spoken for itself", SOON, || {
            let peers = two.status().peers;
            let as_ever = |it: &&xnat::Peer| it.alive && it.speaks_xnat && it.subnets == [SUBNET1];
            assert_eq!(peers.iter().filter(as_ever).count(), 1, "node2 was talked into something: {peers:?}");
            wire.matching(from_daemon).len() >= heard + 2
        });
        let said = two.output();
        for word in ["goodbye", "empty flow table", "10.66.0.0", "cannot be used"] {
            assert!(!said.contains(word), "node2 has heard the container, {word}:\n{said}");
        }
        wire.expect_none("a container as the daemon", |p| is_forged(p) && p.src == NODE1 && p.sport == LINK);
        assert!(one.status().peers.iter().all(|peer| peer.alive), "{:?}", one.status());
        ping(reference.n2().ns(), "-c 1", N1).expect_answered_by(N1);
    }

    #[test]
    fn a_container_cannot_say_goodbye() {
        let reference = Reference::new();
        let (one, two) = xnat::start_both(&reference);
        speaks_to_node2s_daemon(&reference, reference.n1(), &one, &two);
    }

    #[test]
    fn a_container_of_another_network_cannot_say_goodbye() {
        let reference = Reference::new();
        let foreigner = another_network(&reference);
        let (one, two) = xnat::start_both(&reference);
        speaks_to_node2s_daemon(&reference, &foreigner, &one, &two);
    }

    #[test]
    fn a_container_of_another_network_cannot_tag() {
        let reference = Reference::new();
        let foreigner = another_network(&reference);
        let (one, two) = xnat::start_both(&reference);
        let server = tcp::Server::start(reference.n2().ns(), 80, Service::Whoami);
        let wire = Capture::filtered(reference.node1.host.wire(), "udp or tcp or icmp");
        let at_n2 = Capture::filtered(reference.n2().inside(), "udp or tcp or icmp");
        assert_eq!(one.counter("inside_tag"), 0);
        let attempts = [
            Raw::tcp((FOREIGNER, 700), (NODE2, 80), SYN, 1, 0).tagged(0, N2),
            Raw::udp((FOREIGNER, 701), (NODE2, 5300), b"open").tagged(0, N2),
            Raw::echo_request(FOREIGNER, NODE2, 702).tagged(0, N2),
            Raw::udp((FOREIGNER, 703), (NODE2, 5300), b"").tagged(1, N2),
            Raw::udp((FOREIGNER, 704), (NODE2, 5300), b"").tagged(2, N2),
            Raw::udp((FOREIGNER, 705), (NODE2, 5300), b"").tagged(3, N2),
        ];
        for attempt in &attempts {
            attempt.send(foreigner.ns());
        }
        ping(foreigner.ns(), "-c 1", NODE2).expect_answered_by(NODE2);
        wire.expect_none("a tag of a container's", |p| p.tag().is_some());
        at_n2.expect_none("anything", |p| p.eth_type == IPV4);
        wait::until_true("all are counted", SOON, || one.counter("inside_tag") == attempts.len() as u64);
        assert_eq!((two.counter("tags_received"), two.counter("announces_received"), two.count("")), (0, 0, 0));
        assert_eq!(server.clients(), []);
    }
}

mod between_the_hosts_themselves {
    use super::*;

    /// Publishes port 80 of n2 as 8080 of node2, as `docker run -p 8080:80` does without its proxy.
    fn publish(reference: &Reference) {
        reference.node2.host.ns().shell(&format!(
            "iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 8080 -j DNAT --to {N2}:80
             iptables -t nat -A POSTROUTING -s {SUBNET2} ! -o br0 -j MASQUERADE"
        ));
    }

    #[test]
    fn a_published_port_of_the_peer_is_reached_without_a_flow() {
        let reference = Reference::new();
        publish(&reference);
        let (one, two) = xnat::start_both(&reference);
        let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
        let host = reference.node1.host.ns();
        let mut stream = tcp::expect_connect(host, 43000, (NODE2, 8080));
        for round in 0..5 {
            tcp::expect_echo(&mut stream, round, 20_000);
            host.within(|| tcp::visit(0, (NODE2, 8080), round, 1000)).expect("the published port");
        }
        assert_eq!(server.clients()[0], SocketAddrV4::new(NODE1, 43000));
        assert_eq!((one.flows("--proto tcp"), two.flows("--proto tcp")), (vec![], vec![]));
    }

    /// A connection from node1's host through the published port.
    struct Published {
        reference: Reference,
        client: TcpStream,
        server: TcpStream,
    }

    impl Published {
        fn new(reference: Reference) -> Self {
            let listener = reference.n2().ns().within(|| TcpListener::bind((N2, 80))).expect("a free port");
            let client = tcp::expect_connect(reference.node1.host.ns(), 43000, (NODE2, 8080));
            let (server, from) = listener.accept().expect("a connection");
            assert_eq!(from, SocketAddr::from((NODE1, 43000)));
            server.set_read_timeout(Some(SOON)).expect("a valid timeout");
            Self { reference, client, server }
        }

        /// One that was opened before xnat was started on either host.
        fn before_xnat() -> (Self, [Xnat; 2]) {
            let reference = Reference::new();
            publish(&reference);
            let published = Self::new(reference);
            let nodes = xnat::start_both(&published.reference);
            (published, nodes.into())
        }

        /// One that has said nothing for longer than the kernel's flows are remembered for.
        fn long_idle() -> (Self, [Xnat; 2]) {
            let reference = Reference::new();
            publish(&reference);
            let nodes = xnat::start_both(&reference).into();
            let mut published = Self::new(reference);
            published.expect_passage(&[true, false]);
            for xnat in &nodes {
                age_kernel_flows(xnat);
            }
            (published, nodes)
        }

        /// Sends from the client (true) or from the server (false), in this order.
        #[track_caller]
        fn expect_passage(&mut self, from_client: &[bool]) {
            for &from_client in from_client {
                let (from, to) = (&mut self.client, &mut self.server);
                let (from, to) = if from_client { (from, to) } else { (to, from) };
                let what = if from_client { "from the client" } else { "from the server" };
                from.write_all(what.as_bytes()).unwrap_or_else(|error| panic!("{what}: {error}"));
                let mut buffer = vec![0; what.len()];
                to.read_exact(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(buffer, what.as_bytes());
            }
        }
    }

    /// Makes all that the dataplane knows of the kernel's flows 400 seconds older.
    fn age_kernel_flows(xnat: &Xnat) {
        let pins: Vec<String> = xnat.files().into_iter().filter(|path| path.ends_with("/KERNEL_FLOWS")).collect();
        let [pin] = &pins[..] else { panic!("one pinned map: {pins:?}") };
        let map = Map::LruHashMap(MapData::from_pin(pin).expect("a pinned map"));
        let mut flows = HashMap::<_, FlowKey, u32>::try_from(map).expect("its layout");
        let old: Vec<(FlowKey, u32)> = flows.iter().map(|entry| entry.expect("an entry")).collect();
        for (key, seen) in old {
            flows.insert(&key, &seen.wrapping_sub(Ticks::from_secs(400).0), 0).expect("an entry that is there");
        }
    }

    fn expect_no_flow(nodes: &[Xnat]) {
        for xnat in nodes {
            assert_eq!(xnat.flows("--proto tcp"), []);
        }
    }

    #[test]
    fn a_long_idle_connection_to_a_published_port_goes_on_from_the_client() {
        let (mut published, nodes) = Published::long_idle();
        published.expect_passage(&[true, false, true]);
        expect_no_flow(&nodes);
    }

    #[test]
    fn a_long_idle_connection_to_a_published_port_goes_on_from_the_server() {
        let (mut published, nodes) = Published::long_idle();
        published.expect_passage(&[false, true, false]);
        expect_no_flow(&nodes);
    }

    #[test]
    fn a_connection_to_a_published_port_that_was_there_before_xnat_goes_on_from_the_client() {
        let (mut published, nodes) = Published::before_xnat();
        published.expect_passage(&[true, false, true]);
        expect_no_flow(&nodes);
    }

    #[test]
    fn a_connection_to_a_published_port_that_was_there_before_xnat_goes_on_from_the_server() {
        let (mut published, nodes) = Published::before_xnat();
        published.expect_passage(&[false, true, false]);
        expect_no_flow(&nodes);
    }

    #[test]
    fn a_connection_to_a_published_port_outlives_the_peers_table() {
        let reference = Reference::new();
        publish(&reference);
        let (one, mut two) = xnat::start_both(&reference);
        let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
        let mut stream = tcp::expect_connect(reference.node1.host.ns(), 43000, (NODE2, 8080));
        tcp::expect_echo(&mut stream, 1, 20_000);
        two.stop(Signal::SIGTERM).expect_code(0);
        two.restart();
        one.expect_peer(NODE2);
        two.expect_peer(NODE1);
        tcp::expect_echo(&mut stream, 2, 20_000);
        assert_eq!((one.flows("--proto tcp"), two.flows("--proto tcp")), (vec![], vec![]));
    }

    #[test]
    fn a_connection_whose_server_has_vanished_is_reset() {
        let reference = Reference::new();
        let (one, two) = xnat::start_both(&reference);
        let (host, other) = (reference.node1.host.ns(), reference.node2.host.ns());
        let listener = other.within(|| TcpListener::bind((NODE2, 2222))).expect("a free port");
        let mut client = tcp::expect_connect(host, 43000, (NODE2, 2222));
        let (server, _) = listener.accept().expect("a connection");
        // node2 forgets the connection without a word, as in a power cut: the reset of a close without lingering is lost.
        other.shell("iptables -A OUTPUT -p tcp --tcp-flags RST RST -j DROP");
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop((server, listener));
        let rules = other.shell("iptables -L OUTPUT -v -x -n");
        assert!(
            rules.lines().nth(2).is_some_and(|rule| !rule.trim_start().starts_with("0 ")),
            "no reset lost: {rules}"
        );
        other.shell("iptables -F OUTPUT");
        let wire = Capture::filtered(reference.node2.host.wire(), "tcp");
        client.write_all(b"anybody there?").expect("room in the socket");
        client.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
        let error = client.read(&mut [0; 1]).expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}\n{}", wire.transcript());
        assert_eq!((one.flows("--proto tcp"), two.flows("--proto tcp")), (vec![], vec![]));
    }

    #[test]
    fn a_closed_udp_port_refuses_every_time() {
        let reference = Reference::new();
        let (one, two) = xnat::start_both(&reference);
        let socket = udp::socket(reference.node1.host.ns(), 0);
        socket.connect((NODE2, 5399)).expect("a route");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a valid timeout");
        for attempt in ["first", "second", "third"] {
            socket.send(b"anybody there?").unwrap_or_else(|error| panic!("{attempt}: {error}"));
            let error = socket.recv(&mut [0; 64]).expect_err("nobody is there");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{attempt}: {error}");
        }
        assert_eq!((one.flows("--proto udp"), two.flows("--proto udp")), (vec![], vec![]));
    }
}

mod the_same_port_for_another_network {
    use super::*;

    #[test]
    fn tcp_of_ours_goes_on() {
        let reference = Reference::new();
        let foreigner = another_network(&reference);
        let one = alone(&reference);
        let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
        let mut ours = tcp::expect_connect(reference.n1().ns(), 40000, (OUTSIDE, 80));
        tcp::expect_echo(&mut ours, 1, 5000);
        assert_eq!(server.clients(), [SocketAddrV4::new(NODE1, 40000)]);
        let sent = Capture::filtered(foreigner.port(), "tcp");
        let _theirs = foreigner.ns().within(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a socket");
            socket.set_reuse_address(true).expect("a socket");
            socket.bind(&SocketAddr::from((FOREIGNER, 40000)).into()).expect("a free port");
            // It is in progress, for as long as the socket is there.
            let _ = socket.connect(&SocketAddr::from((OUTSIDE, 80)).into());
            socket
        });
        // The opening and its repetition a second later.
        for openings in 1..=2 {
            sent.expect_count("their opening", openings, |p| p.src == FOREIGNER && p.proto == TCP);
            ping(foreigner.ns(), "-c 1", OUTSIDE).expect_answered_by(OUTSIDE);
            for round in 0..3 {
                tcp::expect_echo(&mut ours, round, 5000);
            }
        }
        assert_eq!(one.flows("--proto tcp").len(), 1);
    }

    #[test]
    fn udp_of_ours_goes_on() {
        let reference = Reference::new();
        let foreigner = another_network(&reference);
        let _one = alone(&reference);
        let server = udp::Server::echo(reference.outside.ns(), 5300);
        let ours = udp::socket(reference.n1().ns(), 41000);
        let theirs = udp::socket(foreigner.ns(), 41000);
        expect_echo_among_others(&ours, (OUTSIDE, 5300), b"ours before");
        for round in [b"ours 1", b"ours 2", b"ours 3"] {
            theirs.send_to(b"theirs", (OUTSIDE, 5300)).expect("a route");
            ping(foreigner.ns(), "-c 1", OUTSIDE).expect_answered_by(OUTSIDE);
            expect_echo_among_others(&ours, (OUTSIDE, 5300), round);
        }
        let from = |text: &[u8]| server.received().into_iter().find(|it| it.1 == text).map(|it| it.0);
        assert_eq!(
            from(b"ours 3"),
            Some(SocketAddrV4::new(NODE1, 41000)),
            "from the same port: {:?}",
            server.received()
        );
    }
}

mod next_door {
    use super::*;

    /// Two containers, the first of which sends by way of the bridge's MAC address what it wants to the second.
    fn spoofer() -> (Reference, Xnat) {
        let reference = Reference::with_containers(2);
        believe_every_source(reference.node1.host.ns(), "br0");
        let one = alone(&reference);
        let victim = reference.node1.containers[1].address();
        reference.n1().ns().ip(&format!("route add {victim}/32 via 192.168.110.1"));
        (reference, one)
    }

    /// Sends packets in the outside server's name and waits until the host has had them.
    fn send_all(reference: &Reference, packets: &[Raw]) {
        let at_port = Capture::filtered(reference.n1().port(), "udp or tcp");
        for packet in packets {
            packet.send(reference.n1().ns());
        }
        at_port.expect_count("a spoofed packet", packets.len(), |p| p.src == OUTSIDE && p.ttl == 64);
        ping(reference.n1().ns(), "-c 1", Ipv4Addr::new(192, 168, 110, 1));
    }

    #[test]
    fn a_spoofer_does_not_end_a_connection_of_another_container() {
        let (reference, one) = spoofer();
        let server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
        let victim = &reference.node1.containers[1];
        let mut stream = tcp::expect_connect(victim.ns(), 40000, (OUTSIDE, 80));
        tcp::expect_echo(&mut stream, 1, 5000);
        let segment = |flags| Raw::tcp((OUTSIDE, 80), (victim.address(), 40000), flags, 1, 1);
        send_all(&reference, &[segment(SYN), segment(ACK), segment(SYN | ACK)]);
        for round in 0..3 {
            tcp::expect_echo(&mut stream, round, 5000);
        }
        assert_eq!((server.clients().len(), one.flows("--proto tcp").len()), (1, 1));
    }

    #[test]
    fn a_spoofer_does_not_end_a_udp_flow_of_another_container() {
        let (reference, _one) = spoofer();
        let server = udp::Server::echo(reference.outside.ns(), 5300);
        let victim = &reference.node1.containers[1];
        let socket = udp::socket(victim.ns(), 41000);
        expect_echo_among_others(&socket, (OUTSIDE, 5300), b"before");
        send_all(&reference, &[Raw::udp((OUTSIDE, 5300), (victim.address(), 41000), b"spoofed")]);
        expect_echo_among_others(&socket, (OUTSIDE, 5300), b"after");
        assert!(server.received().iter().all(|(from, _)| *from == SocketAddrV4::new(NODE1, 41000)));
    }

    #[test]
    fn a_spoofer_does_not_keep_another_container_from_connecting() {
        let (reference, _one) = spoofer();
        let victim = &reference.node1.containers[1];
        let _server = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
        let _echo = udp::Server::echo(reference.outside.ns(), 5300);
        let to = |port| (victim.address(), port);
        send_all(
            &reference,
            &[Raw::tcp((OUTSIDE, 80), to(40000), ACK, 1, 1), Raw::udp((OUTSIDE, 5300), to(41000), b"spoofed")],
        );
        victim.ns().within(|| tcp::visit(40000, (OUTSIDE, 80), 1, 5000)).expect("an echo");
        expect_echo_among_others(&udp::socket(victim.ns(), 41000), (OUTSIDE, 5300), b"after");
    }
}

mod a_bridge_made_anew {
    use super::*;

    /// Deletes node1's bridge and makes it again, as a restart of the network does.
    fn make_anew(reference: &Reference) {
        let (host, n1) = (&reference.node1.host, reference.n1());
        host.ns().ip("link delete br0");
        host.bridge("br0", "192.168.110.1/24");
        let port = n1.port().1;
        host.ns().ip(&format!("link set {port} master br0"));
        wait::until_true("the bridge port forwards", SOON, || {
            host.ns().ip(&format!("-d link show dev {port}")).contains("state forwarding")
        });
        // The new bridge has another MAC address.
        n1.ns().ip("neighbour flush all");
    }

    #[test]
    fn does_not_lose_a_udp_flow_that_its_container_uses() {
        let reference = Reference::new();
        let (one, _two) = xnat::start_both(&reference);
        let in_n2 = udp::Server::echo(reference.n2().ns(), 5300);
        let outside = udp::Server::echo(reference.outside.ns(), 5300);
        let socket = udp::socket(reference.n1().ns(), 41000);
        let places = [(N2, &in_n2), (OUTSIDE, &outside)];
        for (place, _) in places {
            expect_echo_among_others(&socket, (place, 5300), b"before");
        }
        make_anew(&reference);
        for (place, server) in places {
            expect_echo_among_others(&socket, (place, 5300), b"after");
            let last = server.received().pop().expect("what was echoed");
            assert_eq!(last, (SocketAddrV4::new(NODE1, 41000), b"after".to_vec()), "as before");
        }
        assert!(one.status().running);
    }

    #[test]
    fn does_not_lose_a_udp_flow_whose_other_end_speaks_first() {
        let reference = Reference::new();
        let (_one, _two) = xnat::start_both(&reference);
        let in_n2 = udp::Server::silent(reference.n2().ns(), 5300);
        let in_n1 = udp::Server::silent(reference.n1().ns(), 41000);
        in_n1.send((N2, 5300), b"before");
        wait::until_true("n2 is asked", SOON, || !in_n2.received().is_empty());
        in_n2.send((NODE1, 41000), b"before");
        wait::until_true("n1 is answered", SOON, || !in_n1.received().is_empty());
        make_anew(&reference);
        let after = (SocketAddrV4::new(N2, 5300), b"after".to_vec());
        wait::until_true("n1 hears from n2", SOON, || {
            in_n2.send((NODE1, 41000), b"after");
            in_n1.received().contains(&after)
        });
        let answer = (SocketAddrV4::new(NODE1, 41000), b"answer".to_vec());
        wait::until_true("n2 hears from n1", SOON, || {
            in_n1.send((N2, 5300), b"answer");
            in_n2.received().contains(&answer)
        });
    }

    #[test]
    fn does_not_lose_a_udp_flow_that_a_peers_container_has_opened() {
        let reference = Reference::new();
        let (_one, _two) = xnat::start_both(&reference);
        let in_n1 = udp::Server::echo(reference.n1().ns(), 5300);
        let socket = udp::socket(reference.n2().ns(), 41000);
        expect_echo_among_others(&socket, (N1, 5300), b"before");
        make_anew(&reference);
        expect_echo_among_others(&socket, (N1, 5300), b"after");
        in_n1.send((NODE2, 41000), b"unasked");
        let mut buffer = [0; 64];
        wait::until_true("n2 hears from n1", SOON, || {
            in_n1.send((NODE2, 41000), b"unasked");
            socket.recv_from(&mut buffer).is_ok_and(|(length, _)| &buffer[..length] == b"unasked")
        });
    }

    #[test]
    fn does_not_lose_a_connection() {
        let reference = Reference::new();
        let (_one, _two) = xnat::start_both(&reference);
        let _in_n2 = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
        let _outside = tcp::Server::start(reference.outside.ns(), 80, Service::Echo);
        let mut streams = [N2, OUTSIDE].map(|place| tcp::expect_connect(reference.n1().ns(), 40000, (place, 80)));
        for stream in &mut streams {
            tcp::expect_echo(stream, 1, 5000);
        }
        make_anew(&reference);
        for stream in &mut streams {
            tcp::expect_echo(stream, 2, 5000);
        }
    }
}
