//! Telling the dataplane which ports the host uses, in the memory of the `HOST_PORTS` map.

use std::sync::atomic::{AtomicU64, Ordering};

use xnat_common::host_port::{self, STAMPS};
use xnat_common::{Port, Ticks};

/// Stamps these ports, by protocol, and forgets those whose stamps are too old to count.
pub(crate) fn stamp(entries: &[AtomicU64], ports: impl IntoIterator<Item = (u8, u16)>, now: Ticks) {
    for index in ports.into_iter().filter_map(|(protocol, port)| host_port::index(protocol, Port::new(port))) {
        if let Some(stamp) = entries.get(index as usize) {
            // The dataplane stores there as well, and either time will do.
            stamp.store(now.0.into(), Ordering::SeqCst);
            mark(entries, index);
        }
    }
    forget(entries, now);
}

/// Takes the bits of stamps away that do not count any more.
fn forget(entries: &[AtomicU64], now: Ticks) {
    let counts = |index: u32| {
        let stamp = entries.get(index as usize).map_or(0, |stamp| stamp.load(Ordering::SeqCst));
        host_port::in_use(stamp, now)
    };
    let words = entries.iter().skip(STAMPS as usize);
    for (first, word) in (0..STAMPS).step_by(u64::BITS as usize).zip(words) {
        let set = word.load(Ordering::Relaxed);
        let old = (0..u64::BITS).filter(|nth| set >> nth & 1 != 0).map(|nth| first + nth).filter(|it| !counts(*it));
        for index in old {
            word.fetch_and(!host_port::bit(index).1, Ordering::SeqCst);
            // The dataplane may have stamped it, and seen the bit, in this moment.
            if counts(index) {
                mark(entries, index);
            }
        }
    }
}

fn mark(entries: &[AtomicU64], index: u32) {
    let (word, bit) = host_port::bit(index);
    if let Some(word) = entries.get(word as usize) {
        word.fetch_or(bit, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use xnat_common::host_port::{ENTRIES, LIFETIME};
    use xnat_common::packet::proto;

    use super::*;

    fn bits(entries: &[AtomicU64]) -> Vec<u32> {
        let is_set = |index: &u32| {
            let (word, bit) = host_port::bit(*index);
            entries[word as usize].load(Ordering::Relaxed) & bit != 0
        };
        (0..STAMPS).filter(is_set).collect()
    }

    #[test]
    fn ports_are_stamped_and_forgotten() {
        let entries: Vec<AtomicU64> = (0..ENTRIES).map(|_| AtomicU64::new(0)).collect();
        let (early, later) = (Ticks(1000), Ticks(1000 + LIFETIME.0));
        stamp(&entries, [(proto::TCP, 22), (proto::UDP, 53), (proto::TCP, 65535), (proto::ICMP, 7)], early);
        assert_eq!(bits(&entries), [22, 65535, 65536 + 53]);
        assert_eq!(entries[65536 + 53].load(Ordering::Relaxed), 1000);
        // All of them still count.
        stamp(&entries, [(proto::TCP, 22), (proto::TCP, 21)], later);
        assert_eq!(bits(&entries), [21, 22, 65535, 65536 + 53]);
        stamp(&entries, [], Ticks(later.0 + 1));
        assert_eq!(bits(&entries), [21, 22]);
        assert_eq!(entries[22].load(Ordering::Relaxed), u64::from(later.0));
    }

    #[test]
    fn a_port_that_is_stamped_while_it_is_forgotten_keeps_its_bit() {
        let entries: Vec<AtomicU64> = (0..ENTRIES).map(|_| AtomicU64::new(0)).collect();
        for round in 1..500 {
            // All that was stamped before is too old by now.
            let now = Ticks(round * (LIFETIME.0 + 1));
            std::thread::scope(|scope| {
                scope.spawn(|| forget(&entries, now));
                // As the dataplane does.
                entries[22].store(now.0.into(), Ordering::Relaxed);
                mark(&entries, 22);
            });
            assert_eq!(bits(&entries), [22], "round {round}");
        }
    }
}
