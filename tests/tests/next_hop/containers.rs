//! Containers and their bridge.

use std::net::Ipv4Addr;

use xnat_tests::host::Container;
use xnat_tests::netns::Namespace;
use xnat_tests::topology::{ANYWHERE, N1, N2, Reference};
use xnat_tests::xnat::{self, Xnat};

use super::{A_SECOND_AND_MORE, AT_ONCE, Talk, change_mac, expect_forwarding, expect_neighbour, join, mac_of, pins};

const NEW_MAC: &str = "02:00:5e:00:00:bb";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 1);
/// Another address of the same subnet.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 2);

/// Flows of n1's in all directions.
struct Talks {
    reference: Reference,
    all: [Talk; 3],
    xnat: (Xnat, Xnat),
}

impl Talks {
    fn begin() -> Self {
        let reference = Reference::new();
        let xnat = xnat::start_both(&reference);
        let (n1, n2) = (reference.n1().ns(), reference.n2().ns());
        let outside = Talk::begin(n1, reference.outside.ns(), ANYWHERE);
        let from_the_peer = Talk::begin(n2, n1, N1);
        let to_the_peer = Talk::begin_at(n1, 41001, n2, N2);
        Self { all: [outside, from_the_peer, to_the_peer], reference, xnat }
    }

    fn host(&self) -> &Namespace {
        self.reference.node1.host.ns()
    }

    fn n1(&self) -> &Container {
        self.reference.n1()
    }

    #[track_caller]
    fn expect_to_go_on(&mut self) {
        self.all.iter_mut().for_each(|talk| talk.udp.expect_run(AT_ONCE));
        self.all.iter_mut().for_each(Talk::expect_connection);
    }

    #[track_caller]
    fn keep_on(&mut self) {
        self.all.iter_mut().for_each(|talk| talk.keep_on(A_SECOND_AND_MORE));
    }
}

#[test]
fn packets_go_straight_to_the_port_and_to_the_uplink() {
    let Talks { reference, mut all, xnat: (one, _two) } = Talks::begin();
    for interface in [reference.n1().port().1, "eth0"] {
        pins::expect_express(&one, interface, || all.iter_mut().for_each(|talk| _ = talk.udp.is_echoed()));
    }
}

#[test]
fn a_container_changes_its_mac_address() {
    let mut talks = Talks::begin();
    change_mac(talks.n1().ns(), "eth0", NEW_MAC);
    expect_neighbour(talks.host(), N1, NEW_MAC);
    talks.expect_to_go_on();
}

#[test]
fn a_container_moves_to_another_port_with_its_addresses() {
    let mut talks = Talks::begin();
    let mac = talks.n1().mac();
    for port in ["moved", "back"] {
        talks.n1().ns().ip("link delete eth0");
        join(talks.host(), talks.n1(), port, &mac, GATEWAY);
        talks.expect_to_go_on();
    }
}

#[test]
fn a_container_is_started_anew() {
    let mut talks = Talks::begin();
    let mut n1 = talks.n1().clone();
    let before = n1.mac();
    n1.stop();
    n1.start();
    assert_ne!(n1.mac(), before);
    talks.expect_to_go_on();
}

#[test]
fn a_port_goes_down_and_comes_back() {
    let mut talks = Talks::begin();
    let port = talks.n1().port().1.to_owned();
    talks.host().ip(&format!("link set {port} down"));
    assert!(!talks.all[0].udp.is_echoed(), "through a port that is down");
    talks.host().ip(&format!("link set {port} up"));
    expect_forwarding(talks.host(), &port);
    talks.expect_to_go_on();
}

#[test]
fn a_port_leaves_its_bridge_and_joins_it_again() {
    let mut talks = Talks::begin();
    let port = talks.n1().port().1.to_owned();
    talks.host().ip(&format!("link set {port} nomaster"));
    talks.host().ip(&format!("link set {port} master br0"));
    expect_forwarding(talks.host(), &port);
    talks.expect_to_go_on();
}

#[test]
fn a_containers_neighbour_entry_is_deleted() {
    let mut talks = Talks::begin();
    for _ in 0..3 {
        talks.host().ip(&format!("neighbour delete {N1} dev br0"));
        talks.expect_to_go_on();
        talks.keep_on();
    }
}

#[test]
fn a_bridge_gets_another_address_and_loses_it() {
    let mut talks = Talks::begin();
    for change in ["add", "delete"] {
        talks.host().ip(&format!("address {change} {SECOND}/24 dev br0"));
        talks.expect_to_go_on();
    }
}

#[test]
fn a_bridges_address_is_replaced_by_another_and_back() {
    let mut talks = Talks::begin();
    // Nobody answers for the gateway's address while the bridge has the other one.
    let gateway = mac_of(talks.host(), "br0");
    talks.n1().ns().ip(&format!("neighbour replace {GATEWAY} lladdr {gateway} dev eth0 nud permanent"));
    for (old, new) in [(GATEWAY, SECOND), (SECOND, GATEWAY)] {
        talks.host().shell(&format!("ip address delete {old}/24 dev br0; ip address add {new}/24 dev br0"));
        talks.expect_to_go_on();
        talks.keep_on();
    }
}

#[test]
fn a_bridge_changes_its_mac_address() {
    let mut talks = Talks::begin();
    change_mac(talks.host(), "br0", NEW_MAC);
    expect_neighbour(talks.n1().ns(), GATEWAY, NEW_MAC);
    talks.expect_to_go_on();
}

/// The host is told nothing when a station changes places behind a switch of its own: no port of the host's bridge goes
/// up or down.
#[test]
fn a_container_behind_a_switch_turns_up_at_another_port() {
    let mut talks = Talks::begin();
    let switch = Namespace::new("switch");
    switch.ip("link add sw0 type bridge");
    switch.ip("link set sw0 up");
    let mac = talks.n1().mac();
    talks.n1().ns().ip("link delete eth0");
    for port in ["one", "two"] {
        switch.ip(&format!("link add {port} type veth peer name {port} netns {}", talks.host().name()));
        switch.ip(&format!("link set {port} up"));
        talks.host().ip(&format!("link set {port} up"));
        talks.host().ip(&format!("link set {port} master br0"));
        expect_forwarding(talks.host(), port);
    }
    let n1 = talks.n1().ns();
    n1.ip(&format!("link add eth0 address {mac} type veth peer name n1 netns {}", switch.name()));
    n1.ip("link set eth0 up");
    switch.ip("link set n1 up");
    switch.ip("link set n1 master sw0");
    expect_forwarding(&switch, "n1");
    n1.ip(&format!("address add {N1}/24 dev eth0"));
    n1.ip(&format!("route add default via {GATEWAY}"));
    let mut last = "two";
    for port in ["one", "two", "one"] {
        switch.ip(&format!("link set {last} nomaster"));
        switch.ip(&format!("link set {port} master sw0"));
        expect_forwarding(&switch, port);
        talks.expect_to_go_on();
        last = port;
    }
}

#[test]
fn a_port_carries_nothing_while_the_bridge_looks_for_loops() {
    let mut talks = Talks::begin();
    let port = talks.n1().port().1.to_owned();
    // In hundredths of a second; the least that the spanning tree protocol allows, which passes twice.
    talks.host().ip("link set br0 type bridge stp_state 1 forward_delay 200");
    talks.host().ip(&format!("link set {port} down"));
    talks.host().ip(&format!("link set {port} up"));
    // From the peer: the bridge is the one to say whether it gets through.
    assert!(!talks.all[1].udp.is_echoed(), "through a port that only listens");
    expect_forwarding(talks.host(), &port);
    talks.expect_to_go_on();
}
