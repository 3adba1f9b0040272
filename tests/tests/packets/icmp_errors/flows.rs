//! Errors about every kind of flow, which they leave as it is.

use super::*;

#[test]
fn every_kind_of_packet_inside_is_translated_in_both_directions() {
    let options = [0x94, 4, 0, 0, 0x44, 8, 5, 0, 0, 0, 0, 0];
    let query = |flow: fixture::Known| flow.port(0x7777).answered();
    let toward_peer = |proto| Known(to_peer(proto, CONTAINER, (N2, 80), NODE2).port(MOVED.1).answered());
    let from_peer = |proto| Known(inbound(proto, (NODE2, 40000), (N1, 80)));
    let row = |what, at, given, packet, expected: Packet| Fixture {
        what,
        at,
        given: vec![given],
        packet,
        fate: Redirect(expected.ttl(63)),
        counts: &[],
    };
    let whole = |src, dst| tcp(src, dst, ACK).carrying(70).options(&options);
    run([
        row(
            "outside flow, from inside, TCP with options and payload",
            InsideIn,
            Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1).answered()),
            icmp_error(N1, ANYWHERE, (3, 2), &whole(SERVER, CONTAINER), ALL),
            icmp_error(NODE1, ANYWHERE, (3, 2), &whole(SERVER, MOVED), ALL),
        ),
        row(
            "outside flow, from inside, eight octets of TCP",
            InsideIn,
            Known(outside(proto::TCP, CONTAINER, SERVER).port(MOVED.1).answered()),
            icmp_error(N1, ANYWHERE, (3, 2), &tcp(SERVER, CONTAINER, ACK), 8),
            icmp_error(NODE1, ANYWHERE, (3, 2), &tcp(SERVER, MOVED, ACK), 8),
        ),
        row(
            "outside flow, from inside, an echo reply",
            InsideIn,
            Known(query(outside(proto::ICMP, (N1, 7), (ANYWHERE, 0)))),
            icmp_error(N1, ANYWHERE, (3, 2), &echo_reply(ANYWHERE, N1, 7), ALL),
            icmp_error(NODE1, ANYWHERE, (3, 2), &echo_reply(ANYWHERE, NODE1, 0x7777), ALL),
        ),
        row(
            "a router inside, whose address stays there",
            InsideIn,
            Known(outside(proto::UDP, CONTAINER, SERVER).port(MOVED.1).answered()),
            icmp_error(GATEWAY, ANYWHERE, (3, 1), &udp(SERVER, CONTAINER), ALL),
            icmp_error(NODE1, ANYWHERE, (3, 1), &udp(SERVER, MOVED), ALL),
        ),
        row(
            "own peer flow, from the wire, TCP with options and payload",
            UplinkIn,
            toward_peer(proto::TCP),
            icmp_error(OUTSIDE, NODE1, TOO_BIG, &whole(MOVED, (NODE2, 80)), ALL),
            icmp_error(OUTSIDE, N1, TOO_BIG, &whole(CONTAINER, (N2, 80)), ALL),
        ),
        row(
            "own peer flow, from the wire, a ping",
            UplinkIn,
            Known(query(to_peer(proto::ICMP, (N1, 7), (N2, 0), NODE2))),
            icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &echo(NODE1, NODE2, 0x7777), 8),
            icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &echo(N1, N2, 7), 8),
        ),
        row(
            "own peer flow, from inside, TCP with options and payload",
            InsideIn,
            toward_peer(proto::TCP),
            icmp_error(N1, N2, (3, 2), &whole((N2, 80), CONTAINER), ALL),
            icmp_error(NODE1, NODE2, (3, 2), &whole((NODE2, 80), MOVED), ALL),
        ),
        row(
            "peer's flow, from the wire, TCP with options and payload",
            UplinkIn,
            from_peer(proto::TCP),
            icmp_error(OUTSIDE, NODE1, TOO_BIG, &whole((NODE1, 80), (NODE2, 40000)), ALL),
            icmp_error(OUTSIDE, N1, TOO_BIG, &whole((N1, 80), (NODE2, 40000)), ALL),
        ),
        row(
            "peer's flow, from inside, TCP with options and payload",
            InsideIn,
            from_peer(proto::TCP),
            icmp_error(N1, NODE2, (3, 2), &whole((NODE2, 40000), (N1, 80)), ALL),
            icmp_error(NODE1, NODE2, (3, 2), &whole((NODE2, 40000), (NODE1, 80)), ALL),
        ),
        row(
            "peer's flow, from inside, a ping",
            InsideIn,
            Known(inbound(proto::ICMP, (NODE2, 5), (N1, 0))),
            icmp_error(N1, NODE2, (3, 1), &echo(NODE2, N1, 5), ALL),
            icmp_error(NODE1, NODE2, (3, 1), &echo(NODE2, NODE1, 5), ALL),
        ),
        row(
            "an error with options of its own, from inside",
            InsideIn,
            from_peer(proto::UDP),
            icmp_error(N1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (N1, 80)), 8).options(&options),
            icmp_error(NODE1, NODE2, PORT_UNREACHABLE, &udp((NODE2, 40000), (NODE1, 80)), 8).options(&options),
        ),
    ]);
}

#[test]
fn errors_about_flows_that_strangers_opened() {
    let client = (ANYWHERE, 5555);
    let service = (N1, 80);
    for (what, flow) in [
        ("by a forward", forwarded(proto::TCP, client, 8080, service)),
        ("through a mapping", mapped(proto::TCP, client, 8080, service)),
    ] {
        run([
            Fixture {
                what,
                at: UplinkIn,
                given: vec![Known(flow)],
                packet: icmp_error(OUTSIDE, NODE1, TOO_BIG, &tcp((NODE1, 8080), client, ACK).carrying(50), ALL),
                fate: Redirect(icmp_error(OUTSIDE, N1, TOO_BIG, &tcp(service, client, ACK).carrying(50), ALL).ttl(63)),
                counts: &[],
            },
            Fixture {
                what,
                at: InsideIn,
                given: vec![Known(flow)],
                packet: icmp_error(N1, ANYWHERE, (3, 2), &tcp(client, service, ACK), 8),
                fate: Redirect(icmp_error(NODE1, ANYWHERE, (3, 2), &tcp(client, (NODE1, 8080), ACK), 8).ttl(63)),
                counts: &[],
            },
            Fixture {
                what,
                at: UplinkOut,
                given: vec![Known(flow)],
                packet: icmp_error(GATEWAY, ANYWHERE, TOO_BIG, &tcp(client, service, ACK), ALL),
                fate: PassAs(icmp_error(NODE1, ANYWHERE, TOO_BIG, &tcp(client, (NODE1, 8080), ACK), ALL)),
                counts: &[],
            },
        ]);
    }
}

#[test]
fn errors_between_two_containers_by_this_hosts_address() {
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 12);
    let near = (OTHER, 50000);
    let far = (N1, 80);
    let flow = || Known(hairpin(proto::UDP, near, 8080, far));
    let own = || Known(hairpin(proto::UDP, (NODE1, 50000), 8080, far));
    let seen_by_far = || udp((NODE1, 50000), far);
    let refused = || icmp_error(N1, NODE1, PORT_UNREACHABLE, &seen_by_far(), ALL);
    let toward =
        |place, packet, fate, counts| Fixture { what: place, at: InsideIn, given: vec![flow()], packet, fate, counts };
    run([
        toward(
            "back to the one that opened",
            refused(),
            Redirect(icmp_error(NODE1, OTHER, PORT_UNREACHABLE, &udp(near, (NODE1, 8080)), ALL).ttl(63)),
            &[],
        ),
        toward(
            "to the other",
            icmp_error(OTHER, NODE1, PORT_UNREACHABLE, &udp((NODE1, 8080), near), 8),
            Redirect(icmp_error(NODE1, N1, PORT_UNREACHABLE, &udp(far, (NODE1, 50000)), 8).ttl(63)),
            &[],
        ),
        toward(
            "from a router inside",
            icmp_error(Ipv4Addr::new(192, 168, 110, 200), NODE1, TIME_EXCEEDED, &seen_by_far(), 8),
            Redirect(icmp_error(NODE1, OTHER, TIME_EXCEEDED, &udp(near, (NODE1, 8080)), 8).ttl(63)),
            &[],
        ),
        toward("at its end it is the host's, who ignores it", refused().ttl(1), Pass, &[ToKernelTtl]),
        toward("damaged", refused().edited(14 + 20 + 8 + 30, &[0x77]), Gone, &[BadChecksum]),
        Fixture {
            given: vec![own()],
            ..toward(
                "to the host itself, which takes nothing from its own address off an interface",
                refused(),
                PassAs(icmp_error(N1, NODE1, PORT_UNREACHABLE, &udp((NODE1, 50000), (NODE1, 8080)), ALL)),
                &[],
            )
        },
    ]);
}

#[test]
fn an_icmp_error_neither_refreshes_nor_ends_a_flow() {
    let state = xnat_common::tcp::State::Established;
    let tcp_flow = || outside(proto::TCP, CONTAINER, SERVER).answered().tcp(state).idle(60);
    let about_sent = |kind| (UplinkIn, icmp_error(ANYWHERE, NODE1, kind, &tcp((NODE1, 40000), SERVER, ACK), ALL));
    let about_got = |kind| (InsideIn, icmp_error(N1, ANYWHERE, kind, &tcp(SERVER, CONTAINER, ACK), ALL));
    let mut world = World::new();
    let errors = [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (4, 0), (11, 0), (11, 1), (12, 0)];
    for (hook, packet) in errors.into_iter().flat_map(|kind| [about_sent(kind), about_got(kind)]) {
        world.reset();
        Known(tcp_flow()).prepare(&mut world);
        let before = world.flow();
        let outcome = world.run(hook, &packet, false).expect("a run");
        assert_eq!(outcome.action, REDIRECT, "{packet:?}");
        assert_eq!(bytemuck::bytes_of(&world.flow()), bytemuck::bytes_of(&before), "{packet:?}");
        assert_eq!(world.damage(), None);
    }
    // Nor does it keep alive what has been idle for too long.
    world.reset();
    Known(outside(proto::UDP, CONTAINER, SERVER).idle(301)).prepare(&mut world);
    let error = icmp_error(ANYWHERE, NODE1, PORT_UNREACHABLE, &udp((NODE1, 40000), SERVER), ALL);
    assert_eq!(world.run(UplinkIn, &error, false).expect("a run").action, REDIRECT);
    world.collect();
    assert_eq!(world.flows().len(), 0);
}

#[test]
fn a_tag_inside_an_error_is_not_shown_to_the_container() {
    let ours = || vec![Known(to_peer(proto::UDP, CONTAINER, (N2, 80), NODE2).port(MOVED.1))];
    let sent = |kind| udp(MOVED, (NODE2, 80)).tagged(kind, N2);
    run([
        Fixture {
            what: "on the packet itself",
            at: UplinkIn,
            given: ours(),
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &sent(Tag::Open), ALL),
            fate: Redirect(
                icmp_error(OUTSIDE, N1, TIME_EXCEEDED, &udp(CONTAINER, (N2, 80)).options(&[1; 8]), ALL).ttl(63),
            ),
            counts: &[],
        },
        Fixture {
            what: "an error about an announcement is nobody's, as the packet gets its own",
            at: UplinkIn,
            given: ours(),
            packet: icmp_error(OUTSIDE, NODE1, TIME_EXCEEDED, &sent(Tag::Announce), 8),
            fate: Gone,
            counts: &[],
        },
    ]);
}
