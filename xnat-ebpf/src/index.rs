//! The index of the flow table: finding a tuple's entry, inserting one where there is none, taking one away.
//!
//! What lies where is said in `xnat_common::index`.

use xnat_common::branchless::is_zero;
use xnat_common::config::Config;
use xnat_common::flow::{State, Word};
use xnat_common::index::{self, Bucket, ENTRIES, Entry, Place};
use xnat_common::{Direction, Flow, FlowKey, FlowRef, Kind, Port};

use crate::bucket::{Survey, lock, look, next, put, read, survey, take_away, unlock, version};
use crate::maps;
use crate::maps::{FLOWS, TUPLES};

/// No flow.
const NOTHING: u64 = u64::MAX;
/// A flow that is about to end, or to begin.
const ENDING: u64 = u64::MAX - 1;
/// How often an insertion begins anew because another processor inserts into the same bucket.
const ATTEMPTS: u32 = 8;
/// The tuple had no entry, and has one now.
pub const INSERTED: u32 = 0;
/// The tuple has an entry.
pub const TAKEN: u32 = 1;
/// Another processor inserts into the bucket, or has just done so.
pub const BUSY: u32 = 2;

/// The live flow that packets with `key` belong to.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<FlowRef> {
    let [a, b] = key.words();
    let reference = xnat_find(a, b);
    if reference == NOTHING { find_away(key) } else { Some(FlowRef::from_bits(reference)) }
}

/// As [`find`], for a key's words, in the flow's homes alone: a reference or [`NOTHING`].
///
/// A global function, which the verifier checks once by itself; so are the others.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_find(a: u64, b: u64) -> u64 {
    match maps::config().and_then(|config| at_home(config, a, b)) {
        Some((_, reference)) => reference.to_bits(),
        None => NOTHING,
    }
}

/// As [`find`], for who has looked at the flow's homes.
#[inline(always)]
pub fn find_away(key: &FlowKey) -> Option<FlowRef> {
    let [a, b] = key.words();
    let reference = xnat_find_away(a, b);
    (reference != NOTHING).then_some(FlowRef::from_bits(reference))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_find_away(a: u64, b: u64) -> u64 {
    let Some((place, buckets)) = look(a, b) else {
        return NOTHING;
    };
    let found = scan(buckets.first, place.tag, a, b);
    if found < ENDING || version(buckets.first) & Bucket::SPILLED == 0 {
        return found;
    }
    buckets.second().map_or(NOTHING, |second| scan(second, place.tag, a, b))
}

/// The flow with this tuple, if it is in its first home slot, or in the second of a table in which many are.
#[inline(always)]
pub fn at_home(config: &Config, a: u64, b: u64) -> Option<(*mut Flow, FlowRef)> {
    let [one, other] = index::homes([a, b], config.seed, config.slots());
    let first = FLOWS.get_ptr_mut(one)?;
    // The word is read first: what is read then is of its generation, or of a later one, which shows when the flow is
    // stamped.
    let one_word = word(first);
    // Where many flows are in their second home both are asked for before either is looked at, so that the processor
    // fetches them at once. Those that are there in another table, one in twelve at the most, are found by their entries in
    // the index: a look at the second home would cost every opening a line of memory.
    let second = if maps::flows_live() > u64::from(config.max_flows / FEW) { FLOWS.get_ptr_mut(other) } else { None };
    let other_word = second.map_or(Word(0), word);
    if let Some(direction) = direction_of(first, a, b) {
        return published(first, one, one_word, direction);
    }
    let second = second?;
    published(second, other, other_word, direction_of(second, a, b)?)
}

/// A table in which less than one in so many of its flows live has few in their second home.
const FEW: u32 = 4;

/// Generation and time of a record.
#[inline(always)]
pub fn word(flow: *mut Flow) -> Word {
    // SAFETY: a map value.
    Word(unsafe { (&raw const (*flow).word).read_volatile() })
}

/// In which direction packets with this tuple belong to the flow.
#[inline(always)]
fn direction_of(flow: *mut Flow, a: u64, b: u64) -> Option<Direction> {
    // SAFETY: a map value.
    let flow = unsafe { &*flow };
    // Both are compared before anything is asked: the verifier would go on from each answer.
    let [is_original, is_reply] = [&flow.original, &flow.reply].map(|tuple| {
        let [addresses, ports] = tuple.words();
        let [src, dst] = [addresses as u32 ^ a as u32, (addresses >> 32) as u32 ^ (a >> 32) as u32];
        is_zero((src | dst | ports as u32 ^ b as u32).into())
    });
    if is_original | is_reply == 0 {
        return None;
    }
    let direction = Direction::of_bit(is_original ^ 1);
    let [_, rest] = FlowKey::new(flow.original, flow.proto, Kind::side(flow.kind, direction)).words();
    (rest & !PORTS == b & !PORTS).then_some(direction)
}

/// What of a key's second word are the ports.
const PORTS: u64 = 0xffff_ffff;

#[inline(always)]
fn published(flow: *mut Flow, slot: u32, word: Word, direction: Direction) -> Option<(*mut Flow, FlowRef)> {
    // SAFETY: a map value.
    let state = State(unsafe { (&raw const (*flow).state).read_volatile() });
    let usable = word.is_live() && state.has(State::PUBLISHED);
    usable.then_some((flow, FlowRef::new(slot, word.generation(), direction)))
}

/// Looks at a flow's first home, so that the processor fetches it before it is asked for.
#[inline(always)]
pub fn prefetch_home(config: &Config, key: &FlowKey) {
    let [one, _] = index::homes(key.words(), config.seed, config.slots());
    if let Some(flow) = FLOWS.get_ptr_mut(one) {
        word(flow);
    }
}

/// Looks at a tuple's first bucket, so that the processor fetches it before it is asked for.
#[inline(always)]
pub fn prefetch(config: &Config, key: &FlowKey) {
    let place = Place::of(key.words(), config.seed, config.bucket_mask);
    if let Some(bucket) = TUPLES.get_ptr_mut(place.first) {
        version(bucket);
    }
}

/// Whether a tuple has an entry, be its flow about to end or to begin.
#[inline(always)]
pub fn is_taken(key: &FlowKey) -> bool {
    let [a, b] = key.words();
    xnat_has_entry(a, b) != 0
}

/// As [`is_taken`], for a key's words.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_has_entry(a: u64, b: u64) -> u32 {
    let Some((place, buckets)) = look(a, b) else {
        return 0;
    };
    if is_among(buckets.first, place.tag, a, b) {
        return 1;
    }
    if version(buckets.first) & Bucket::SPILLED == 0 {
        return 0;
    }
    buckets.second().map_or(0, |second| is_among(second, place.tag, a, b).into())
}

/// Inserts the entry by which packets of the reference's direction find its flow; false if their tuple has one already.
#[inline(always)]
pub fn insert(reference: FlowRef) -> bool {
    insert_with(reference, NO_PORT)
}

/// As [`insert`], for the reply tuple of a flow that gets another port with it: who looks for the tuple finds it in the
/// record as soon as it has an entry.
#[inline(always)]
pub fn insert_port(reference: FlowRef, port: Port) -> bool {
    insert_with(reference, port.0.into())
}

/// The record keeps its port.
const NO_PORT: u32 = u32::MAX;

#[inline(always)]
fn insert_with(reference: FlowRef, port: u32) -> bool {
    for _ in 0..ATTEMPTS {
        match xnat_insert(reference.to_bits(), port) {
            BUSY => {}
            inserted => return inserted == INSERTED,
        }
    }
    false
}

/// The words of the tuple by which packets of the reference's direction find its flow, or would with this port.
#[inline(always)]
fn words_of(flow: *mut Flow, reference: FlowRef, port: u32) -> [u64; 2] {
    // SAFETY: a map value.
    let mut key = unsafe { (*flow).key(reference.direction()) };
    if port != NO_PORT {
        key.tuple.dport = Port(port as u16);
    }
    key.words()
}

/// Puts an entry where the tuple belongs, unless that has one. Returns [`INSERTED`]; [`TAKEN`] if the tuple has an entry, if
/// there is no room, or if the flow has ended; or [`BUSY`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_insert(reference: u64, port: u32) -> u32 {
    let reference = FlowRef::from_bits(reference);
    let Some(flow) = FLOWS.get_ptr_mut(reference.index()) else {
        return TAKEN;
    };
    let [a, b] = words_of(flow, reference, port);
    if has_ended(flow, reference) {
        return TAKEN;
    }
    // Whoever hairpins to itself cannot have one tuple for both directions.
    if port != NO_PORT && words_of(flow, reference.in_direction(Direction::Original), NO_PORT) == [a, b] {
        return TAKEN;
    }
    let Some((place, buckets)) = look(a, b) else {
        return TAKEN;
    };
    let before = version(buckets.first);
    if before & Bucket::LOCKED != 0 {
        return BUSY;
    }
    let here = survey(buckets.first, place.tag);
    if has_among(buckets.first, here, a, b) {
        return TAKEN;
    }
    if before & Bucket::SPILLED != 0
        && let Some(second) = buckets.second()
        && is_among(second, place.tag, a, b)
    {
        return TAKEN;
    }
    // Whoever has inserted a tuple with this first bucket since the look has changed the version.
    if !lock(buckets.first, before) {
        return BUSY;
    }
    let mut placed = false;
    // Looked up again, because the stack is short. Of a flow that has not ended by now the tuple that was read is the one
    // whose bucket is locked.
    if let Some(flow) = FLOWS.get_ptr_mut(reference.index())
        && !has_ended(flow, reference)
    {
        placed = put(&buckets, here, Entry::new(place.tag, reference.direction(), reference.index()));
        if placed && port != NO_PORT {
            // SAFETY: one aligned store of two bytes; nobody can read a half of it.
            unsafe { (&raw mut (*flow).reply.dport).write_volatile(Port(port as u16)) };
        }
    }
    unlock(buckets.first);
    if placed { INSERTED } else { TAKEN }
}

/// Takes the entry away by which packets with `key` find the flow.
#[inline(always)]
pub fn remove(key: &FlowKey, reference: FlowRef) {
    remove_entry(key.words(), Entry::new(0, reference.direction(), reference.index()));
}

/// Takes an entry away from where these words have it; its tag is found out here. False if it is not there.
#[inline(always)]
pub fn remove_entry([a, b]: [u64; 2], entry: Entry) -> bool {
    xnat_remove(a, b, entry.0) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_remove(a: u64, b: u64, entry: u64) -> u32 {
    match look(a, b) {
        Some((place, buckets)) => take_away(&buckets, Entry(entry).tagged(place.tag)).into(),
        None => 0,
    }
}

/// Whether the flow has ended since it was looked for.
#[inline(always)]
fn has_ended(flow: *mut Flow, reference: FlowRef) -> bool {
    word(flow).generation() != reference.generation()
}

/// The live flow that an entry of the bucket leads to, and whose tuple is this one: a reference, or no less than
/// [`ENDING`].
#[inline(always)]
fn scan(bucket: *mut Bucket, tag: u32, a: u64, b: u64) -> u64 {
    let (seen, mut at) = (survey(bucket, tag), 0);
    while at < ENTRIES && seen.has_any_tag() {
        if seen.has_tag(at) {
            let flow = xnat_flow_of(read(bucket, at).0, a, b);
            if flow < ENDING {
                return flow;
            }
        }
        at = next(at);
    }
    NOTHING
}

/// Whether a bucket has an entry of this tuple.
#[inline(always)]
fn is_among(bucket: *mut Bucket, tag: u32, a: u64, b: u64) -> bool {
    has_among(bucket, survey(bucket, tag), a, b)
}

/// As [`is_among`], of a bucket that has been looked over for the tuple's tag.
#[inline(always)]
fn has_among(bucket: *mut Bucket, seen: Survey, a: u64, b: u64) -> bool {
    let mut at = 0;
    while at < ENTRIES && seen.has_any_tag() {
        if seen.has_tag(at) && xnat_flow_of(read(bucket, at).0, a, b) != NOTHING {
            return true;
        }
        at = next(at);
    }
    false
}

/// The flow of an entry, if it has this tuple: a reference, [`ENDING`] or [`NOTHING`].
///
/// A global function, because the verifier would follow all its ways for each of a bucket's entries. Nearly always it is
/// asked of the entry that is looked for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn xnat_flow_of(entry: u64, a: u64, b: u64) -> u64 {
    let entry = Entry(entry);
    let Some(flow) = FLOWS.get_ptr_mut(entry.slot()) else {
        return NOTHING;
    };
    // First, as in `at_home`.
    let word = word(flow);
    // The tuple by its place, without a branch for each direction; what else there is of the key only if it is the same.
    // SAFETY: a map value, which has one tuple behind the other. Of a record that is being filled anew no entry leads here
    // any more.
    let tuple = unsafe { *(&raw const (*flow).original).add(entry.direction_bit()) };
    if tuple.words() != [a, b & PORTS] || entry.admits() {
        return NOTHING;
    }
    // SAFETY: as above.
    let [_, rest] = unsafe { (*flow).key(entry.direction()) }.words();
    if rest != b {
        return NOTHING;
    }
    if !word.is_live() {
        return ENDING;
    }
    FlowRef::new(entry.slot(), word.generation(), entry.direction()).to_bits()
}
