//! A machine of few words behind a tap device: it answers ARP, and what is sent to its UDP port 7.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use etherparse::PacketBuilder;
use xnat_tests::netns::Namespace;
use xnat_tests::packet::{Packet, UDP};
use xnat_tests::wait::{self, SOON};

use super::expect_forwarding;

type Mac = [u8; 6];

const MAC: Mac = [0x02, 0, 0x5e, 0, 0, 0x77];
/// The port at which it echoes (RFC 862).
const ECHO: u16 = 7;
const ARP: u16 = 0x0806;

/// What its thread shares with the test.
struct Shared {
    tap: File,
    address: Ipv4Addr,
    /// Its gateway's MAC address, once that has been told.
    gateway: Mutex<Option<Mac>>,
    heard: Mutex<Vec<Packet>>,
    wrong: AtomicUsize,
    stop: AtomicBool,
}

/// The machine. It stops when dropped.
pub struct Machine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// Starts it at a new tap device that is a port of the host's `br0`.
    pub fn start(host: &Namespace, name: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> Self {
        let tap = host.within(|| open(name));
        host.ip(&format!("link set {name} up"));
        host.ip(&format!("link set {name} master br0"));
        expect_forwarding(host, name);
        let shared = Arc::new(Shared {
            tap,
            address,
            gateway: Mutex::default(),
            heard: Mutex::default(),
            wrong: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let running = Arc::clone(&shared);
        let machine = Self { thread: Some(std::thread::spawn(move || running.run())), shared };
        wait::until_true("the gateway tells its MAC address", SOON, || {
            let request = arp(1, MAC, address, [0; 6], gateway);
            machine.shared.put(&[&[0xff; 6], &MAC[..], &ARP.to_be_bytes(), &request].concat());
            wait::within(SOON / 50, || *machine.shared.gateway.lock().expect("no panic while held")).is_some()
        });
        machine
    }

    /// Sends a datagram by way of the gateway.
    pub fn send(&self, port: u16, to: (Ipv4Addr, u16), payload: &[u8]) {
        let gateway = self.shared.gateway.lock().expect("no panic while held").expect("it was told");
        self.shared.put(&datagram(gateway, (self.shared.address, port), to, payload));
    }

    /// Whether this has come from there.
    pub fn has_heard(&self, from: (Ipv4Addr, u16), payload: &[u8]) -> bool {
        let heard = self.shared.heard.lock().expect("no panic while held");
        heard.iter().any(|p| (p.src, p.sport) == from && p.payload == payload)
    }

    /// How many packets came that have a checksum which is wrong or not finished.
    pub fn wrong_checksums(&self) -> usize {
        self.shared.wrong.load(Ordering::Relaxed)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut buffer = vec![0; 65536];
        while !self.stop.load(Ordering::Relaxed) {
            match (&self.tap).read(&mut buffer) {
                Ok(length) => self.take(&buffer[..length]),
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    fn take(&self, frame: &[u8]) {
        let packet = Packet::parse(Duration::ZERO, frame);
        if packet.eth_type == ARP {
            return self.take_arp(&packet.payload);
        }
        if packet.dst != self.address || packet.proto != UDP {
            return;
        }
        if packet.ip_checksum != xnat_tests::packet::Checksum::Valid
            || packet.l4_checksum != xnat_tests::packet::Checksum::Valid
        {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
        if packet.dport == ECHO {
            self.put(&datagram(packet.eth_src, (self.address, ECHO), (packet.src, packet.sport), &packet.payload));
        }
        self.heard.lock().expect("no panic while held").push(packet);
    }

    /// RFC 826: hardware and protocol types and lengths, operation, sender's addresses, target's addresses.
    fn take_arp(&self, arp_packet: &[u8]) {
        let Some(([_, _, _, _, _, _, _, operation], addresses)) = arp_packet.split_first_chunk() else { return };
        let (Some(mac), Some(target)) = (addresses.first_chunk::<6>(), addresses.get(16..20)) else { return };
        let sender: Option<[u8; 4]> = addresses.get(6..10).and_then(|octets| octets.try_into().ok());
        let Some(sender) = sender.filter(|_| target == self.address.octets()) else { return };
        if *operation == 1 {
            let reply = arp(2, MAC, self.address, *mac, sender.into());
            self.put(&[&mac[..], &MAC, &ARP.to_be_bytes(), &reply].concat());
        } else {
            *self.gateway.lock().expect("no panic while held") = Some(*mac);
        }
    }

    fn put(&self, frame: &[u8]) {
        (&self.tap).write_all(frame).expect("a tap device that is up");
    }
}

fn arp(operation: u8, mac: Mac, address: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation], &mac[..], &address.octets(), &target_mac, &target.octets()].concat()
}

fn datagram(gateway: Mac, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(MAC, gateway).ipv4(from.0.octets(), to.0.octets(), 64).udp(from.1, to.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a datagram");
    frame
}

/// Makes a tap device in the namespace that this thread is in.
fn open(name: &str) -> File {
    let tap = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let tap = tap.unwrap_or_else(|error| panic!("/dev/net/tun: {error}"));
    // SAFETY: all zeroes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes a request of this kind.
    let made = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    tap
}
