//! Ranges of ports as people write them: `8080`, `5000-5010`.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One port or several in a row, none of them zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "Written")]
pub(crate) struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum PortRangeError {
    #[error("`{0}` is no port; it is a number from 1 to 65535")]
    NotAPort(String),
    #[error("`{first}-{last}` is reversed; did you mean {last}-{first}?")]
    Reversed { first: u16, last: u16 },
}

impl PortRange {
    /// All ports.
    pub(crate) const ALL: Self = Self { first: 1, last: u16::MAX };

    /// From `first` to `last`; none where there is no such range.
    pub(crate) const fn new(first: u16, last: u16) -> Option<Self> {
        if first != 0 && first <= last { Some(Self { first, last }) } else { None }
    }

    /// The first port.
    pub(crate) const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub(crate) const fn last(self) -> u16 {
        self.last
    }

    /// How many ports it has.
    pub(crate) fn len(self) -> usize {
        self.ports().len()
    }

    /// The ports.
    pub(crate) fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Whether both have a port in common.
    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        Self::new(first, last).ok_or(PortRangeError::Reversed { first, last })
    }
}

fn port(text: &str) -> Result<u16, PortRangeError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<NonZeroU16>().ok().filter(|_| digits);
    number.map(NonZeroU16::get).ok_or_else(|| PortRangeError::NotAPort(text.to_owned()))
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// In JSON, one port may be a number.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a port, or a range such as \"5000-5010\"")]
enum Written {
    Number(u64),
    Text(String),
}

impl TryFrom<Written> for PortRange {
    type Error = PortRangeError;

    fn try_from(written: Written) -> Result<Self, PortRangeError> {
        match written {
            Written::Number(number) => number.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for (text, ports) in [("8080", 8080..=8080), ("5000-5010", 5000..=5010), ("1-65535", 1..=65535)] {
            let range: PortRange = text.parse().unwrap();
            assert_eq!((range.to_string(), range.ports()), (text.to_owned(), ports));
            let json = serde_json::to_string(&range).unwrap();
            assert_eq!(serde_json::from_str::<PortRange>(&json).unwrap(), range);
        }
        assert_eq!("7-7".parse::<PortRange>().unwrap().to_string(), "7");
        assert_eq!(serde_json::from_str::<PortRange>("53").unwrap(), "53".parse().unwrap());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "`` is no port"),
            ("0", "`0` is no port"),
            ("0-5", "`0` is no port"),
            ("65536", "`65536` is no port"),
            ("+7", "`+7` is no port"),
            ("5-", "`` is no port"),
            ("1-2-3", "`2-3` is no port"),
            ("http", "`http` is no port"),
            ("9-5", "did you mean 5-9?"),
        ] {
            let error = text.parse::<PortRange>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let error = serde_json::from_str::<PortRange>("70000").unwrap_err().to_string();
        assert!(error.contains("`70000` is no port"), "{error}");
    }

    #[test]
    fn overlap_is_symmetric() {
        let range = |text: &str| text.parse::<PortRange>().unwrap();
        let (wide, edge, beyond) = (range("10-20"), range("20-30"), range("21"));
        assert!(wide.overlaps(edge) && edge.overlaps(wide) && edge.overlaps(beyond));
        assert!(!wide.overlaps(beyond) && !beyond.overlaps(wide));
    }
}
