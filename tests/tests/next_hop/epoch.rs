//! What the daemon tells the dataplane of changes, at a host where nothing else happens.

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use xnat_common::Ticks;
use xnat_tests::host::{Host, Lan};
use xnat_tests::netns::Namespace;
use xnat_tests::topology::SUBNET1;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

use super::{AT_ONCE, pins};

const ROUTER: &str = "172.29.0.100";

/// A host with an uplink and a bridge without containers.
fn quiet_host() -> Host {
    let host = Host::new(&Lan::new(), "quiet", "172.29.0.4/24");
    host.ns().ip(&format!("route add default via {ROUTER}"));
    host.bridge("br0", "192.168.110.1/24");
    host
}

fn is_watched(xnat: &Xnat) -> bool {
    let now: std::time::Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock").into();
    pins::watch(xnat).is_watched(Ticks::from_ns(now.as_nanos() as u64))
}

/// Awaits that the epoch has been raised by what `change` does.
#[track_caller]
fn expect_raised(xnat: &Xnat, what: &str, change: impl FnOnce()) {
    let before = pins::watch(xnat).epoch;
    change();
    wait::until_true(what, AT_ONCE, || pins::watch(xnat).epoch > before);
}

#[test]
fn rises_with_every_change_that_matters() {
    let host = quiet_host();
    let ns = host.ns();
    let one = Xnat::start(ns, &format!("--subnet {SUBNET1}"));
    wait::until_true("changes are watched for", SOON, || is_watched(&one));
    ns.ip("link add port0 type veth peer name port1");
    ns.ip("link set port0 up");
    ns.ip("link set port1 up");
    ns.ip(&format!("neighbour replace {ROUTER} lladdr 02:00:00:00:00:01 dev eth0"));
    for words in [
        format!("neighbour replace {ROUTER} lladdr 02:00:00:00:00:02 dev eth0"),
        format!("neighbour delete {ROUTER} dev eth0"),
        format!("route add 198.51.100.0/24 via {ROUTER}"),
        format!("route add 198.51.100.0/24 via {ROUTER} table 100"),
        "route delete 198.51.100.0/24 table 100".to_owned(),
        "rule add to 198.51.100.0/24 lookup main".to_owned(),
        "rule delete to 198.51.100.0/24 lookup main".to_owned(),
        format!("nexthop add id 7 via {ROUTER} dev eth0"),
        "address add 172.29.0.5/32 dev eth0".to_owned(),
        "address delete 172.29.0.5/32 dev eth0".to_owned(),
        "link set eth0 mtu 1400".to_owned(),
        "link set eth0 address 02:00:00:00:00:04".to_owned(),
        "link set br0 address 02:00:00:00:00:05".to_owned(),
        "link set port0 master br0".to_owned(),
        "link set port0 nomaster".to_owned(),
    ] {
        expect_raised(&one, &words, || _ = ns.ip(&words));
    }
}

#[test]
fn rises_as_stations_move_behind_a_bridge() {
    let host = quiet_host();
    let ns = host.ns();
    for port in ["port0", "port1"] {
        ns.ip(&format!("link add {port} type veth peer name {port}e"));
        ns.ip(&format!("link set {port} master br0"));
    }
    let one = Xnat::start(ns, &format!("--subnet {SUBNET1}"));
    let bridge = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        expect_raised(&one, &words.join(" "), || _ = ns.run(&words));
    };
    bridge("bridge fdb add 02:00:00:00:00:07 dev port0 master static");
    bridge("bridge fdb replace 02:00:00:00:00:07 dev port1 master static");
    bridge("bridge fdb delete 02:00:00:00:00:07 dev port1 master");
}

#[test]
fn stays_while_nothing_matters() {
    let host = quiet_host();
    let ns = host.ns();
    let one = Xnat::start(ns, &format!("--subnet {SUBNET1}"));
    wait::until_true("changes are watched for", SOON, || is_watched(&one));
    let before = pins::watch(&one).epoch;
    let neighbour = |words: &str| _ = ns.ip(&format!("neighbour replace {words}"));
    // Another state, a new neighbour, one that does not answer, and one on an interface that is none of ours.
    for state in ["permanent", "reachable", "stale"] {
        neighbour(&format!("{ROUTER} lladdr 02:00:00:00:00:01 dev eth0 nud {state}"));
    }
    neighbour("172.29.0.9 dev eth0 nud failed");
    neighbour("10.0.0.1 lladdr 02:00:00:00:00:01 dev lo nud permanent");
    neighbour("10.0.0.1 lladdr 02:00:00:00:00:02 dev lo nud permanent");
    // What is told after all that.
    neighbour(&format!("{ROUTER} lladdr 02:00:00:00:00:02 dev eth0 nud stale"));
    wait::until_true("the last one is heard of", AT_ONCE, || pins::watch(&one).epoch > before);
    assert_eq!(pins::watch(&one).epoch, before + 1);
}

#[test]
fn is_not_relied_on_without_a_daemon() {
    let host = quiet_host();
    let ns: &Namespace = host.ns();
    let mut one = Xnat::start(ns, &format!("--subnet {SUBNET1}"));
    wait::until_true("changes are watched for", SOON, || is_watched(&one));
    one.stop(Signal::SIGKILL);
    let before = pins::watch(&one).epoch;
    wait::until_true("its word is not good any more", SOON, || !is_watched(&one));
    one.restart();
    wait::until_true("changes are watched for again", SOON, || is_watched(&one));
    assert!(pins::watch(&one).epoch > before, "what was remembered is so no more");
}
