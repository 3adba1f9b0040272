//! TCP's state as a NAT sees it: sequences of segments and where they lead.

use xnat_common::Direction::{self, Original, Reply};
use xnat_common::flow::State;
use xnat_common::packet::proto;
use xnat_common::tcp::flags::{ACK, FIN, RST, SYN};
use xnat_common::tcp::{self, State as Tcp};
use xnat_common::timeout::{Timeouts, refreshes};
use xnat_common::{Kind, Ticks};

const STATES: [Tcp; 10] = [
    Tcp::None,
    Tcp::SynSent,
    Tcp::SynRecv,
    Tcp::Established,
    Tcp::FinWait,
    Tcp::CloseWait,
    Tcp::LastAck,
    Tcp::TimeWait,
    Tcp::Close,
    Tcp::SynSent2,
];

/// Segments by direction and flags.
type Segments = [(Direction, u8)];

/// The opener's three-way handshake.
const HANDSHAKE: [(Direction, u8); 3] = [(Original, SYN), (Reply, SYN | ACK), (Original, ACK)];

fn walk(segments: impl IntoIterator<Item = (Direction, u8)>) -> State {
    let step = |state, (direction, segment)| tcp::advance(state, direction, segment, false);
    segments.into_iter().fold(State::default(), step)
}

#[test]
fn sequences_of_segments_lead_to_states() {
    let table: &[(&str, &Segments, Tcp)] = &[
        ("nothing", &[], Tcp::None),
        ("SYN", &[(Original, SYN)], Tcp::SynSent),
        ("SYN, again", &[(Original, SYN), (Original, SYN)], Tcp::SynSent),
        ("SYN with ECN", &[(Original, SYN | 0xc0)], Tcp::SynSent),
        ("SYN, answered", &HANDSHAKE[..2], Tcp::SynRecv),
        ("SYN, answered, again", &[HANDSHAKE[0], HANDSHAKE[1], (Original, SYN)], Tcp::SynRecv),
        ("SYN, acknowledged only (a challenge)", &[(Original, SYN), (Reply, ACK)], Tcp::SynSent),
        ("SYN, refused", &[(Original, SYN), (Reply, RST | ACK)], Tcp::Close),
        ("handshake", &HANDSHAKE, Tcp::Established),
        ("handshake, then a late SYN|ACK", &[HANDSHAKE[0], HANDSHAKE[1], HANDSHAKE[2], HANDSHAKE[1]], Tcp::Established),
        ("the answering end speaks first", &[HANDSHAKE[0], HANDSHAKE[1], (Reply, ACK)], Tcp::Established),
        ("opened by the other end", &[(Reply, SYN)], Tcp::SynSent),
        ("and answered", &[(Reply, SYN), (Original, SYN | ACK)], Tcp::SynRecv),
        ("and complete", &[(Reply, SYN), (Original, SYN | ACK), (Reply, ACK)], Tcp::Established),
        ("simultaneous open", &[(Original, SYN), (Reply, SYN)], Tcp::SynSent2),
        (
            "simultaneous open, acknowledged by one end",
            &[(Original, SYN), (Reply, SYN), (Reply, SYN | ACK)],
            Tcp::SynRecv,
        ),
        (
            "simultaneous open, complete",
            &[(Original, SYN), (Reply, SYN), (Original, SYN | ACK), (Reply, SYN | ACK), (Original, ACK)],
            Tcp::Established,
        ),
        ("taken up in the middle by the opener", &[(Original, ACK)], Tcp::Established),
        ("taken up in the middle by the other end", &[(Reply, ACK)], Tcp::Established),
        ("taken up by a FIN, as if it were nothing", &[(Original, FIN | ACK)], Tcp::None),
    ];
    for (what, segments, expected) in table {
        assert_eq!(walk(segments.iter().copied()).tcp(), *expected, "{what}");
    }
}

#[test]
fn connections_close() {
    let table: &[(&str, &Segments, Tcp)] = &[
        ("FIN of the opener", &[(Original, FIN | ACK)], Tcp::FinWait),
        ("FIN of the other end", &[(Reply, FIN | ACK)], Tcp::FinWait),
        ("FIN, again", &[(Original, FIN | ACK), (Original, FIN | ACK)], Tcp::FinWait),
        ("FIN, its sender still acknowledges", &[(Original, FIN | ACK), (Original, ACK)], Tcp::FinWait),
        ("half-close: FIN, acknowledged", &[(Original, FIN | ACK), (Reply, ACK)], Tcp::CloseWait),
        (
            "half-close: data goes on for a while",
            &[(Original, FIN | ACK), (Reply, ACK), (Reply, ACK), (Original, ACK)],
            Tcp::CloseWait,
        ),
        ("both FINs, one after the other", &[(Original, FIN | ACK), (Reply, ACK), (Reply, FIN | ACK)], Tcp::LastAck),
        ("both FINs at once", &[(Original, FIN | ACK), (Reply, FIN | ACK)], Tcp::LastAck),
        (
            "all four segments",
            &[(Original, FIN | ACK), (Reply, ACK), (Reply, FIN | ACK), (Original, ACK)],
            Tcp::TimeWait,
        ),
        ("three segments", &[(Reply, FIN | ACK), (Original, FIN | ACK), (Reply, ACK)], Tcp::TimeWait),
        (
            "a FIN late in TIME_WAIT",
            &[(Reply, FIN | ACK), (Original, FIN | ACK), (Reply, ACK), (Original, FIN | ACK)],
            Tcp::TimeWait,
        ),
        ("RST of the opener", &[(Original, RST)], Tcp::Close),
        ("RST of the other end", &[(Reply, RST | ACK)], Tcp::Close),
        ("RST in half-close", &[(Original, FIN | ACK), (Reply, ACK), (Reply, RST)], Tcp::Close),
        ("what comes after a RST", &[(Reply, RST), (Original, ACK), (Reply, FIN | ACK)], Tcp::Close),
        ("a new SYN after a RST", &[(Reply, RST), (Original, SYN)], Tcp::SynSent),
        ("a SYN of the other end after a RST", &[(Reply, RST), (Reply, SYN)], Tcp::SynSent),
        ("a SYN in the middle of a connection", &[(Original, SYN)], Tcp::Established),
        ("a SYN|ACK in the middle of a connection", &[(Reply, SYN | ACK)], Tcp::Established),
    ];
    for (what, segments, expected) in table {
        let state = walk(HANDSHAKE.into_iter().chain(segments.iter().copied()));
        assert_eq!(state.tcp(), *expected, "{what}");
        assert!(state.has(State::ASSURED), "{what}: it was established once");
    }
}

#[test]
fn what_is_over_can_be_opened_anew() {
    for tcp in STATES {
        assert_eq!(tcp.is_over(), matches!(tcp, Tcp::TimeWait | Tcp::Close), "{}", tcp.name());
    }
}

#[test]
fn a_syn_takes_up_anew_what_both_ends_have_done_with() {
    for tcp in STATES {
        let over = matches!(tcp, Tcp::LastAck | Tcp::TimeWait | Tcp::Close);
        assert_eq!(tcp::can_reopen(tcp), over, "{}", tcp.name());
        for direction in [Original, Reply] {
            let next = tcp::advance(State::default().with_tcp(tcp), direction, SYN, false).tcp();
            assert_eq!(next == Tcp::SynSent, over || tcp == Tcp::None || tcp == Tcp::SynSent && direction == Original);
        }
    }
}

#[test]
fn what_belongs_to_the_connection_goes_when_it_is_taken_up_anew() {
    let all = State(!0).with_tcp(Tcp::TimeWait);
    let connection =
        State::REPLIED | State::CONFIRMED | State::FIN_ORIGINAL | State::FIN_REPLY | State::ASSURED | State::CROSSED;
    let flow = State::ANNOUNCED
        | State::DOOMED
        | State::MAPPED
        | State::MOVING
        | State::REMOTE_NEAR
        | State::REMOTE_FAR
        | State::REMOTE_INDEXED
        | State::PUBLISHED
        | State::LISTED;
    assert_eq!(connection & flow, 0);
    assert_eq!(tcp::reopened(all, Kind::Outside as u8), State(flow));
    assert_eq!(tcp::reopened(all, Kind::Peer as u8), State(flow));
    assert_eq!(tcp::reopened(all, Kind::Inbound as u8), State(flow | State::CONFIRMED), "the peer knows what it opens");
}

#[test]
fn data_bring_back_what_a_reset_has_ended() {
    let data = |state| [Original, Reply].map(|direction| tcp::advance(state, direction, ACK, true).tcp());
    let close = |bits| State(bits).with_tcp(Tcp::Close);
    assert_eq!(data(close(State::ASSURED)), [Tcp::Established; 2]);
    assert_eq!(data(close(State::ASSURED | State::FIN_REPLY)), [Tcp::CloseWait; 2], "half-closed, as it was");
    assert_eq!(data(close(State::ASSURED | State::FIN_REPLY | State::FIN_ORIGINAL)), [Tcp::Close; 2]);
    assert_eq!(data(close(0)), [Tcp::Close; 2], "never established");
    assert_eq!(tcp::advance(close(State::ASSURED), Reply, ACK, false).tcp(), Tcp::Close, "no data");
    let fin = tcp::advance(close(State::ASSURED), Reply, FIN | ACK, true);
    assert_eq!(fin, State(State::ASSURED | State::FIN_REPLY).with_tcp(Tcp::FinWait), "and a FIN behind them");
}

#[test]
fn what_comes_in_refreshes_but_a_mapping_that_nobody_answers_on() {
    for number in 0..=u8::MAX {
        for state in [State::default(), State(State::REPLIED)] {
            assert!(refreshes(number, state, false), "what leaves always does");
            let mapped = Kind::from_u8(number) == Some(Kind::Mapped);
            assert_eq!(refreshes(number, state, true), !mapped || state.replied(), "kind {number}");
        }
    }
}

#[test]
fn every_segment_in_every_state_leads_to_a_defined_state() {
    for tcp in STATES {
        for bits in 0..1_u32 << 7 {
            let state = State(bits << 8).with_tcp(tcp);
            for direction in [Original, Reply] {
                for segment in 0..=u8::MAX {
                    let next = tcp::advance(state, direction, segment, false);
                    assert_eq!(Tcp::from_u8(next.0 as u8) as u32, next.0 & 0xff, "a defined number");
                    assert_eq!(next.0 & state.0 & !0xff, state.0 & !0xff, "no status bit is lost");
                    let gained = State::ASSURED | State::FIN_ORIGINAL | State::FIN_REPLY;
                    assert_eq!(next.0 & !0xff & !gained, state.0 & !0xff & !gained, "and none but these is won");
                    if segment & RST != 0 {
                        assert_eq!(next.tcp(), Tcp::Close);
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_and_names_of_states_do_not_change() {
    let names = STATES.map(Tcp::name);
    let golden = [
        "NONE",
        "SYN_SENT",
        "SYN_RECV",
        "ESTABLISHED",
        "FIN_WAIT",
        "CLOSE_WAIT",
        "LAST_ACK",
        "TIME_WAIT",
        "CLOSE",
        "SYN_SENT2",
    ];
    assert_eq!(names, golden);
    for (number, state) in STATES.into_iter().enumerate() {
        assert_eq!(state as usize, number);
        assert_eq!(Tcp::from_u8(state as u8), state);
    }
    for number in 10..=u8::MAX {
        assert_eq!(Tcp::from_u8(number), Tcp::None);
    }
    let bits =
        [State::REPLIED, State::CONFIRMED, State::FIN_ORIGINAL, State::FIN_REPLY, State::ASSURED, State::ANNOUNCED];
    assert_eq!(bits, [0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000]);
}

#[test]
fn timeouts_follow_the_state() {
    let timeouts = Timeouts::default();
    let seconds = |proto, state| Ticks::as_ns(timeouts.idle(proto, state)) / 1_000_000_000;
    for tcp in STATES {
        let expected = if tcp == Tcp::Established { 7440 } else { 240 };
        for bits in [0, State::REPLIED, State::CONFIRMED | State::ASSURED] {
            assert_eq!(seconds(proto::TCP, State(bits).with_tcp(tcp)), expected, "{}", tcp.name());
        }
    }
    assert_eq!(seconds(proto::UDP, State::default()), 120);
    assert_eq!(seconds(proto::UDP, State(State::REPLIED)), 300);
    assert_eq!(seconds(proto::ICMP, State(State::REPLIED)), 60);
    assert_eq!(seconds(proto::SCTP, State::default()), 600);
    assert_eq!(seconds(47, State(State::REPLIED)), 600);
}
