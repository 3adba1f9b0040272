//! Word from the kernel that interfaces, addresses or our routes have changed.

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteProtocol;

use super::NetError;
use super::route::PROTOCOL;

/// The stream of changes.
pub(crate) struct Watch {
    changes: BoxStream<'static, ()>,
}

impl Watch {
    /// Listens from now on.
    pub(crate) fn open() -> Result<Self, NetError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let changes = messages.filter_map(|(message, _)| std::future::ready(matters(&message).then_some(())));
        Ok(Self { changes: changes.boxed() })
    }

    /// Waits until something has changed, and takes everything that has been reported by then as one change.
    ///
    /// What has changed is not told: the listener looks at everything again, which also covers reports that were lost
    /// because the kernel's buffer was full.
    pub(crate) async fn changed(&mut self) {
        if self.changes.next().await.is_none() {
            // The connection has ended, which it does only with the process. The periodic look remains.
            std::future::pending::<()>().await;
        }
        while let Some(Some(())) = futures_util::FutureExt::now_or_never(self.changes.next()) {}
    }
}

fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => {
            route.header.protocol == RouteProtocol::Other(PROTOCOL)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(_)) => false,
        // An overrun: the kernel's buffer was full, and anything may have been lost.
        NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}
