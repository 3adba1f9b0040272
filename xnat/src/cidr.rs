//! IPv4 ranges as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An IPv4 range: an address without host bits, and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Cidr {
    address: Ipv4Addr,
    len: u8,
}

/// Why a text or a pair is no range, or an address is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum CidrError {
    #[error("`{0}` is not an address; write four numbers, such as 172.29.0.17")]
    NotAnAddress(String),
    #[error("`{0}` is IPv6; xnat translates IPv4 only")]
    NotIpv4(String),
    #[error("`{0}` has no prefix length; write it as a range, such as {0}/24")]
    NoPrefix(String),
    #[error("`{0}` is no prefix length; it is a number from 0 to 32")]
    PrefixLength(String),
    #[error("`{given}` has bits set beyond its prefix; did you mean {meant}?")]
    HostBits { given: String, meant: Cidr },
}

impl Cidr {
    /// The range of `len` leading bits of `address`, which must have no others set.
    pub(crate) fn new(address: Ipv4Addr, len: u8) -> Result<Self, CidrError> {
        if len > 32 {
            return Err(CidrError::PrefixLength(len.to_string()));
        }
        let meant = Self::around(address, len);
        if meant.address == address {
            Ok(meant)
        } else {
            let given = format!("{address}/{len}");
            Err(CidrError::HostBits { given, meant })
        }
    }

    /// The range of `len` (at most 32) leading bits in which `address` lies.
    pub(crate) fn around(address: Ipv4Addr, len: u8) -> Self {
        let address = Ipv4Addr::from_bits(address.to_bits() & mask(len));
        Self { address, len }
    }

    /// The first address of the range.
    pub(crate) const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The last address of the range.
    pub(crate) const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !mask(self.len))
    }

    /// The length of the prefix.
    pub(crate) const fn len(self) -> u8 {
        self.len
    }

    /// Whether `address` lies in the range.
    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.len) == self.address.to_bits()
    }

    /// Whether the two ranges have an address in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

const fn mask(len: u8) -> u32 {
    match u32::MAX.checked_shl(32 - len as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

/// Reads an IPv4 address, and says of IPv6 that it is.
pub(crate) fn parse_address(text: &str) -> Result<Ipv4Addr, CidrError> {
    match text.parse() {
        Ok(IpAddr::V4(address)) => Ok(address),
        Ok(IpAddr::V6(_)) => Err(CidrError::NotIpv4(text.to_owned())),
        Err(_) => Err(CidrError::NotAnAddress(text.to_owned())),
    }
}

/// Reads a range, or one address as a range of its own.
pub(crate) fn parse_range_or_address(text: &str) -> Result<Cidr, CidrError> {
    if text.contains('/') { text.parse() } else { Ok(Cidr::around(parse_address(text)?, 32)) }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let Some((address, len)) = text.split_once('/') else {
            parse_address(text)?;
            return Err(CidrError::NoPrefix(text.to_owned()));
        };
        let address = parse_address(address)?;
        let number = len.parse::<u8>().ok().filter(|_| len.bytes().all(|byte| byte.is_ascii_digit()));
        match number {
            Some(len) => Self::new(address, len),
            None => Err(CidrError::PrefixLength(len.to_owned())),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.168.110.0/24", "172.29.0.4/32"] {
            assert_eq!(cidr(text).to_string(), text);
        }
    }

    #[test]
    fn the_last_address_ends_a_range() {
        for (text, last) in [("0.0.0.0/0", "255.255.255.255"), ("10.0.0.0/31", "10.0.0.1"), ("10.0.0.1/32", "10.0.0.1")]
        {
            assert_eq!(cidr(text).last().to_string(), last);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let mistake = |text: &str| text.parse::<Cidr>().unwrap_err().to_string();
        assert!(mistake("192.168.110.7/24").contains("did you mean 192.168.110.0/24?"));
        assert!(mistake("192.168.110.0").contains("no prefix length"));
        assert!(mistake("192.168.110.0/33").contains("no prefix length"));
        assert!(mistake("192.168.110.0/+8").contains("`+8`"));
        assert!(mistake("fd00::/64").contains("IPv6"));
        assert!(mistake("192.168.110/24").contains("not an address"));
        assert!(parse_address("node2").unwrap_err().to_string().contains("`node2` is not an address"));
    }

    #[test]
    fn overlap_is_symmetric() {
        let (wide, narrow, other) = (cidr("10.0.0.0/8"), cidr("10.1.0.0/16"), cidr("11.0.0.0/8"));
        assert!(wide.overlaps(narrow) && narrow.overlaps(wide));
        assert!(!wide.overlaps(other) && !other.overlaps(narrow));
        assert!(cidr("0.0.0.0/0").overlaps(other));
    }
}
