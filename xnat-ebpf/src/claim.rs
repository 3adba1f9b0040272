//! Claiming a flow: a slot, a wire tuple of its own, and both references to it, or nothing.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use xnat_common::config::Config;
use xnat_common::counter::Counter;
use xnat_common::flow::{Flow, Kind, State, Word};
use xnat_common::tcp::Window;
use xnat_common::{Addr, Direction, FlowKey, FlowRef, Side, Ticks, Tuple};

use crate::lookup::{self, Found};
use crate::maps::{self, CURSORS, FLOWS, FREE, OPENING};
use crate::skb::Skb;
use crate::verdict::{Step, Verdict};
use crate::{account, atomic, collect, full, index, mapping, port};

/// What is known of a flow before it has a record. It lies in a map, because the stack that all steps of a program share
/// is short.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Opening {
    pub proto: u8,
    pub kind: Kind,
    /// The tuple of the opening packet as it reached this host.
    pub original: Tuple,
    /// The tuple of the answers; where a port may be chosen, `dport` is the first candidate.
    pub reply: Tuple,
    /// The inside interface, or zero.
    pub inside: u32,
    /// The peer, or [`Addr::UNSPECIFIED`].
    pub peer: Addr,
    pub state: State,
}

/// What the packet that opens a flow leaves behind in the record, where that is known before anybody else can find it. Then
/// nothing has to be added afterwards, in a race with others; and `Opening::state` is that after the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct First {
    /// [`Counts`](xnat_common::flow::Counts) of its direction.
    pub counts: u64,
    /// The names of the next hops.
    pub next_hop: [u32; 2],
    /// The window of the end that has sent it.
    pub window: Window,
}

/// What a processor has noted last.
#[repr(C)]
pub struct Noted {
    opening: Opening,
    /// Whether `first` is of this opening. If not, the packet is accounted for when it is translated.
    has_first: bool,
    first: First,
}

impl Opening {
    /// Notes it for this processor.
    #[inline(always)]
    pub fn note(self) -> Step<&'static Self> {
        let place = OPENING.get_ptr_mut(0).ok_or(Verdict::PASS)?;
        // SAFETY: this processor's own value; no program opens a flow while another one on the same processor does.
        unsafe {
            (*place).opening = self;
            (*place).has_first = false;
            Ok(&(*place).opening)
        }
    }

    /// As [`Self::note`], with what the packet leaves behind.
    #[inline(always)]
    pub fn note_with(self, first: First) -> Step<()> {
        let place = OPENING.get_ptr_mut(0).ok_or(Verdict::PASS)?;
        // SAFETY: as in note.
        unsafe { *place = Noted { opening: self, has_first: true, first } };
        Ok(())
    }

    /// What this processor has noted last.
    #[inline(always)]
    pub fn noted() -> Step<&'static Self> {
        OPENING.get(0).map(|noted| &noted.opening).ok_or(Verdict::PASS)
    }
}

/// The flow that a packet has claimed.
#[derive(Clone, Copy)]
pub struct Claim {
    pub found: Found,
    /// The flow is that which was noted. Else another processor has opened the very same one in this moment: the packet
    /// joins that.
    pub is_new: bool,
}

/// Opens the flow that has been noted, or says under which counter's name it is refused. The insertion of the reply tuple is
/// what reserves the port.
///
/// The steps are global functions, which the verifier checks once each by itself, and whose stacks are not that of the
/// programs.
#[inline(always)]
pub fn claim(skb: Skb, opening: &Opening, now: Ticks) -> Result<Claim, Counter> {
    let index = xnat_take_slot(now.0);
    if index == NO_PORT {
        return Err(Counter::PortsExhausted);
    }
    if index == NO_SLOT {
        return Err(Counter::TableFull);
    }
    let found = of_slot(index).ok_or(Counter::TableFull)?;
    let from_wire = matches!(Kind::side(opening.kind as u8, Direction::Original), Side::Wire);
    if !from_wire && let Err(refused) = port::take(skb, &found, now) {
        give_back(&found, false);
        return Err(refused);
    }
    let own = found.reference.to_bits();
    let published = xnat_publish(own, from_wire.into());
    let found = lookup::by_reference(FlowRef::from_bits(published)).ok_or(Counter::FlowBusy)?;
    Ok(Claim { found, is_new: published == own })
}

/// No slot.
const NO_SLOT: u32 = u32::MAX;
/// None is needed, because there is no port.
const NO_PORT: u32 = u32::MAX - 1;

/// Takes a slot and writes what has been noted of the flow into it. Nothing refers to it yet. Returns the slot, [`NO_SLOT`]
/// or [`NO_PORT`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_take_slot(now: u32) -> u32 {
    let now = Ticks(now);
    let (Some(config), Some(noted)) = (maps::config(), OPENING.get(0)) else {
        return NO_SLOT;
    };
    let opening = &noted.opening;
    // Before anything has been taken that would have to be given back. While no daemon runs, what is refused pays for
    // collection all the same, because nothing else may come that does.
    let is_hopeless = full::is_hopeless(config, opening, now);
    if !collect::is_done_by_daemon(now) || !is_hopeless && collect::is_urgent(config, now) {
        collect::step(now);
    }
    if is_hopeless {
        return NO_PORT;
    }
    let mut index = take_slot(config, opening);
    if index.is_none() && collect::xnat_reclaim() != 0 {
        index = take_slot(config, opening);
    }
    let Some(index) = index else {
        return NO_SLOT;
    };
    let Some(flow) = FLOWS.get_ptr_mut(index) else {
        return NO_SLOT;
    };
    fill(flow, noted, now);
    index
}

/// The flow that this processor has just written into a slot.
#[inline(always)]
fn of_slot(index: u32) -> Option<Found> {
    let found = Found { flow: FLOWS.get_ptr_mut(index)?, reference: FlowRef::default() };
    Some(Found { reference: FlowRef::new(index, found.word().generation(), Direction::Original), ..found })
}

/// Inserts the tuples that lead to a flow: with `both`, the reply tuple too, in which nothing may be chosen. Returns the
/// reference to the flow, or to the one that another packet has opened in this moment, or else one that leads nowhere.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_publish(reference: u64, both: u32) -> u64 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return reference;
    };
    let original = found.flow().key(Direction::Original);
    let has_port = both == 0 || index::insert(found.in_direction(Direction::Reply).reference);
    if has_port && index::insert(found.reference) {
        maps::flow_opened();
        // From here on others may end it.
        account::mark(&found, State::PUBLISHED, 0);
        maps::count_here(Counter::FlowsOpened);
        return reference;
    }
    give_back(&found, has_port);
    // The slot has another generation now, so what stays of the reference leads nowhere.
    match lookup::find(&original) {
        Some(other) if other.direction() as u8 == Direction::Original as u8 => other.reference.to_bits(),
        _ => reference,
    }
}

/// A slot that nobody else has, while there are fewer flows than there may be: a home of the flow if one is free, else a freed one, or one that was never on the list.
#[inline(always)]
fn take_slot(config: &Config, opening: &Opening) -> Option<u32> {
    let side = Kind::side(opening.kind as u8, Direction::Original);
    let key = FlowKey::new(opening.original, opening.proto, side);
    if maps::flows_live() >= u64::from(config.max_flows) {
        return None;
    }
    let [one, other] = xnat_common::index::homes(key.words(), config.seed, config.slots());
    if take(one) {
        return Some(one);
    }
    if take(other) {
        return Some(other);
    }
    let mut search = Search { slots: config.slots().into(), found: NO_SLOT };
    let context = (&raw mut search).cast::<c_void>();
    // SAFETY: the callbacks have the signature that the helper asks for and outlive the calls (kernel 5.17).
    unsafe {
        bpf_loop(TRIES, take_listed as *mut c_void, context, 0);
        if (*context.cast::<Search>()).found == NO_SLOT {
            bpf_loop(TRIES, take_next as *mut c_void, context, 0);
        }
        let found = (*context.cast::<Search>()).found;
        (found != NO_SLOT).then_some(found)
    }
}

/// How many freed slots are looked at in which other flows have made their home, and as many of those that come next. Each
/// is looked at once for each flow that did, so this is only reached in a table that is all but full.
const TRIES: u32 = 1024;

/// The search for a slot that is nobody's home.
struct Search {
    slots: u64,
    found: u32,
}

extern "C" fn take_listed(_nth: u64, search: *mut c_void) -> i64 {
    // SAFETY: bpf_loop hands over the pointer that `take_slot` gave it.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Ok(Some(index)) = FREE.pop() else {
        return 1;
    };
    unlist(index);
    if take(index) {
        search.found = index;
        return 1;
    }
    0
}

extern "C" fn take_next(_nth: u64, search: *mut c_void) -> i64 {
    // SAFETY: as above.
    let search = unsafe { &mut *search.cast::<Search>() };
    let Some(cursors) = CURSORS.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: fields of a map value. The check keeps the counter from running away while the table is full.
    let index = unsafe {
        if (&raw const (*cursors).fresh).read_volatile() >= search.slots {
            return 1;
        }
        atomic::fetch_add(&raw mut (*cursors).fresh, 1)
    };
    if index < search.slots && take(index as u32) {
        search.found = index as u32;
        return 1;
    }
    0
}

/// Takes a slot if it is free.
#[inline(always)]
fn take(index: u32) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(index) else {
        return false;
    };
    // SAFETY: a field of a map value.
    unsafe {
        let word = Word((&raw const (*flow).word).read_volatile());
        word.is_free() && atomic::compare_and_swap(&raw mut (*flow).word, word.0, word.busy().0)
    }
}

/// Notes that a slot is not on the list any more.
#[inline(always)]
fn unlist(index: u32) {
    if let Some(flow) = FLOWS.get_ptr_mut(index) {
        account::mark(&Found { flow, reference: FlowRef::default() }, 0, State::LISTED);
    }
}

/// Lets others have a slot from which everything has been taken that leads to it, and puts it on the list of free ones
/// unless it is there.
///
/// A global function, whose stack is not that of the collector.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_free(index: u32) -> u32 {
    let Some(flow) = FLOWS.get_ptr_mut(index) else {
        return 0;
    };
    let found = Found { flow, reference: FlowRef::default() };
    let word = found.word();
    // In this order: who takes it off the list in between finds it free, or clears the bit before it is looked at here.
    // SAFETY: a field of a map value.
    unsafe { atomic::compare_and_swap(&raw mut (*flow).word, word.0, word.free().0) };
    if !found.state().has(State::LISTED) {
        account::mark(&found, State::LISTED, 0);
        let _ = FREE.push(&index, 0);
    }
    0
}

/// Writes the record and makes the slot live.
#[inline(always)]
fn fill(flow: *mut Flow, noted: &Noted, now: Ticks) {
    let opening = &noted.opening;
    // SAFETY: the slot is ours alone until a reference to it is inserted; readers that map the array look at the
    // generation before and after, and that is even until the last store.
    unsafe {
        let word = Word((&raw const (*flow).word).read_volatile());
        copy(&raw mut (*flow).original, &raw const opening.original);
        copy(&raw mut (*flow).reply, &raw const opening.reply);
        (*flow).proto = opening.proto;
        (*flow).kind = opening.kind as u8;
        (*flow).tagged = 0;
        (*flow).zero = 0;
        set_state(&raw mut (*flow).state, opening.state);
        zero(&raw mut (*flow).next_hop);
        zero(&raw mut (*flow).counts);
        (*flow).inside = opening.inside;
        (*flow).peer = opening.peer;
        (*flow).tag_time = 0;
        (*flow).opened = now.0;
        zero(&raw mut (*flow).carried);
        zero(&raw mut (*flow).window);
        zero(&raw mut (*flow).syn);
        if noted.has_first {
            (*flow).counts[0] = noted.first.counts;
            (*flow).next_hop = noted.first.next_hop;
            copy(&raw mut (*flow).window[0], &raw const noted.first.window);
        }
        let live = word.next(now);
        // An exchange rather than a store: it orders the stores before it for readers on other processors.
        atomic::compare_and_swap(&raw mut (*flow).word, word.0, live.0);
    }
}

/// Copies a field, word by word: the compiler's own way is a call that copies octets.
///
/// # Safety
/// As for `copy_nonoverlapping`; the size is a multiple of four, and so are the addresses.
#[inline(always)]
unsafe fn copy<T>(to: *mut T, from: *const T) {
    const { assert!(size_of::<T>().is_multiple_of(4), "words") };
    for word in 0..size_of::<T>() / 4 {
        // SAFETY: within the field.
        unsafe { to.cast::<u32>().add(word).write_volatile(from.cast::<u32>().add(word).read()) };
    }
}

/// Zeroes a field, two words at a time.
///
/// # Safety
/// All zeroes are a valid `T`; its size is a multiple of eight, and so is the address.
#[inline(always)]
unsafe fn zero<T>(place: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(8), "pairs of words") };
    for pair in 0..size_of::<T>() / 8 {
        // SAFETY: within the field.
        unsafe { place.cast::<u64>().add(pair).write_volatile(0) };
    }
}

/// Writes the state of a new flow. Whether the slot is on the list others may change meanwhile.
#[inline(always)]
fn set_state(place: *mut u32, state: State) {
    for _ in 0..4 {
        // SAFETY: a field of a map value.
        unsafe {
            let old = place.read_volatile();
            if atomic::compare_and_swap32(place, old, state.0 | old & State::LISTED) {
                return;
            }
        }
    }
}

/// Gives back a slot to which no reference leads but perhaps that of its reply tuple, by which another processor may end
/// the flow in this moment: then that gives everything back.
#[inline(always)]
fn give_back(found: &Found, has_port: bool) {
    let word = found.word();
    if word.generation() != found.reference.generation() {
        return;
    }
    // SAFETY: a field of a map value.
    if unsafe { atomic::compare_and_swap(&raw mut (*found.flow).word, word.0, word.ended().0) } {
        if has_port {
            index::remove(&found.flow().key(Direction::Reply), found.in_direction(Direction::Reply).reference);
            mapping::release(found.flow(), found.reference.index());
        }
        xnat_free(found.reference.index());
    }
}
