//! When the daemon looks at which part of the flow table, so that flows end that have been idle for too long.

use std::time::{Duration, Instant};

use xnat_common::Ticks;
use xnat_common::collection::{self, Look};
use xnat_common::timeout::Timeouts;

use super::Daemon;

/// How long a pass over the whole table takes; so much later than it is due a flow ends at the latest.
const PASS: Duration = Duration::from_secs(5);
/// How much of a pass a turn is.
const TURN: Duration = Duration::from_millis(250);
/// A turn that has taken so long goes on later. Packets get through between two slices, but what has to wait for a processor
/// of its own, the kernel's thread for interrupts above all, would have to wait for the end of the turn.
const BUDGET: Duration = Duration::from_micros(500);
/// How much later.
const PAUSE: Duration = Duration::from_millis(1);
/// After so long there is another pass even if nothing is known to be due.
const REST: Duration = Duration::from_secs(30);

/// Where the collector is.
#[derive(Debug)]
pub(super) struct Collector {
    places: u32,
    /// So long at least a flow lives that has just been opened or seen.
    least: Ticks,
    began: Instant,
    /// The place at which it goes on.
    place: u32,
    /// None of the flows that this pass has met is due before this time has passed.
    left: Ticks,
    next: Instant,
}

impl Collector {
    /// One that is about to begin.
    pub(super) fn new(max_flows: u32, timeouts: &Timeouts, now: Instant) -> Self {
        let places = collection::places(max_flows);
        let mut collector = Self { places, least: timeouts.least(), began: now, place: 0, left: Ticks(0), next: now };
        collector.begin(now);
        collector
    }

    /// When it has its next turn.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Whether a pass is to begin.
    const fn is_beginning(&self) -> bool {
        self.place == 0
    }

    fn begin(&mut self, now: Instant) {
        (self.began, self.place, self.left) = (now, 0, Ticks(u32::MAX));
    }

    /// Has its next turn a turn later, whatever becomes of this one.
    fn put_off(&mut self, now: Instant) {
        self.next = now + TURN;
    }

    /// Leaves out a pass over a table that holds nothing.
    fn skip(&mut self, now: Instant) {
        self.begin(now);
        self.next = now + self.rest().max(TURN);
    }

    /// Has its turn: looks at what this pass should have come to by the next one, or at less if that takes too long.
    fn turn<E>(&mut self, clock: impl Fn() -> Instant, mut look: impl FnMut(u32) -> Result<Look, E>) -> Result<(), E> {
        let start = clock();
        if self.is_beginning() {
            self.begin(start);
        }
        let due = self.due(start);
        let mut now = start;
        while self.place < due && now - start < BUDGET {
            let look = look(self.place)?;
            self.left = Ticks(self.left.0.min(look.left().0));
            self.place = after(self.place, look);
            now = clock();
        }
        if self.place < self.places {
            self.next = (self.began + self.time_of_place()).max(now + PAUSE);
        } else {
            self.next = (self.began + self.rest().max(PASS)).max(now + PAUSE);
            self.place = 0;
        }
        Ok(())
    }

    /// The place that a turn that begins now should come to.
    fn due(&self, now: Instant) -> u32 {
        let time = (now - self.began + TURN).min(PASS);
        (u64::from(self.places) * time.as_micros() as u64).div_ceil(PASS.as_micros() as u64) as u32
    }

    /// How far into a pass the hand should come to where it is.
    fn time_of_place(&self) -> Duration {
        Duration::from_micros(PASS.as_micros() as u64 * u64::from(self.place) / u64::from(self.places))
    }

    /// From the beginning of a pass until a flow can be due: one that the pass has met, or one that a packet has opened or
    /// refreshed behind its back.
    fn rest(&self) -> Duration {
        Duration::from_nanos(Ticks(self.least.0.min(self.left.0)).as_ns()).min(REST)
    }
}

/// The place at which to go on.
fn after(place: u32, look: Look) -> u32 {
    match look.places() {
        // A dataplane without a configuration, which looks at nothing.
        0 => u32::MAX,
        places => place.saturating_add(places),
    }
}

impl Daemon {
    /// A turn of the collector. Without flows it has nothing to do.
    pub(super) fn collect(&mut self) -> anyhow::Result<()> {
        let Self { collector, dataplane, maps, .. } = self;
        collector.put_off(Instant::now());
        if collector.is_beginning() && maps.cursors()?.used == 0 {
            collector.skip(Instant::now());
            return Ok(());
        }
        Ok(collector.turn(Instant::now, |first| dataplane.collect(first))?)
    }

    /// Passes the whole table at once, for flows that are to end now.
    pub(super) fn collect_all(&mut self) -> anyhow::Result<()> {
        let (mut place, places) = (0, collection::places(self.settings.max_flows));
        while place < places {
            place = after(place, self.dataplane.collect(place)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use xnat_common::collection::SLICE;

    use super::*;

    /// A machine on which a slice takes some time, and the timer comes a little late.
    struct Machine {
        time: Cell<Instant>,
        slice: Duration,
        /// Places that a slice looks at.
        places: u32,
        left: Ticks,
        looks: Cell<u32>,
    }

    impl Machine {
        fn new(slice: Duration, places: u32, left: Ticks) -> Self {
            Self { time: Cell::new(Instant::now()), slice, places, left, looks: Cell::new(0) }
        }

        fn pass(&self, collector: &mut Collector) -> (Duration, Vec<Duration>) {
            let mut turns = Vec::new();
            let start = collector.next();
            let mut expected = 0;
            loop {
                self.time.set(self.time.get().max(collector.next()) + Duration::from_micros(600));
                let before = self.time.get();
                let look = |first| {
                    assert_eq!(first, expected, "nothing is left out");
                    expected += self.places;
                    self.time.set(self.time.get() + self.slice);
                    self.looks.set(self.looks.get() + 1);
                    Ok::<_, Infallible>(Look::new(self.places, self.left))
                };
                let Ok(()) = collector.turn(|| self.time.get(), look);
                turns.push(self.time.get() - before);
                if collector.is_beginning() {
                    return (self.time.get() - start, turns);
                }
            }
        }
    }

    fn collector(max_flows: u32, machine: &Machine) -> Collector {
        Collector::new(max_flows, &Timeouts::default(), machine.time.get())
    }

    #[test]
    fn the_table_is_passed_in_five_seconds() {
        for max_flows in [64, 5000, 262_144, 1_000_000, 4_000_000] {
            let machine = Machine::new(Duration::from_micros(30), SLICE, Ticks(0));
            let mut collector = collector(max_flows, &machine);
            for _ in 0..3 {
                let (time, turns) = machine.pass(&mut collector);
                assert!(time <= PASS + Duration::from_millis(5), "{max_flows}: {time:?}");
                assert!(turns.len() <= 1000, "{max_flows}: {}", turns.len());
                assert!(collector.next() >= collector.began + PASS, "no sooner than it is due again");
            }
        }
    }

    #[test]
    fn a_million_flows_end_in_about_five_seconds() {
        // Of a full table two places of three hold a flow; a slice that ends flows is short.
        let machine = Machine::new(Duration::from_micros(80), 96, Ticks(0));
        let (time, turns) = machine.pass(&mut collector(1_000_000, &machine));
        assert!(time <= Duration::from_secs(6), "{time:?}");
        assert!(turns.iter().all(|turn| *turn <= BUDGET + machine.slice), "nobody waits for long");
    }

    #[test]
    fn where_nothing_is_due_it_rests() {
        let seconds = Ticks::from_secs;
        for (left, rest) in [(seconds(1), PASS), (seconds(10), Duration::from_secs(10)), (seconds(1000), REST)] {
            let machine = Machine::new(Duration::from_micros(30), SLICE, left);
            let mut collector = collector(1000, &machine);
            machine.pass(&mut collector);
            let rested = collector.next() - collector.began;
            assert!(rested >= rest && rested < rest + Duration::from_millis(20), "{rested:?}, not {rest:?}");
        }
    }

    #[test]
    fn an_empty_table_is_left_alone_until_a_flow_can_be_due() {
        let now = Instant::now();
        let of =
            |least| Collector::new(1000, &Timeouts { icmp: Ticks::from_secs(least).0, ..Timeouts::default() }, now);
        for (least, rest) in [(2, 2), (60, 30)] {
            let mut collector = of(least);
            collector.skip(now);
            assert!(collector.is_beginning());
            assert_eq!((collector.next() - now).as_secs(), rest);
        }
    }
}
