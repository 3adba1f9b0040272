//! Whether the next datagram from a port of the bridge may open a flow: whether the last one belonged to none.
//!
//! Datagrams that open flows come one after the other: of a resolver, of a scan, of a load test. What an opening asks for
//! is not what a packet of a known flow does, and lies in lines of memory that nobody has looked at of late; who expects an
//! opening asks for all of them at once. If it was none after all, nothing but time is lost.

use crate::maps::OPENERS;

/// What the last datagram from a port has done.
#[derive(Clone, Copy)]
pub struct Opener(*mut u32);

impl Opener {
    /// So many ports are told apart.
    pub const SLOTS: u32 = 256;

    /// That of the port with this interface index.
    #[inline(always)]
    pub fn of(ifindex: u32) -> Option<Self> {
        OPENERS.get_ptr_mut(ifindex % Self::SLOTS).map(Self)
    }

    /// Whether the last one belonged to no flow.
    #[inline(always)]
    pub fn opens(self) -> bool {
        // SAFETY: a value of an array.
        unsafe { self.0.read_volatile() != 0 }
    }

    /// Notes whether this one belonged to none. Only what is different need be written: packets on other processors read the same line.
    #[inline(always)]
    pub fn note(self, opens: bool) {
        // SAFETY: as above; which of two packets is the last one does not matter.
        unsafe { self.0.write_volatile(opens.into()) };
    }
}
