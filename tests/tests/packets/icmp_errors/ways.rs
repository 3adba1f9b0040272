//! Errors on each of their ways: from the outside, from a peer, from inside, about nothing known.

use super::*;

#[test]
fn errors_from_the_outside_reach_the_container() {
    let tcp_flow = || Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1).answered());
    let udp_flow = || Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1));
    let ping = || Known(outside(proto::ICMP, (N1, 7), (ANYWHERE, 0)).port(0x7777));
    run([
        Fixture {
            what: "port unreachable, from the server",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp(MOVED, SERVER).ttl(51), ALL).ttl(55),
            fate: Redirect(icmp_error(ANYWHERE, N1, PORT_UNREACHABLE, &udp(CONTAINER, SERVER).ttl(51), ALL).ttl(54)),
            counts: &[],
        },
        Fixture {
            what: "with eight octets of the datagram",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp(MOVED, SERVER), 8),
            fate: Redirect(icmp_error(ANYWHERE, N1, PORT_UNREACHABLE, &udp(CONTAINER, SERVER), 8).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about UDP without a checksum",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp(MOVED, SERVER).without_checksum(), 8),
            fate: Redirect(
                icmp_error(ANYWHERE, N1, PORT_UNREACHABLE, &udp(CONTAINER, SERVER).without_checksum(), 8).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "time exceeded, from a router: it stays the router's",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &tcp(MOVED, SERVER, ACK).ttl(1), 8),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &tcp(CONTAINER, SERVER, ACK).ttl(1), 8).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about a whole TCP segment",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, TOO_BIG, &tcp(MOVED, SERVER, ACK).carrying(333), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, TOO_BIG, &tcp(CONTAINER, SERVER, ACK).carrying(333), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about a packet with options",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, (12, 0), &tcp(MOVED, SERVER, ACK).options(&[0x94, 4, 0, 0]), 20),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (12, 0), &tcp(CONTAINER, SERVER, ACK).options(&[0x94, 4, 0, 0]), 20).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "in a packet with options",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, (3, 1), &udp(MOVED, SERVER), 8).options(&[0x94, 4, 0, 0]),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (3, 1), &udp(CONTAINER, SERVER), 8).options(&[0x94, 4, 0, 0]).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "about a ping",
            at: UplinkIn,
            given: vec![ping()],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &echo(NODE1, ANYWHERE, 0x7777), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &echo(N1, ANYWHERE, 7), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about GRE",
            at: UplinkIn,
            given: vec![Known(outside(47, (N1, 0), (ANYWHERE, 0)))],
            packet: icmp_error(OUTSIDE, NODE1, (3, 2), &other(NODE1, ANYWHERE, 47, &[0; 8]), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, (3, 2), &other(N1, ANYWHERE, 47, &[0; 8]), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about SCTP",
            at: UplinkIn,
            given: vec![Known(outside(proto::SCTP, (N1, 0x1111), (ANYWHERE, 0x2222)))],
            packet: icmp_error(
                OUTSIDE,
                NODE1,
                (3, 2),
                &other(NODE1, ANYWHERE, 132, &[0x11, 0x11, 0x22, 0x22, 0, 0, 0, 0]),
                ALL,
            ),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (3, 2), &other(N1, ANYWHERE, 132, &[0x11, 0x11, 0x22, 0x22, 0, 0, 0, 0]), ALL)
                    .ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "about the first fragment of a datagram",
            at: UplinkIn,
            given: vec![udp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, (11, 1), &udp(MOVED, SERVER).carrying(2000).fragment(0, 1480), 8),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, (11, 1), &udp(CONTAINER, SERVER).carrying(2000).fragment(0, 1480), 8).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "in a frame that is longer than its packet",
            at: UplinkIn,
            given: vec![tcp_flow()],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &tcp(MOVED, SERVER, ACK), 8).padded(20),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &tcp(CONTAINER, SERVER, ACK), 8).padded(20).ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn errors_from_a_peer() {
    let ours = || Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2));
    let sent = || udp((NODE1, 40000), (NODE2, 80));
    let seen = || udp(CONTAINER, (N2, 80));
    let theirs = || Known(inbound(proto::UDP, (NODE2, 40000), (N1, 80)).answered());
    run([
        Fixture {
            what: "port unreachable comes from the container that was meant",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &sent(), ALL),
            fate: Redirect(icmp_error(N2, N1, PORT_UNREACHABLE, &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "time exceeded comes from the peer, which is a router",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(NODE2, NODE1, TIME_EXCEEDED, &sent(), ALL),
            fate: Redirect(icmp_error(NODE2, N1, TIME_EXCEEDED, &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "so does fragmentation needed",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(NODE2, NODE1, TOO_BIG, &sent(), ALL),
            fate: Redirect(icmp_error(NODE2, N1, TOO_BIG, &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "from a router on the way to the peer",
            at: UplinkIn,
            given: vec![ours()],
            packet: icmp_error(OUTSIDE, NODE1, (3, 1), &sent(), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, (3, 1), &seen(), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about what a container has answered",
            at: UplinkIn,
            given: vec![theirs()],
            packet: icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &udp((NODE1, 80), (NODE2, 40000)), ALL),
            fate: Redirect(icmp_error(NODE2, N1, PORT_UNREACHABLE, &udp((N1, 80), (NODE2, 40000)), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about an echo reply of a container",
            at: UplinkIn,
            given: vec![Known(inbound(proto::ICMP, (NODE2, 5), (N1, 0)))],
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &echo_reply(NODE1, NODE2, 5), ALL),
            fate: Redirect(icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &echo_reply(N1, NODE2, 5), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "about what the host itself has sent",
            at: UplinkIn,
            given: vec![Known(from_host(proto::UDP, (GATEWAY, 5000), (N2, 80), NODE2))],
            packet: icmp_error(NODE2, NODE1, PORT_UNREACHABLE, &udp((NODE1, 5000), (NODE2, 80)), ALL).ttl(1),
            fate: PassAs(icmp_error(N2, GATEWAY, PORT_UNREACHABLE, &udp((GATEWAY, 5000), (N2, 80)), ALL).ttl(1)),
            counts: &[],
        },
    ]);
}

#[test]
fn errors_from_inside_reach_the_wire() {
    let answered = || Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1).answered());
    let theirs = || Known(inbound(proto::TCP, (NODE2, 40000), (N1, 80)));
    run([
        Fixture {
            what: "a container does not want an answer",
            at: InsideIn,
            given: vec![answered()],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL),
            fate: Redirect(icmp_error(NODE1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, MOVED), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "a container has no such port, for a peer",
            at: InsideIn,
            given: vec![Known(inbound(proto::UDP, (NODE2, 40000), (N1, 53)))],
            packet: icmp_error(N1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (N1, 53)), 8),
            fate: Redirect(icmp_error(NODE1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (NODE1, 53)), 8).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "a container about what a peer's container sent",
            at: InsideIn,
            given: vec![Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2).port(61234).answered())],
            packet: icmp_error(N1, N2, PORT_UNREACHABLE, &udp((N2, 80), CONTAINER), ALL),
            fate: Redirect(icmp_error(NODE1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 80), MOVED), ALL).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "the kernel answers a packet whose time is up",
            at: UplinkOut,
            given: vec![theirs()],
            packet: icmp_error(GATEWAY, NODE2, TIME_EXCEEDED, &tcp((NODE2, 40000), (N1, 80), SYN).ttl(1), ALL),
            fate: PassAs(icmp_error(NODE1, NODE2, TIME_EXCEEDED, &tcp((NODE2, 40000), (NODE1, 80), SYN).ttl(1), ALL)),
            counts: &[],
        },
        Fixture {
            what: "the kernel answers a packet that is too big for the containers' network",
            at: UplinkOut,
            given: vec![theirs()],
            packet: icmp_error(NODE1, NODE2, TOO_BIG, &tcp((NODE2, 40000), (N1, 80), ACK).carrying(99), 28),
            fate: PassAs(icmp_error(NODE1, NODE2, TOO_BIG, &tcp((NODE2, 40000), (NODE1, 80), ACK).carrying(99), 28)),
            counts: &[],
        },
        Fixture {
            what: "an error with a TTL of 1 is the kernel's to drop",
            at: InsideIn,
            given: vec![answered()],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL).ttl(1),
            fate: Pass,
            counts: &[ToKernelTtl],
        },
        Fixture {
            what: "an error about nothing known",
            at: InsideIn,
            given: vec![],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "does not leave",
            at: UplinkOut,
            given: vec![],
            packet: icmp_error(N1, ANYWHERE, PORT_UNREACHABLE, &udp(SERVER, CONTAINER), ALL),
            fate: Gone,
            counts: &[PrivateSource],
        },
    ]);
}

#[test]
fn errors_about_nothing_known_are_the_hosts() {
    let udp_flow = || Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1));
    let tcp_flow = || Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1));
    let pass = |what, given, packet| Fixture { what, at: UplinkIn, given, packet, fate: Pass, counts: &[] };
    let about = udp(MOVED, SERVER);
    run([
        pass("no flow", vec![], icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &about, ALL)),
        pass(
            "a flow, but in the direction in which nothing was sent",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &udp(SERVER, MOVED), ALL),
        ),
        pass("half an IP header", vec![udp_flow()], error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &about, 12)),
        pass(
            "an IP header without what follows",
            vec![udp_flow()],
            error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &about, 20),
        ),
        pass(
            "half a pair of ports",
            vec![tcp_flow()],
            error_cut(OUTSIDE, NODE1, TIME_EXCEEDED, &tcp(MOVED, SERVER, ACK), 23),
        ),
        pass("nothing at all", vec![], icmp(OUTSIDE, NODE1, TIME_EXCEEDED, [0; 4], vec![])),
        pass(
            "an IP header that is shorter than one",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &about, ALL).edited(42, &[0x44]),
        ),
        pass("IPv6", vec![udp_flow()], icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &about, ALL).edited(42, &[0x65])),
        pass(
            "a later fragment",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, (11, 1), &udp(MOVED, SERVER).carrying(2000).fragment(1480, 600), 100),
        ),
        pass(
            "an error about an error",
            vec![udp_flow()],
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &icmp_error(NODE1, ANYWHERE, TIME_EXCEEDED, &about, 8), ALL),
        ),
    ]);
}
