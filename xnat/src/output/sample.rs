//! Flows for tests of everything that prints or chooses flows.

use bytemuck::Zeroable as _;
use xnat_common::flow::{Counts, Flow, Kind, State, Word};
use xnat_common::packet::proto;
use xnat_common::{Addr, Port, Ticks, Tuple, tcp};

fn tuple(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Tuple {
    Tuple { src: Addr::new(src), dst: Addr::new(dst), sport: Port::new(sport), dport: Port::new(dport) }
}

const NODE1: [u8; 4] = [172, 29, 0, 4];
const NODE2: [u8; 4] = [172, 29, 0, 17];
const N1: [u8; 4] = [192, 168, 110, 11];
const N2: [u8; 4] = [192, 168, 220, 11];

fn base(protocol: u8, kind: Kind) -> Flow {
    let mut flow = Flow::zeroed();
    flow.word = Word::new(1, Ticks(0)).0;
    flow.proto = protocol;
    flow.kind = kind as u8;
    flow
}

fn counts(packets: [u64; 2], bytes: [u32; 2]) -> [u64; 2] {
    [0, 1].map(|at| packets[at] * Counts::of_packet(0) + u64::from(bytes[at]))
}

/// An established connection to a container behind a peer.
pub(crate) fn tcp() -> Flow {
    let mut flow = base(proto::TCP, Kind::Peer);
    flow.original = tuple(N1, 40000, N2, 80);
    flow.reply = tuple(NODE2, 80, NODE1, 40000);
    flow.peer = Addr::new(NODE2);
    let bits = State::REPLIED | State::CONFIRMED | State::ASSURED;
    flow.state = State(bits).with_tcp(tcp::State::Established).0;
    flow.counts = counts([5, 4], [400, 300]);
    flow
}

/// A datagram toward the outside that nobody has answered.
pub(crate) fn udp() -> Flow {
    let mut flow = base(proto::UDP, Kind::Outside);
    flow.original = tuple(N1, 5000, [9, 9, 9, 9], 53);
    flow.reply = tuple([9, 9, 9, 9], 53, NODE1, 5000);
    flow.counts = counts([1, 0], [60, 0]);
    flow
}

/// A ping that a peer's container has sent and one of ours answered.
pub(crate) fn icmp() -> Flow {
    let mut flow = base(proto::ICMP, Kind::Inbound);
    flow.original = tuple(NODE2, 77, NODE1, 0);
    flow.reply = tuple(N1, 0, NODE2, 77);
    flow.peer = Addr::new(NODE2);
    flow.state = State::REPLIED | State::CONFIRMED | State::ASSURED;
    flow.counts = counts([1, 1], [84, 84]);
    flow
}

/// A packet of a protocol that has no name here.
pub(crate) fn other() -> Flow {
    let mut flow = base(50, Kind::Outside);
    flow.original = tuple(N1, 0, [9, 9, 9, 9], 0);
    flow.reply = tuple([9, 9, 9, 9], 0, NODE1, 0);
    flow.counts = counts([1, 0], [20, 0]);
    flow
}

/// A connection from the outside to a container: by a forward, or through a mapping.
pub(crate) fn from_outside(kind: Kind) -> Flow {
    let mut flow = base(proto::TCP, kind);
    flow.original = tuple([9, 9, 9, 9], 5000, NODE1, 8080);
    flow.reply = tuple(N1, 80, [9, 9, 9, 9], 5000);
    flow.state = State(State::REPLIED | State::ASSURED).with_tcp(tcp::State::Established).0;
    flow
}

/// A connection between two containers of ours by this host's address.
pub(crate) fn hairpin() -> Flow {
    let mut flow = base(proto::TCP, Kind::Hairpin);
    flow.original = tuple([192, 168, 110, 12], 5000, NODE1, 8080);
    flow.reply = tuple(N1, 80, NODE1, 5000);
    flow.state = State(State::REPLIED | State::ASSURED).with_tcp(tcp::State::Established).0;
    flow
}
