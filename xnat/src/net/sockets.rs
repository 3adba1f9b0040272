//! The ports that the host's own sockets are bound to.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// Room for one datagram of the kernel's answer; it fills 32 KiB at most.
const BUFFER: usize = 64 << 10;

/// TCP sockets that are bound and neither listen nor are connected (`TCPF_BOUND_INACTIVE`, Linux 6.8; others ignore it).
const BOUND: StateFlags = StateFlags::from_bits_retain(1 << 13);

/// The ports, with their protocol, at which sockets receive what is addressed to `address`, or may soon.
pub(crate) fn ports(address: Ipv4Addr) -> io::Result<BTreeSet<(u8, u16)>> {
    let mut ports = BTreeSet::new();
    for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
        for family in [AF_INET, AF_INET6] {
            dump(family, protocol, StateFlags::all() | BOUND, |socket| {
                if receives(socket.source_address, address) {
                    ports.insert((protocol, socket.source_port));
                }
            })?;
        }
    }
    Ok(ports)
}

/// The ports, with their protocol, at which sockets receive what anybody addresses to `address`: TCP's listeners, and
/// UDP sockets that are not connected, whose state is that of a closed connection (kernel `net/ipv4/udp_diag.c`).
pub(crate) fn listening(address: Ipv4Addr) -> io::Result<BTreeSet<(u8, u16)>> {
    let mut ports = BTreeSet::new();
    for (protocol, states) in [(IPPROTO_TCP, StateFlags::LISTEN), (IPPROTO_UDP, StateFlags::CLOSE)] {
        for family in [AF_INET, AF_INET6] {
            dump(family, protocol, states.clone(), |socket| {
                if socket.source_port != 0 && receives(socket.source_address, address) {
                    ports.insert((protocol, socket.source_port));
                }
            })?;
        }
    }
    Ok(ports)
}

/// Whether a socket that is bound to `bound` receives what is addressed to `address`.
fn receives(bound: IpAddr, address: Ipv4Addr) -> bool {
    bound.is_unspecified() || bound.to_canonical() == IpAddr::V4(address)
}

/// Asks the kernel for the sockets of a family and protocol that are in one of the states (kernel `net/ipv4/inet_diag.c`).
fn dump(family: u8, protocol: u8, states: StateFlags, mut each: impl FnMut(&SocketId)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match answer.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    each(&response.header.socket_id);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of four bytes (`NLMSG_ALIGN`).
            let taken = (answer.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_all_kinds_are_found() {
        let here = Ipv4Addr::LOCALHOST;
        let tcp = std::net::TcpListener::bind((here, 0)).unwrap();
        let udp = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect((here, port)).unwrap();
        let found = ports(here).unwrap();
        assert!(found.contains(&(IPPROTO_TCP, port)));
        assert!(found.contains(&(IPPROTO_TCP, client.local_addr().unwrap().port())));
        assert!(found.contains(&(IPPROTO_UDP, udp.local_addr().unwrap().port())));
        assert!(
            !ports(Ipv4Addr::new(192, 0, 2, 1)).unwrap().contains(&(IPPROTO_TCP, port)),
            "bound to another address"
        );
    }

    #[test]
    fn only_what_listens_is_listening() {
        let here = Ipv4Addr::LOCALHOST;
        let tcp = std::net::TcpListener::bind((here, 0)).unwrap();
        let client = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let udp = std::net::UdpSocket::bind((here, 0)).unwrap();
        let connected = std::net::UdpSocket::bind((here, 0)).unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let found = listening(here).unwrap();
        assert!(found.contains(&(IPPROTO_TCP, tcp.local_addr().unwrap().port())));
        assert!(!found.contains(&(IPPROTO_TCP, client.local_addr().unwrap().port())));
        assert!(found.contains(&(IPPROTO_UDP, udp.local_addr().unwrap().port())));
        assert!(!found.contains(&(IPPROTO_UDP, connected.local_addr().unwrap().port())));
    }

    #[test]
    fn mapped_addresses_are_the_addresses() {
        let address = Ipv4Addr::new(172, 29, 0, 4);
        for (bound, expected) in [
            ("0.0.0.0", true),
            ("::", true),
            ("172.29.0.4", true),
            ("::ffff:172.29.0.4", true),
            ("127.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(receives(bound.parse().unwrap(), address), expected, "{bound}");
        }
    }
}
