//! Packets that nobody would send, by the thousand: ones that belong to flows, with bits flipped, lengths that lie, options, ends
//! cut off, and plain noise. What becomes of each is held against the invariants of the dataplane.
//!
//! The seed is fixed, `XNAT_SEED=N` takes another one; a failure prints it, and the frame.

use std::net::Ipv4Addr;
use std::time::Duration;

use xnat_common::Flow;
use xnat_common::counter::{Class, Counter};
use xnat_common::tcp::State::Established;
use xnat_tests::packet::{ACK, Checksum, ICMP, Packet as Judged, RST, SYN, TCP, UDP};
use xnat_tests::random::Random;
use xnat_tests::topology::{N1, N2, NODE1, NODE2, NODE3, OUTSIDE};

use crate::fixture::{Given, Known, PASS, REDIRECT, SHOT, from_host, inbound, outside, to_peer};
use crate::packet::{self, End, Packet, Tag};
use crate::skb::Outcome;
use crate::world::{GATEWAY, Hook, World};

/// Rounds, each from a table with the same flows, and packets in each.
const ROUNDS: usize = 250;
const PACKETS: usize = 24;

const SERVER: End = (OUTSIDE, 80);
const CONTAINER: End = (N1, 40000);
const PEER: End = (N2, 80);
const ETHERNET: usize = 14;
/// The shortest frame that the kernel runs a program on (6.18, `bpf_prog_test_run_skb`).
const SHORTEST: usize = ETHERNET + 20;

#[test]
fn mutated_packets_break_no_invariant() {
    let seed = Random::seed(5);
    let mut random = Random::new(seed);
    let mut world = World::new();
    let (mut translated, mut dropped) = (0, 0);
    for round in 0..ROUNDS {
        world.reset();
        for known in known() {
            Given::Known(known).prepare(&mut world);
        }
        for number in 0..PACKETS {
            let hook = random.pick(&[Hook::InsideIn, Hook::UplinkIn, Hook::UplinkOut]);
            let models = models(hook);
            let mut frame = models[random.below(models.len())].frame(hook.macs());
            mutate(&mut random, &mut frame);
            let before = world.counters();
            let input = packet::frame(u16::from_be_bytes([frame[12], frame[13]]), frame[ETHERNET..].to_vec());
            let outcome = world.run(hook, &input, false).unwrap_or_else(|error| panic!("{frame:02x?}: {error}"));
            let counted = since(&before, &world.counters());
            let flows: Vec<Flow> = world.flows().into_iter().map(|(_, flow)| flow).collect();
            let verdict = judge(hook, &frame, &outcome, &counted, &flows);
            let verdict = verdict.and_then(|()| world.damage().map_or(Ok(()), Err));
            if let Err(what) = verdict {
                panic!(
                    "XNAT_SEED={seed}, round {round}, packet {number} at {hook:?}: {what}\n  in  {:?}\n      {frame:02x?}\n  out \
                     {:?}\n      {:02x?}\n  action {}, counted {counted:?}",
                    parse(&frame),
                    parse(&outcome.frame),
                    outcome.frame,
                    outcome.action,
                );
            }
            translated += usize::from(outcome.action != SHOT && outcome.frame != frame);
            dropped += usize::from(outcome.action == SHOT);
        }
    }
    println!("{translated} translated, {dropped} dropped");
    // The packets are still near enough to those that mean something.
    assert!(translated > ROUNDS * PACKETS / 10, "only {translated} were translated");
    assert!(dropped > ROUNDS * PACKETS / 100, "only {dropped} were dropped");
}

fn known() -> Vec<Known> {
    vec![
        outside(TCP, CONTAINER, SERVER).answered().tcp(Established),
        outside(UDP, CONTAINER, SERVER).port(40001).answered(),
        outside(ICMP, (N1, 77), (OUTSIDE, 0)),
        outside(253, (N1, 0), (OUTSIDE, 0)),
        to_peer(TCP, CONTAINER, PEER, NODE2).answered(),
        to_peer(UDP, (N1, 40002), (N2, 53), NODE2).tagged(1, 0),
        inbound(TCP, (NODE2, 50000), (N1, 80)),
        inbound(UDP, (NODE2, 50000), (N1, 53)),
        from_host(UDP, (NODE1, 6000), (N2, 53), NODE2),
    ]
}

/// What the packets are made from: of the flows, opening some, and errors about them.
fn models(hook: Hook) -> Vec<Packet> {
    let echo = |src, dst| packet::echo(src, dst, 77);
    match hook {
        Hook::InsideIn | Hook::UplinkOut | Hook::LoopbackOut => {
            let to_container = packet::udp(SERVER, CONTAINER).carrying(64);
            vec![
                packet::tcp(CONTAINER, SERVER, ACK).carrying(40),
                packet::tcp(CONTAINER, SERVER, RST),
                packet::tcp((N1, 40009), SERVER, SYN),
                packet::udp(CONTAINER, SERVER).carrying(40),
                packet::udp(CONTAINER, SERVER).without_checksum(),
                packet::udp(CONTAINER, SERVER).carrying(200).fragment(0, 104),
                packet::udp(CONTAINER, SERVER).carrying(200).fragment(104, 200),
                packet::udp((N1, 40010), (OUTSIDE, 53)),
                echo(N1, OUTSIDE),
                packet::other(N1, OUTSIDE, 253, b"experiment"),
                packet::tcp(CONTAINER, PEER, ACK).carrying(10),
                packet::udp((N1, 40002), (N2, 53)),
                packet::udp((N1, 40011), (Ipv4Addr::new(192, 168, 130, 11), 53)),
                packet::udp((NODE1, 6000), (N2, 53)),
                packet::udp((GATEWAY, 6000), (N2, 53)),
                packet::tcp((N1, 80), (NODE2, 50000), ACK),
                packet::icmp_error(N1, OUTSIDE, (3, 3), &to_container, 8),
                packet::icmp_error(N1, OUTSIDE, (11, 1), &to_container, 72),
                packet::icmp_error(N1, OUTSIDE, (3, 4), &packet::tcp(SERVER, CONTAINER, ACK).options(&[1; 8]), 20),
                packet::icmp_error(N1, N2, (3, 3), &packet::tcp(PEER, CONTAINER, ACK), 8),
            ]
        }
        Hook::UplinkIn | Hook::InsideOut => {
            let public = (NODE1, 40000);
            let from_container = packet::udp((NODE1, 40001), SERVER).carrying(64);
            vec![
                packet::tcp(SERVER, public, ACK).carrying(40),
                packet::tcp(SERVER, public, RST),
                packet::udp(SERVER, (NODE1, 40001)).carrying(40),
                packet::udp(SERVER, (NODE1, 40001)).without_checksum(),
                packet::udp(SERVER, (NODE1, 40001)).carrying(200).fragment(0, 104),
                packet::udp(SERVER, (NODE1, 40001)).carrying(200).fragment(104, 200),
                packet::echo_reply(OUTSIDE, NODE1, 77),
                packet::other(OUTSIDE, NODE1, 253, b"experiment"),
                packet::tcp((NODE2, 80), public, ACK).carrying(10),
                packet::tcp((NODE2, 50000), (NODE1, 80), ACK),
                packet::tcp((NODE2, 50001), (NODE1, 80), SYN).tagged(Tag::Open, N1),
                packet::udp((NODE2, 50002), (NODE1, 53)).tagged(Tag::Announce, N1),
                packet::tcp((NODE2, 80), public, SYN | ACK).tagged(Tag::Conflict, N1),
                packet::tcp((NODE2, 80), public, RST).tagged(Tag::UnknownFlow, Ipv4Addr::UNSPECIFIED),
                packet::udp((NODE3, 53), (NODE1, 40011)),
                packet::icmp_error(OUTSIDE, NODE1, (3, 3), &from_container, 8),
                packet::icmp_error(OUTSIDE, NODE1, (11, 0), &from_container, 72),
                packet::icmp_error(OUTSIDE, NODE1, (3, 4), &packet::tcp(public, SERVER, ACK).options(&[1; 8]), 20),
                packet::icmp_error(NODE2, NODE1, (3, 3), &packet::tcp(public, (NODE2, 80), ACK), 8),
            ]
        }
    }
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let len = frame.len();
        let ip = random.below(len - ETHERNET) + ETHERNET;
        match random.below(12) {
            0..=2 => frame[ip] ^= 1 << random.below(8),
            3 => frame[ip] = random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            // Something in the headers.
            4 | 5 => {
                let at = ETHERNET + random.below(40).min(len - ETHERNET - 1);
                frame[at] = random.bits() as u8;
            }
            // Two octets, such as a length, a checksum or a port.
            6 => {
                let at = ETHERNET + (random.below(60) & !1).min(len - ETHERNET - 2);
                frame[at..at + 2].copy_from_slice(&(random.bits() as u16).to_be_bytes());
            }
            7 => frame.truncate(ip.max(SHORTEST)),
            8 => {
                let more = random.below(40);
                frame.extend(random.octets(more));
            }
            9 => add_options(random, frame),
            10 if len > ETHERNET + 8 => {
                let bits = random.pick(&[0x2000, 0x2001, 0x0001, 0x000d, 0x1fff, 0x4000, 0x8000]);
                frame[20..22].copy_from_slice(&u16::to_be_bytes(bits));
            }
            _ if random.chance(20) => frame[ETHERNET..].copy_from_slice(&random.octets(len - ETHERNET)),
            _ => {}
        }
    }
    // Most go past whoever looks at checksums.
    if random.chance(75) {
        mend(frame, random.chance(70));
    }
}

/// Options in front of what follows the IP header.
fn add_options(random: &mut Random, frame: &mut Vec<u8>) {
    if frame.len() < ETHERNET + 20 {
        return;
    }
    let words = 1 + random.below(10);
    let mut options = match random.below(3) {
        0 => vec![1; words * 4],
        1 => [&[0x9e, 8, 0x10, 0][..], &N1.octets()].concat(),
        _ => random.octets(words * 4),
    };
    let had = usize::from(frame[ETHERNET] & 15) * 4;
    options.truncate(60_usize.saturating_sub(had) & !3);
    let length = u16::from_be_bytes([frame[16], frame[17]]).wrapping_add(options.len() as u16);
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[ETHERNET] = frame[ETHERNET] & 0xf0 | ((had + options.len()) / 4) as u8 & 15;
    frame.splice(ETHERNET + 20..ETHERNET + 20, options);
}

/// Makes the IP header's checksum right, and if asked to that of TCP, UDP or ICMP.
fn mend(frame: &mut [u8], transport: bool) {
    let header = usize::from(frame[ETHERNET] & 15) * 4;
    let start = ETHERNET + header;
    if header < 20 || frame.len() < start {
        return;
    }
    frame[24..26].fill(0);
    let sum = checksum(&frame[ETHERNET..start], 0);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let proto = frame[23];
    let end = (ETHERNET + usize::from(u16::from_be_bytes([frame[16], frame[17]]))).clamp(start, frame.len());
    let field = match proto {
        TCP => 16,
        UDP => 6,
        ICMP => 2,
        _ => return,
    };
    if !transport || end - start < field + 2 {
        return;
    }
    let body = &mut frame[start..end];
    body[field..field + 2].fill(0);
    let length = body.len() as u32;
    let pseudo = if proto == ICMP { 0 } else { words(&frame[26..34]) + u32::from(proto) + length };
    let sum = checksum(&frame[start..end], pseudo);
    frame[start + field..start + field + 2].copy_from_slice(&sum.to_be_bytes());
}

fn words(octets: &[u8]) -> u32 {
    octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn checksum(octets: &[u8], start: u32) -> u16 {
    let mut sum = words(octets) + start;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn since(before: &[(Counter, u64)], after: &[(Counter, u64)]) -> Vec<(Counter, u64)> {
    let old = |counter| before.iter().find(|(other, _)| *other == counter).map_or(0, |(_, value)| *value);
    after.iter().map(|(counter, value)| (*counter, value - old(*counter))).filter(|(_, more)| *more > 0).collect()
}

fn parse(frame: &[u8]) -> Judged {
    Judged::parse(Duration::ZERO, frame)
}

/// The packet in an ICMP error, with its checksum judged if it is there as a whole.
fn embedded(frame: &[u8]) -> Option<Judged> {
    let packet = parse(frame);
    packet.embedded()?;
    let mut inner = frame[..ETHERNET].to_vec();
    inner.extend(&packet.payload);
    Some(parse(&inner))
}

fn judge(
    hook: Hook,
    frame: &[u8],
    outcome: &Outcome,
    counted: &[(Counter, u64)],
    flows: &[Flow],
) -> Result<(), String> {
    let dropped = |wanted: fn(Counter) -> bool| -> u64 {
        let drops = counted.iter().filter(|(counter, _)| counter.class() == Class::Drop && wanted(*counter));
        drops.map(|(_, count)| count).sum()
    };
    // Fragments that were kept may go along with the one that comes now.
    let (own, fragments) = (dropped(|counter| !is_of_fragments(counter)), dropped(is_of_fragments));
    match (outcome.action, own, fragments) {
        (SHOT, 1, _) | (SHOT, 0, 1..) => return Ok(()),
        (SHOT, 0, 0) if counted.iter().any(|(counter, _)| consumes(*counter)) => return Ok(()),
        (SHOT, ..) => return Err(format!("a dropped packet with {own} drops counted")),
        (PASS | REDIRECT, 0, _) => {}
        (REDIRECT, 1, _) if counted.contains(&(Counter::Refusals, 1)) => return judge_refusal(frame, outcome),
        (PASS | REDIRECT, ..) => return Err("a drop is counted, and the packet goes on".to_owned()),
        (other, ..) => return Err(format!("action {other}")),
    }
    let is_sent_back = hook == Hook::UplinkIn && outcome.action == REDIRECT && outcome.frame[..6] == hook.macs()[1];
    let is_out = match hook {
        Hook::InsideIn => outcome.action == REDIRECT,
        Hook::UplinkOut => true,
        Hook::UplinkIn | Hook::InsideOut | Hook::LoopbackOut => is_sent_back,
    };
    let is_ip = outcome.frame[12..14] == [8, 0] && outcome.frame.len() >= ETHERNET + 20;
    if is_out && is_ip {
        let (src, dst) = (&outcome.frame[26..30], &outcome.frame[30..34]);
        if src[..3] == [192, 168, 110] {
            return Err("a container's address leaves".to_owned());
        }
        if dst[..3] == [192, 168, 220] || dst[..3] == [192, 168, 130] {
            return Err("the address of a peer's container leaves".to_owned());
        }
    }
    if outcome.frame == frame {
        let lost = hook == Hook::InsideIn && outcome.action == REDIRECT;
        return if lost { Err("it is sent on untranslated".to_owned()) } else { Ok(()) };
    }
    let (old, new) = (parse(frame), parse(&outcome.frame));
    let worse = |old: Checksum, new: Checksum| old == Checksum::Valid && new != Checksum::Valid;
    if worse(old.ip_checksum, new.ip_checksum) {
        return Err("the IP header's checksum became wrong".to_owned());
    }
    // An answer made of a packet's head ends where it is said to end.
    if worse(old.l4_checksum, new.l4_checksum) && !is_sent_back {
        return Err("the transport checksum became wrong".to_owned());
    }
    if let (Some(old), Some(new)) = (embedded(frame), embedded(&outcome.frame)) {
        if worse(old.ip_checksum, new.ip_checksum) {
            return Err("the checksum of the embedded IP header became wrong".to_owned());
        }
        if worse(old.l4_checksum, new.l4_checksum) {
            return Err("the embedded transport checksum became wrong".to_owned());
        }
        return Ok(());
    }
    let has_ports = matches!(new.proto, TCP | UDP) && !new.is_fragment();
    let is_translated =
        !is_sent_back && (old.src, old.dst, old.sport, old.dport) != (new.src, new.dst, new.sport, new.dport);
    if has_ports && is_translated && !flows.iter().any(|flow| has_tuple(flow, &new)) {
        return Err("it was translated to the tuple of no flow".to_owned());
    }
    Ok(())
}

/// In place of a packet that was refused its sender is told so.
fn judge_refusal(frame: &[u8], outcome: &Outcome) -> Result<(), String> {
    let (refused, answer) = (parse(frame), parse(&outcome.frame));
    if answer.src != GATEWAY || answer.dst != refused.src {
        return Err("a refusal goes from the gateway to the sender".to_owned());
    }
    let about = answer.embedded().map(|about| (about.src, about.dst, about.sport, about.dport));
    let told = (answer.icmp_type, answer.icmp_code) == (3, 13)
        && about == Some((refused.src, refused.dst, refused.sport, refused.dport));
    if !told || answer.ip_checksum != Checksum::Valid || answer.l4_checksum != Checksum::Valid {
        return Err("a refusal is a whole error about the packet".to_owned());
    }
    Ok(())
}

fn is_of_fragments(counter: Counter) -> bool {
    matches!(
        counter,
        Counter::FragmentUnknown | Counter::FragmentOverlap | Counter::FragmentQuota | Counter::FragmentExpired
    )
}

/// Messages between dataplanes, and fragments that are kept, end here without being dropped.
fn consumes(counter: Counter) -> bool {
    matches!(
        counter,
        Counter::AnnouncesReceived
            | Counter::UnknownFlowReceived
            | Counter::ConflictReceived
            | Counter::FlowsCrossed
            | Counter::FragmentsHeld
    )
}

/// Whether a translated packet has one of a flow's tuples, the other way round.
fn has_tuple(flow: &Flow, packet: &Judged) -> bool {
    let wanted = (packet.dst, packet.dport, packet.src, packet.sport);
    [flow.original, flow.reply].iter().any(|tuple| {
        let address = |addr: xnat_common::Addr| Ipv4Addr::from(addr);
        (address(tuple.src), tuple.sport.number(), address(tuple.dst), tuple.dport.number()) == wanted
    }) && flow.proto == packet.proto
}
