//! Toward whom ports have run short of late, so that being refused costs no more than a look-up.

use xnat_common::config::Config;
use xnat_common::flow::Kind;
use xnat_common::mapping::{Destination, ForwardKey, Full};
use xnat_common::port::{is_privileged, range};
use xnat_common::{Addr, FlowRef, Port, Ticks, Tuple};

use crate::claim::Opening;
use crate::lookup;
use crate::mapping::{self, Goal};
use crate::maps::{self, FULL};

/// How long a full destination is believed to be full if no flow has ended.
const FULL_LIFETIME: Ticks = Ticks::from_secs(1);

/// Whether a search toward the same end has just found nothing. It is worth another one in the next tick if a flow has
/// ended, and now and then, because flows close.
///
/// A global function, whose stack is not that of the programs; so is [`xnat_note_full`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_is_full(reference: u64, goal: u32, ended: u32, now: u32) -> u32 {
    let Some(found) = lookup::by_reference(FlowRef::from_bits(reference)) else {
        return 0;
    };
    let flow = found.flow();
    is_full(&end_of(flow.proto, &flow.original, &flow.reply, Goal::of(goal)), ended, Ticks(now)).into()
}

#[inline(always)]
fn is_full(destination: &Destination, ended: u32, now: Ticks) -> bool {
    if !maps::was_full_within(FULL_LIFETIME, now) {
        return false;
    }
    let Some(full) = FULL.get_ptr(destination) else {
        return false;
    };
    // SAFETY: a map value, read at once.
    let Full { time, ended: then } = unsafe { full.read_volatile() };
    let age = now.since(Ticks(time)).0;
    age == 0 || then == ended && age < FULL_LIFETIME.0
}

/// Whether an opening from a container would find no port, as somebody has just found out who would have shared one.
#[inline(always)]
pub fn is_hopeless(config: &Config, opening: &Opening, now: Ticks) -> bool {
    let (protocol, Tuple { src, sport, .. }) = (opening.proto, opening.original);
    // Who has a mapping needs none, nor does a container to which a forward of its port leads.
    let forward = |key| maps::forward(config, key).is_some_and(|it| it.address == src && it.port == sport);
    opening.kind as u8 == Kind::Outside as u8
        && !mapping::owner_of(protocol, sport).is(src, sport)
        && !forward(&ForwardKey { port: sport, proto: protocol, zero: 0 })
        && is_full(
            &end_of(opening.proto, &opening.original, &opening.reply, Goal::Flow),
            maps::flows_ended() as u32,
            now,
        )
}

/// Remembers that a search has found nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xnat_note_full(reference: u64, goal: u32, ended: u32, now: u32) -> u32 {
    let (Some(config), Some(found)) = (maps::config(), lookup::by_reference(FlowRef::from_bits(reference))) else {
        return 0;
    };
    let flow = found.flow();
    // A flow that cannot have another port says nothing of other ports.
    if range(flow.proto, flow.reply.dport, config.first_port, config.last_port).is_some() {
        let end = end_of(flow.proto, &flow.original, &flow.reply, Goal::of(goal));
        let _ = FULL.insert(&end, &Full { time: now, ended }, 0);
        maps::note_full(Ticks(now));
    }
    0
}

/// Toward whom all ports are taken if a search for a flow with these tuples finds none.
#[inline(always)]
fn end_of(protocol: u8, original: &Tuple, reply: &Tuple, goal: Goal) -> Destination {
    let (address, port) = match goal {
        Goal::Flow => (reply.src, reply.sport),
        Goal::Endpoint => (Addr::UNSPECIFIED, Port::NONE),
        Goal::Remote => (reply.src, Port::NONE),
    };
    Destination { address, port, proto: protocol, privileged: is_privileged(original.sport).into() }
}
