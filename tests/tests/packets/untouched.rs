//! What xnat does not own passes as it came, and what is damaged is passed to the kernel or dropped, never half changed.

use std::net::Ipv4Addr;

use xnat_common::config::Config;
use xnat_common::counter::Counter::{FlowReleased, FlowsOpened, KernelFlows, Malformed, MappingsOpened};
use xnat_common::mark;
use xnat_common::packet::proto;
use xnat_common::{FlowKey, Side};
use xnat_tests::packet::{ACK, PSH, RST, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2, OUTSIDE};

use crate::fixture::Fate::{Gone, Pass, Redirect};
use crate::fixture::Given::{Configured, Kernels, Known};
use crate::fixture::{Fixture, inbound, outside, run, tuple};
use crate::packet::{Packet, Tag, echo, echo_reply, frame, icmp, other, tcp, udp};
use crate::world::GATEWAY;
use crate::world::Hook::{self, InsideIn, InsideOut, UplinkIn, UplinkOut};

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const NEIGHBOUR: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 168, 110, 12), 80);
const SERVER: (Ipv4Addr, u16) = (ANYWHERE, 80);
const MASQUERADED: (Ipv4Addr, u16) = (NODE1, 40000);

/// A row of a packet that passes.
fn pass(what: &'static str, at: Hook, packet: Packet) -> Fixture {
    Fixture { what, at, given: vec![], packet, fate: Pass, counts: &[] }
}

/// A row of a packet that is dropped for being damaged.
fn malformed(what: &'static str, at: Hook, packet: Packet) -> Fixture {
    Fixture { what, at, given: vec![], packet, fate: Gone, counts: &[Malformed] }
}

#[test]
fn what_is_not_ipv4_passes_at_every_hook() {
    let ipv6 = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0xfd; 32], &[0; 20]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[2; 20], &[0; 18]].concat();
    let tagged = |inner: &Packet| [&[0, 5, 8, 0], &inner.frame([[0; 6]; 2])[14..]].concat();
    for at in [InsideIn, InsideOut, UplinkIn, UplinkOut] {
        run([
            pass("IPv6", at, frame(0x86dd, ipv6.clone())),
            pass("ARP", at, frame(0x0806, arp.clone())),
            pass("VLAN", at, frame(0x8100, tagged(&tcp(CONTAINER, SERVER, SYN)))),
            pass("VLAN, to this host", at, frame(0x8100, tagged(&tcp(SERVER, MASQUERADED, SYN)))),
            pass("MPLS", at, frame(0x8847, vec![0; 46])),
            pass("LLDP", at, frame(0x88cc, vec![0; 46])),
            pass("nothing but an Ethernet header", at, frame(0x88b5, vec![])),
        ]);
    }
}

#[test]
fn what_stays_here_passes() {
    let [_, container_mac] = InsideIn.macs();
    let to_neighbour = [[2, 0, 0, 0, 1, 0x12], container_mac];
    let to_all = [[0xff; 6], container_mac];
    run([
        pass("within the network", InsideIn, tcp(CONTAINER, NEIGHBOUR, SYN).macs(to_neighbour)),
        pass("within the network, but sent to the bridge", InsideIn, tcp(CONTAINER, NEIGHBOUR, SYN)),
        pass(
            "to a peer's container, but sent to a neighbour",
            InsideIn,
            tcp(CONTAINER, (N2, 80), SYN).macs(to_neighbour),
        ),
        pass(
            "with a tag, but sent to a neighbour",
            InsideIn,
            tcp(CONTAINER, NEIGHBOUR, SYN).options(&[0x9e, 4, 0, 0]).macs(to_neighbour),
        ),
        pass(
            "too short for TCP, but sent to a neighbour",
            InsideIn,
            other(N1, NEIGHBOUR.0, proto::TCP, &[0; 8]).macs(to_neighbour),
        ),
        pass("broadcast", InsideIn, udp((N1, 68), (Ipv4Addr::BROADCAST, 67)).macs(to_all)),
        pass("to the gateway", InsideIn, tcp(CONTAINER, (GATEWAY, 22), SYN)),
        pass("to this host's address on the wire", InsideIn, tcp(CONTAINER, (NODE1, 22), SYN)),
        pass("a ping to the gateway", InsideIn, echo(N1, GATEWAY, 5)),
        pass("multicast", InsideIn, udp(CONTAINER, (Ipv4Addr::new(224, 0, 0, 251), 5353))),
        pass("IGMP", InsideIn, other(N1, Ipv4Addr::new(224, 0, 0, 22), 2, &[0x22; 16])),
        pass("from an address that is not the container's to have", InsideIn, tcp((OUTSIDE, 40000), SERVER, SYN)),
        pass("from an address of a peer's subnet", InsideIn, tcp((N2, 40000), SERVER, SYN)),
        pass("to the host, from outside", UplinkIn, tcp(SERVER, (NODE1, 22), SYN)),
        pass("to the host, from a peer", UplinkIn, udp((NODE2, 9628), (NODE1, 9628))),
        pass("a ping to the host", UplinkIn, echo(ANYWHERE, NODE1, 5)),
        pass("to another host", UplinkIn, tcp(SERVER, (OUTSIDE, 80), SYN)),
        pass("an echo reply that nobody here asked for", UplinkIn, echo_reply(ANYWHERE, NODE1, 5)),
        pass("from the host", UplinkOut, tcp((NODE1, 50000), SERVER, SYN)),
        // Its answer could not be told from one to a container's ping otherwise.
        Fixture { counts: &[KernelFlows], ..pass("the host's ping", UplinkOut, echo(NODE1, ANYWHERE, 5)) },
    ]);
}

/// A switch has flooded it, or somebody looks at all frames. The kernel drops it.
#[test]
fn what_is_on_the_wire_for_another_mac_address_is_the_kernels() {
    let [_, router] = UplinkIn.macs();
    let to_another = |packet: Packet| packet.macs([[2, 0, 0, 0, 9, 9], router]);
    let pass = |what, given, packet| Fixture { given, ..pass(what, UplinkIn, to_another(packet)) };
    let known = |proto| vec![Known(outside(proto, CONTAINER, SERVER).answered())];
    run([
        pass("a datagram of a flow", known(proto::UDP), udp(SERVER, MASQUERADED)),
        pass("a segment of a flow", known(proto::TCP), tcp(SERVER, MASQUERADED, ACK)),
        pass("the end of a connection", known(proto::TCP), tcp(SERVER, MASQUERADED, RST)),
        pass("to a container's own address", vec![], udp(SERVER, CONTAINER)),
        pass("with a tag", vec![], tcp((NODE2, 80), (NODE1, 80), SYN).tagged(Tag::Open, N1)),
    ]);
}

#[test]
fn on_the_kernels_path_the_inside_hook_changes_nothing() {
    let kernel_path = || Configured(|config| config.flags = Config::KERNEL_PATH);
    run([Fixture { given: vec![kernel_path()], ..pass("an opening", InsideIn, tcp(CONTAINER, SERVER, SYN)) }]);
}

#[test]
fn nothing_happens_before_there_is_a_configuration() {
    let none = || vec![Configured(|config| *config = Config::default())];
    run([
        Fixture { given: none(), ..pass("from inside", InsideIn, tcp(CONTAINER, SERVER, SYN)) },
        Fixture { given: none(), ..pass("from the wire", UplinkIn, tcp(SERVER, MASQUERADED, ACK)) },
        Fixture { given: none(), ..pass("to the wire", UplinkOut, tcp((NODE1, 5), SERVER, ACK)) },
    ]);
}

#[test]
fn what_is_finished_passes_once() {
    run([
        pass("to the wire", UplinkOut, tcp(MASQUERADED, SERVER, SYN).marked(mark::DONE)),
        pass("to the wire, whatever it looks like", UplinkOut, tcp(CONTAINER, SERVER, ACK).marked(mark::DONE)),
        pass("to a container", InsideOut, tcp(SERVER, CONTAINER, ACK).marked(mark::DONE)),
    ]);
}

#[test]
fn what_the_kernel_sends_to_containers_is_the_kernels() {
    let kernels_answer = |side, src, dst, seconds| Kernels(FlowKey::new(tuple(src, dst), proto::UDP, side), seconds);
    let client = (ANYWHERE, 5555);
    let service = (N1, 53);
    run([
        Fixture {
            what: "a published port: the answer is remembered",
            at: InsideOut,
            given: vec![],
            packet: udp(client, service),
            fate: Pass,
            counts: &[KernelFlows],
        },
        Fixture {
            what: "once",
            at: InsideOut,
            given: vec![kernels_answer(Side::Inside, service, client, 10)],
            packet: udp(client, service),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "the answer opens nothing",
            at: InsideIn,
            given: vec![kernels_answer(Side::Inside, service, client, 10)],
            packet: udp(service, client),
            fate: Pass,
            counts: &[],
        },
        Fixture {
            what: "until the kernel has forgotten it as well",
            at: InsideIn,
            given: vec![kernels_answer(Side::Inside, service, client, 301)],
            packet: udp(service, client),
            fate: Redirect(udp((NODE1, 53), client).ttl(63)),
            counts: &[FlowsOpened, MappingsOpened],
        },
        Fixture {
            what: "a flow that was opened by mistake is given back",
            at: InsideOut,
            given: vec![Known(outside(proto::UDP, service, client))],
            packet: udp(client, service),
            fate: Pass,
            counts: &[KernelFlows, FlowReleased],
        },
        pass("from the gateway to a container", InsideOut, udp((GATEWAY, 53), CONTAINER)),
        pass("within the network", InsideOut, udp(NEIGHBOUR, CONTAINER)),
        pass("a later fragment", InsideOut, udp(client, service).carrying(2000).fragment(1480, 1480)),
        pass("an ICMP error", InsideOut, icmp(ANYWHERE, N1, (3, 3), [0; 4], vec![0; 28])),
        Fixture {
            what: "the host's own ping to a container",
            at: InsideOut,
            given: vec![Kernels(FlowKey::new(tuple((N1, 0), (NODE1, 5)), proto::ICMP, Side::Inside), 1)],
            packet: echo(NODE1, N1, 5),
            fate: Pass,
            counts: &[],
        },
    ]);
}

#[test]
fn flows_follow_their_container_to_another_interface() {
    run([
        Fixture {
            what: "the bridge was made anew, and is another interface",
            at: InsideIn,
            given: vec![Known(outside(proto::TCP, CONTAINER, SERVER).behind(999))],
            packet: tcp(CONTAINER, SERVER, PSH | ACK),
            fate: Redirect(tcp(MASQUERADED, SERVER, PSH | ACK).ttl(63)),
            counts: &[],
        },
        Fixture {
            what: "so do those that a peer has opened",
            at: InsideIn,
            given: vec![Known(inbound(proto::TCP, (NODE2, 1), (N1, 40000)).behind(999))],
            packet: tcp(CONTAINER, (NODE2, 1), RST),
            fate: Redirect(tcp(MASQUERADED, (NODE2, 1), RST).ttl(63)),
            counts: &[],
        },
    ]);
}

#[test]
fn headers_that_lie_about_lengths() {
    let syn = || tcp(CONTAINER, SERVER, SYN);
    let answer = || tcp(SERVER, MASQUERADED, SYN | ACK);
    let flow = || vec![Known(outside(proto::TCP, CONTAINER, SERVER))];
    run([
        pass("an IP header of 16 octets", InsideIn, syn().edited(14, &[0x44])),
        pass("an IP header of none", InsideIn, syn().edited(14, &[0x40])),
        pass("IP version 6 in an IPv4 frame", InsideIn, syn().edited(14, &[0x65])),
        pass("IP version 0", InsideIn, syn().edited(14, &[0x05])),
        pass("a total length within the IP header", InsideIn, syn().edited(16, &[0, 19])),
        pass("a total length within the options", InsideIn, syn().options(&[1; 8]).edited(16, &[0, 27])),
        pass("an IP header that is longer than the packet", InsideIn, syn().edited(14, &[0x4f])),
        pass("a packet that is cut off: the kernel compares the lengths as well", InsideIn, syn().cut(14 + 20 + 19)),
        pass("the same from the wire", UplinkIn, answer().cut(14 + 20 + 13)),
        malformed("a packet that ends in the TCP header", InsideIn, other(N1, ANYWHERE, proto::TCP, &[0; 19])),
        malformed("a packet that ends in the UDP header", InsideIn, other(N1, ANYWHERE, proto::UDP, &[0; 7])),
        malformed("a packet that ends in the ICMP header", InsideIn, other(N1, ANYWHERE, proto::ICMP, &[8; 7])),
        malformed("a packet that ends in the SCTP header", InsideIn, other(N1, ANYWHERE, proto::SCTP, &[0; 7])),
        malformed("the same from the wire", UplinkIn, other(ANYWHERE, NODE1, proto::TCP, &[0; 13])),
        malformed("the same at the way out", UplinkOut, other(N1, ANYWHERE, proto::TCP, &[0; 13])),
        malformed(
            "a total length that ends before the ports, which are padding",
            InsideIn,
            udp(CONTAINER, SERVER).edited(16, &[0, 22]),
        ),
        malformed("a total length that ends in the TCP header", InsideIn, syn().carrying(20).edited(16, &[0, 39])),
        malformed("the same from the wire", UplinkIn, answer().carrying(20).edited(16, &[0, 39])),
        pass("a total length beyond the packet", InsideIn, syn().edited(16, &[0, 41])),
        Fixture {
            given: flow(),
            ..pass("a total length far beyond the packet", UplinkIn, answer().edited(16, &[0xff, 0xff]))
        },
    ]);
}
