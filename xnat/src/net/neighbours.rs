//! What the kernel was last heard to know of its neighbours, to tell changes that matter from those that do not.
//!
//! A neighbour's state goes around all the time: reachable, stale, being asked. A remembered next hop is only wrong once
//! its MAC address is another or not known any more, or is found at another port of its bridge.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

type Mac = [u8; 6];

/// Who is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Neighbour {
    /// An address beyond an interface.
    Host { link: u32, address: Ipv4Addr },
    /// A MAC address behind a bridge.
    Station { bridge: u32, vlan: u16, mac: Mac },
}

impl Neighbour {
    /// The interface beyond which it is.
    pub(crate) const fn link(&self) -> u32 {
        match self {
            Self::Host { link, .. } => *link,
            Self::Station { bridge, .. } => *bridge,
        }
    }
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has this MAC address.
    Mac(Mac),
    /// It is at this port.
    Port(u32),
}

/// What a message says: where a neighbour is, or that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Whose place it is.
    pub(crate) neighbour: Neighbour,
    /// The place.
    pub(crate) place: Option<Place>,
}

impl Word {
    /// Reads a message; none if it is of another kind of neighbour.
    pub(crate) fn read(message: &NeighbourMessage, deleted: bool) -> Option<Self> {
        let header = &message.header;
        // The kernel answers in the name of such an address, and knows nobody there.
        if header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        let (mut address, mut mac, mut bridge, mut vlan) = (None, None, None, 0);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(it)) => address = Some(*it),
                NeighbourAttribute::LinkLayerAddress(it) => mac = Mac::try_from(it.as_slice()).ok(),
                NeighbourAttribute::Controller(it) => bridge = Some(*it),
                NeighbourAttribute::Vlan(it) => vlan = *it,
                _ => {}
            }
        }
        match header.family {
            AddressFamily::Inet => {
                let known = !deleted && is_valid(header.state);
                let neighbour = Neighbour::Host { link: header.ifindex, address: address? };
                Some(Self { neighbour, place: mac.filter(|_| known).map(Place::Mac) })
            }
            AddressFamily::Bridge => {
                let neighbour = Neighbour::Station { bridge: bridge?, vlan, mac: mac? };
                Some(Self { neighbour, place: (!deleted).then_some(Place::Port(header.ifindex)) })
            }
            _ => None,
        }
    }
}

/// Whether the kernel uses the MAC address in this state (`NUD_VALID`).
const fn is_valid(state: NeighbourState) -> bool {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    matches!(state, Permanent | Noarp | Reachable | Probe | Stale | Delay)
}

/// The neighbours.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    places: HashMap<Neighbour, Place>,
    /// Whether these are all that the kernel has.
    complete: bool,
}

impl Neighbours {
    /// Whether these are all that the kernel has.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// All that the kernel has have been told.
    pub(crate) const fn complete(&mut self) {
        self.complete = true;
    }

    /// Something has not been heard.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes in what is said. True if a next hop that was learnt before may be wrong now.
    pub(crate) fn take(&mut self, Word { neighbour, place }: Word) -> bool {
        let before = match place {
            Some(place) => self.places.insert(neighbour, place),
            None => self.places.remove(&neighbour),
        };
        let changed = before != place;
        match neighbour {
            // Nobody has learnt a MAC address that the kernel did not know.
            Neighbour::Host { .. } => changed && before.is_some(),
            // The dataplane sees by itself where stations are, while the bridge, which it goes around, forgets them.
            Neighbour::Station { .. } => changed && self.complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::neighbour::NeighbourHeader;

    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const HOST: Neighbour = Neighbour::Host { link: 3, address: Ipv4Addr::new(172, 29, 0, 17) };
    const STATION: Neighbour = Neighbour::Station { bridge: 4, vlan: 0, mac: A };

    /// Which of the words may make a next hop wrong.
    fn taken(neighbour: Neighbour, places: &[Option<Place>]) -> Vec<bool> {
        let mut neighbours = Neighbours::default();
        neighbours.complete();
        places.iter().map(|&place| neighbours.take(Word { neighbour, place })).collect()
    }

    #[test]
    fn hosts_matter_when_their_mac_address_was_another() {
        let (a, b) = (Some(Place::Mac(A)), Some(Place::Mac(B)));
        assert_eq!(taken(HOST, &[a, a, b, b]), [false, false, true, false]);
        assert_eq!(taken(HOST, &[a, None, None, b]), [false, true, false, false], "while it failed nobody learnt it");
        assert_eq!(taken(HOST, &[None, a]), [false, false]);
    }

    #[test]
    fn stations_matter_wherever_they_turn_up() {
        let (one, other) = (Some(Place::Port(7)), Some(Place::Port(8)));
        assert_eq!(taken(STATION, &[one, one, other, None, other]), [true, false, true, true, true]);
    }

    #[test]
    fn while_they_are_listed_stations_are_no_news() {
        let mut neighbours = Neighbours::default();
        let word = Word { neighbour: STATION, place: Some(Place::Port(7)) };
        assert!(!neighbours.take(word));
        neighbours.complete();
        assert!(!neighbours.take(word));
        neighbours.forget();
        assert!(!neighbours.is_complete());
    }

    fn message(family: AddressFamily, state: NeighbourState, attributes: &[NeighbourAttribute]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header = NeighbourHeader { family, ifindex: 3, state, ..NeighbourHeader::default() };
        message.attributes = attributes.to_vec();
        message
    }

    #[test]
    fn hosts_are_read() {
        let attributes = [
            NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(172, 29, 0, 17))),
            NeighbourAttribute::LinkLayerAddress(A.to_vec()),
        ];
        let read = |state, deleted| Word::read(&message(AddressFamily::Inet, state, &attributes), deleted).unwrap();
        let known = Word { neighbour: HOST, place: Some(Place::Mac(A)) };
        for state in [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Permanent] {
            assert_eq!(read(state, false), known, "{state:?}");
        }
        let unknown = Word { place: None, ..known };
        assert_eq!(read(NeighbourState::Failed, false), unknown);
        assert_eq!(read(NeighbourState::Stale, true), unknown);
        let mut proxy = message(AddressFamily::Inet, NeighbourState::Permanent, &attributes);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(Word::read(&proxy, false), None);
        assert_eq!(Word::read(&message(AddressFamily::Inet6, NeighbourState::Stale, &attributes), false), None);
    }

    #[test]
    fn stations_are_read() {
        let attributes = [NeighbourAttribute::LinkLayerAddress(A.to_vec()), NeighbourAttribute::Controller(4)];
        let read = |message, deleted| Word::read(&message, deleted);
        let at = |attributes| message(AddressFamily::Bridge, NeighbourState::Reachable, attributes);
        let known = Word { neighbour: STATION, place: Some(Place::Port(3)) };
        assert_eq!(read(at(&attributes), false), Some(known));
        assert_eq!(read(at(&attributes), true), Some(Word { place: None, ..known }));
        assert_eq!(read(at(&attributes[..1]), false), None, "a tunnel's, not a bridge's");
    }
}
