//! Word from the kernel that something has changed by which packets find their way.
//!
//! There is no look at each change as such: whoever asks looks at everything again, which also covers changes that were
//! not heard of because there were too many.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader, NetlinkMessage, Parseable as _,
};
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::listener::Listener;
use super::neighbours::{Neighbours, Word};
use super::route::PROTOCOL;

/// What may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The way of a packet to its next hop.
    pub(crate) hops: bool,
    /// Interfaces, their addresses, rules, or routes of ours.
    pub(crate) interfaces: bool,
}

impl Change {
    const HOPS: Self = Self { hops: true, interfaces: false };
    const ALL: Self = Self { hops: true, interfaces: true };

    const fn and(self, other: Self) -> Self {
        Self { hops: self.hops || other.hops, interfaces: self.interfaces || other.interfaces }
    }
}

/// The kernel's word.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Of interfaces, addresses and neighbours.
    things: Listener,
    /// Of routes and rules. There may be very many at once; when some are lost, everything is looked at again.
    routes: Listener,
    neighbours: Neighbours,
    /// Whose neighbours are being listed.
    listing: Option<AddressFamily>,
}

impl Watch {
    /// Listens from now on.
    pub(crate) fn open() -> io::Result<Self> {
        let things = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_NEIGH];
        let routes = [libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV4_RULE, libc::RTNLGRP_NEXTHOP];
        let mut watch = Self {
            things: Listener::open(&things, 1 << 20)?,
            routes: Listener::open(&routes, 32 << 10)?,
            neighbours: Neighbours::default(),
            listing: None,
        };
        watch.list(AddressFamily::Inet)?;
        Ok(watch)
    }

    /// Whether every change is noticed: not before all neighbours have been listed, nor while they are listed again.
    pub(crate) fn is_complete(&mut self) -> bool {
        if self.listing.is_none() && !self.neighbours.is_complete() {
            // The request could not be sent.
            let _ = self.list(AddressFamily::Inet);
        }
        self.neighbours.is_complete()
    }

    /// Waits until there is word, and returns what it means. Neighbours matter where `minds` says so of the interface
    /// beyond which they are. Nothing is lost when the wait is given up.
    pub(crate) async fn changed(&mut self, minds: impl Fn(u32) -> bool) -> Change {
        loop {
            tokio::select! {
                () = self.things.ready() => {}
                () = self.routes.ready() => {}
            }
            let change = self.hear_of_things(&minds).and(self.hear_of_routes());
            if change != Change::default() {
                return change;
            }
        }
    }

    fn hear_of_things(&mut self, minds: &impl Fn(u32) -> bool) -> Change {
        let Self { things, neighbours, .. } = self;
        let mut change = Change::default();
        let mut listed = false;
        let lost = things.hear(|kind, body| match kind {
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                let word = NeighbourMessage::parse(body).ok();
                let word = word.and_then(|message| Word::read(&message, kind == libc::RTM_DELNEIGH));
                change.hops |= word.is_some_and(|word| neighbours.take(word) && minds(word.neighbour.link()));
            }
            NLMSG_DONE | NLMSG_ERROR => listed = true,
            _ => change = Change::ALL,
        });
        if lost {
            neighbours.forget();
            change = Change::ALL;
        }
        if listed || lost {
            change = change.and(self.list_on(listed, lost));
        }
        change
    }

    /// Goes on listing neighbours, from the start if word was lost.
    fn list_on(&mut self, listed: bool, lost: bool) -> Change {
        match (self.listing, listed) {
            // The kernel takes no second request before it is done with the first.
            (Some(_), false) => self.listing = Some(AddressFamily::Unspec),
            (Some(AddressFamily::Inet), true) if !lost => _ = self.list(AddressFamily::Bridge),
            (Some(AddressFamily::Bridge), true) if !lost => {
                self.listing = None;
                self.neighbours.complete();
                return Change::HOPS;
            }
            _ => _ = self.list(AddressFamily::Inet),
        }
        Change::default()
    }

    fn list(&mut self, family: AddressFamily) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut body = NeighbourMessage::default();
        body.header.family = family;
        let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::GetNeighbour(body).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let asked = self.things.ask(&bytes);
        self.listing = asked.is_ok().then_some(family);
        asked
    }

    fn hear_of_routes(&mut self) -> Change {
        let mut change = Change::default();
        let lost = self.routes.hear(|kind, body| {
            let rule = kind == libc::RTM_NEWRULE || kind == libc::RTM_DELRULE;
            let ours = kind == libc::RTM_DELROUTE && protocol(body) == Some(PROTOCOL);
            change = change.and(if ours || rule { Change::ALL } else { Change::HOPS });
        });
        if lost { Change::ALL } else { change }
    }
}

/// Who has made a route: `rtm_protocol` of `struct rtmsg` (kernel `include/uapi/linux/rtnetlink.h`).
fn protocol(route: &[u8]) -> Option<u8> {
    route.get(5).copied()
}
