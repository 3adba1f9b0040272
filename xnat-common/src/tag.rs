//! The flow tag: one IPv4 option that carries what translation would lose.
//!
//! | octet | 0 | 1 | 2 | 3 | 4-7 |
//! |---|---|---|---|---|---|
//! | | 0x9E | length 8 | version << 4 \| kind | key id | original destination |

use crate::Addr;
use crate::flow::{Flow, State};
use crate::time::Ticks;

/// The option's type: RFC 4727's experimental value with the copy bit set.
pub const OPTION: u8 = 0x9e;
/// Length of a tag without a key in bytes.
pub const LEN: usize = 8;
/// The version that this code speaks.
pub const VERSION: u8 = 1;
/// End of the option list (RFC 791 §3.1).
const END: u8 = 0;
/// No operation (RFC 791 §3.1).
const NOP: u8 = 1;

/// What a tag says. The numbers are on the wire.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This packet belongs to the flow to that container.
    Open = 0,
    /// The next packets do; this one is only a header and ends here.
    Announce = 1,
    /// The host that sends this reset or port-unreachable error does not know the flow that it is about.
    UnknownFlow = 2,
    /// The wire tuple is taken at the receiver by a flow of its own, which only the container in the tag may share: it is
    /// the flow's other end, and the opening was for the flow's own container. None may if it was for another.
    Conflict = 3,
}

/// A tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What it says.
    pub kind: Kind,
    /// The container that the flow leads to.
    pub destination: Addr,
}

/// Why an option is not a tag that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagError {
    /// The length is not that of a tag without a key.
    Length,
    /// The version or the kind is not known here.
    Version,
}

impl Tag {
    /// The tag that says that a flow is unknown; whither it led its opener knows better.
    pub const UNKNOWN_FLOW: Self = Self { kind: Kind::UnknownFlow, destination: Addr::UNSPECIFIED };

    /// The option as it goes into the packet.
    #[inline(always)]
    #[must_use]
    pub const fn encode(self) -> [u8; LEN] {
        let [a, b, c, d] = self.destination.octets();
        [OPTION, LEN as u8, VERSION << 4 | self.kind as u8, 0, a, b, c, d]
    }

    /// Reads the option.
    ///
    /// # Errors
    /// [`TagError::Length`] and [`TagError::Version`] as they say. That the first octet is [`OPTION`] is the caller's
    /// finding.
    #[inline(always)]
    pub const fn decode(option: [u8; LEN]) -> Result<Self, TagError> {
        let [_, len, version_kind, _, a, b, c, d] = option;
        if len != LEN as u8 {
            return Err(TagError::Length);
        }
        if version_kind >> 4 != VERSION {
            return Err(TagError::Version);
        }
        let kind = match version_kind & 0xf {
            0 => Kind::Open,
            1 => Kind::Announce,
            2 => Kind::UnknownFlow,
            3 => Kind::Conflict,
            _ => return Err(TagError::Version),
        };
        Ok(Self { kind, destination: Addr::new([a, b, c, d]) })
    }
}

/// One step through an option list: where the option after the one at `at` begins.
///
/// `octet` and `length` are the octets at `at` and behind it. None where the list ends or makes no sense.
#[inline(always)]
#[must_use]
pub const fn next_option(at: u32, octet: u8, length: u8) -> Option<u32> {
    match octet {
        END => None,
        NOP => Some(at + 1),
        _ if length < 2 => None,
        _ => Some(at + length as u32),
    }
}

/// How many packets of an unconfirmed flow carry a tag before it is only repeated now and then.
pub const EAGER: u8 = 16;
/// How often the tag of a flow that stays unconfirmed is repeated after that.
pub const REPEAT: Ticks = Ticks::from_secs(5);

/// Whether a packet in original direction is to carry a tag.
#[inline(always)]
#[must_use]
pub const fn is_due(flow: &Flow, now: Ticks) -> bool {
    !State(flow.state).has(State::CONFIRMED) && (flow.tagged < EAGER || now.since(Ticks(flow.tag_time)).0 >= REPEAT.0)
}

/// Longest IP packet that a tag is put into, tag included, in bytes: what every host has to take (RFC 791 §3.1), and no
/// path in use is narrower. A longer one may be just what its path carries, which with the tag would be too much.
pub const ATTACH_MAX: u32 = 576;

/// Whether a tag fits into a packet, or a header of its own has to announce the flow.
///
/// It fits when the packet has no options, is not a fragment, will not be cut into segments, and stays within the uplink's
/// MTU and that of any path.
#[inline(always)]
#[must_use]
pub const fn fits(headers: &crate::packet::Headers, segmented: bool, mtu: u32) -> bool {
    let len = headers.total_len as u32 + LEN as u32;
    headers.ip_len == 20 && !headers.is_fragment() && !segmented && len <= mtu && len <= ATTACH_MAX
}
