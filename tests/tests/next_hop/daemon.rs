//! Changes that no daemon sees.

use std::time::Duration;

use nix::sys::signal::Signal;
use xnat_common::hop::Watch;
use xnat_tests::topology::{ANYWHERE, N1, N2, OUTSIDE, Reference};
use xnat_tests::xnat;

use super::{A_SECOND_AND_MORE, AT_ONCE, Talk, change_mac, expect_neighbour};

/// How soon flows have to go on where nobody tells of changes: the daemon's word is good for a while.
const UNTOLD: Duration = AT_ONCE.saturating_add(Duration::from_secs(Watch::SECONDS as u64));

#[test]
fn mac_addresses_change_after_the_daemon_was_killed() {
    let reference = Reference::new();
    let (mut one, _two) = xnat::start_both(&reference);
    let host = reference.node1.host.ns();
    let mut outside = Talk::begin(reference.n1().ns(), reference.outside.ns(), ANYWHERE);
    let mut from_the_peer = Talk::begin(reference.n2().ns(), reference.n1().ns(), N1);
    one.stop(Signal::SIGKILL);
    change_mac(reference.outside.ns(), "eth0", "02:00:5e:00:00:aa");
    change_mac(reference.n1().ns(), "eth0", "02:00:5e:00:00:bb");
    expect_neighbour(host, OUTSIDE, "02:00:5e:00:00:aa");
    expect_neighbour(host, N1, "02:00:5e:00:00:bb");
    outside.expect_to_go_on_within(UNTOLD);
    from_the_peer.expect_to_go_on_within(UNTOLD);
    // And back under a new one, which knows nothing of what was.
    one.restart();
    outside.expect_to_go_on();
    outside.keep_on(A_SECOND_AND_MORE);
    change_mac(reference.outside.ns(), "eth0", "02:00:5e:00:00:cc");
    expect_neighbour(host, OUTSIDE, "02:00:5e:00:00:cc");
    outside.expect_to_go_on();
    from_the_peer.expect_to_go_on();
}

#[test]
fn a_daemon_that_is_stopped_for_a_while_catches_up() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let mut there = Talk::begin(reference.n1().ns(), reference.n2().ns(), N2);
    let mut outside = Talk::begin_at(reference.n1().ns(), 41001, reference.outside.ns(), ANYWHERE);
    let process = nix::unistd::Pid::from_raw(one.id().cast_signed());
    nix::sys::signal::kill(process, Signal::SIGSTOP).expect("our own");
    change_mac(reference.outside.ns(), "eth0", "02:00:5e:00:00:aa");
    expect_neighbour(reference.node1.host.ns(), OUTSIDE, "02:00:5e:00:00:aa");
    outside.expect_to_go_on_within(UNTOLD);
    nix::sys::signal::kill(process, Signal::SIGCONT).expect("our own");
    outside.expect_to_go_on();
    there.expect_to_go_on();
    assert!(one.status().running);
}
