//! What containers and hosts can do through xnat, by subject.

use std::net::Ipv4Addr;

use xnat_tests::topology::{Reference, SUBNET1};
use xnat_tests::xnat::Xnat;

mod colliding_ports;
mod many;
mod not_ours;
mod outside;
mod tcp_life;
mod the_host_itself;
mod the_path;

const GATEWAY1: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 1);
const GATEWAY2: Ipv4Addr = Ipv4Addr::new(192, 168, 220, 1);

/// xnat on node1 alone, without any peer.
fn alone(reference: &Reference) -> Xnat {
    Xnat::start(reference.node1.host.ns(), &format!("--subnet {SUBNET1}"))
}
