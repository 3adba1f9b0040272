//! The packet as the kernel hands it over.

use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_NO_CSUM_RESET, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode,
};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_sk_fullsock, bpf_skb_adjust_room,
    bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
};
use aya_ebpf::programs::TcContext;
use xnat_common::counter::Counter;
use xnat_common::packet::ethernet;

use crate::verdict::{Step, Verdict};

/// Of `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

/// A packet.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self(context.as_ptr().cast())
    }

    /// From a context that went through a callback's parameters.
    #[inline(always)]
    pub fn from_raw(context: *mut __sk_buff) -> Self {
        Self(context)
    }

    /// The raw context.
    #[inline(always)]
    pub fn raw(self) -> *mut __sk_buff {
        self.0
    }

    /// Length from the Ethernet header on in bytes.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the context pointer is valid for the program's run; so in all accessors.
        unsafe { (*self.0).len }
    }

    /// The interface at whose hook the program runs.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: see len.
        unsafe { (*self.0).ifindex }
    }

    /// The interface on which the packet came in; zero if this host has made it.
    #[inline(always)]
    pub fn ingress_ifindex(self) -> u32 {
        // SAFETY: see len.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// The type of service of an IPv4 packet without VLAN tags; zero of what is shorter.
    #[inline(always)]
    pub fn tos(self) -> u8 {
        // SAFETY: the last octet of those that are in bounds.
        self.at::<[u8; ethernet::LEN + 2]>(0).map_or(0, |octets| unsafe { *octets.cast::<u8>().add(ethernet::LEN + 1) })
    }

    /// Whether the frame is for another MAC address than the device's: a switch has flooded it, or it is seen because
    /// somebody looks at all frames. The kernel drops it (`ip_rcv_core`). At a bridge's port that says nothing.
    #[inline(always)]
    pub fn is_for_another_host(self) -> bool {
        // SAFETY: see len.
        unsafe { (*self.0).pkt_type == PACKET_OTHERHOST }
    }

    #[inline(always)]
    pub fn mark(self) -> u32 {
        // SAFETY: see len.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub fn set_mark(self, mark: u32) {
        // SAFETY: see len.
        unsafe { (*self.0).mark = mark }
    }

    /// A word of the control block, which programs at one hook share and hand on to each other (`qdisc_skb_cb`).
    #[inline(always)]
    pub fn note(self, word: usize) -> u32 {
        // SAFETY: see len. Volatile, so that the value really comes from there.
        unsafe { (&raw const (*self.0).cb).cast::<u32>().add(word).read_volatile() }
    }

    #[inline(always)]
    pub fn set_note(self, word: usize, note: u32) {
        // SAFETY: see len.
        unsafe { (&raw mut (*self.0).cb).cast::<u32>().add(word).write_volatile(note) }
    }

    /// Says that the frame is for this host, whatever its MAC address says.
    #[inline(always)]
    pub fn set_for_us(self) {
        // SAFETY: the context is valid; PACKET_HOST may always be set.
        unsafe { bpf_skb_change_type(self.0, PACKET_HOST) };
    }

    /// The segment size of a packet that will be cut into segments, else zero.
    #[inline(always)]
    pub fn gso_size(self) -> u32 {
        // SAFETY: see len.
        unsafe { (*self.0).gso_size }
    }

    /// Whether the frame is of another VLAN. The kernel has taken the VLAN's tag off the packet and keeps it beside.
    #[inline(always)]
    pub fn has_vlan(self) -> bool {
        // SAFETY: see len.
        unsafe { (*self.0).vlan_present != 0 }
    }

    /// Whether the packet comes from this host itself.
    #[inline(always)]
    pub fn has_socket(self) -> bool {
        // SAFETY: see len; only the null check is made.
        unsafe { !(*self.0).__bindgen_anon_2.sk.is_null() }
    }

    /// The port, in host order, of the socket that has sent the packet. What the kernel sends by itself, such as resets,
    /// comes from raw sockets of its own, whose port is none of TCP's or UDP's.
    #[inline(always)]
    pub fn socket_port(self) -> u32 {
        // SAFETY: see len; both pointers are checked before they are used.
        unsafe {
            let socket = (*self.0).__bindgen_anon_2.sk;
            if socket.is_null() {
                return 0;
            }
            let socket = bpf_sk_fullsock(socket);
            if socket.is_null() { 0 } else { (*socket).src_port }
        }
    }

    /// A pointer to a `T` at `offset` from the Ethernet header, if the linear part of the packet holds one.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<*mut T> {
        // "One byte before the end" compiles to a comparison from which the verifier learns nothing.
        const { assert!(size_of::<T>() > 1, "look at two bytes") };
        // SAFETY: see len.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let pointer = data + offset;
        if pointer + size_of::<T>() > end {
            return None;
        }
        Some(pointer as *mut T)
    }

    /// Makes the first `len` bytes linear, as far as the packet has them.
    #[inline(always)]
    pub fn pull(self, len: u32) {
        let len = if len < self.len() { len } else { self.len() };
        // SAFETY: the context is valid. A failure shows in the bounds checks that follow.
        unsafe { bpf_skb_pull_data(self.0, len) };
    }

    /// Copies a `T` out of the packet, linear or not.
    #[inline(always)]
    pub fn load<T: bytemuck::Pod>(self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let (packet, len) = (self.0.cast(), size_of::<T>() as u32);
        // SAFETY: the destination is as long as said; the helper fills all of it, with zeroes if it fails.
        unsafe {
            let result = bpf_skb_load_bytes(packet, offset as u32, value.as_mut_ptr().cast(), len);
            (result == 0).then_some(value.assume_init())
        }
    }

    /// Stores a `T` into the packet.
    #[inline(always)]
    pub fn store<T: bytemuck::Pod>(self, offset: usize, value: T) -> Step<()> {
        // SAFETY: the source is as long as said.
        check(unsafe {
            bpf_skb_store_bytes(self.0, offset as u32, (&raw const value).cast(), size_of::<T>() as u32, 0)
        })
    }

    /// Changes a transport checksum by `delta`. The kernel knows whether the field holds a checksum, or only the
    /// pseudo-header's sum for the device to complete (`CHECKSUM_PARTIAL`); a UDP checksum of zero stays zero.
    #[inline(always)]
    pub fn change_checksum(self, offset: usize, delta: u32, pseudo_header: bool, optional: bool) -> Step<()> {
        let mut flags = 0;
        if pseudo_header {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if optional {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the context is valid; a bad offset is refused by the helper. A field size of zero makes the helper take
        // `to` as a difference.
        check(unsafe { bpf_l4_csum_replace(self.0, offset as u32, 0, u64::from(delta), flags) })
    }

    /// Makes room right behind the first 20 bytes of the IP header.
    #[inline(always)]
    pub fn grow(self, bytes: u8) -> Step<()> {
        self.adjust_room(i32::from(bytes))
    }

    /// Takes away what is right behind the first 20 bytes of the IP header.
    #[inline(always)]
    pub fn shrink(self, bytes: u8) -> Step<()> {
        self.adjust_room(-i32::from(bytes))
    }

    #[inline(always)]
    fn adjust_room(self, bytes: i32) -> Step<()> {
        let flags = u64::from(BPF_F_ADJ_ROOM_NO_CSUM_RESET);
        // SAFETY: the context is valid.
        check(unsafe { bpf_skb_adjust_room(self.0, bytes, bpf_adj_room_mode::BPF_ADJ_ROOM_NET, flags) })
    }

    /// Cuts the packet to `len` bytes from the Ethernet header on.
    #[inline(always)]
    pub fn trim(self, len: u32) -> Step<()> {
        // SAFETY: the context is valid.
        check(unsafe { bpf_skb_change_tail(self.0, len, 0) })
    }

    /// Gives the packet another length from the Ethernet header on, all of it linear.
    #[inline(always)]
    pub fn resize(self, len: u32) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_skb_change_tail(self.0, len, 0) == 0 }
    }

    /// Has a copy received at the ingress of `ifindex`, after the packets that are being received now.
    #[inline(always)]
    pub fn receive_copy(self, ifindex: u32) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_clone_redirect(self.0, ifindex, u64::from(BPF_F_INGRESS)) == 0 }
    }

    /// Sends a copy out of `ifindex`, through its egress hook, before this call returns.
    #[inline(always)]
    pub fn send_copy(self, ifindex: u32) -> Step<()> {
        // SAFETY: the context is valid.
        check(unsafe { bpf_clone_redirect(self.0, ifindex, 0) })
    }

    /// The verdict that sends the packet out of `ifindex` as it is.
    #[inline(always)]
    pub fn redirect(ifindex: u32) -> Verdict {
        // SAFETY: the helper has no preconditions.
        Verdict::redirect(unsafe { bpf_redirect(ifindex, 0) } as i32)
    }

    /// The verdict that routes the packet out of `ifindex` and fills in the MAC addresses (kernel 5.10).
    #[inline(always)]
    pub fn redirect_neighbour(ifindex: u32) -> Verdict {
        // SAFETY: no parameters are passed, which the helper takes as "look up".
        Verdict::redirect(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) } as i32)
    }
}

/// Fills a place with zeroes, word by word: the compiler's own way is a call, whose stack counts.
///
/// # Safety
/// All zeroes are a valid `T`, whose size is a multiple of four.
#[inline(always)]
pub unsafe fn zeroed<T>(place: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(size_of::<T>().is_multiple_of(4), "words") };
    let words = place.as_mut_ptr().cast::<u32>();
    for word in 0..size_of::<T>() / 4 {
        // SAFETY: within the value.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: every byte has been written, and the caller vouches for the rest.
    unsafe { place.assume_init_mut() }
}

/// A length from 1 to `MAX`, a power of two, as the verifier of every kernel believes it: what is beyond starts again.
///
/// The compiler knows the range where it has been compared, and would leave the mask out, or compare a copy; the verifier
/// of kernel 6.1 then knows nothing of the length that a helper gets.
#[inline(always)]
pub fn bounded<const MAX: usize>(len: u32) -> u32 {
    const { assert!(MAX.is_power_of_two(), "a mask") };
    let mut before_last = u64::from(len.wrapping_sub(1));
    // SAFETY: nothing changes.
    unsafe { asm!("{0} = {0}", inout(reg) before_last) };
    ((before_last & (MAX as u64 - 1)) + 1) as u32
}

/// A number, of which the verifier knows nothing any more: from here on it follows one state instead of one for each way on
/// which something has been learnt of the number. No kernel up to 6.18 looks into a number whose octets have been turned
/// round; one that does takes longer, and comes to the same.
#[inline(always)]
pub fn forgotten(mut number: u64) -> u64 {
    // SAFETY: twice turned round is what it was. Not pure, lest the compiler make one of two.
    unsafe { asm!("{0} = be64 {0}", "{0} = be64 {0}", inout(reg) number, options(nomem, nostack)) };
    number
}

/// A helper's return value as a step.
#[inline(always)]
fn check(result: i64) -> Step<()> {
    if result == 0 { Ok(()) } else { Err(Verdict::drop(Counter::RewriteFailed)) }
}
