//! Hooks at ports that come and go.

use std::ffi::CString;
use std::time::Instant;

use aya::programs::{SchedClassifier, TcAttachType};
use xnat_tests::host::Container;
use xnat_tests::netns::Namespace;
use xnat_tests::topology::{ANYWHERE, Reference, SUBNET1};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::Xnat;

use super::{AT_ONCE, expect_forwarding};

/// Whether a program is hooked to what comes in at an interface of the namespace that this thread is in.
fn is_hooked_here(port: &str) -> bool {
    let port = CString::new(port).expect("a name");
    SchedClassifier::query_tcx(port.as_c_str(), TcAttachType::Ingress).is_ok_and(|(_, programs)| !programs.is_empty())
}

fn is_hooked(host: &Namespace, port: &str) -> bool {
    host.within(|| is_hooked_here(port))
}

#[test]
fn are_attached_as_ports_join_and_removed_as_they_leave() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let one = Xnat::start(host, &format!("--subnet {SUBNET1}"));
    let pins = || one.files().iter().filter(|path| path.contains("/links/")).count();
    let before = pins();
    host.ip("link add late type veth peer name late0");
    host.ip("link set late up");
    host.ip("link set late0 up");
    host.ip("link set late master br0");
    let joined = Instant::now();
    // The hook is there a grace period before it is pinned.
    let is_hooked_for_good = || is_hooked(host, "late") && pins() == before + 1;
    wait::until_true("the port is hooked", AT_ONCE, is_hooked_for_good);
    println!("hooked and pinned within {:?} of joining", joined.elapsed());
    host.ip("link set late nomaster");
    wait::until_true("the port is released", AT_ONCE, || !is_hooked(host, "late") && pins() == before);
    host.ip("link set late master br0");
    wait::until_true("the port is hooked again", AT_ONCE, is_hooked_for_good);
    host.ip("link delete late");
    wait::until_true("nothing of it is left", AT_ONCE, || pins() == before);
}

#[test]
fn are_attached_to_a_hundred_ports_at_once() {
    let reference = Reference::new();
    let host = reference.node1.host.ns();
    let one = Xnat::start(host, &format!("--subnet {SUBNET1}"));
    let names: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let begun = Instant::now();
    let line = |name: &String| {
        format!(
            "ip link add {name} type veth peer name {name}e; ip link set {name} up master br0; ip link set {name}e up"
        )
    };
    host.shell(&names.iter().map(line).collect::<Vec<_>>().join("\n"));
    let joined = Instant::now();
    wait::until_true("all are hooked", SOON, || host.within(|| names.iter().all(|name| is_hooked_here(name))));
    println!("joined within {:?}, hooked {:?} later", joined - begun, joined.elapsed());
    assert!(one.status().running);
    let container: &Container = reference.n1();
    expect_forwarding(host, container.port().1);
    xnat_tests::program::ping(container.ns(), "-c 2", ANYWHERE).expect_answered_by(ANYWHERE);
}
