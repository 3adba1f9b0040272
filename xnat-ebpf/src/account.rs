//! What a translated packet leaves behind in its flow: time, counters, state.

use xnat_common::counter::Counter;
use xnat_common::flow::{Kind, State};
use xnat_common::packet::{Headers, proto};
use xnat_common::{Direction, FlowRef, Side, Ticks, tcp};

use crate::atomic;
use crate::lookup::{self, Found};
use crate::maps;

/// Stamps, counts and advances the state; false if the flow has been collected in the meantime.
#[inline(always)]
pub fn account(found: &Found, headers: &Headers, now: Ticks) -> bool {
    // What is not a TCP header has no flags.
    let flags = if headers.is_later_fragment() { 0 } else { headers.flags };
    let (reference, len) = (found.reference.to_bits(), u32::from(headers.total_len));
    xnat_account(reference, u32::from(headers.proto), u32::from(flags), len, now.0) != 0
}

/// As [`account`].
///
/// A global function, which the verifier checks once by itself: inlined, its branches would multiply everything that
/// comes after it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_account(reference: u64, protocol: u32, flags: u32, len: u32, now: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    if !found.refresh(Ticks(now)) {
        return 0;
    }
    let direction = found.direction();
    // SAFETY: fields of a map value; the direction is 0 or 1.
    unsafe {
        let packets = (&raw mut (*found.flow).packets).cast::<u64>();
        let bytes = (&raw mut (*found.flow).bytes).cast::<u64>();
        atomic::add(packets.add(direction as usize), 1);
        atomic::add(bytes.add(direction as usize), u64::from(len));
    }
    // Another processor may be at the same flow; whoever loses looks again.
    for _ in 0..4 {
        let old = found.state();
        let from_wire = Kind::side(found.flow().kind, direction) == Side::Wire;
        let new = next_state(old, direction, from_wire, protocol as u8, flags as u8);
        if new == old || found.change_state(old, new) {
            break;
        }
    }
    1
}

/// The state of a flow after a packet.
#[inline(always)]
fn next_state(old: State, direction: Direction, from_wire: bool, protocol: u8, flags: u8) -> State {
    // From the wire: the packet that an announcement was for has come.
    let mut state = if from_wire { State(old.0 & !State::ANNOUNCED) } else { old };
    if direction == Direction::Reply {
        state.0 |= State::REPLIED | State::CONFIRMED;
        if protocol != proto::TCP {
            state.0 |= State::ASSURED;
        }
    }
    if protocol == proto::TCP { tcp::advance(state, direction, flags) } else { state }
}

/// Takes up a closed TCP flow anew when `headers` open a connection on it.
#[inline(always)]
pub fn reopen(found: &Found, headers: &Headers) {
    let opens = headers.proto == proto::TCP && tcp::opens(headers.flags);
    if !opens || found.direction() != Direction::Original {
        return;
    }
    let old = found.state();
    if !old.tcp().is_over() {
        return;
    }
    // What a peer must know of a flow it must be told again; what the peer has opened it knows.
    let kept = State::ANNOUNCED
        | State::DOOMED
        | State::MAPPED
        | State::REMOTE_NEAR
        | State::REMOTE_FAR
        | if found.flow().kind == Kind::Inbound as u8 { State::CONFIRMED } else { 0 };
    if found.change_state(old, State(old.0 & kept)) {
        // SAFETY: a field of a map value; only openings write it.
        unsafe { (*found.flow).tagged = 0 };
        maps::count(Counter::FlowsReopened);
    }
}

/// Sets status bits, and clears others.
#[inline(always)]
pub fn mark(found: &Found, set: u32, clear: u32) {
    for _ in 0..4 {
        let old = found.state();
        if found.change_state(old, State(old.0 & !clear | set)) {
            return;
        }
    }
}
