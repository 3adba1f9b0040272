//! Marks (`skb->mark`) that the dataplane gives packets: "xna" and a letter.

/// Set on packets that this dataplane has finished, so that its hooks at the way out let them through. The kernel takes
/// marks off packets that cross into another network namespace (`skb_scrub_packet`), so no container can set it.
pub const DONE: u32 = 0x786e_6174;
/// Set on the copy of a packet of which the uplink's egress hook is to make an announcement.
pub const ANNOUNCE: u32 = 0x786e_6161;
/// Set on packets toward a container that were translated and left to the kernel, so that the hook on the inside does not
/// take them for the kernel's own. The kernel may put it on its answers (`net.ipv4.fwmark_reflect`), which have to be
/// translated, so it is not [`DONE`].
pub const KERNEL: u32 = 0x786e_616b;
