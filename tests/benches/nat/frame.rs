//! The frames: headers as real hosts write them, with the sums that the generator goes on from.

use std::net::Ipv4Addr;

use crate::layout::FRAME_MAX;

/// What kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A datagram of 22 octets: a frame of 64.
    Udp,
    /// The client's SYN.
    Syn,
    /// The server's answer.
    SynAck,
    /// An acknowledgement by the client, with timestamps: a frame of 66.
    ClientAck,
    /// One by the server.
    ServerAck,
}

/// Initial sequence numbers of client and server.
const CLIENT: u32 = 1_000;
const SERVER: u32 = 5_000;

impl Packet {
    fn protocol(self) -> u8 {
        if self == Self::Udp { 17 } else { 6 }
    }

    /// Octets of the IP packet.
    fn length(self) -> u16 {
        if self == Self::Udp { 50 } else { 52 }
    }
}

/// A frame with what its checksums start from.
pub struct Frame {
    pub octets: [u64; FRAME_MAX.div_ceil(8)],
    pub length: u32,
    pub header_sum: u32,
    pub datagram_sum: u32,
}

impl Frame {
    /// Writes a frame in which ports, one of the addresses, and both checksums are left zero.
    pub fn new(macs: ([u8; 6], [u8; 6]), packet: Packet, source: Ipv4Addr, destination: Ipv4Addr, service: u8) -> Self {
        let mut frame = Vec::with_capacity(FRAME_MAX);
        frame.extend(macs.0);
        frame.extend(macs.1);
        frame.extend(0x0800_u16.to_be_bytes());
        // Version and header length, service; length; identification, don't fragment; TTL, protocol; checksum.
        frame.extend([0x45, service]);
        frame.extend(packet.length().to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, packet.protocol(), 0, 0]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        let datagram = frame.len();
        frame.extend([0; 4]);
        match packet {
            Packet::Udp => {
                frame.extend((packet.length() - 20).to_be_bytes());
                frame.extend([0, 0]);
                frame.extend(*b"xnat benchmark payload");
            }
            Packet::Syn => tcp(&mut frame, CLIENT, 0, 0x02),
            Packet::SynAck => tcp(&mut frame, SERVER, CLIENT + 1, 0x12),
            Packet::ClientAck => tcp(&mut frame, CLIENT + 1, SERVER + 1, 0x10),
            Packet::ServerAck => tcp(&mut frame, SERVER + 1, CLIENT + 1, 0x10),
        }
        let pseudo = sum(&frame[26..34])
            + u32::from(u16::from(packet.protocol()).to_be())
            + u32::from((packet.length() - 20).to_be());
        let (header_sum, datagram_sum) = (sum(&frame[14..34]), pseudo + sum(&frame[datagram..]));
        let length = frame.len() as u32;
        frame.resize(FRAME_MAX.next_multiple_of(8), 0);
        let mut octets = [0; FRAME_MAX.div_ceil(8)];
        for (word, bytes) in octets.iter_mut().zip(frame.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Self { octets, length, header_sum, datagram_sum }
    }
}

/// What follows the ports of a TCP header with timestamps.
fn tcp(frame: &mut Vec<u8>, sequence: u32, acknowledged: u32, flags: u8) {
    frame.extend(sequence.to_be_bytes());
    frame.extend(acknowledged.to_be_bytes());
    // Header length, flags; window; checksum, urgent pointer; NOP, NOP, timestamps of 10 octets.
    frame.extend([0x80, flags, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 8, 10]);
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1]);
}

/// The sum of 16-bit words as they lie in memory; which order of octets does not matter to it.
fn sum(octets: &[u8]) -> u32 {
    octets.as_chunks().0.iter().map(|&pair| u32::from(u16::from_ne_bytes(pair))).sum()
}
