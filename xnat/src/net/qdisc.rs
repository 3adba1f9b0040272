//! The clsact qdisc, which holds our filters where there is no TCX.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{NetError, Netlink};

impl Netlink {
    /// Whether an interface has a clsact qdisc.
    pub(crate) async fn has_clsact(&self, link: u32) -> Result<bool, NetError> {
        let messages: Vec<TcMessage> = self
            .handle
            .qdisc()
            .get()
            .index(link.cast_signed())
            .execute()
            .try_collect()
            .await
            .map_err(NetError::doing("listing the qdiscs"))?;
        // Kernels before 4.20 list the qdiscs of all interfaces.
        Ok(messages.iter().any(|it| it.header.index == link.cast_signed() && is_clsact(it)))
    }

    /// Removes the clsact qdisc of an interface if no filters are left in it.
    pub(crate) async fn remove_empty_clsact(&self, link: u32) -> Result<(), NetError> {
        if !self.has_clsact(link).await? || self.has_filters(link).await? {
            return Ok(());
        }
        let mut qdiscs = self.handle.qdisc();
        let mut request = qdiscs.del(link.cast_signed());
        request.message_mut().header.parent = TcHandle::CLSACT;
        request.message_mut().header.handle = TcHandle { major: 0xffff, minor: 0 };
        match request.execute().await.map_err(NetError::doing("removing the clsact qdisc")) {
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => Ok(()),
            result => result,
        }
    }

    async fn has_filters(&self, link: u32) -> Result<bool, NetError> {
        let mut filters = self.handle.traffic_filter(link.cast_signed());
        let mut any = false;
        for request in [filters.get().ingress(), filters.get().egress()] {
            let found: Vec<TcMessage> =
                request.execute().try_collect().await.map_err(NetError::doing("listing the filters"))?;
            any |= !found.is_empty();
        }
        Ok(any)
    }
}

fn is_clsact(message: &TcMessage) -> bool {
    message.attributes.iter().any(|it| matches!(it, TcAttribute::Kind(kind) if kind == "clsact"))
}
