//! The socket of the peer link.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use xnat_common::host_port::LINK_PORT;

use super::message::{MAX_LEN, Message};

/// The UDP socket at our address on the uplink.
#[derive(Debug)]
pub(crate) struct PeerLink {
    socket: UdpSocket,
    /// The address and the interface to which it is bound.
    place: (Ipv4Addr, u32),
}

impl PeerLink {
    /// Opens the socket, bound to the address and the interface.
    pub(crate) fn open(address: Ipv4Addr, uplink: u32, name: &str) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), None)?;
        socket.bind_device(Some(name.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(address, LINK_PORT).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, place: (address, uplink) })
    }

    /// Whether it is still bound to the right address and interface.
    pub(crate) fn is_at(&self, address: Ipv4Addr, uplink: u32) -> bool {
        self.place == (address, uplink)
    }

    /// Sends a message. One that cannot be sent is lost like one on the wire: the next follows in a second.
    pub(crate) async fn send(&self, peer: Ipv4Addr, message: &Message) {
        let _ = self.socket.send_to(&message.encode(), SocketAddrV4::new(peer, LINK_PORT)).await;
    }

    /// Awaits a datagram, from whomever.
    pub(crate) async fn receive(&self) -> io::Result<(SocketAddrV4, Vec<u8>)> {
        let mut buffer = [0; MAX_LEN];
        loop {
            let (len, from) = self.socket.recv_from(&mut buffer).await?;
            if let SocketAddr::V4(from) = from {
                return Ok((from, buffer[..len].to_vec()));
            }
        }
    }
}
