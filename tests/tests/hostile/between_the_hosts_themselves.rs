//! Between the hosts themselves.

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
    assert!(rules.lines().nth(2).is_some_and(|rule| !rule.trim_start().starts_with("0 ")), "no reset lost: {rules}");
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
