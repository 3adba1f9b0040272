//! Containers that come and go while somebody outside goes on sending.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use xnat_tests::netns::Namespace;
use xnat_tests::topology::{N1, NODE1, OUTSIDE, Reference};

use super::{alone, expect, udp_at};

/// Runs `then` while a client outside sends a datagram to port 5300 of the host again and again, from one port.
fn while_a_client_sends(outside: &Namespace, then: impl FnOnce()) {
    let client = udp_at(outside, (OUTSIDE, 7000));
    client.set_read_timeout(Some(Duration::from_millis(20))).expect("a valid timeout");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Refusals are what happens while nobody is there, and nobody answers.
                let _ = client.send_to(b"again", (NODE1, 5300));
                let _ = client.recv(&mut [0; 16]);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(then));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Docker: the entry that the stream has made before the port was published leads to the host for as long as the stream lasts.
#[test]
fn a_stream_that_began_before_its_forward_reaches_the_container() {
    let reference = Reference::new();
    let xnat = alone(&reference, "");
    let container = udp_at(reference.n1().ns(), (N1, 53));
    while_a_client_sends(reference.outside.ns(), || {
        let host = udp_at(reference.node1.host.ns(), (NODE1, 5300));
        expect(&host, b"again");
        drop(host);
        xnat.run("forward add udp:5300=192.168.110.11:53");
        expect(&container, b"again");
    });
}

/// Docker: the entry leads to where the container was.
#[test]
fn a_stream_reaches_a_container_that_was_restarted() {
    let mut reference = Reference::new();
    let _xnat = alone(&reference, "--forward udp:5300=192.168.110.11:53");
    let outside = reference.outside.ns().clone();
    let ns = reference.n1().ns().clone();
    while_a_client_sends(&outside, || {
        let before = udp_at(&ns, (N1, 53));
        expect(&before, b"again");
        drop(before);
        reference.node1.containers[0].stop();
        reference.node1.containers[0].start();
        let after = udp_at(&ns, (N1, 53));
        expect(&after, b"again");
    });
}

#[test]
fn a_stream_reaches_the_container_that_its_forward_leads_to_now() {
    let reference = Reference::with_containers(2);
    let xnat = alone(&reference, "--udp 2 --udp-unreplied 2 --forward udp:5300=192.168.110.11:53");
    let (first, second) = (
        udp_at(reference.n1().ns(), (N1, 53)),
        udp_at(reference.node1.containers[1].ns(), ([192, 168, 110, 12].into(), 53)),
    );
    let outside = reference.outside.ns();
    while_a_client_sends(outside, || {
        expect(&first, b"again");
    });
    xnat.run("forward remove udp:5300");
    xnat.run("forward add udp:5300=192.168.110.12:53");
    // Another client at once; the first one, whose flow lives on as documented, when that is over.
    let client = udp_at(outside, (OUTSIDE, 7001));
    client.send_to(b"another", (NODE1, 5300)).expect("a route");
    expect(&second, b"another");
    xnat_tests::wait::until_true("the old flow has ended", xnat_tests::wait::SOON, || {
        xnat.flows("--proto udp --dport 5300").iter().all(|flow| flow.original.sport != Some(7000))
    });
    while_a_client_sends(outside, || {
        expect(&second, b"again");
    });
}
