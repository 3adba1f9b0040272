//! How long a flow may be idle.

use bytemuck::{Pod, Zeroable};

use crate::flow::{self, Flow, Kind};
use crate::packet::proto;
use crate::tcp;
use crate::time::Ticks;

/// Idle timeouts in [`Ticks`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Timeouts {
    /// TCP, established (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established: u32,
    /// TCP, opening, closing or reset (RFC 5382 REQ-5: at least 4 min; RFC 7857 §2).
    pub tcp_transitory: u32,
    /// UDP that has been answered (RFC 4787 REQ-5: 5 min recommended).
    pub udp: u32,
    /// UDP that nobody has answered yet (RFC 4787 REQ-5: at least 2 min).
    pub udp_unreplied: u32,
    /// ICMP queries (RFC 5508 REQ-2: at least 60 s).
    pub icmp: u32,
    /// Every other protocol.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Ticks::from_secs(7440).0,
            tcp_transitory: Ticks::from_secs(240).0,
            udp: Ticks::from_secs(300).0,
            udp_unreplied: Ticks::from_secs(120).0,
            icmp: Ticks::from_secs(60).0,
            other: Ticks::from_secs(600).0,
        }
    }
}

impl Timeouts {
    /// How long a flow of `proto` in `state` may be idle.
    #[inline(always)]
    #[must_use]
    pub const fn idle(&self, proto: u8, state: flow::State) -> Ticks {
        Ticks(match proto {
            proto::TCP => match state.tcp() {
                tcp::State::Established => self.tcp_established,
                _ => self.tcp_transitory,
            },
            proto::UDP if state.replied() => self.udp,
            proto::UDP => self.udp_unreplied,
            proto::ICMP => self.icmp,
            _ => self.other,
        })
    }

    /// The shortest of them.
    #[must_use]
    pub fn least(&self) -> Ticks {
        let Self { tcp_established, tcp_transitory, udp, udp_unreplied, icmp, other } = *self;
        Ticks(tcp_established.min(tcp_transitory).min(udp).min(udp_unreplied).min(icmp).min(other))
    }

    /// The time left before `flow` may be collected; zero when it is due.
    #[inline(always)]
    #[must_use]
    pub const fn left(&self, flow: &Flow, now: Ticks) -> Ticks {
        let idle = self.idle(flow.proto, flow::State(flow.state));
        let spent = now.since(flow::Word(flow.word).last_seen());
        Ticks(idle.0.saturating_sub(spent.0))
    }
}

/// Whether a translated packet of a flow of `kind` in `state` begins its idle time anew.
///
/// What leaves does (RFC 4787 REQ-6). What comes in does too, once there is a session: a mapping that its container does
/// not answer on would otherwise live for as long as somebody outside wants. A TCP segment also has to be plausible, and
/// a reset refreshes only as it ends the connection (RFC 7857 §2.2); ICMP errors are not of a flow and never get here.
#[inline(always)]
#[must_use]
pub const fn refreshes(kind: u8, state: flow::State, from_wire: bool) -> bool {
    !from_wire || kind != Kind::Mapped as u8 || state.replied()
}
