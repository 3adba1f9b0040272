//! Flows that belong to the kernel's own NAT: published ports, its masquerading, its sockets.
//!
//! The hooks that see the kernel send a packet remember the tuple of the answer in `KERNEL_FLOWS`. What matches is left
//! to the kernel, so an answer from a published UDP port is never taken for a new flow, and its wire tuple is not given
//! to one.

use crate::time::Ticks;

/// How long a tuple stays the kernel's after its last packet, where another flow may come after it: Linux's
/// `nf_conntrack_udp_timeout_stream` and some. A TCP connection that is going on has it for as long as the map remembers.
pub const LIFETIME: Ticks = Ticks::from_secs(300);
