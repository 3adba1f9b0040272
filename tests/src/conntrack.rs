//! Flows as `conntrack -L`, `xnat conntrack dump -o conntrack` and `xnat conntrack dump -o json` print them,
//! read into one form, so that the same expectations judge all of them.

use std::net::Ipv4Addr;

use serde::Deserialize;

/// One direction of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Direction {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Source port, for protocols that have ports.
    #[serde(default)]
    pub sport: Option<u16>,
    /// Destination port.
    #[serde(default)]
    pub dport: Option<u16>,
    /// Identifier of an ICMP query.
    #[serde(default)]
    pub id: Option<u16>,
    /// Packets seen.
    #[serde(default)]
    pub packets: u64,
    /// Octets seen, IP headers included.
    #[serde(default)]
    pub bytes: u64,
}

impl Direction {
    /// Addresses and ports (for ICMP the identifier twice), for comparisons.
    pub fn tuple(&self) -> (Ipv4Addr, u16, Ipv4Addr, u16) {
        let id = self.id.unwrap_or_default();
        (self.src, self.sport.unwrap_or(id), self.dst, self.dport.unwrap_or(id))
    }
}

/// A flow as an object of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Flow {
    /// tcp, udp, icmp or a number.
    pub proto: String,
    /// `ESTABLISHED`, `SYN_SENT` …; for UDP and ICMP `UNREPLIED` or `REPLIED`.
    pub state: String,
    /// outside, peer, inbound or host.
    pub kind: String,
    /// The peer's address where there is one.
    #[serde(default)]
    pub peer: Option<Ipv4Addr>,
    /// Seconds to expiry.
    pub timeout: u64,
    /// As the opener sends.
    pub original: Direction,
    /// As answers come.
    pub reply: Direction,
}

/// A flow as a line of conntrack-tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Name of the protocol.
    pub proto: String,
    /// Its number.
    pub number: u8,
    /// Seconds to expiry.
    pub timeout: u64,
    /// TCP's state.
    pub state: Option<String>,
    /// As the opener sends.
    pub original: Direction,
    /// As answers come.
    pub reply: Direction,
    /// `[UNREPLIED]` and `[ASSURED]`.
    pub flags: Vec<String>,
}

/// Reads the output of `-o json`: one object a line.
#[track_caller]
pub fn read_json(output: &str) -> Vec<Flow> {
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in: {line}"));
    output.lines().filter(|line| !line.trim().is_empty()).map(read).collect()
}

/// Reads the lines of conntrack-tools.
#[track_caller]
pub fn read_lines(output: &str) -> Vec<Line> {
    let read = |line: &str| read_line(line).unwrap_or_else(|| panic!("not a line of conntrack-tools: {line:?}"));
    output.lines().filter(|line| !line.trim().is_empty()).map(read).collect()
}

fn read_line(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace().peekable();
    let proto = words.next()?.to_owned();
    let number = words.next()?.parse().ok()?;
    let timeout = words.next()?.parse().ok()?;
    let state = words.next_if(|word| !word.contains('=') && !word.starts_with('[')).map(str::to_owned);
    // The keys of a direction come twice; `src` opens each.
    let mut directions: Vec<Vec<(&str, &str)>> = Vec::new();
    let mut flags = Vec::new();
    for word in words {
        if word.starts_with('[') {
            flags.push(word.to_owned());
        } else {
            let (key, value) = word.split_once('=')?;
            if key == "src" {
                directions.push(Vec::new());
            }
            directions.last_mut()?.push((key, value));
        }
    }
    let [original, reply] = directions.as_slice() else { return None };
    Some(Line {
        proto,
        number,
        timeout,
        state,
        original: read_direction(original)?,
        reply: read_direction(reply)?,
        flags,
    })
}

fn read_direction(pairs: &[(&str, &str)]) -> Option<Direction> {
    let get = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
    Some(Direction {
        src: get("src")?.parse().ok()?,
        dst: get("dst")?.parse().ok()?,
        sport: get("sport").and_then(|value| value.parse().ok()),
        dport: get("dport").and_then(|value| value.parse().ok()),
        id: get("id").and_then(|value| value.parse().ok()),
        packets: get("packets").and_then(|value| value.parse().ok()).unwrap_or_default(),
        bytes: get("bytes").and_then(|value| value.parse().ok()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_real_tool_are_read() {
        let lines = read_lines(concat!(
            "tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=4000 dport=80 packets=4 bytes=216 ",
            "src=10.0.0.2 dst=10.0.0.9 sport=80 dport=4001 packets=3 bytes=164 [ASSURED] mark=0 use=1\n",
            "udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=5 dport=6 [UNREPLIED] ",
            "src=10.0.0.2 dst=10.0.0.1 sport=6 dport=5 mark=0 use=1\n",
            "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=77 packets=1 bytes=84 ",
            "src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=77 packets=1 bytes=84 mark=0 use=1\n",
        ));
        assert_eq!(lines[0].state.as_deref(), Some("ESTABLISHED"));
        assert_eq!(lines[0].reply.tuple(), ("10.0.0.2".parse().unwrap(), 80, "10.0.0.9".parse().unwrap(), 4001));
        assert_eq!((lines[0].original.packets, lines[0].reply.bytes), (4, 164));
        assert_eq!((lines[1].timeout, lines[1].flags.as_slice()), (29, ["[UNREPLIED]".to_owned()].as_slice()));
        assert_eq!(lines[2].reply.id, Some(77));
    }
}
