//! What is seen at one interface, through tcpdump.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::netns::{Namespace, unique};
use crate::packet::Packet;
use crate::process::Running;
use crate::wait;

/// A capture that listens from the moment it is made until it is dropped.
#[derive(Debug)]
pub struct Capture {
    file: PathBuf,
    place: String,
    tcpdump: Running,
}

impl Capture {
    /// Captures everything at an interface; returns when the capture listens.
    #[track_caller]
    pub fn on(place: (&Namespace, &str)) -> Self {
        Self::filtered(place, "")
    }

    /// Captures what a pcap filter accepts.
    #[track_caller]
    pub fn filtered((ns, interface): (&Namespace, &str), filter: &str) -> Self {
        let file = std::env::temp_dir().join(format!("{}.pcap", unique("capture")));
        let mut command = ns.command("tcpdump");
        // Immediate mode and -U: a packet is in the file as soon as it was seen. -Z root: the file's folder
        // need not be writable for the user that tcpdump would turn into. -s and -B: the kernel's buffer has slots for
        // the longest packet, and with tcpdump's usual four times longer ones a burst would find too few.
        command.args([
            "-n",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
            "-s",
            "66000",
            "-B",
            "32768",
            "-i",
            interface,
            "-w",
        ]);
        command.arg(&file).arg(filter);
        let mut tcpdump = Running::start(&mut command);
        tcpdump.expect_line("that it listens", wait::SOON, |line| line.contains("listening on"));
        Self { file, place: format!("{interface} in {}", ns.name()), tcpdump }
    }

    /// Everything captured so far.
    pub fn packets(&self) -> Vec<Packet> {
        read_pcap(&fs::read(&self.file).unwrap_or_default())
    }

    /// Everything captured so far that `wanted` accepts.
    pub fn matching(&self, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        self.packets().into_iter().filter(wanted).collect()
    }

    /// Awaits a packet that `wanted` accepts.
    #[track_caller]
    pub fn expect(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let found = wait::within(wait::SOON, || self.packets().into_iter().find(&wanted));
        found.unwrap_or_else(|| panic!("{what} was not seen at {}\n{}", self.place, self.transcript()))
    }

    /// Awaits this many packets that `wanted` accepts.
    #[track_caller]
    pub fn expect_count(&self, what: &str, count: usize, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let enough = || Some(self.matching(&wanted)).filter(|packets| packets.len() >= count);
        let found = wait::within(wait::SOON, enough);
        found.unwrap_or_else(|| panic!("{count} times {what} was not seen at {}\n{}", self.place, self.transcript()))
    }

    /// Panics if a packet captured so far is one that `unwanted` accepts. Await something later first.
    #[track_caller]
    pub fn expect_none(&self, what: &str, unwanted: impl Fn(&Packet) -> bool) {
        if let Some(packet) = self.packets().into_iter().find(&unwanted) {
            panic!("{what} was seen at {}: {packet:?}\n{}", self.place, self.transcript());
        }
    }

    /// What was captured, a line a packet, for messages.
    pub fn transcript(&self) -> String {
        let packets = self.packets();
        let lines = packets.iter().take(60).map(|packet| format!("  {packet:?}\n"));
        format!("captured at {} ({} packets):\n{}", self.place, packets.len(), lines.collect::<String>())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.transcript());
        }
        self.tcpdump.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = fs::remove_file(&self.file);
    }
}

/// Reads the classic pcap format as tcpdump writes it here: little endian, microseconds, Ethernet.
/// A record that is not complete yet is left for the next reading.
fn read_pcap(file: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    if file.len() < 24 {
        return packets;
    }
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four octets"));
    assert_eq!(word(0), 0xa1b2_c3d4, "not the pcap format that tcpdump writes on this machine");
    assert_eq!(word(20), 1, "not an Ethernet capture");
    let mut at = 24;
    while at + 16 <= file.len() {
        let time = Duration::from_secs(word(at).into()) + Duration::from_micros(word(at + 4).into());
        let start = at + 16;
        let end = start + word(at + 8) as usize;
        if end > file.len() {
            break;
        }
        packets.push(Packet::parse(time, &file[start..end]));
        at = end;
    }
    packets
}
