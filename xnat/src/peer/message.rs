//! The message that daemons exchange, version 1. Numbers are in network order.
//!
//! | octet | 0-3 | 4 | 5 | 6 | 7 | 8-15 | 16-23 | 24… |
//! |---|---|---|---|---|---|---|---|---|
//! | | `xnat` | version | flags | subnets | 0 | boot id | boot id last heard from the receiver, or 0 | 8 for each subnet: address, prefix length, three zeros |
//!
//! What follows the subnets is for later versions of the same number, and ignored.

use std::net::Ipv4Addr;

use thiserror::Error;

use crate::cidr::{Cidr, CidrError};

/// The version that this code speaks.
pub(crate) const VERSION: u8 = 1;
/// How many subnets fit into a message.
pub(crate) const MAX_SUBNETS: usize = 64;
/// Room for the longest message that is read.
pub(crate) const MAX_LEN: usize = 1472;

const MAGIC: [u8; 4] = *b"xnat";
const HEADER: usize = 24;
const SUBNET: usize = 8;
const GOODBYE: u8 = 1;

/// What a daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Another one each time that the sender's flow table starts empty; never zero.
    pub(crate) boot: u64,
    /// The boot id last heard from the receiver.
    pub(crate) heard: Option<u64>,
    /// The sender ends, and takes its dataplane along.
    pub(crate) goodbye: bool,
    /// The sender's own subnets.
    pub(crate) subnets: Vec<Cidr>,
}

/// Why a datagram is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum MessageError {
    #[error("it does not begin as a message of xnat does")]
    Magic,
    #[error("it is of version {0}, and version {VERSION} is spoken here")]
    Version(u8),
    #[error("it is cut short")]
    Truncated,
    #[error("it claims {0} subnets, and {MAX_SUBNETS} are allowed")]
    TooManySubnets(u8),
    #[error("its boot id is zero")]
    Boot,
    #[error("a subnet in it is none: {0}")]
    Subnet(#[from] CidrError),
}

impl Message {
    /// The message as a datagram. Subnets beyond [`MAX_SUBNETS`] are left out; the configuration allows no more.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let subnets = &self.subnets[..self.subnets.len().min(MAX_SUBNETS)];
        let mut bytes = Vec::with_capacity(HEADER + subnets.len() * SUBNET);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, if self.goodbye { GOODBYE } else { 0 }, subnets.len() as u8, 0]);
        bytes.extend_from_slice(&self.boot.to_be_bytes());
        bytes.extend_from_slice(&self.heard.unwrap_or(0).to_be_bytes());
        for subnet in subnets {
            bytes.extend_from_slice(&subnet.address().octets());
            bytes.extend_from_slice(&[subnet.len(), 0, 0, 0]);
        }
        bytes
    }

    /// Reads a datagram.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Err(MessageError::Magic) };
        if *magic != MAGIC {
            return Err(MessageError::Magic);
        }
        let Some((&[version, flags, count, _], rest)) = rest.split_first_chunk::<4>() else {
            return Err(MessageError::Truncated);
        };
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        if usize::from(count) > MAX_SUBNETS {
            return Err(MessageError::TooManySubnets(count));
        }
        let (boot, rest) = split_u64(rest)?;
        let (heard, rest) = split_u64(rest)?;
        if boot == 0 {
            return Err(MessageError::Boot);
        }
        let subnets = rest.get(..usize::from(count) * SUBNET).ok_or(MessageError::Truncated)?;
        Ok(Self {
            boot,
            heard: Some(heard).filter(|&heard| heard != 0),
            goodbye: flags & GOODBYE != 0,
            subnets: subnets.as_chunks().0.iter().copied().map(read_subnet).collect::<Result<_, _>>()?,
        })
    }
}

fn split_u64(bytes: &[u8]) -> Result<(u64, &[u8]), MessageError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(MessageError::Truncated)?;
    Ok((u64::from_be_bytes(*number), rest))
}

fn read_subnet([a, b, c, d, len, ..]: [u8; SUBNET]) -> Result<Cidr, MessageError> {
    Ok(Cidr::new(Ipv4Addr::new(a, b, c, d), len)?)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Message {
        Message {
            boot: 0x0102_0304_0506_0708,
            heard: Some(9),
            goodbye: false,
            subnets: vec!["192.168.110.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
        }
    }

    #[test]
    fn layout_is_as_documented() {
        let bytes = Message { goodbye: true, heard: None, ..sample() }.encode();
        assert_eq!(bytes[..8], [b'x', b'n', b'a', b't', 1, 1, 2, 0]);
        assert_eq!(bytes[8..24], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..], [192, 168, 110, 0, 24, 0, 0, 0, 10, 0, 0, 0, 8, 0, 0, 0]);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for message in [
            sample(),
            Message { goodbye: true, ..sample() },
            Message { heard: None, subnets: Vec::new(), ..sample() },
            Message { subnets: vec!["10.1.0.0/16".parse().unwrap(); MAX_SUBNETS], ..sample() },
        ] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn every_cut_is_noticed_and_additions_are_ignored() {
        let mut bytes = sample().encode();
        for len in 0..bytes.len() {
            let error = Message::decode(&bytes[..len]).unwrap_err();
            assert_eq!(error, if len < 4 { MessageError::Magic } else { MessageError::Truncated }, "{len}");
        }
        bytes.extend_from_slice(b"later");
        assert_eq!(Message::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn damage_is_named() {
        let with = |at: usize, value: u8| {
            let mut bytes = sample().encode();
            bytes[at] = value;
            Message::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(0, b'X'), MessageError::Magic);
        assert_eq!(with(4, 2), MessageError::Version(2));
        assert_eq!(with(6, 65), MessageError::TooManySubnets(65));
        assert!(matches!(with(27, 1), MessageError::Subnet(CidrError::HostBits { .. })));
        assert!(matches!(with(28, 33), MessageError::Subnet(CidrError::PrefixLength(_))));
        assert_eq!(Message::decode(&Message { boot: 0, ..sample() }.encode()), Err(MessageError::Boot));
    }
}
