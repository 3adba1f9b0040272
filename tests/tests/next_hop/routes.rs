//! Routes that lead elsewhere from now on.

use xnat_tests::host::Host;
use xnat_tests::netns::Namespace;
use xnat_tests::topology::{ANYWHERE, OUTSIDE, Reference};
use xnat_tests::wait::{self, SOON};
use xnat_tests::{udp, xnat};

use super::{PORT, Talk};

const OTHER: &str = "172.29.0.101";

/// Makes a running flow take another router by what `change` does on node1, which `back` undoes.
fn goes_by_another_router(prepare: impl Fn(&Namespace), change: impl Fn(&Namespace), back: impl Fn(&Namespace)) {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    prepare(host);
    let _xnat = xnat::start_both(&reference);
    // It is the same place that both lead to: the answers tell which way a packet took.
    let other = Host::new(&reference.lan, "other", &format!("{OTHER}/24"));
    other.ns().ip(&format!("address add {ANYWHERE}/32 dev lo"));
    let there = udp::Server::echo_at(other.ns(), (ANYWHERE, PORT));
    let mut talk = Talk::begin(reference.n1().ns(), reference.outside.ns(), ANYWHERE);
    for _ in 0..2 {
        let (first, second) = (talk.server.received().len(), there.received().len());
        change(host);
        wait::until_true("the other router has the packets and the answers come", SOON, || {
            talk.is_echoed() && there.received().len() > second
        });
        back(host);
        wait::until_true("the first router has them again", SOON, || {
            talk.is_echoed() && talk.server.received().len() > first
        });
        talk.expect_to_go_on();
    }
}

#[test]
fn by_a_route_of_its_own() {
    goes_by_another_router(
        |_| {},
        |host| _ = host.ip(&format!("route add {ANYWHERE}/32 via {OTHER}")),
        |host| _ = host.ip(&format!("route delete {ANYWHERE}/32 via {OTHER}")),
    );
}

#[test]
fn by_another_default_route() {
    goes_by_another_router(
        |_| {},
        |host| _ = host.ip(&format!("route replace default via {OTHER}")),
        |host| _ = host.ip(&format!("route replace default via {OUTSIDE}")),
    );
}

#[test]
fn by_a_rule() {
    goes_by_another_router(
        |host| _ = host.ip(&format!("route add default via {OTHER} table 100")),
        |host| _ = host.ip(&format!("rule add to {ANYWHERE} lookup 100")),
        |host| _ = host.ip(&format!("rule delete to {ANYWHERE} lookup 100")),
    );
}

#[test]
fn by_another_next_hop_of_the_same_route() {
    goes_by_another_router(
        |host| {
            host.ip(&format!("nexthop add id 7 via {OUTSIDE} dev eth0"));
            host.ip(&format!("route add {ANYWHERE}/32 nhid 7"));
        },
        |host| _ = host.ip(&format!("nexthop replace id 7 via {OTHER} dev eth0")),
        |host| _ = host.ip(&format!("nexthop replace id 7 via {OUTSIDE} dev eth0")),
    );
}
