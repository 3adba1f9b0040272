//! A virtual machine at a tap device.

use std::net::Ipv4Addr;

use xnat_tests::topology::{ANYWHERE, N1, Reference};
use xnat_tests::wait::{self, SOON};
use xnat_tests::{udp, xnat};

use super::vm::Machine;
use super::{PORT, pins};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 77);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 110, 1);

#[test]
fn sends_and_is_reached() {
    let reference = Reference::new();
    let (one, _two) = xnat::start_both(&reference);
    let machine = Machine::start(reference.node1.host.ns(), "tap0", ADDRESS, GATEWAY);
    let outside = udp::Server::echo_at(reference.outside.ns(), (ANYWHERE, PORT));
    for number in 0..5_u8 {
        // Its first packet, and any while the bridge's port is not hooked yet, takes a slower way.
        wait::until_true("the machine's datagram is echoed", SOON, || {
            machine.send(41000, (ANYWHERE, PORT), &[number; 700]);
            wait::within(SOON / 50, || machine.has_heard((ANYWHERE, PORT), &[number; 700]).then_some(())).is_some()
        });
    }
    assert!(outside.received().iter().all(|(from, _)| from.ip() == &reference.node1.host.address()));
    let mut number: u32 = 0;
    for interface in ["tap0", "eth0"] {
        pins::expect_express(&one, interface, || {
            number += 1;
            let text = number.to_be_bytes();
            machine.send(41000, (ANYWHERE, PORT), &text);
            wait::until_true("the machine's datagram is echoed", SOON, || machine.has_heard((ANYWHERE, PORT), &text));
        });
    }
    // From a peer's container, and from the machine to that one.
    let socket = udp::socket(reference.n2().ns(), 41000);
    for seed in 0..5 {
        udp::expect_echo(&socket, (ADDRESS, 7), seed, 1000);
    }
    // From its neighbour on the same bridge, which is nobody's business.
    udp::expect_echo(&udp::socket(reference.n1().ns(), 41000), (ADDRESS, 7), 9, 100);
    assert!(machine.wrong_checksums() == 0 && reference.n1().address() == N1);
}
