//! What programs find out that ask what kind of NAT they are behind.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use xnat_tests::netns::unique;
use xnat_tests::process::{self, Running};
use xnat_tests::topology::{N1, NODE1, OUTSIDE, Reference, SUBNET1};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

/// The server's other address: RFC 5780 needs two of them.
const SECOND: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 101);

/// A STUN server that answers from four places, after RFC 5780.
struct Stun {
    _server: Running,
    folder: std::path::PathBuf,
}

impl Stun {
    fn start(reference: &Reference) -> Self {
        let ns = reference.outside.ns();
        ns.ip(&format!("address add {SECOND}/24 dev eth0"));
        let folder = std::env::temp_dir().join(unique("stun"));
        std::fs::create_dir(&folder).expect("a folder");
        let mut command = ns.command("turnserver");
        // What is not for finding out about NATs is switched off; -n: no file of settings.
        command.args([
            "-n",
            "--stun-only",
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "--log-file",
            "stdout",
            "--simple-log",
        ]);
        command.args(["--no-tcp", "--no-tcp-relay", "--no-auth", "--relay-threads", "1"]);
        for address in [OUTSIDE, SECOND] {
            command.args(["--listening-ip", &address.to_string()]);
        }
        command.args(["--relay-ip", &OUTSIDE.to_string()]);
        command.arg("--pidfile").arg(folder.join("pid")).arg("--userdb").arg(folder.join("db"));
        let server = Running::start(&mut command);
        wait::until_true("the STUN server listens at four places", SOON, || {
            let sockets = ns.shell("ss -Hlun 'sport = 3478 or sport = 3479'");
            [OUTSIDE, SECOND].iter().all(|ip| [3478, 3479].iter().all(|port| sockets.contains(&format!("{ip}:{port}"))))
        });
        Self { _server: server, folder }
    }
}

impl Drop for Stun {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What `turnutils_natdiscovery` concludes in a container that uses this port.
#[track_caller]
fn discover(reference: &Reference, port: u16) -> Vec<String> {
    let mut command = reference.n1().ns().command("turnutils_natdiscovery");
    command.args(["-m", "-f", "-L", &N1.to_string(), "-l", &port.to_string(), &OUTSIDE.to_string()]);
    let finished = process::run(&mut command, Duration::from_secs(60));
    let conclusions: Vec<String> =
        finished.stdout.lines().filter(|line| line.starts_with("NAT with")).map(str::to_owned).collect();
    assert_eq!(conclusions.len(), 2, "about mapping and about filtering: {finished}");
    conclusions
}

fn started(words: &str) -> (Reference, Xnat, Stun) {
    let reference = Reference::with_containers(2);
    let stun = Stun::start(&reference);
    let xnat = Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1} {words}"));
    (reference, xnat, stun)
}

/// Another container has the port toward the server's first place, so that it cannot be kept there.
fn occupy(reference: &Reference, xnat: &Xnat, port: u16) {
    let other = udp::socket(reference.node1.containers[1].ns(), port);
    other.send_to(b"not STUN", (OUTSIDE, 3478)).expect("a route");
    xnat.expect_flow("the other container's", |flow| flow.original.sport == Some(port));
}

#[test]
fn natdiscovery_reports_endpoint_independent_mapping_and_address_dependent_filtering() {
    let (reference, xnat, _stun) = started("");
    let expected = ["NAT with Endpoint Independent Mapping!", "NAT with Address Dependent Filtering!"];
    assert_eq!(discover(&reference, 40000), expected);
    occupy(&reference, &xnat, 40001);
    assert_eq!(discover(&reference, 40001), expected, "on a port that had to be changed");
}

#[test]
fn natdiscovery_reports_the_filtering_that_was_selected() {
    for (words, expected) in [
        ("endpoint-independent", "NAT with Endpoint Independent Filtering!"),
        ("address-dependent", "NAT with Address Dependent Filtering!"),
        ("address-and-port-dependent", "NAT with Address and Port Dependent Filtering!"),
    ] {
        let (reference, _xnat, _stun) = started(&format!("--filtering {words}"));
        assert_eq!(discover(&reference, 40000), ["NAT with Endpoint Independent Mapping!", expected], "{words}");
    }
}

#[test]
fn natdiscovery_reports_a_mapping_that_depends_on_the_destination() {
    for words in ["address-dependent", "address-and-port-dependent"] {
        let (reference, xnat, _stun) = started(&format!("--mapping {words}"));
        occupy(&reference, &xnat, 40000);
        let [mapping, filtering] = discover(&reference, 40000).try_into().expect("two");
        assert_ne!(mapping, "NAT with Endpoint Independent Mapping!", "{words}");
        assert_ne!(filtering, "NAT with Endpoint Independent Filtering!", "never weaker than the mapping: {words}");
    }
}

/// As pystun3 does it, and what it stumbles over behind other NATs: an answer from elsewhere, or a packet that nobody asked
/// for, makes the next mapping another one.
#[test]
fn packets_that_nobody_asked_for_do_not_change_a_mapping() {
    let reference = Reference::new();
    let outside = reference.outside.ns();
    outside.ip(&format!("address add {SECOND}/24 dev eth0"));
    let _xnat = Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"));
    let servers: Vec<UdpSocket> = outside.within(|| {
        let place = |place: (Ipv4Addr, u16)| {
            let socket = UdpSocket::bind(place).expect("an address of the outside's");
            socket.set_read_timeout(Some(SOON)).expect("a valid time-out");
            socket
        };
        [(OUTSIDE, 3478), (OUTSIDE, 3479), (SECOND, 3478), (SECOND, 3479)].map(place).into()
    });
    for port in [40000, 40001] {
        // Before the container has said anything, and from each place to which it will.
        for server in &servers {
            server.send_to(b"nobody asked", (NODE1, port)).expect("a route");
        }
        let socket = udp::socket(reference.n1().ns(), port);
        socket.set_read_timeout(Some(SOON)).expect("a valid time-out");
        for (n, server) in servers.iter().enumerate() {
            socket.send_to(&[n as u8], server.local_addr().expect("bound")).expect("a route");
            let from = receive(server, &[n as u8]);
            assert_eq!(from, SocketAddr::from((NODE1, port)), "seen by server {n}");
            // From everywhere but where it has sent to last.
            for stranger in servers.iter().filter(|other| other.local_addr().ok() != server.local_addr().ok()) {
                stranger.send_to(b"an answer of another's", from).expect("a route");
            }
            server.send_to(b"an answer", from).expect("a route");
            assert_eq!(receive(&socket, b"an answer"), server.local_addr().expect("bound"));
        }
    }
}

/// Awaits this payload, past whatever else comes, and returns who sent it.
#[track_caller]
fn receive(socket: &UdpSocket, wanted: &[u8]) -> SocketAddr {
    let mut buffer = [0; 64];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == *wanted => return from,
            // An ICMP error about something that was sent before.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => panic!("{wanted:?} did not come: {error}"),
            Ok(_) => {}
        }
    }
}
