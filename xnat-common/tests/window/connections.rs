//! Connections segment by segment: how they open, end and come back.

use super::*;

#[test]
fn a_reset_ends_an_opening_only_if_it_acknowledges_the_syn() {
    let mut nat = Nat::default();
    nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
    nat.refuse(Reply, answer(RST, 0, 0));
    nat.refuse(Reply, answer(RST | ACK, 0, 0));
    nat.refuse(Reply, answer(RST | ACK, 0, 2));
    // Nor does an answer that is for another connection.
    nat.refuse(Reply, answer(SYN | ACK, 0, 5000));
    nat.refuse(Reply, answer(ACK, 77, 5000));
    nat.refuse(Original, segment(RST, 5000, 0));
    nat.expect(Reply, answer(RST | ACK, 0, 1), State::Close);
}

#[test]
fn a_syn_may_carry_data() {
    let mut nat = Nat::default();
    nat.expect(Original, carrying(500, segment(SYN, 0, 0)), State::SynSent);
    nat.refuse(Reply, answer(SYN | ACK, 0, 502));
    for ack in [1, 300, 501] {
        let mut nat = nat;
        nat.expect(Reply, carrying(700, answer(SYN | ACK, 0, ack)), State::SynRecv);
        nat.expect(Reply, carrying(700, answer(SYN | ACK, 0, ack)), State::SynRecv);
        nat.expect(Reply, carrying(1400, answer(ACK, 701, ack)), State::Established);
    }
}

#[test]
fn an_answer_that_is_repeated_may_begin_elsewhere() {
    let mut nat = Nat::default();
    nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
    nat.expect(Reply, answer(SYN | ACK, 0, 1), State::SynRecv);
    nat.expect(Reply, answer(SYN | ACK, 3_000_000_000, 1), State::SynRecv);
    nat.refuse(Reply, answer(SYN | ACK, 0, 90_000));
    nat.expect(Original, segment(ACK, 1, 3_000_000_001), State::Established);
}

#[test]
fn either_end_completes_the_handshake() {
    for direction in [Original, Reply] {
        let mut nat = Nat::default();
        nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
        nat.expect(Reply, answer(SYN | ACK, 0, 1), State::SynRecv);
        let ack = if direction == Original { segment(ACK, 1, 1) } else { answer(ACK, 1, 1) };
        nat.expect(direction, ack, State::Established);
    }
}

#[test]
fn a_simultaneous_open_is_complete_with_the_second_answer() {
    let both = [(Original, segment(SYN | ACK, 0, 1)), (Reply, answer(SYN | ACK, 0, 1))];
    for order in [[0, 1], [1, 0]] {
        let mut nat = Nat::default();
        nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
        nat.expect(Reply, answer(SYN, 0, 0), State::SynSent2);
        let [first, second] = order.map(|index| both[index]);
        nat.expect(first.0, first.1, State::SynRecv);
        // Repeated, it completes nothing.
        nat.expect(first.0, first.1, State::SynRecv);
        nat.expect(second.0, second.1, State::Established);
        nat.expect(Original, carrying(1000, segment(ACK, 1, 1)), State::Established);
        nat.expect(Reply, carrying(1000, answer(ACK, 1, 1001)), State::Established);
    }
}

#[test]
fn resets_that_hosts_send_count() {
    let mut connection = Nat::established(Scale::NONE);
    connection.expect(Original, carrying(1000, segment(ACK, 1, 1)), State::Established);
    connection.expect(Reply, carrying(3000, answer(ACK, 1, 1001)), State::Established);
    let table = [
        ("of an end that gives up", Original, segment(RST | ACK, 1001, 1)),
        ("of an end whose last data have not come by", Reply, answer(RST | ACK, 9001, 1001)),
        ("of a host that knows nothing of it", Reply, answer(RST, 1, 0)),
        ("of one that acknowledges zero", Original, Segment { ack: 0, ..segment(RST | ACK, 1001, 0) }),
        ("from the middle of what is on its way", Reply, answer(RST, 1500, 0)),
    ];
    for (what, direction, reset) in table {
        let mut nat = connection;
        nat.see(direction, &reset);
        assert_eq!(nat.state.tcp(), State::Close, "{what}");
        assert_eq!(nat.windows, connection.windows, "{what}");
    }
}

#[test]
fn resets_that_guess_do_not() {
    let mut nat = Nat::established(Scale::NONE);
    let before = nat;
    for (seq, ack) in [(65_000, 1), (1 << 31, 1), (0_u32.wrapping_sub(LEAST), 1), (1, 1 << 30)] {
        nat.refuse(Reply, answer(RST | ACK, seq, ack));
        nat.refuse(Original, segment(RST | ACK, seq, ack));
        if seq != 1 {
            nat.refuse(Reply, answer(RST, seq, 0));
            nat.refuse(Original, segment(RST, seq, 0));
        }
    }
    assert_eq!(nat, before);
}

#[test]
fn data_bring_a_reset_connection_back() {
    let mut reset = Nat::established(Scale::NONE);
    reset.expect(Reply, answer(RST, 1, 0), State::Close);
    for (direction, data) in [(Original, segment(ACK, 1, 1)), (Reply, answer(ACK, 1, 1))] {
        let mut nat = reset;
        nat.expect(direction, data, State::Close);
        nat.refuse(direction, carrying(10, Segment { seq: data.seq.wrapping_add(1 << 25), ..data }));
        nat.expect(direction, carrying(10, data), State::Established);
    }
    // Half-closed it was, half-closed it is.
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, segment(FIN | ACK, 1, 1), State::FinWait);
    nat.expect(Reply, answer(RST, 1, 0), State::Close);
    nat.expect(Reply, carrying(10, answer(ACK, 1, 2)), State::CloseWait);
    // What was never established has nothing to come back to.
    let mut nat = Nat::default();
    nat.expect(Original, segment(SYN, 0, 0), State::SynSent);
    nat.expect(Reply, answer(RST | ACK, 0, 1), State::Close);
    nat.expect(Original, carrying(10, segment(ACK, 1, 1)), State::Close);
}

#[test]
fn a_half_closed_connection_goes_on_for_as_long_as_there_is_something_to_send() {
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, segment(FIN | ACK, 1, 1), State::FinWait);
    nat.expect(Reply, answer(ACK, 1, 2), State::CloseWait);
    for round in 0..100 {
        nat.expect(Reply, carrying(50_000, answer(ACK, 1 + 50_000 * round, 2)), State::CloseWait);
        nat.expect(Original, segment(ACK, 2, 1 + 50_000 * (round + 1)), State::CloseWait);
    }
    nat.expect(Reply, answer(FIN | ACK, 5_000_001, 2), State::LastAck);
    nat.expect(Original, segment(ACK, 2, 5_000_002), State::TimeWait);
}

#[test]
fn a_fin_counts_only_where_it_belongs() {
    let mut nat = Nat::established(Scale::NONE);
    nat.refuse(Reply, answer(FIN | ACK, 1 << 20, 1));
    nat.refuse(Reply, answer(FIN | ACK, 1, 1 << 20));
    nat.refuse(Reply, answer(FIN, 1, 0));
    nat.expect(Reply, answer(FIN | ACK, 1, 1), State::FinWait);
}

#[test]
fn a_syn_takes_a_connection_that_is_over_up_anew_from_either_end() {
    let mut closing = Nat::established(Scale::NONE);
    closing.expect(Original, segment(FIN | ACK, 1, 1), State::FinWait);
    closing.expect(Reply, answer(FIN | ACK, 1, 2), State::LastAck);
    let mut closed = closing;
    closed.expect(Original, segment(ACK, 2, 2), State::TimeWait);
    let mut reset = Nat::established(Scale::NONE);
    reset.expect(Original, segment(RST, 1, 0), State::Close);
    for over in [closing, closed, reset] {
        let mut nat = over;
        nat.expect(Original, segment(SYN, 1 << 30, 0), State::SynSent);
        nat.expect(Reply, answer(SYN | ACK, 1 << 30, (1 << 30) + 1), State::SynRecv);
        nat.expect(Original, segment(ACK, (1 << 30) + 1, (1 << 30) + 1), State::Established);
        let mut nat = over;
        nat.expect(Reply, answer(SYN, 1 << 30, 0), State::SynSent);
        nat.expect(Original, segment(SYN | ACK, 1 << 30, (1 << 30) + 1), State::SynRecv);
        nat.expect(Reply, answer(ACK, (1 << 30) + 1, (1 << 30) + 1), State::Established);
        assert!(!nat.state.has(flow::State::FIN_ORIGINAL) && !nat.state.has(flow::State::FIN_REPLY));
    }
}

#[test]
fn a_syn_in_a_connection_that_goes_on_changes_nothing() {
    let mut nat = Nat::established(Scale(7));
    let before = nat;
    nat.refuse(Original, syn(1 << 30, Scale(2)));
    nat.refuse(Reply, Segment { flags: SYN, ..answer(SYN, 1 << 30, 0) });
    nat.expect(Original, syn(0, Scale(7)), State::Established);
    nat.expect(Reply, Segment { scale: 7, ..answer(SYN | ACK, 0, 1) }, State::Established);
    assert_eq!((nat.state, nat.windows), (before.state, before.windows));
}

#[test]
fn two_ends_that_have_both_forgotten_the_connection_open_another() {
    let mut nat = Nat::established(Scale::NONE);
    nat.refuse(Original, segment(SYN, 1 << 30, 0));
    // Of the same direction it is nobody's answer.
    nat.refuse(Original, Segment { ack: A.wrapping_add((1 << 30) + 1), ..segment(SYN | ACK, 1 << 29, 0) });
    nat.refuse(Reply, answer(SYN | ACK, 1 << 30, 1 << 30));
    nat.expect(Reply, answer(SYN | ACK, 1 << 30, (1 << 30) + 1), State::SynRecv);
    nat.expect(Original, segment(ACK, (1 << 30) + 1, (1 << 30) + 1), State::Established);
    nat.expect(Reply, carrying(1000, answer(ACK, (1 << 30) + 1, (1 << 30) + 1)), State::Established);
    nat.refuse(Original, carrying(1000, segment(ACK, 1, 1)));
}

#[test]
fn an_end_of_which_only_the_other_knows_is_reset_as_ever() {
    // The opener has forgotten the connection, and the other end tells it by acknowledging what it last got.
    let mut nat = Nat::established(Scale::NONE);
    nat.refuse(Original, segment(SYN, 1 << 30, 0));
    nat.expect(Reply, answer(ACK, 1, 1), State::Established);
    nat.expect(Original, segment(RST, 1, 0), State::Close);
    nat.expect(Original, segment(SYN, 1 << 30, 0), State::SynSent);
}

#[test]
fn a_connection_is_learnt_in_the_middle() {
    let mut nat = Nat::default();
    nat.expect(Original, carrying(60_000, segment(ACK, 1, 1)), State::Established);
    // Until the other end says something, nobody knows how much it takes.
    for round in 1..100 {
        nat.expect(Original, carrying(60_000, segment(ACK, 1 + round * 60_000, 1)), State::Established);
    }
    nat.expect(Reply, Segment { window: 501, ..answer(ACK, 1, 6_000_001) }, State::Established);
    nat.expect(Original, carrying(60_000, segment(ACK, 6_000_001, 1)), State::Established);
    nat.refuse(Reply, answer(ACK, 1, 2_000_000_000));
    // What would end it is looked at more closely.
    nat.refuse(Reply, answer(RST, 1_000_000, 0));
    nat.refuse(Reply, answer(FIN | ACK, 1_000_000, 6_060_001));
    nat.expect(Reply, answer(FIN | ACK, 1, 6_060_001), State::FinWait);
    // Of one end alone.
    let mut nat = Nat::default();
    nat.expect(Reply, answer(ACK, 1, 1), State::Established);
    nat.refuse(Original, segment(RST, 1_000_000, 0));
    nat.expect(Original, segment(RST, 1, 0), State::Close);
}

#[test]
fn what_was_missed_is_made_up_for() {
    // The later fragments of a packet carry no header: the data in them show when they are acknowledged.
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, carrying(1000, segment(ACK, 1, 1)), State::Established);
    nat.expect(Reply, answer(ACK, 1, 60_001), State::Established);
    nat.expect(Original, carrying(1000, segment(ACK, 60_001, 1)), State::Established);
    // Two processors store at the same time, and the older value stays, in each field.
    for field in 0..3 {
        let mut nat = Nat::established(Scale(9));
        let mut sent = 1;
        for round in 0..50 {
            let old = nat.windows;
            nat.expect(
                Original,
                Segment { window: 30_000, ..carrying(64_000, segment(ACK, sent, 1)) },
                State::Established,
            );
            nat.expect(Reply, Segment { window: 30_000, ..answer(ACK, 1, sent + 64_000) }, State::Established);
            sent += 64_000;
            if round % 3 == 0 {
                match field {
                    0 => nat.windows[0].end = old[0].end,
                    1 => nat.windows[0].max_end = old[0].max_end,
                    _ => nat.windows[1].max_window = old[1].max_window,
                }
            }
        }
    }
}

#[test]
fn keep_alives_and_probes_of_a_closed_window_are_plausible() {
    let mut nat = Nat::established(Scale::NONE);
    nat.expect(Original, segment(ACK, 0, 1), State::Established);
    nat.expect(Original, carrying(1, segment(ACK, 0, 1)), State::Established);
    nat.expect(Reply, Segment { window: 0, ..answer(ACK, 1, 1) }, State::Established);
    nat.expect(Original, carrying(1, segment(ACK, 1, 1)), State::Established);
    nat.expect(Reply, Segment { window: 0, ..answer(ACK, 1, 1) }, State::Established);
}

#[test]
fn scale_factors_count_only_if_both_ends_offer_them() {
    for (own, other, shift) in [(Scale(7), Scale(3), 7), (Scale(7), Scale::NONE, 0), (Scale::NONE, Scale(3), 0)] {
        let mut nat = Nat::default();
        nat.expect(Original, syn(0, own), State::SynSent);
        nat.expect(Reply, Segment { scale: other.0, ..answer(SYN | ACK, 0, 1) }, State::SynRecv);
        // The window of a SYN is never scaled.
        assert_eq!(nat.windows[0].max_end, A.wrapping_add(1 + 64_240));
        nat.expect(Original, Segment { window: 50_000, ..segment(ACK, 1, 1) }, State::Established);
        let allowed = if shift == 0 { 64_240 } else { 50_000 << shift };
        assert_eq!(nat.windows[1].max_end.wrapping_sub(B + 1), if shift == 0 { 50_000 } else { allowed });
        assert_eq!((nat.windows[0].max_window & 0x00ff_ffff) * 64, allowed.next_multiple_of(64));
    }
    assert_eq!(Scale::from_option(200), Scale(14));
}
