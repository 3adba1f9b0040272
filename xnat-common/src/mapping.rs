//! Mappings: which port on the wire stands for which endpoint inside, and whom it lets in (RFC 4787 §4 and §5).
//!
//! A mapping belongs to an endpoint, a container's address and port. Every flow of that endpoint toward the outside is a
//! session of it and has its port; it lives as long as any session does. Flows with peers have no mappings.

use bytemuck::{Pod, Zeroable};

use crate::packet::proto;
use crate::{Addr, Port};

/// How much of the other end a mapping or its filtering depends on. Numbers are part of the pinned layout.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependence {
    /// On nothing: one port toward everybody; or everybody is let in.
    #[default]
    Endpoint = 0,
    /// On the other end's address.
    Address = 1,
    /// On its address and port.
    AddressAndPort = 2,
}

impl Dependence {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Endpoint, Self::Address, Self::AddressAndPort];

    /// Parses a number of the configuration; an unknown one is the strictest.
    #[inline(always)]
    #[must_use]
    pub const fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Endpoint,
            1 => Self::Address,
            _ => Self::AddressAndPort,
        }
    }

    /// The RFC's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint-independent",
            Self::Address => "address-dependent",
            Self::AddressAndPort => "address-and-port-dependent",
        }
    }
}

/// The protocols that have ports to map, in the order of the configuration and of the `PORTS` map.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// ICMP queries, whose identifier is their port.
    Icmp = 2,
}

impl Class {
    /// The class of a protocol; none for those whose ports cannot be changed.
    #[inline(always)]
    #[must_use]
    pub const fn of(protocol: u8) -> Option<Self> {
        match protocol {
            proto::TCP => Some(Self::Tcp),
            proto::UDP => Some(Self::Udp),
            proto::ICMP => Some(Self::Icmp),
            _ => None,
        }
    }
}

/// Entries of the `PORTS` map.
pub const ENTRIES: u32 = 3 << 16;

/// The index of a port in the `PORTS` map.
#[inline(always)]
#[must_use]
pub const fn index(class: Class, port: Port) -> u32 {
    (class as u32) << 16 | port.number() as u32
}

/// The port at `index`.
#[inline(always)]
#[must_use]
pub const fn port_at(index: u32) -> Port {
    Port::new(index as u16)
}

/// The index of another port of the class of that at `index`.
#[inline(always)]
#[must_use]
pub const fn index_beside(index: u32, port: Port) -> u32 {
    index & !0xffff | port.number() as u32
}

/// Whether the ports at these two indices are of the same class.
#[inline(always)]
#[must_use]
pub const fn is_same_class(one: u32, other: u32) -> bool {
    one >> 16 == other >> 16
}

/// Entries of the `TAKEN` map: words with a bit for each entry of `PORTS`.
pub const TAKEN_WORDS: u32 = ENTRIES / u64::BITS;

/// The entry of the `TAKEN` map that has the bit of the port at `index`, and the bit.
#[inline(always)]
#[must_use]
pub const fn taken_bit(index: u32) -> (u32, u64) {
    (index / u64::BITS, 1 << (index % u64::BITS))
}

/// Who has a port, and how many sessions: address, port and count in one word, which is changed only by
/// compare-and-swap. Zero is free.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Owner(pub u64);

impl Owner {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// The count that stands for a mapping that is just being taken apart.
    const LEAVING: u16 = u16::MAX;

    /// An endpoint, with so many sessions.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Addr, port: Port, sessions: u16) -> Self {
        Self((address.0 as u64) << 32 | (port.0 as u64) << 16 | sessions as u64)
    }

    /// Its address.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> Addr {
        Addr((self.0 >> 32) as u32)
    }

    /// Its port.
    #[inline(always)]
    #[must_use]
    pub const fn port(self) -> Port {
        Port((self.0 >> 16) as u16)
    }

    /// How many sessions there are.
    #[inline(always)]
    #[must_use]
    pub const fn sessions(self) -> u16 {
        self.0 as u16
    }

    /// Whether nobody has the port.
    #[inline(always)]
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.0 == 0
    }

    /// Whether the mapping is just being taken apart: neither may it be joined nor is it free yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_leaving(self) -> bool {
        self.sessions() == Self::LEAVING
    }

    /// Whether this is the endpoint's.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, address: Addr, port: Port) -> bool {
        self.0 >> 16 == Self::new(address, port, 0).0 >> 16
    }

    /// With one session more; none where no more can be counted.
    #[inline(always)]
    #[must_use]
    pub const fn joined(self) -> Option<Self> {
        if self.sessions() >= Self::LEAVING - 1 { None } else { Some(Self(self.0 + 1)) }
    }

    /// With one session less; the last one's leaving has to be finished by whoever has left.
    #[inline(always)]
    #[must_use]
    pub const fn left(self) -> Self {
        if self.sessions() == 1 { Self(self.0 | Self::LEAVING as u64) } else { Self(self.0 - 1) }
    }
}

/// An entry of the `PORTS` map: the mapping that has the port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Mapping {
    /// Whose it is.
    pub owner: Owner,
    /// A [`Remote`]: the address with which most mappings have all their sessions.
    pub remote: Remote,
}

/// A remote address, and how many sessions there are with it. Zero is none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Remote(pub u64);

impl Remote {
    /// So many sessions with an address.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Addr, sessions: u32) -> Self {
        Self((address.0 as u64) << 32 | sessions as u64)
    }

    /// The address.
    #[inline(always)]
    #[must_use]
    pub const fn address(self) -> Addr {
        Addr((self.0 >> 32) as u32)
    }

    /// How many sessions there are.
    #[inline(always)]
    #[must_use]
    pub const fn sessions(self) -> u32 {
        self.0 as u32
    }
}

/// An endpoint inside, which a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The container's address.
    pub address: Addr,
    /// The remote address that the mapping is for, where it depends on one, else [`Addr::UNSPECIFIED`].
    pub remote: Addr,
    /// The container's port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
}

/// The key of the `REMOTES` map: a port on the wire toward a remote address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct RemoteKey {
    /// The remote address.
    pub remote: Addr,
    /// The port on the wire.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub zero: u8,
}

/// A value of the `REMOTES` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct RemoteEntry {
    /// Who has sessions with the address from the port, and how many.
    pub owner: Owner,
    /// The key: an element that is used anew while a program looks at it shows by it.
    pub key: RemoteKey,
}

/// The key of the `FORWARDS` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ForwardKey {
    /// The port on the wire.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// Always zero.
    pub zero: u8,
}

/// A value of the `FORWARDS` map: where what comes to a port of this host's goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Forward {
    /// The container.
    pub address: Addr,
    /// Its port.
    pub port: Port,
    /// Bits of [`Forward::RUNTIME`].
    pub flags: u16,
}

impl Forward {
    /// Added while running, and not in the flags with which the daemon was started.
    pub const RUNTIME: u16 = 1;
}

/// The key of the `FULL` map: an other end toward which all ports are taken.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Destination {
    /// Its address; [`Addr::UNSPECIFIED`] for everybody.
    pub address: Addr,
    /// Its port.
    pub port: Port,
    /// IP protocol number.
    pub proto: u8,
    /// One where ports below 1024 were wanted, else zero.
    pub privileged: u8,
}

/// A value of the `FULL` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Full {
    /// When the search found nothing, in ticks.
    pub time: u32,
    /// How many flows had ended by then, modulo 2^32 (`Cursors::ended`).
    pub ended: u32,
}
