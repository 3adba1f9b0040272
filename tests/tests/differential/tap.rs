//! One end of the experiment: a packet socket at an interface, to put frames in and to see what comes.

use std::io;
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use xnat_tests::netns::Namespace;
use xnat_tests::packet::IPV4;

/// A MAC address.
pub type Mac = [u8; 6];

/// A machine without a mind of its own: it has a MAC address and no IP address.
pub struct Tap {
    socket: Socket,
    mac: Mac,
    /// Who gets what is sent.
    gateway: Mac,
    buffer: Vec<u8>,
}

impl Tap {
    /// Opens `eth0` of a namespace.
    pub fn open(ns: &Namespace, mac: Mac, gateway: Mac) -> Self {
        let socket = ns.within(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).expect("a packet socket");
            let index = nix::net::if_::if_nametoindex("eth0").expect("eth0");
            let mut storage = SockAddrStorage::zeroed();
            // SAFETY: the storage is large enough for every kind of address, and all zeroes are a valid one of this kind.
            let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = IPV4.to_be();
            address.sll_ifindex = index.cast_signed();
            // SAFETY: an address of this kind and length has just been written.
            let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
            socket.bind(&address).expect("the interface");
            socket
        });
        // What is sent is not to be heard (`linux/if_packet.h`).
        let on: libc::c_int = 1;
        let (level, option) = (libc::SOL_PACKET, 23);
        // SAFETY: the option is an int.
        let set = unsafe {
            libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size_of_val(&on) as u32)
        };
        assert_eq!(set, 0, "PACKET_IGNORE_OUTGOING: {}", io::Error::last_os_error());
        socket.set_nonblocking(true).expect("a socket");
        Self { socket, mac, gateway, buffer: vec![0; 65536] }
    }

    /// Sends an IPv4 packet.
    pub fn send(&self, packet: &[u8]) {
        let mut frame = [&self.gateway[..], &self.mac, &IPV4.to_be_bytes()].concat();
        frame.extend(packet);
        self.socket.send(&frame).unwrap_or_else(|error| panic!("{} octets: {error}", packet.len()));
    }

    /// The next frame with an IPv4 packet for this machine, if there is one already.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let length = match nix::sys::socket::recv(
                self.socket.as_raw_fd(),
                &mut self.buffer,
                nix::sys::socket::MsgFlags::empty(),
            ) {
                Ok(length) => length,
                Err(nix::errno::Errno::EAGAIN) => return None,
                Err(error) => panic!("a packet socket: {error}"),
            };
            let frame = &self.buffer[..length];
            if frame.len() >= 34 && frame[..6] == self.mac {
                return Some(frame.to_vec());
            }
        }
    }
}
