//! What a test run does not show: the hooks attached, frames sent in at one end and read at the other.

use std::io::{self, Read as _};
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use xnat_common::config::Config;
use xnat_common::packet::proto;
use xnat_common::{Kind, tcp::State as Tcp};
use xnat_tests::packet::{self as judge, ACK, Checksum, PSH, SYN};
use xnat_tests::topology::{ANYWHERE, N1, N2, NODE1, NODE2};

use crate::fixture::{Given, REDIRECT, inbound, packets, tally, to_peer};
use crate::packet::{Packet, Tag, echo, frame, icmp_error, tcp, udp};
use crate::world::Hook::{self, InsideIn, InsideOut, UplinkIn, UplinkOut};
use crate::world::{CONTAINER as CONTAINER_PORT, GATEWAY, WIRE as WIRE_PORT, World};

const CONTAINER: (Ipv4Addr, u16) = (N1, 40000);
const SERVER: (Ipv4Addr, u16) = (N2, 80);
const FROM: (Ipv4Addr, u16) = (NODE1, 40000);
const TO: (Ipv4Addr, u16) = (NODE2, 80);

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of `linux/virtio_net.h`: the device is to complete the checksum.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
pub const GSO_TCPV4: u8 = 1;

/// `struct virtio_net_hdr`: what a frame's sender leaves to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl Offload {
    const LEN: usize = 10;

    fn octets(self) -> Vec<u8> {
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        [&[self.flags, self.gso_type][..], &words.map(u16::to_ne_bytes).concat()].concat()
    }

    /// From where on the device is to sum up, and where the sum goes.
    pub fn checksum(self) -> Option<(usize, usize)> {
        let (start, offset) = (usize::from(self.csum_start), usize::from(self.csum_offset));
        (self.flags & NEEDS_CSUM != 0).then_some((start, start + offset))
    }

    fn parse(octets: &[u8]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([octets[at], octets[at + 1]]);
        Self {
            flags: octets[0],
            gso_type: octets[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }
}

/// A machine at the far end of one of the host's veths.
pub struct Machine(Socket);

impl Machine {
    /// On one of the interfaces.
    pub fn at(world: &World, interface: u32) -> Self {
        let socket = world.ns.within(|| {
            let every_protocol = u16::to_be(libc::ETH_P_ALL as u16);
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every_protocol))))?;
            let mut storage = SockAddrStorage::zeroed();
            // SAFETY: the storage is large enough for every family's address, and all zeroes are valid.
            let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = every_protocol;
            address.sll_ifindex = interface.cast_signed();
            // SAFETY: filled in above, of that length.
            let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
            socket.bind(&address)?;
            io::Result::Ok(socket)
        });
        let machine = Self(socket.expect("a packet socket"));
        machine.set(libc::PACKET_VNET_HDR);
        machine.set(libc::PACKET_IGNORE_OUTGOING);
        machine.0.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        machine
    }

    fn set(&self, option: libc::c_int) {
        use std::os::fd::AsRawFd as _;
        let one: libc::c_int = 1;
        // SAFETY: the value is an integer of that length.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const one).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8], offload: Offload) {
        let bytes = [offload.octets(), frame.to_vec()].concat();
        assert_eq!(self.0.send(&bytes).expect("a frame"), bytes.len());
    }

    /// The next IPv4 frame that came.
    #[track_caller]
    pub fn receive(&self) -> (Offload, Vec<u8>) {
        loop {
            let mut bytes = vec![0; 1 << 16];
            let len = (&self.0).read(&mut bytes).expect("a frame");
            let frame = bytes[Offload::LEN..len].to_vec();
            if frame[12..14] == [0x08, 0x00] {
                return (Offload::parse(&bytes), frame);
            }
        }
    }

    /// Expects a packet, as it lies in a frame at a hook.
    #[track_caller]
    pub fn expect(&self, packet: &Packet, hook: Hook) {
        let (_, frame) = self.receive();
        let parse = |frame: &[u8]| judge::Packet::parse(Duration::ZERO, frame);
        let expected = packet.frame(hook.macs());
        assert!(frame == expected, "\n  expected {:?}\n  got      {:?}", parse(&expected), parse(&frame));
    }
}

/// A host with all its hooks, a container and the wire.
pub fn host() -> (World, Machine, Machine) {
    let mut world = World::new();
    for hook in [InsideIn, InsideOut, UplinkIn] {
        world.attach(hook);
    }
    let (container, wire) = (Machine::at(&world, CONTAINER_PORT), Machine::at(&world, WIRE_PORT));
    (world, container, wire)
}

#[test]
fn announcements_are_headers_only() {
    let mut world = World::new();
    let wire = Machine::at(&world, WIRE_PORT);
    let announce = |header: Packet| header.ttl(63).tagged(Tag::Announce, N2);
    let syn_with_options = tcp(CONTAINER, SERVER, SYN).tcp_options(&[2, 4, 5, 0xb4]).options(&[0x94, 4, 0, 0]);
    let table = [
        ("a long datagram", udp(CONTAINER, SERVER).carrying(1470), announce(udp(FROM, TO).carrying(0))),
        ("a long ping", echo(N1, N2, 5).carrying(1472), announce(echo(NODE1, NODE2, 5).carrying(0))),
        ("a long segment", tcp(CONTAINER, SERVER, PSH | ACK).carrying(1460), announce(tcp(FROM, TO, PSH | ACK))),
        ("a packet with options", syn_with_options, announce(tcp(FROM, TO, SYN))),
        (
            "a datagram without a checksum",
            udp(CONTAINER, SERVER).carrying(1470).without_checksum(),
            announce(udp(FROM, TO).carrying(0)),
        ),
        (
            "a first fragment",
            udp(CONTAINER, SERVER).carrying(2000).fragment(0, 1480),
            announce(udp(FROM, TO).carrying(0)),
        ),
    ];
    for (what, packet, announcement) in table {
        println!("{what}");
        world.reset();
        let outcome = world.run(InsideIn, &packet, false).expect("a run");
        assert_eq!(outcome.action, REDIRECT, "{:?}", tally(world.counters()));
        wire.expect(&announcement, UplinkOut);
    }
}

#[test]
fn a_containers_packet_leaves_by_either_path() {
    let (mut world, container, wire) = host();
    let syn = tcp(CONTAINER, SERVER, SYN);
    let translated = tcp(FROM, TO, SYN).ttl(63).tagged(Tag::Open, N2);
    for flags in [0, Config::KERNEL_PATH] {
        world.reset();
        world.configure(|config| config.flags = flags);
        container.send(&syn.frame(InsideIn.macs()), Offload::default());
        wire.expect(&translated, UplinkOut);
        let flow = world.flow();
        assert_eq!((flow.kind, flow.inside), (Kind::Peer as u8, crate::world::INSIDE), "path {flags}");
    }
}

#[test]
fn a_frame_of_another_vlan_is_not_touched() {
    let (mut world, container, wire) = host();
    for (machine, at, packet) in [
        (&container, InsideIn, tcp(CONTAINER, SERVER, SYN)),
        (&wire, UplinkIn, tcp((NODE2, 40000), (NODE1, 80), SYN).tagged(Tag::Open, N1)),
    ] {
        let ip = packet.frame(at.macs())[14..].to_vec();
        machine.send(&frame(0x8100, [&[0, 5, 8, 0], &ip[..]].concat()).frame(at.macs()), Offload::default());
        assert_eq!(world.flows().len(), 0, "at {at:?}");
    }
    container.send(&tcp(CONTAINER, SERVER, SYN).frame(InsideIn.macs()), Offload::default());
    wire.expect(&tcp(FROM, TO, SYN).ttl(63).tagged(Tag::Open, N2), UplinkOut);
}

#[test]
fn the_kernel_answers_in_terms_that_the_sender_knows() {
    let (mut world, container, wire) = host();
    world.ns.ip("link set up0 mtu 1400");
    world.configure(|config| config.uplink_mtu = 1400);
    // What the kernel says of the packet that it got is its own affair, but for these.
    let check = |machine: &Machine, kind: (u8, u8), src, dst, inner: &Packet| {
        let (_, frame) = machine.receive();
        let error = judge::Packet::parse(Duration::ZERO, &frame);
        assert!(error.checksums_right() && error.goes(src, dst), "{error:?}");
        assert_eq!((error.icmp_type, error.icmp_code), kind);
        let inner = judge::Packet::parse(Duration::ZERO, &inner.frame([[0; 6]; 2]));
        let embedded = error.embedded().expect("a packet");
        assert!(embedded.goes(inner.src, inner.dst) && embedded.ports(inner.sport, inner.dport), "{embedded:?}");
        assert!(embedded.checksums_right());
    };

    let late = udp(CONTAINER, SERVER).ttl(1);
    container.send(&late.frame(InsideIn.macs()), Offload::default());
    check(&container, (11, 0), GATEWAY, N1, &late);

    let late = tcp((NODE2, 40000), (NODE1, 80), SYN).ttl(1);
    wire.send(&late.clone().tagged(Tag::Open, N1).frame(UplinkIn.macs()), Offload::default());
    check(&wire, (11, 0), NODE1, NODE2, &late);

    let long = udp(CONTAINER, (ANYWHERE, 53)).carrying(1400);
    container.send(&long.frame(InsideIn.macs()), Offload::default());
    check(&container, (3, 4), GATEWAY, N1, &long);

    world.reset();
    world.ns.ip("link set in0 mtu 1280");
    world.set_inside_mtu(1280);
    Given::Known(inbound(proto::UDP, (NODE2, 40000), (N1, 80))).prepare(&mut world);
    let long = udp((NODE2, 40000), (NODE1, 80)).carrying(1300);
    wire.send(&long.frame(UplinkIn.macs()), Offload::default());
    check(&wire, (3, 4), NODE1, NODE2, &long);
    assert_eq!(packets(&world.flow()), [1, 0], "the flow goes on");
}

/// Network cards put as much of a packet into the linear part of the buffer as they take for its headers.
#[test]
fn headers_beyond_the_linear_part_are_fetched() {
    let (mut world, container, wire) = host();
    for interface in ["in0", "c0", "up0", "wire0"] {
        world.ns.ip(&format!("link set {interface} mtu 9000"));
    }
    for linear in [14, 40, 54, 60, 74, 80, 200] {
        world.reset();
        world.configure(|config| config.uplink_mtu = 9000);
        // A frame of more than a page is what a packet socket splits.
        let packet = udp(CONTAINER, (ANYWHERE, 53)).carrying(6000).options(&[1; 40]);
        container.send(&packet.frame(InsideIn.macs()), Offload { hdr_len: linear, ..Offload::default() });
        wire.expect(&udp(FROM, (ANYWHERE, 53)).carrying(6000).options(&[1; 40]).ttl(63), UplinkOut);
    }
}

/// A checksum that the device is to complete: its field has the sum over the pseudo-header only.
pub fn partial(packet: &Packet, at: Hook, transport: usize, offset: usize) -> (Vec<u8>, Offload) {
    let mut frame = packet.frame(at.macs());
    let len = (frame.len() - transport) as u16;
    let pseudo = [&frame[26..34], &[0, frame[23]], &len.to_be_bytes()].concat();
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&pseudo).ones_complement();
    frame[transport + offset..transport + offset + 2].copy_from_slice(&(!sum).to_ne_bytes());
    let (start, offset) = (transport as u16, offset as u16);
    (frame, Offload { flags: NEEDS_CSUM, csum_start: start, csum_offset: offset, ..Offload::default() })
}

/// What came, with what the device would do to its checksum: nothing, or what the header in front of it says.
#[track_caller]
pub fn expect_offloaded(machine: &Machine, packet: &Packet, at: Hook) -> Offload {
    let (offload, mut frame) = machine.receive();
    let got = judge::Packet::parse(Duration::ZERO, &frame);
    assert_ne!((got.ip_checksum, got.l4_checksum), (Checksum::Valid, Checksum::Wrong), "{got:?}");
    if let Some((start, field)) = offload.checksum() {
        assert_eq!(got.l4_checksum, Checksum::Partial, "{got:?}");
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[start..]).ones_complement();
        frame[field..field + 2].copy_from_slice(&sum.to_ne_bytes());
    }
    let expected = judge::Packet::parse(Duration::ZERO, &packet.frame(at.macs()));
    assert!(frame == packet.frame(at.macs()), "\n  expected {expected:?}\n  got      {got:?}");
    offload
}

#[test]
fn checksums_that_the_device_completes() {
    let (mut world, container, wire) = host();
    let syn = tcp(CONTAINER, SERVER, SYN).tcp_options(&[2, 4, 5, 0xb4]);
    let (frame, offload) = partial(&syn, InsideIn, 34, 16);
    container.send(&frame, offload);
    let translated = tcp(FROM, TO, SYN).tcp_options(&[2, 4, 5, 0xb4]).ttl(63).tagged(Tag::Open, N2);
    expect_offloaded(&wire, &translated, UplinkOut);

    world.reset();
    let (frame, offload) = partial(&udp(CONTAINER, SERVER).carrying(1470), InsideIn, 34, 6);
    container.send(&frame, offload);
    expect_offloaded(&wire, &udp(FROM, TO).carrying(0).ttl(63).tagged(Tag::Announce, N2), UplinkOut);
    expect_offloaded(&wire, &udp(FROM, TO).carrying(1470).ttl(63), UplinkOut);

    world.reset();
    Given::Known(to_peer(proto::TCP, CONTAINER, SERVER, NODE2).port(50505).tcp(Tcp::SynSent)).prepare(&mut world);
    let (frame, offload) = partial(&tcp(TO, (NODE1, 50505), SYN | ACK), UplinkIn, 34, 16);
    wire.send(&frame, offload);
    expect_offloaded(&container, &tcp(SERVER, CONTAINER, SYN | ACK).ttl(63), InsideOut);
}

#[test]
fn a_super_packet_is_announced_and_stays_whole() {
    let (mut world, container, wire) = host();
    for options in [&[][..], &[0x94, 4, 0, 0]] {
        world.reset();
        let large = tcp(CONTAINER, SERVER, PSH | ACK).carrying(14_000).options(options);
        let transport = 34 + options.len();
        let (frame, offload) = partial(&large, InsideIn, transport, 16);
        let header = transport as u16 + 20;
        container.send(&frame, Offload { gso_type: GSO_TCPV4, gso_size: 1400, hdr_len: header, ..offload });
        expect_offloaded(&wire, &tcp(FROM, TO, PSH | ACK).ttl(63).tagged(Tag::Announce, N2), UplinkOut);
        let whole = tcp(FROM, TO, PSH | ACK).carrying(14_000).options(options).ttl(63);
        let offload = expect_offloaded(&wire, &whole, UplinkOut);
        assert_eq!((offload.gso_type, offload.gso_size), (GSO_TCPV4, 1400));
        assert_eq!(tally(world.counters()), [("flows_opened", 1), ("announces_sent", 1)]);
    }
}

#[test]
fn a_port_unreachable_error_of_the_host_tells_that_a_flow_is_unknown() {
    let (_world, _container, wire) = host();
    let stray = udp((NODE2, 40000), (NODE1, 8080));
    wire.send(&stray.frame(UplinkIn.macs()), Offload::default());
    let (_, frame) = wire.receive();
    let answer = judge::Packet::parse(Duration::ZERO, &frame);
    assert!(answer.goes(NODE1, NODE2) && answer.checksums_right(), "{answer:?}");
    assert_eq!(answer.tag().map(|tag| tag.kind), Some(Tag::UnknownFlow as u8), "{answer:?}");

    // To a stranger there is nothing else.
    let stray = udp((ANYWHERE, 40000), (NODE1, 8080));
    wire.send(&stray.frame(UplinkIn.macs()), Offload::default());
    let (_, frame) = wire.receive();
    let error = icmp_error(NODE1, ANYWHERE, (3, 3), &stray, 18);
    assert_eq!(frame[34..], error.frame(UplinkOut.macs())[34..]);
}
