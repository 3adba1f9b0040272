//! Next hops: learnt by asking the kernel once, remembered by name in the flow.
//!
//! When they may be used is said in `xnat_common::hop`. A hop toward a container leads straight to the port of the bridge at
//! which the container's MAC address was last seen.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_FIB_LKUP_RET_SUCCESS};
use xnat_common::config::Config;
use xnat_common::flow::Kind;
use xnat_common::hop::{Hop, Remembered, Station, StationKey, Watch};
use xnat_common::mark;
use xnat_common::packet::ethernet;
use xnat_common::subnet::Inside;
use xnat_common::{Direction, FlowRef, Side, Ticks, Tuple};

use crate::lookup::{self, Found};
use crate::maps::{self, HOPS, STATIONS, WATCH};
use crate::skb::Skb;
use crate::{atomic, clock, forward, route, verdict::Verdict};

/// A remembered hop, copied, and where it stands.
#[derive(Clone, Copy)]
pub struct Way {
    pub ifindex: u32,
    pub mtu: u16,
    pub flags: u16,
    pub dst: Mac,
    pub src: Mac,
    place: *mut Hop,
}

/// A MAC address as a word: its octets as they lie in the packet, in the lower six.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub u64);

impl Mac {
    /// # Safety
    /// Six bytes may be read there.
    #[inline(always)]
    pub unsafe fn read(bytes: *const u8) -> Self {
        // SAFETY: the caller vouches for the bytes; x86 and arm64 load what lies across, and an unaligned read would be
        // made of single bytes.
        unsafe {
            let (low, high) = (bytes.cast::<u32>().read(), bytes.add(4).cast::<u16>().read());
            Self(u64::from(high) << 32 | u64::from(low))
        }
    }

    /// # Safety
    /// Six bytes may be written there.
    #[inline(always)]
    pub unsafe fn write(self, bytes: *mut u8) {
        // SAFETY: as in read.
        unsafe {
            bytes.cast::<u32>().write(self.0 as u32);
            bytes.add(4).cast::<u16>().write((self.0 >> 32) as u16);
        }
    }

    #[inline(always)]
    fn of([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }

    #[inline(always)]
    fn octets(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.to_ne_bytes();
        [a, b, c, d, e, f]
    }
}

/// The hop that a flow remembers, if that still holds.
#[inline(always)]
pub fn remembered(name: u32, watch: &Watch, now: Ticks) -> Option<Way> {
    let place = HOPS.get_ptr_mut(Hop::slot(name))?;
    // SAFETY: a map value. Whoever fills the slot anew takes the name away first and gives the new one last.
    unsafe {
        let hop = &raw const *place;
        if (&raw const (*hop).name).read_volatile() != name || !watch.trusts((*hop).epoch, now) {
            return None;
        }
        let way = Way {
            ifindex: (*hop).ifindex,
            mtu: (*hop).mtu,
            flags: (*hop).flags,
            dst: Mac::read((&raw const (*hop).dst).cast()),
            src: Mac::read((&raw const (*hop).src).cast()),
            place,
        };
        ((&raw const (*hop).name).read_volatile() == name).then_some(way)
    }
}

impl Way {
    /// Whether it is time again for a packet to go by way of the kernel's neighbour. Notes that it has.
    #[inline(always)]
    pub fn asks(&self, now: Ticks) -> bool {
        // SAFETY: a field of a map value; a lost race asks once more.
        unsafe {
            if now.since(Ticks((*self.place).asked)).0 < Hop::ASKING.0 {
                return false;
            }
            (*self.place).asked = now.0;
        }
        true
    }

    /// Gives the frame its MAC addresses and sends it out; to the uplink, which is always hooked, or inside.
    #[inline(always)]
    pub fn go(&self, skb: Skb, to_uplink: bool) -> Option<Verdict> {
        if to_uplink || self.flags & Hop::HOOKED != 0 {
            skb.set_mark(mark::DONE);
        }
        let frame = skb.at::<[u8; ethernet::LEN]>(0)?.cast::<u8>();
        // SAFETY: twelve bytes from `frame` on are in bounds.
        unsafe {
            self.dst.write(frame);
            self.src.write(frame.add(6));
        }
        Some(Skb::redirect(self.ifindex))
    }
}

/// Has an established flow remember the ways of its packets: that of `found`'s direction, and for a packet from a container
/// that of the answers. Not again at once where that cannot be.
#[inline(always)]
pub fn learn(skb: Skb, found: &Found, side: Side, now: Ticks) {
    let Some(watch) = WATCH.get(0) else {
        return;
    };
    let direction = found.direction();
    // Not in the tick in which the flow was opened: many are over in that, and have no use for it. But others may be opened
    // between the same two.
    if found.flow().opened == now.0 {
        if side as u8 == Side::Inside as u8 && found.flow().kind == Kind::Outside as u8 {
            route::learn(skb, found, now);
        }
        return;
    }
    if !watch.is_watched(now) || !found.flow().is_steady(direction, side) {
        return;
    }
    let (own, back) = (known(found, direction, watch, now), known(found, direction.opposite(), watch, now));
    if !own || side as u8 == Side::Inside as u8 && !back {
        xnat_learn(skb.raw(), found.reference.to_bits(), side as u32, now.0);
    }
}

/// Whether there is nothing to be learnt of the way of packets of `direction` at the moment.
#[inline(always)]
fn known(found: &Found, direction: Direction, watch: &Watch, now: Ticks) -> bool {
    let name = name(found, direction);
    name == Remembered::nothing(now) || remembered(name, watch, now).is_some()
}

#[inline(always)]
pub fn name(found: &Found, direction: Direction) -> u32 {
    // SAFETY: a field of a map value; the direction is 0 or 1.
    unsafe { (&raw const (*found.flow).next_hop).cast::<u32>().add(direction as usize).read_volatile() }
}

/// Has the flow remember the hop of a direction.
#[inline(always)]
fn set_name(found: &Found, direction: Direction, name: u32) {
    // SAFETY: as in name; a lost race is a look-up more.
    unsafe { (&raw mut (*found.flow).next_hop).cast::<u32>().add(direction as usize).write_volatile(name) };
}

/// As [`learn`], after the questions that every packet asks.
///
/// A global function, whose stack is not that of the programs; so is [`xnat_enter_hop`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_learn(skb: *mut __sk_buff, reference: u64, side: u32, now: u32) -> u32 {
    let (skb, now) = (Skb::from_raw(skb), Ticks(now));
    let (Some(watch), Some(config)) = (WATCH.get(0), maps::config()) else {
        return 0;
    };
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    // SAFETY: a field of a map value. What changes after this is asked for anew.
    let epoch = unsafe { (&raw const watch.epoch).read_volatile() };
    let direction = found.direction();
    if config.flags & Config::ROUTES_BY_PACKET != 0 {
        for direction in [direction, direction.opposite()] {
            set_name(&found, direction, Remembered::nothing(now));
        }
        return 1;
    }
    let inside = found.flow().inside;
    if side == Side::Inside as u32 {
        let name = ask(skb, &found, direction, config.uplink).map_or(0, |(dst, src)| {
            xnat_enter_hop(config.uplink, epoch, dst.0, src.0, limits(config.uplink_mtu, true))
        });
        set_name(&found, direction, Remembered::or_nothing(name, now));
        let port = skb.ifindex();
        let name = match ask(skb, &found, direction.opposite(), inside) {
            Some((dst, src)) if is_from(skb, dst) => {
                if station(inside, dst, epoch) != Some(port) {
                    let key = StationKey { bridge: inside, mac: dst.octets(), zero: 0 };
                    let _ = STATIONS.insert(&key, &Station { port, epoch }, u64::from(BPF_ANY));
                }
                at_port(port, inside, epoch, dst, src)
            }
            _ => 0,
        };
        set_name(&found, direction.opposite(), Remembered::or_nothing(name, now));
        return 1;
    }
    let name = match ask(skb, &found, direction, inside) {
        Some((dst, src)) => match station(inside, dst, epoch) {
            Some(port) => at_port(port, inside, epoch, dst, src),
            None => 0,
        },
        None => 0,
    };
    set_name(&found, direction, Remembered::or_nothing(name, now));
    1
}

/// The hop at a port of the bridge `inside`, or zero if packets may not be handed straight to that.
#[inline(always)]
fn at_port(port: u32, inside: u32, epoch: u32, dst: Mac, src: Mac) -> u32 {
    match maps::inside(port) {
        Some(its) if its.flags & Inside::DIRECT != 0 && its.ifindex == inside => {
            xnat_enter_hop(port, epoch, dst.0, src.0, limits(its.mtu, port == inside))
        }
        _ => 0,
    }
}

/// An interface's MTU, and [`Hop::HOOKED`] above, in one word.
#[inline(always)]
fn limits(mtu: u32, hooked: bool) -> u32 {
    let mtu = if mtu < u32::from(u16::MAX) { mtu } else { u16::MAX.into() };
    mtu | u32::from(if hooked { Hop::HOOKED } else { 0 }) << 16
}

/// At which port of the bridge a MAC address was seen in this epoch.
#[inline(always)]
fn station(bridge: u32, mac: Mac, epoch: u32) -> Option<u32> {
    // SAFETY: read at once; an element that is being reused holds another port, whose way is asked for again when the
    // epoch changes, or the container sends something from elsewhere.
    let Station { port, epoch: then } = *unsafe { STATIONS.get(&StationKey { bridge, mac: mac.octets(), zero: 0 }) }?;
    (then == epoch).then_some(port)
}

/// Whether the frame comes from this MAC address.
#[inline(always)]
fn is_from(skb: Skb, mac: Mac) -> bool {
    let Some(frame) = skb.at::<[u8; ethernet::LEN]>(0) else {
        return false;
    };
    // SAFETY: the source address is within the header.
    unsafe { Mac::read(frame.cast::<u8>().add(6)) == mac }
}

/// The MAC addresses, the neighbour's and this host's, of a flow's packets of `direction` that leave through an interface.
/// They are asked for by the type of service of this packet, which is most often that of all.
#[inline(always)]
fn ask(skb: Skb, found: &Found, direction: Direction, ifindex: u32) -> Option<(Mac, Mac)> {
    let Tuple { src, dst, .. } = found.flow().translated(direction);
    let tos = if direction as u8 == found.direction() as u8 { skb.tos() } else { 0 };
    let mut place = MaybeUninit::uninit();
    let (result, parameters) = forward::look_up(skb, [src, dst], found.flow().proto, tos, ifindex, &mut place);
    if result != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || parameters.ifindex != ifindex {
        return None;
    }
    // A neighbour that is still being asked for has no address, and not every kernel says so.
    // SAFETY: both variants of the union are plain bytes.
    let ends = unsafe { parameters.__bindgen_anon_6.__bindgen_anon_2 };
    let (dst, src) = (Mac::of(ends.dmac), Mac::of(ends.smac));
    (dst.0 != 0).then_some((dst, src))
}

/// Enters a hop, unless it is there, and returns its name. `limits` are those of [`limits`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_enter_hop(ifindex: u32, epoch: u32, dst: u64, src: u64, limits: u32) -> u32 {
    let (dst, src, mtu, flags) = (Mac(dst), Mac(src), limits as u16, (limits >> 16) as u16);
    let slot = Hop::slot_for(ifindex, dst.octets());
    let Some(hop) = HOPS.get_ptr_mut(slot) else {
        return 0;
    };
    // SAFETY: a map value. Its name stands for nothing while it is being filled.
    unsafe {
        let before = (&raw const (*hop).name).read_volatile();
        let (there, here) = ((&raw mut (*hop).dst).cast::<u8>(), (&raw mut (*hop).src).cast::<u8>());
        let same = (*hop).epoch == epoch && (*hop).ifindex == ifindex && (*hop).mtu == mtu && (*hop).flags == flags;
        let known = same && Mac::read(there) == dst && Mac::read(here) == src;
        if known && (&raw const (*hop).name).read_volatile() == before && before != Hop::FILLING {
            return before;
        }
        if before == Hop::FILLING || !atomic::compare_and_swap32(&raw mut (*hop).name, before, Hop::FILLING) {
            return 0;
        }
        (*hop).epoch = epoch;
        (*hop).ifindex = ifindex;
        (*hop).mtu = mtu;
        (*hop).flags = flags;
        dst.write(there);
        src.write(here);
        // The first packet asks; zero would be in the future for half of the time that ticks count.
        (*hop).asked = clock::now().0.wrapping_sub(Hop::ASKING.0);
        let name = Hop::next_name(slot, before);
        atomic::compare_and_swap32(&raw mut (*hop).name, Hop::FILLING, name);
        name
    }
}
