//! Many flows, big flows, and hosts that are more than two.

use std::net::SocketAddrV4;

use xnat_tests::capture::Capture;
use xnat_tests::packet::{FIN, TCP};
use xnat_tests::program::{self, ping};
use xnat_tests::tcp::{self, Service};
use xnat_tests::topology::{N1, N2, N3, NODE1, NODE2, NODE3, Reference, SUBNET1, SUBNET2, SUBNET3};
use xnat_tests::xnat;

#[test]
fn three_hundred_connections_at_once_are_verified() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    tcp::expect_crowd(reference.n1().ns(), (N2, 80), 300, 20_000);
    let mut clients = server.clients();
    assert!(clients.iter().all(|client| *client.ip() == NODE1));
    clients.sort_unstable();
    clients.dedup();
    assert_eq!(clients.len(), 300);
}

#[test]
fn a_thousand_short_connections_do_not_fail_once() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Echo);
    tcp::expect_visits(reference.n1().ns(), (N2, 80), 1000);
    // And again, over ports that were used a moment ago.
    tcp::expect_visits(reference.n1().ns(), (N2, 80), 1000);
}

#[test]
fn a_source_port_may_be_used_again_at_once() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    // The server closes first, so that it is the server that remembers the connection (TIME_WAIT).
    let _server = tcp::Server::start(reference.n2().ns(), 80, Service::Whoami);
    for round in 0..20 {
        let seen = tcp::whoami(reference.n1().ns(), 40000, (N2, 80));
        assert_eq!(seen, SocketAddrV4::new(NODE1, 40000), "round {round}");
    }
}

#[test]
fn two_hundred_megabytes_arrive_as_they_were_sent() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let in_n2 = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    let in_n1 = tcp::Server::start(reference.n1().ns(), 0, Service::Sink);
    tcp::expect_transfer(reference.n1().ns(), (N2, in_n2.port()), 200_000_000);
    tcp::expect_transfer(reference.n2().ns(), (N1, in_n1.port()), 200_000_000);
}

#[test]
fn a_transfer_without_any_offload_arrives_too() {
    let reference = Reference::new();
    reference.node1.set_offload(false);
    reference.node2.set_offload(false);
    let _xnat = xnat::start_both(&reference);
    let sink = tcp::Server::start(reference.n2().ns(), 0, Service::Sink);
    let wire = Capture::filtered(reference.node1.host.wire(), "tcp");
    tcp::expect_transfer(reference.n1().ns(), (N2, sink.port()), 3_000_000);
    wire.expect("the end", |p| p.proto == TCP && p.flags & FIN != 0);
    wire.expect_none("a wrong checksum", |p| !p.checksums_right());
}

#[test]
fn iperf3_runs_in_both_directions_and_over_udp() {
    let reference = Reference::new();
    let _xnat = xnat::start_both(&reference);
    let _server = program::iperf3_server(reference.n2().ns(), 5201);
    let n1 = reference.n1().ns();
    for words in ["-n 100M -P 4", "-n 100M -R"] {
        let report = program::iperf3(n1, words, N2, 5201);
        assert!(report["end"]["sum_sent"]["bytes"].as_u64() >= Some(100_000_000), "{words}: {report}");
    }
    let report = program::iperf3(n1, "-u -b 20M -n 5M -l 1400", N2, 5201);
    assert_eq!(report["end"]["sum"]["lost_packets"].as_u64(), Some(0), "{report}");
}

#[test]
fn three_hosts_in_a_mesh_reach_each_other() {
    let reference = Reference::new();
    let third = reference.node3();
    let nodes = [(&reference.node1, NODE1, SUBNET1), (&reference.node2, NODE2, SUBNET2), (&third, NODE3, SUBNET3)];
    let _xnat = xnat::start_mesh(&nodes);
    for (from, from_address, _) in nodes {
        for (to, to_address, _) in nodes.into_iter().filter(|(_, address, _)| *address != from_address) {
            let (client, container) = (&from.containers[0], &to.containers[0]);
            ping(client.ns(), "-c 2", container.address()).expect_answered_by(container.address());
            let server = tcp::Server::start(container.ns(), 80, Service::Echo);
            client.ns().within(|| tcp::visit(0, (container.address(), 80), 5, 10_000)).expect("an echo");
            assert!(server.clients().iter().all(|seen| *seen.ip() == from_address), "{from_address} > {to_address}");
        }
    }
    assert_eq!(N3, third.containers[0].address());
}
