//! Whether the next datagram from a port of the bridge may open a flow: whether the last one belonged to none.
//!
//! Datagrams that open flows come one after the other: of a resolver, of a scan, of a load test. What an opening asks for
//! is not what a packet of a known flow does, and lies in lines of memory that nobody has looked at of late; who expects an
//! opening asks for all of them at once. If it was none after all, nothing but time is lost.

use crate::maps::OPENERS;

/// So many ports are told apart.
pub const SLOTS: u32 = 256;

/// Whether the last datagram from the port with this interface index belonged to no flow.
#[inline(always)]
pub fn opens(ifindex: u32) -> bool {
    OPENERS.get(ifindex % SLOTS).is_some_and(|last| {
        // SAFETY: a value of an array.
        unsafe { (&raw const *last).read_volatile() != 0 }
    })
}

/// Notes whether this one belonged to none. Only what is different need be written: packets on other processors read the same
/// line.
#[inline(always)]
pub fn note(ifindex: u32, opens: bool) {
    if let Some(last) = OPENERS.get_ptr_mut(ifindex % SLOTS) {
        // SAFETY: a value of an array; which of two packets is the last one does not matter.
        unsafe { last.write_volatile(opens.into()) };
    }
}
