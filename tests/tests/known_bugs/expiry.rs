//! What comes just after a flow has ended, and what just before.

use std::time::{Duration, Instant};

use xnat_tests::capture::Capture;
use xnat_tests::topology::{N1, NODE1, OUTSIDE, Reference};
use xnat_tests::wait::{self, SOON};

use super::{alone, expect, udp_at};

/// Linux: the late answer opens an entry of its own in the table, and the next packet from inside belongs to that, so that
/// it is not translated.
#[test]
fn an_answer_after_expiry_leaves_nothing_that_skips_translation() {
    let reference = Reference::new();
    let xnat = alone(&reference, "--udp 1 --udp-unreplied 1");
    let wire = Capture::filtered(reference.node1.host.wire(), "udp or icmp");
    let at_n1 = Capture::filtered(reference.n1().inside(), "udp");
    let server = udp_at(reference.outside.ns(), (OUTSIDE, 5300));
    let container = udp_at(reference.n1().ns(), (N1, 40000));
    for round in 0..3 {
        let (question, answer, late) =
            (format!("question {round}"), format!("answer {round}"), format!("late {round}"));
        container.send_to(question.as_bytes(), (OUTSIDE, 5300)).expect("a route");
        let from = expect(&server, question.as_bytes());
        assert_eq!(from, (NODE1, 40000).into());
        server.send_to(answer.as_bytes(), from).expect("a route");
        expect(&container, answer.as_bytes());
        wait::until_true("the flow has ended", SOON, || xnat.flows("--proto udp").is_empty());
        server.send_to(late.as_bytes(), from).expect("a route");
        wire.expect("the late answer", |p| p.payload == late.as_bytes());
    }
    at_n1.expect_none("a late answer", |p| p.payload.starts_with(b"late"));
    wire.expect_none("a container's address", |p| p.src == N1 || p.dst == N1);
}

#[test]
fn collection_never_ends_a_flow_that_is_in_use() {
    let reference = Reference::with_containers(2);
    // The shortest time that there is, so that the collector's hand finds each flow near its end again and again.
    let xnat = alone(&reference, "--udp 1 --udp-unreplied 1");
    let server = udp_at(reference.outside.ns(), (OUTSIDE, 5300));
    // Ports that had to be changed would become others if their mapping ended.
    let others: Vec<_> =
        (0..32).map(|n| udp_at(reference.node1.containers[1].ns(), ([192, 168, 110, 12].into(), 41000 + n))).collect();
    let sockets: Vec<_> = (0..32).map(|n| udp_at(reference.n1().ns(), (N1, 41000 + n))).collect();
    for other in &others {
        other.send_to(b"first", (OUTSIDE, 5300)).expect("a route");
        expect(&server, b"first");
    }
    let mut ports = Vec::new();
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(6) {
        let mut seen = Vec::new();
        for (n, socket) in sockets.iter().enumerate() {
            let question = format!("{round} {n}");
            socket.send_to(question.as_bytes(), (OUTSIDE, 5300)).expect("a route");
            let from = expect(&server, question.as_bytes());
            seen.push(from);
            if round % 2 == 0 {
                server.send_to(question.as_bytes(), from).expect("a route");
                expect(socket, question.as_bytes());
            }
        }
        if round == 0 {
            assert!(seen.iter().all(|from| !(41000..41032).contains(&from.port())), "they are taken: {seen:?}");
            ports.clone_from(&seen);
        }
        assert_eq!(seen, ports, "round {round}, {:?} after the first", start.elapsed());
        round += 1;
        // Silence well within the second, and long enough that the last one was some ticks ago.
        server.set_read_timeout(Some(Duration::from_millis(300))).expect("a valid timeout");
        assert!(server.recv(&mut [0; 64]).is_err(), "nobody has anything to say");
        server.set_read_timeout(Some(SOON)).expect("a valid timeout");
    }
    // Those that were silent are gone by then, so collection was at work.
    wait::until_true("idle flows have been collected", SOON, || xnat.counter("flows_expired") >= others.len() as u64);
}
