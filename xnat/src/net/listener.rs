//! A socket on which the kernel tells what has changed.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for one datagram; the kernel fills 32 KiB at most.
const BUFFER: usize = 32 << 10;
/// How many datagrams are read at a time.
const BATCH: usize = 256;

/// A netlink socket that is told what happens to some kinds of things.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Listener {
    /// Hears of these multicast groups (`RTNLGRP_*`) from now on. The kernel keeps up to about `room` bytes.
    pub(crate) fn open(groups: &[u32], room: libc::c_int) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(room)?;
        socket.bind_auto()?;
        groups.iter().try_for_each(|&group| socket.add_membership(group))?;
        // SAFETY: the socket keeps its descriptor until it is dropped, which only `AsyncFd` does.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Sends the kernel a request, which is answered among what else is heard.
    pub(crate) fn ask(&self, request: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send_to(request, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Waits until there is something to hear.
    pub(crate) async fn ready(&self) {
        // Fails only as the runtime ends.
        let _ = self.socket.readable().await;
    }

    /// Hands over what there is to hear, message by message: its type and what follows its header. True if something was
    /// lost because it came faster than it was read.
    pub(crate) fn hear(&mut self, mut each: impl FnMut(u16, &[u8])) -> bool {
        let mut lost = false;
        for _ in 0..BATCH {
            let Self { socket, buffer } = self;
            // With MSG_TRUNC the length is told that there was.
            let receive = |socket: &Socket| socket.recv(&mut &mut buffer[..], libc::MSG_TRUNC);
            match socket.try_io(Interest::READABLE, receive) {
                Ok(length) => match buffer.get(..length) {
                    Some(datagram) => take_apart(datagram, &mut each),
                    None => lost = true,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // ENOBUFS: the kernel had no room for more.
                Err(_) => lost = true,
            }
        }
        lost
    }
}

fn take_apart(mut datagram: &[u8], each: &mut impl FnMut(u16, &[u8])) {
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        each(message.message_type(), message.payload());
        // Messages begin at multiples of four bytes (`NLMSG_ALIGN`).
        let length = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
}
