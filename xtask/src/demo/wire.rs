//! What the wire sees, as tcpdump prints it.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    kept::{Kept, Running},
    patience::until,
};
use crate::process::capture;

/// A capture that listens until it is dropped.
pub(super) struct Capture {
    file: PathBuf,
    tcpdump: Running,
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.tcpdump.end();
    }
}

/// A packet on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// tcpdump's line for it, without sequence numbers, windows and TCP options.
    pub(super) line: String,
    /// Its IP options.
    pub(super) options: Vec<u8>,
}

impl Capture {
    /// Captures what flows there are on an interface, and returns when the capture listens.
    pub(super) fn start(kept: &Kept, namespace: &str, interface: &str) -> Result<Self> {
        let file = kept.file("wire.pcap");
        let log = kept.file("tcpdump.log");
        let mut tcpdump = Kept::command(namespace, "tcpdump");
        // Immediate mode and -U: a packet is in the file as soon as it was seen. -Z root: nobody else may write there.
        tcpdump.args(["-n", "-U", "--immediate-mode", "-Z", "root", "-i", interface, "-w"]);
        tcpdump.arg(&file).arg("icmp or tcp");
        let mut tcpdump = kept.start(tcpdump, &log)?;
        until("tcpdump listens", || tcpdump.said("tcpdump", |line| line.contains("listening on")))?;
        Ok(Self { file, tcpdump })
    }

    /// Everything captured so far.
    pub(super) fn packets(&self) -> Result<Vec<Packet>> {
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-nn", "-t", "-x", "-r"]).arg(&self.file).stdin(Stdio::null());
        // The last packet may still be on its way into the file, of which tcpdump complains in its exit code.
        let text = match capture(tcpdump) {
            Err(error) if error.to_string().contains("truncated") => return Ok(Vec::new()),
            text => text.context("the capture cannot be read")?,
        };
        Ok(parse(&text))
    }
}

/// Reads `tcpdump -t -x`: a line a packet, then the packet from the IP header on in indented lines of figures.
fn parse(text: &str) -> Vec<Packet> {
    let mut packets: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix('\t'), packets.last_mut()) {
            (Some(figures), Some((_, octets))) => octets.extend(octets_of(figures)),
            _ => packets.push((shorten(line), Vec::new())),
        }
    }
    packets.into_iter().map(|(line, octets)| Packet { line, options: options(&octets) }).collect()
}

/// The octets of a line such as `0x0010:  ac1d 0004 ac1d 0011`.
fn octets_of(figures: &str) -> Vec<u8> {
    let words = figures.split_once(':').map_or("", |(_, words)| words);
    let digits: Vec<u8> = words.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

impl Packet {
    /// The packet with its options in figures, behind a line of this width.
    pub(super) fn show(&self, width: usize) -> String {
        if self.options.is_empty() {
            return self.line.clone();
        }
        let figures: Vec<String> = self.options.iter().map(|octet| format!("{octet:02x}")).collect();
        format!("{:width$}  + {}", self.line, figures.join(" "))
    }

    /// Whether it carries the tag that opens a flow to `container`, and nothing else.
    pub(super) fn opens_to(&self, container: Ipv4Addr) -> bool {
        let [a, b, c, d] = container.octets();
        // The option's type and length, version 1 and kind 0 (open), no key.
        self.options == [0x9e, 8, 0x10, 0, a, b, c, d]
    }

    /// Whether it is a TCP packet between `port` and somebody.
    pub(super) fn is_of(&self, port: u16) -> bool {
        self.line.contains(&format!(".{port} > ")) || self.line.contains(&format!(".{port}: Flags"))
    }

    /// Whether it is an echo request or reply.
    pub(super) fn is_echo(&self) -> bool {
        self.line.contains(": ICMP echo re")
    }
}

/// What is between the fixed part of an IP header and its end.
fn options(packet: &[u8]) -> Vec<u8> {
    let len = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    packet.get(20..len).unwrap_or_default().to_vec()
}

/// Leaves of a line what matters here.
fn shorten(line: &str) -> String {
    let line = line.strip_prefix("IP ").unwrap_or(line);
    let Some((head, rest)) = line.split_once("], ") else {
        return line.to_owned();
    };
    let length: String =
        rest.rsplit_once("length ").map_or("", |(_, tail)| tail).chars().take_while(char::is_ascii_digit).collect();
    if length.is_empty() { line.to_owned() } else { format!("{head}], length {length}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_and_lines_are_short() {
        let text = "IP 172.29.0.4.40000 > 172.29.0.17.80: Flags [S], seq 7, win 64240, options [mss 1460], length 0\n\
                    \t0x0000:  4700 0044 0000 4000 3f06 0000 ac1d 0004\n\
                    \t0x0010:  ac1d 0011 9e08 1000 c0a8 dc0b 9c40 0050\n\
                    IP 172.29.0.17.80 > 172.29.0.4.40000: Flags [P.], seq 1:9, ack 1, win 509, length 8: HTTP\n\
                    \t0x0000:  4500 0030 0000 4000 3f06 0000 ac1d 0011\n\
                    \t0x0010:  ac1d 0004 0050 9c40\n\
                    IP 172.29.0.4 > 172.29.0.17: ICMP echo request, id 5, seq 1, length 64\n";
        let packets = parse(text);
        assert_eq!(packets.len(), 3);
        assert_eq!(packets[0].line, "172.29.0.4.40000 > 172.29.0.17.80: Flags [S], length 0");
        assert_eq!(packets[0].options, [0x9e, 8, 0x10, 0, 192, 168, 220, 11]);
        assert_eq!(packets[1].line, "172.29.0.17.80 > 172.29.0.4.40000: Flags [P.], length 8");
        assert!(packets[0].opens_to(Ipv4Addr::new(192, 168, 220, 11)) && packets[0].is_of(80));
        assert!(packets[1].options.is_empty() && packets[1].is_of(80) && !packets[1].is_of(8080));
        assert!(packets[2].is_echo());
        assert_eq!(packets[2].line, "172.29.0.4 > 172.29.0.17: ICMP echo request, id 5, seq 1, length 64");
    }
}
