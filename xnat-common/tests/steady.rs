//! Which flows are steady: what a packet of theirs leaves as it is.

use bytemuck::Zeroable as _;
use xnat_common::flow::State;
use xnat_common::packet::proto;
use xnat_common::tcp::flags::ACK;
use xnat_common::tcp::{self, Judgement, State as Tcp};
use xnat_common::time::Ticks;
use xnat_common::timeout::refreshes;
use xnat_common::{Direction, Flow, Kind, Side, tag};

use Direction::{Original, Reply};

const KINDS: [Kind; 7] =
    [Kind::Outside, Kind::Peer, Kind::Inbound, Kind::Host, Kind::Forward, Kind::Mapped, Kind::Hairpin];
/// The status bits there are, and the first of them.
const BITS: u32 = 0x7f_ff00;
const FIRST_BIT: u32 = 8;
/// Of an answered flow to a peer, or through a mapping.
const SETTLED: u32 = State::REPLIED | State::CONFIRMED | State::ASSURED | State::MAPPED;

fn flow(kind: Kind, proto: u8, state: State) -> Flow {
    Flow { kind: kind as u8, proto, state: state.0, ..Flow::zeroed() }
}

/// A flow with which nothing is the matter.
fn settled(kind: Kind, proto: u8) -> Flow {
    flow(kind, proto, State(SETTLED).with_tcp(if proto == proto::TCP { Tcp::Established } else { Tcp::None }))
}

/// In which directions a flow is steady, seen on the side where its packets come from.
fn steady(flow: &Flow) -> [bool; 2] {
    [Original, Reply].map(|direction| flow.is_steady(direction, Kind::side(flow.kind, direction)))
}

#[test]
fn settled_flows_between_inside_and_wire_are_steady() {
    for kind in KINDS {
        let expected = !matches!(kind, Kind::Host | Kind::Hairpin);
        for proto in [proto::TCP, proto::UDP] {
            let flow = settled(kind, proto);
            assert_eq!(steady(&flow), [expected; 2], "{kind:?}, protocol {proto}");
            for (direction, side) in
                [(Original, Side::Inside), (Original, Side::Wire), (Reply, Side::Inside), (Reply, Side::Wire)]
            {
                let its_own = Kind::side(kind as u8, direction) == side;
                assert_eq!(flow.is_steady(direction, side), expected && its_own, "{kind:?}, {direction:?} on {side:?}");
            }
        }
        for proto in [proto::ICMP, proto::SCTP, 0, 47] {
            assert_eq!(steady(&settled(kind, proto)), [false; 2], "{kind:?}, protocol {proto}");
        }
    }
    assert_eq!(steady(&Flow { kind: 0, ..settled(Kind::Outside, proto::UDP) }), [false; 2], "no kind at all");
}

#[test]
fn only_established_connections_are_steady() {
    let flow = |tcp| Flow { state: State(SETTLED).with_tcp(tcp).0, ..settled(Kind::Outside, proto::TCP) };
    for number in 0..=u8::MAX {
        let state = Tcp::from_u8(number);
        assert_eq!(steady(&flow(state)), [state == Tcp::Established; 2], "{state:?}");
    }
    for missing in [State::REPLIED, State::CONFIRMED] {
        let state = State(SETTLED & !missing).with_tcp(Tcp::Established);
        let flow = Flow { state: state.0, ..flow(Tcp::Established) };
        assert_eq!(steady(&flow), [false; 2], "the first answer changes {missing:#x}");
    }
}

#[test]
fn a_datagram_may_go_unanswered() {
    let without = |kind, bits: u32| steady(&flow(kind, proto::UDP, State(SETTLED & !bits)));
    let never_answered = State::REPLIED | State::CONFIRMED | State::ASSURED;
    for kind in [Kind::Outside, Kind::Inbound, Kind::Forward] {
        assert_eq!(without(kind, never_answered), [true, false], "{kind:?}");
    }
    for bit in [State::REPLIED, State::CONFIRMED, State::ASSURED] {
        assert_eq!(without(Kind::Outside, bit), [true, false], "the answer sets {bit:#x}");
    }
    assert_eq!(without(Kind::Peer, State::CONFIRMED), [false; 2], "its packets are tagged");
    assert_eq!(without(Kind::Peer, State::REPLIED), [true, false], "the peer knows it, by a crossing");
    assert_eq!(without(Kind::Mapped, State::REPLIED), [false; 2], "it is not kept alive from outside");
    assert_eq!(without(Kind::Mapped, State::MAPPED), [false; 2], "its next answer joins the mapping");
}

#[test]
fn nothing_steady_is_in_transition() {
    for kind in KINDS {
        for proto in [proto::TCP, proto::UDP] {
            for bit in [State::ANNOUNCED, State::CROSSED, State::DOOMED, State::MOVING, State::HELD] {
                let settled = settled(kind, proto);
                assert_eq!(steady(&Flow { state: settled.state | bit, ..settled }), [false; 2], "{kind:?}, {bit:#x}");
            }
            // These say where a flow is counted and listed, and nothing else.
            for bit in [State::REMOTE_NEAR, State::REMOTE_FAR, State::REMOTE_INDEXED, State::PUBLISHED, State::LISTED] {
                let settled = settled(kind, proto);
                assert_eq!(
                    steady(&Flow { state: settled.state | bit, ..settled }),
                    steady(&settled),
                    "{kind:?}, {bit:#x}"
                );
            }
        }
    }
}

/// What the express lane relies on: it takes none of the steps that these would call for.
#[test]
fn packets_of_steady_flows_change_nothing_else() {
    let mut seen = 0;
    for bits in 0..=BITS >> FIRST_BIT {
        for tcp in 0..=Tcp::SynSent2 as u8 {
            let state = State(bits << FIRST_BIT | u32::from(tcp));
            for (kind, proto) in KINDS.into_iter().flat_map(|kind| [(kind, proto::TCP), (kind, proto::UDP)]) {
                let flow = flow(kind, proto, state);
                for direction in [Original, Reply] {
                    for side in [Side::Inside, Side::Wire] {
                        if flow.is_steady(direction, side) {
                            seen += 1;
                            changes_nothing(&flow, kind, direction, side);
                        }
                    }
                }
            }
        }
    }
    assert!(seen > 1000, "{seen}");
}

fn changes_nothing(flow: &Flow, kind: Kind, direction: Direction, side: Side) {
    let state = State(flow.state);
    if flow.proto == proto::TCP {
        // PSH, URG, ECE and CWR may be there; SYN, FIN and RST are not.
        for (segment, data) in [(ACK, false), (ACK, true), (ACK | 0xe8, true)] {
            let next = tcp::follow(state, flow.kind, direction, Judgement::Plausible, segment, data);
            assert_eq!(next, state, "{kind:?} {direction:?}");
        }
    }
    if kind == Kind::Peer && direction == Original {
        for tagged in [0, tag::EAGER, u8::MAX] {
            assert!(!tag::is_due(&Flow { tagged, ..*flow }, Ticks(u32::MAX / 2)));
        }
    }
    if direction == Reply {
        let assured = if flow.proto == proto::UDP { State::ASSURED } else { 0 };
        assert!(state.has(State::REPLIED | State::CONFIRMED | assured), "an answer would set them: {state:?}");
    }
    assert!(!state.has(State::ANNOUNCED), "what was announced would have come");
    assert!(refreshes(flow.kind, state, side == Side::Wire), "{kind:?} {direction:?} {state:?}");
    assert_eq!(Kind::side(flow.kind, direction), side);
    assert_ne!(Kind::side(flow.kind, direction.opposite()), side, "it leaves by way of the other side");
}

#[test]
fn only_connections_that_containers_open_to_the_outside_turn() {
    let turning =
        |flow: &Flow| [Original, Reply].map(|direction| flow.may_turn(direction, Kind::side(flow.kind, direction)));
    for kind in KINDS {
        for proto in [proto::TCP, proto::UDP, proto::ICMP, proto::SCTP] {
            let flow = settled(kind, proto);
            let expected = kind == Kind::Outside && proto == proto::TCP;
            assert_eq!(turning(&flow), [expected; 2], "{kind:?}, protocol {proto}");
        }
    }
    for number in 0..=u8::MAX {
        let state = State(State::PUBLISHED).with_tcp(Tcp::from_u8(number));
        let flow = flow(Kind::Outside, proto::TCP, state);
        assert_eq!(turning(&flow), [true; 2], "{state:?}");
        assert!(!flow.may_turn(Original, Side::Wire) && !flow.may_turn(Reply, Side::Inside), "as a hairpin would");
        for bit in [State::ANNOUNCED, State::CROSSED, State::DOOMED, State::MOVING, State::HELD] {
            assert_eq!(turning(&Flow { state: state.0 | bit, ..flow }), [false; 2], "{state:?}, {bit:#x}");
        }
    }
}
