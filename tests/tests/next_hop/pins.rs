//! What an instance remembers, read from its pins.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, Map, MapData};
use nix::net::if_::if_nametoindex;
use xnat_common::hop::{Hop, Watch};
use xnat_common::names::{LAYOUT, map};
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Instance};

use super::A_SECOND_AND_MORE;

fn array<T: Pod>(xnat: &Instance, name: &str) -> Array<MapData, T> {
    let path = Path::new("/sys/fs/bpf/xnat").join(xnat.name()).join(format!("v{LAYOUT}/maps")).join(name);
    let map = MapData::from_pin(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Map::Array(map).try_into().expect("an array")
}

/// What the daemon has told of changes.
pub fn watch(xnat: &Instance) -> Watch {
    array(xnat, map::WATCH).get(&0, 0).expect("one entry")
}

/// The next hops through an interface of the host that were ever learnt and are there still.
fn hops(xnat: &Instance, ifindex: u32) -> Vec<Hop> {
    let hops: Array<_, Hop> = array(xnat, map::HOPS);
    hops.iter().flatten().filter(|hop| hop.name != 0 && hop.ifindex == ifindex).collect()
}

/// Shows that of the packets that `exchange` makes some leave by a remembered hop through this interface: only the express
/// lane notes in a hop when a packet last went by the kernel's own neighbour instead. A hop that is learnt anew has another
/// name. On the slow path hops are learnt as well, and none is used.
#[track_caller]
pub fn expect_express(xnat: &Instance, interface: &str, mut exchange: impl FnMut()) {
    let ifindex = xnat.ns().within(|| if_nametoindex(interface)).expect("an interface of the host's");
    let mut asked = BTreeMap::new();
    let mut is_used = || {
        exchange();
        hops(xnat, ifindex).iter().any(|hop| *asked.entry(hop.name).or_insert(hop.asked) != hop.asked)
    };
    let slow = xnat::takes_slow_path();
    let limit: Duration = if slow { A_SECOND_AND_MORE } else { SOON };
    let used = wait::within(limit, || is_used().then_some(())).is_some();
    assert_eq!(used, !slow, "whether packets leave {interface} by a remembered hop, with {asked:?}");
}
