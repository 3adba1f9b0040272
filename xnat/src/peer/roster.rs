//! What is known of each peer. Messages and the time come in, events go out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use xnat_common::host_port::LINK_PORT;

use super::claims::{Ground, HostRoutes, Refusal, judge};
use super::message::{Message, MessageError, VERSION};
use crate::cidr::Cidr;
use crate::config::PeerSpec;
use crate::say;

/// A peer that was silent for longer is not alive.
pub(crate) const ALIVE: Duration = Duration::from_secs(5);

/// A peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// What the user said that it owns; none when it is to say so itself.
    pub(crate) stated: Option<Vec<Cidr>>,
    /// What it says that it owns.
    pub(crate) announced: Vec<Cidr>,
    /// What it is believed to own.
    pub(crate) subnets: Vec<Cidr>,
    /// What it is not.
    pub(crate) refused: Vec<Refusal>,
    /// Whether it has been heard, and has not said goodbye since.
    pub(crate) speaks: bool,
    /// The version that it speaks, even if that is not ours.
    pub(crate) version: Option<u8>,
    /// Its boot id, in its last message.
    boot: Option<u64>,
    /// When it was last heard.
    last_heard: Option<Instant>,
    /// What was wrong with its last message.
    damage: Option<MessageError>,
    /// Whether what it announces was said to differ from what is stated.
    differs: bool,
}

impl Peer {
    /// How long ago it was heard.
    pub(crate) fn silence(&self, now: Instant) -> Option<Duration> {
        self.last_heard.map(|heard| now.saturating_duration_since(heard))
    }

    /// Whether it was heard of late.
    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        self.speaks && self.silence(now).is_some_and(|silence| silence < ALIVE)
    }
}

/// Something about a peer that the user may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Came,
    Restarted,
    Left,
    OtherVersion(u8),
    Damaged(MessageError),
    Owns(Vec<Cidr>),
    Differs(Vec<Cidr>),
    Refused(Refusal),
}

impl Event {
    /// Whether somebody should look at it.
    pub(crate) const fn is_warning(&self) -> bool {
        matches!(self, Self::OtherVersion(_) | Self::Damaged(_) | Self::Differs(_) | Self::Refused(_))
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Came => write!(f, "is there and speaks xnat"),
            Self::Restarted => write!(f, "has started with an empty flow table"),
            Self::Left => write!(f, "said goodbye"),
            Self::OtherVersion(version) => {
                write!(f, "speaks version {version} of the peer link and this host version {VERSION}; update the older")
            }
            Self::Damaged(error) => write!(f, "sent a message that cannot be used: {error}"),
            Self::Owns(subnets) if subnets.is_empty() => write!(f, "owns no subnet that could be used"),
            Self::Owns(subnets) => write!(f, "owns {}", say::list(subnets)),
            Self::Differs(subnets) => {
                write!(f, "announces {}, which is not what --peer states; what is stated is used", say::list(subnets))
            }
            Self::Refused(Refusal { subnet, reason }) => write!(f, "is not given {subnet}: {reason}"),
        }
    }
}

/// All peers.
#[derive(Debug)]
pub(crate) struct Roster {
    peers: BTreeMap<Ipv4Addr, Peer>,
    own: Vec<Cidr>,
    address: Ipv4Addr,
    host: HostRoutes,
    boot: u64,
    strangers: u64,
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// What is worth telling.
    pub(crate) events: Vec<Event>,
    /// The sender does not know of this daemon yet.
    pub(crate) answer: bool,
    /// The sender may have another flow table than the one that it had: it knows none of the flows toward it.
    pub(crate) forgot: bool,
}

impl Roster {
    /// The configured peers, none of which has been heard. `boot` is this daemon's boot id.
    pub(crate) fn new(specs: &[PeerSpec], own: &[Cidr], address: Ipv4Addr, boot: u64) -> Self {
        let peer = |spec: &PeerSpec| Peer { stated: spec.subnets.clone(), ..Peer::default() };
        Self {
            peers: specs.iter().map(|spec| (spec.address, peer(spec))).collect(),
            own: own.to_vec(),
            address,
            host: HostRoutes::default(),
            boot,
            strangers: 0,
        }
    }

    /// The peers by address.
    pub(crate) const fn peers(&self) -> &BTreeMap<Ipv4Addr, Peer> {
        &self.peers
    }

    /// How many datagrams came from elsewhere than a peer's own end of the link.
    pub(crate) const fn strangers(&self) -> u64 {
        self.strangers
    }

    /// Takes up what an earlier run left in the maps: the dataplane has been using it all the time.
    pub(crate) fn remember(&mut self, address: Ipv4Addr, speaks: bool, subnets: Vec<Cidr>) {
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.speaks = speaks;
            if speaks {
                peer.announced = subnets;
            }
        }
    }

    /// Notes the address under which this host is on the wire now, and what else it has to do with
    /// which ranges.
    pub(crate) fn set_ground(&mut self, address: Ipv4Addr, host: HostRoutes) {
        self.address = address;
        self.host = host;
    }

    /// What to send to a peer.
    pub(crate) fn message_to(&self, peer: Ipv4Addr, goodbye: bool) -> Message {
        let heard = self.peers.get(&peer).and_then(|peer| peer.boot);
        Message { boot: self.boot, heard, goodbye, subnets: self.own.clone() }
    }

    /// Takes in a datagram.
    pub(crate) fn hear(&mut self, from: SocketAddrV4, bytes: &[u8], now: Instant) -> Heard {
        // The peer's containers have its address on the wire as well, but never get this port.
        let of_link = from.port() == LINK_PORT;
        let Some(peer) = self.peers.get_mut(from.ip()).filter(|_| of_link) else {
            self.strangers += 1;
            return Heard { events: Vec::new(), answer: false, forgot: false };
        };
        match Message::decode(bytes) {
            Ok(message) => peer.take_in(message, self.boot, now),
            Err(MessageError::Version(version)) => {
                let known = peer.version.replace(version) == Some(version);
                let events = if known { Vec::new() } else { vec![Event::OtherVersion(version)] };
                Heard { events, answer: !known, forgot: false }
            }
            Err(error) => {
                let known = peer.damage.replace(error.clone()).as_ref() == Some(&error);
                let events = if known { Vec::new() } else { vec![Event::Damaged(error)] };
                Heard { events, answer: false, forgot: false }
            }
        }
    }

    /// Decides anew who owns what. What a peer owns already, it keeps.
    pub(crate) fn settle(&mut self) -> Vec<(Ipv4Addr, Event)> {
        let addresses: Vec<Ipv4Addr> = self.peers.keys().copied().collect();
        let mut events = Vec::new();
        // Those with something first, so that a newcomer cannot take it.
        let mut order = addresses.clone();
        order.sort_by_key(|address| (self.peers[address].stated.is_none(), self.peers[address].subnets.is_empty()));
        for address in order {
            let others: Vec<_> = self.owned().filter(|&(peer, _)| peer != address).collect();
            let ground =
                Ground { own: &self.own, address: self.address, peers: &addresses, others: &others, host: &self.host };
            if let Some(peer) = self.peers.get_mut(&address) {
                events.extend(peer.settle(&ground).into_iter().map(|event| (address, event)));
            }
        }
        events
    }

    /// Every subnet with its owner.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (Ipv4Addr, Cidr)> {
        self.peers.iter().flat_map(|(&address, peer)| peer.subnets.iter().map(move |&subnet| (address, subnet)))
    }
}

impl Peer {
    fn take_in(&mut self, message: Message, own_boot: u64, now: Instant) -> Heard {
        let answer = !message.goodbye && message.heard != Some(own_boot);
        let before = self.boot.replace(message.boot);
        self.last_heard = Some(now);
        self.version = Some(VERSION);
        self.damage = None;
        let mut events = Vec::new();
        if message.goodbye {
            if self.speaks {
                events.push(Event::Left);
            }
            self.speaks = false;
            self.announced.clear();
            return Heard { events, answer, forgot: false };
        }
        if !self.speaks || before.is_none() {
            events.push(Event::Came);
        } else if before != Some(message.boot) {
            events.push(Event::Restarted);
        }
        self.speaks = true;
        self.announced = message.subnets;
        Heard { events, answer, forgot: before != Some(message.boot) }
    }

    fn settle(&mut self, ground: &Ground<'_>) -> Vec<Event> {
        let claims = self.stated.as_ref().unwrap_or(&self.announced);
        let (subnets, refused) = judge(claims, ground);
        let mut events = Vec::new();
        if subnets != self.subnets {
            events.push(Event::Owns(subnets.clone()));
        }
        events.extend(refused.iter().filter(|it| !self.refused.contains(it)).cloned().map(Event::Refused));
        self.subnets = subnets;
        self.refused = refused;
        let differs = self.speaks && self.stated.as_ref().is_some_and(|stated| !same(stated, &self.announced));
        if differs && !self.differs {
            events.push(Event::Differs(self.announced.clone()));
        }
        self.differs = differs;
        events
    }
}

fn same(one: &[Cidr], other: &[Cidr]) -> bool {
    one.iter().all(|it| other.contains(it)) && other.iter().all(|it| one.contains(it))
}

#[cfg(test)]
mod tests;
