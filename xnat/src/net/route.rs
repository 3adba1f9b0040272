//! Routes: which way the kernel would take, and our routes to the peers' subnets.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};

use super::{NetError, Netlink};
use crate::cidr::Cidr;

/// Who has made a route, as `ip route` shows it: `proto 158`. It is free in iproute2's `rt_protos`, and is the flow
/// tag's option type, 0x9E.
pub(crate) const PROTOCOL: u8 = 158;

/// The way that the kernel takes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The interface.
    pub(crate) link: u32,
    /// The router, where the address is not on the link.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Whether the address is one of the host's own.
    pub(crate) local: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where to.
    pub(crate) destination: Cidr,
    /// The interface, where there is just one.
    pub(crate) link: Option<u32>,
    /// The router.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The source address for the host's own packets.
    pub(crate) source: Option<Ipv4Addr>,
    /// Who has made it.
    pub(crate) protocol: u8,
    /// The lower, the sooner it is taken.
    pub(crate) metric: u32,
}

impl Route {
    /// Whether xnat has made it.
    pub(crate) const fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL
    }
}

/// What the choice of a packet's route looks at, beyond its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// Its ports, or its transport protocol.
    pub(crate) ports: bool,
    /// What may be another for each packet of a flow: DSCP, or the mark.
    pub(crate) each_packet: bool,
}

impl Beyond {
    const ALL: Self = Self { ports: true, each_packet: true };

    /// Both together.
    pub(crate) const fn or(self, other: Self) -> Self {
        Self { ports: self.ports || other.ports, each_packet: self.each_packet || other.each_packet }
    }

    /// What a rule looks at. What this build does not know (DSCP as an attribute, Linux 6.13) may be anything.
    fn of(rule: &RuleMessage) -> Self {
        let (mut wanted, mut mask, mut beyond) = (0, 0, Self::default());
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_) => beyond.ports = true,
                RuleAttribute::FwMark(it) => wanted = *it,
                RuleAttribute::FwMask(it) => mask = *it,
                RuleAttribute::Other(_) => beyond = Self::ALL,
                _ => {}
            }
        }
        // A route is asked for without a mark, and packets have one. Most rules make no difference between these.
        let takes = |mark: u32| (mark ^ wanted) & mask == 0;
        beyond.each_packet |= rule.header.tos != 0 || takes(0) != takes(xnat_common::mark::DONE);
        beyond
    }
}

impl Netlink {
    /// The way to an address; none when there is no route.
    pub(crate) async fn way_to(&self, address: Ipv4Addr) -> Result<Option<Way>, NetError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build();
        let answer = self.handle.route().get(request).execute().try_next().await;
        let answer = match answer.map_err(NetError::doing("asking for a route")) {
            // Unreachable, prohibited and blackholed destinations, each with an errno of its own.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
                ) =>
            {
                None
            }
            answer => answer?,
        };
        Ok(answer.as_ref().and_then(read_way))
    }

    /// The default route's way.
    pub(crate) async fn default_way(&self) -> Result<Option<Way>, NetError> {
        let routes = self.routes().await?;
        let defaults = routes.into_iter().filter(|route| route.destination.len() == 0 && !route.is_ours());
        let best = defaults.min_by_key(|route| route.metric);
        Ok(best.and_then(|route| Some(Way { link: route.link?, gateway: route.gateway, local: false })))
    }

    /// The IPv4 unicast routes of the main table.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, NetError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let messages = self.handle.route().get(request).execute().try_collect::<Vec<_>>().await;
        let messages = messages.map_err(NetError::doing("listing the routes"))?;
        Ok(messages.iter().filter_map(read_route).collect())
    }

    /// What the rules of policy routing look at. Rules that cannot be listed may look at anything.
    pub(crate) async fn rules_look_at(&self) -> Beyond {
        let rules = self.handle.rule().get(IpVersion::V4).execute().try_collect::<Vec<_>>().await;
        match rules.map_err(NetError::doing("listing the rules")) {
            Ok(rules) => rules.iter().map(Beyond::of).fold(Beyond::default(), Beyond::or),
            // A kernel without rules.
            Err(error) if matches!(error.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Beyond::default(),
            Err(_) => Beyond::ALL,
        }
    }

    /// Adds a route of ours. Fails if there is one to the same destination and with the same metric.
    pub(crate) async fn add_route(&self, route: &Route) -> Result<(), NetError> {
        let request = self.handle.route().add(route.message());
        request.execute().await.map_err(NetError::doing("adding a route"))
    }

    /// Removes a route; one that has gone already is no failure.
    pub(crate) async fn remove_route(&self, route: &Route) -> Result<(), NetError> {
        let request = self.handle.route().del(route.message());
        match request.execute().await.map_err(NetError::doing("removing a route")) {
            Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            result => result,
        }
    }

    /// Removes all routes of ours through an interface.
    pub(crate) async fn remove_our_routes(&self, link: u32) -> Result<(), NetError> {
        for route in self.routes().await?.iter().filter(|it| it.is_ours() && it.link == Some(link)) {
            self.remove_route(route).await?;
        }
        Ok(())
    }
}

impl Route {
    fn message(&self) -> RouteMessage {
        let destination = self.destination;
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(destination.address(), destination.len())
            .protocol(RouteProtocol::from(self.protocol))
            .scope(RouteScope::Universe)
            .kind(RouteType::Unicast);
        if let Some(link) = self.link {
            builder = builder.output_interface(link);
        }
        if let Some(gateway) = self.gateway {
            builder = builder.gateway(gateway);
        }
        if let Some(source) = self.source {
            builder = builder.pref_source(source);
        }
        builder.build()
    }
}

fn read_way(message: &RouteMessage) -> Option<Way> {
    let local = message.header.kind == RouteType::Local;
    let (link, gateway, _) = read_attributes(message);
    (local || message.header.kind == RouteType::Unicast).then_some(Way { link: link?, gateway, local })
}

fn read_attributes(message: &RouteMessage) -> (Option<u32>, Option<Ipv4Addr>, Option<Ipv4Addr>) {
    let (mut link, mut gateway, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            _ => {}
        }
    }
    (link, gateway, source)
}

fn read_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN;
    if header.address_family != AddressFamily::Inet || header.kind != RouteType::Unicast || !main {
        return None;
    }
    let (link, gateway, source) = read_attributes(message);
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let destination = Cidr::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { destination, link, gateway, source, protocol: header.protocol.into(), metric })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::DefaultNla;
    use rtnetlink::packet_route::IpProtocol;

    use super::*;

    #[test]
    fn what_rules_look_at_beyond_addresses_is_seen() {
        const NOTHING: Beyond = Beyond { ports: false, each_packet: false };
        const PORTS: Beyond = Beyond { ports: true, each_packet: false };
        const PACKET: Beyond = Beyond { ports: false, each_packet: true };
        let mark = |mark, mask| {
            let mark = (mark != 0).then_some(RuleAttribute::FwMark(mark));
            mark.into_iter().chain([RuleAttribute::FwMask(mask)]).collect()
        };
        let source = RuleAttribute::Source(Ipv4Addr::new(172, 29, 0, 4).into());
        let table = [
            ("all", 0, vec![], NOTHING),
            ("from 172.29.0.4", 0, vec![source], NOTHING),
            ("ipproto udp", 0, vec![RuleAttribute::IpProtocol(IpProtocol::Udp)], PORTS),
            ("tos 0x10", 0x10, vec![], PACKET),
            ("fwmark 0xca6c, be it with `not`", 0, mark(0xca6c, u32::MAX), NOTHING),
            ("fwmark 0x80000/0xff0000", 0, mark(0x8_0000, 0xff_0000), NOTHING),
            ("fwmark 0x4000/0x4000, a bit of xnat's own", 0, mark(0x4000, 0x4000), PACKET),
            ("fwmark 0/0x4000", 0, mark(0, 0x4000), PACKET),
            ("fwmark 0/0x8000", 0, mark(0, 0x8000), NOTHING),
            ("dscp 8, Linux 6.13", 0, vec![RuleAttribute::Other(DefaultNla::new(25, vec![8]))], Beyond::ALL),
        ];
        for (what, tos, attributes, looks_at) in table {
            let mut rule = RuleMessage::default();
            rule.header.tos = tos;
            rule.attributes = attributes;
            assert_eq!(Beyond::of(&rule), looks_at, "{what}");
        }
    }
}
