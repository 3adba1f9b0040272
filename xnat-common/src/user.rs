//! User-space conveniences: std conversions and the marker that aya's maps ask for.

use std::net::Ipv4Addr;

use crate::config::{Config, Cursors};
use crate::fragment::{Datagram, DatagramKey, Fragment, FragmentKey, Held, Sent, SentKey, Source, SourceUse};
use crate::hop::{Hop, Route, Station, StationKey, Watch};
use crate::index::Bucket;
use crate::mapping::{Destination, Forward, ForwardKey, Full, Mapping, RemoteEntry, RemoteKey};
use crate::subnet::{Inside, Peer, Subnet};
use crate::{Addr, Flow, FlowKey, FlowRef, Port};

impl From<Ipv4Addr> for Addr {
    fn from(address: Ipv4Addr) -> Self {
        Self::new(address.octets())
    }
}

impl From<Addr> for Ipv4Addr {
    fn from(address: Addr) -> Self {
        address.octets().into()
    }
}

macro_rules! map_layouts {
    ($($layout:ty),*) => {
        $(
            // SAFETY: the layout is `bytemuck::Pod`, which promises more than aya asks for.
            unsafe impl aya::Pod for $layout where $layout: bytemuck::Pod {}
        )*
    };
}

map_layouts!(
    Addr,
    Bucket,
    Config,
    Cursors,
    Datagram,
    DatagramKey,
    Destination,
    Flow,
    FlowKey,
    FlowRef,
    Forward,
    ForwardKey,
    Fragment,
    FragmentKey,
    Full,
    Held,
    Hop,
    Inside,
    Mapping,
    Peer,
    Port,
    RemoteEntry,
    RemoteKey,
    Route,
    Sent,
    SentKey,
    Source,
    SourceUse,
    Station,
    StationKey,
    Subnet,
    Watch
);
