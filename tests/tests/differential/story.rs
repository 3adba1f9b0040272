//! What is sent: stories of a few packets, made by chance from a seed, about flows between containers and servers.

use xnat_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xnat_tests::random::Random;

/// Which machine sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The container.
    Inside,
    /// The server, or somebody else out there.
    Outside,
}

impl End {
    /// The other one.
    pub fn opposite(self) -> Self {
        match self {
            Self::Inside => Self::Outside,
            Self::Outside => Self::Inside,
        }
    }
}

/// What a flow is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    Tcp,
    Udp,
    /// ICMP queries of this type: echo, or timestamps.
    Query(u8),
    Other(u8),
}

/// A container's end and a server's end. Containers, ports and servers are counted from zero in each story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub proto: Proto,
    pub container: usize,
    pub port: u16,
    pub server: u32,
    pub server_port: u16,
}

/// What is in a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Tcp { flags: u8, seq: u32, ack: u32, options: Vec<u8>, len: usize },
    Udp { len: usize, sum: bool },
    Query { kind: u8, seq: u16, len: usize },
    Other { len: usize },
}

/// Fields of the IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub options: Vec<u8>,
}

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The IP header's checksum.
    IpChecksum,
    /// The checksum of TCP, UDP or ICMP.
    Checksum,
    /// It ends before its total length does.
    Short,
    /// In an ICMP error, the checksum of the IP header in it.
    EmbeddedIpChecksum,
}

/// What one step sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A packet of the flow.
    Packet,
    /// A packet to the flow's port from another server or another port of the server's.
    Stray { server: u32, server_port: u16 },
    /// The packet in fragments that end at these octets of its body, sent in this order.
    Fragments { ends: Vec<usize>, order: Vec<usize> },
    /// An ICMP error about such a packet of the other end's, as far as it fits: from the end itself or a router.
    Error { kind: (u8, u8), rest: [u8; 4], router: bool, octets: usize },
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub flow: usize,
    pub from: End,
    pub head: Head,
    pub content: Content,
    pub what: What,
    pub damage: Option<Damage>,
    /// An orderly segment of an orderly connection.
    pub orderly: bool,
}

/// A story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    pub flows: Vec<Flow>,
    pub steps: Vec<Step>,
}

/// Longest story.
const STEPS: usize = 12;

impl Story {
    /// A story by chance.
    pub fn draw(random: &mut Random) -> Self {
        let mut flows: Vec<Flow> = Vec::new();
        for _ in 0..=random.pick(&[0, 0, 0, 1, 1, 2]) {
            let flow = flow(random);
            if !flows.iter().any(|other| other.is_same(flow)) {
                flows.push(flow);
            }
        }
        let mut lives: Vec<Vec<Step>> = flows.iter().enumerate().map(|(n, flow)| life(random, n, *flow)).collect();
        let mut steps = Vec::new();
        while steps.len() < STEPS && lives.iter().any(|life| !life.is_empty()) {
            let n = random.below(lives.len());
            if !lives[n].is_empty() {
                steps.push(lives[n].remove(0));
            }
        }
        let mut story = Self { flows, steps };
        if random.chance(45) {
            story.disturb(random);
        }
        story
    }

    /// Without one step; what follows is orderly no more.
    pub fn without(&self, step: usize) -> Self {
        let mut story = self.clone();
        let gone = story.steps.remove(step);
        for later in &mut story.steps[step..] {
            later.orderly &= later.flow != gone.flow;
        }
        story
    }

    fn disturb(&mut self, random: &mut Random) {
        for _ in 0..=random.below(3) {
            let at = random.below(self.steps.len());
            let model = self.steps[at].clone();
            if model.what != What::Packet {
                continue;
            }
            let flow = self.flows[model.flow];
            let mut step =
                Step { orderly: false, damage: None, what: What::Packet, head: head(random), ..model.clone() };
            match random.below(8) {
                0 | 1 => {
                    step.from = random.pick(&[End::Inside, End::Outside]);
                    step.content = content(random, flow.proto, step.from.opposite(), model.content.len());
                    error(random, &mut step);
                }
                2 if flow.proto == Proto::Tcp => {
                    step.from = random.pick(&[End::Inside, End::Outside]);
                    step.content = rogue(random, &step.content);
                }
                3 => {
                    step.from = End::Outside;
                    step.content = content(random, flow.proto, End::Outside, 8);
                    let server = random.pick(&[flow.server, flow.server, 3]);
                    let port = if server == flow.server { flow.server_port + 1 } else { flow.server_port };
                    step.what = What::Stray { server, server_port: port };
                }
                4 => {
                    step.head.ttl = random.pick(&[1, 2, 255]);
                    step.orderly = model.orderly;
                }
                5 => {
                    step.head.options = random.pick(&[OPTIONS[0], OPTIONS[1], OPTIONS[2]]).to_vec();
                    step.orderly = model.orderly;
                }
                6 => step.damage = Some(random.pick(&[Damage::IpChecksum, Damage::Checksum, Damage::Short])),
                _ => fragment(random, &mut step),
            }
            // In place of the model, where it is the packet itself that is special, else behind it.
            if step.orderly {
                self.steps[at] = step;
            } else {
                self.steps.insert(at + 1, step);
                for later in &mut self.steps[at + 2..] {
                    later.orderly &= later.flow != model.flow;
                }
            }
        }
        self.steps.truncate(STEPS);
    }
}

impl Flow {
    /// Whether its ports are of one kind with another's.
    pub fn is_of_kind(self, other: Self) -> bool {
        matches!((self.proto, other.proto), (Proto::Query(_), Proto::Query(_))) || self.proto == other.proto
    }

    /// Whether the two have one tuple.
    fn is_same(self, other: Self) -> bool {
        let kind = |flow: Self| match flow.proto {
            Proto::Tcp | Proto::Udp => (flow.proto, flow.port, flow.server_port),
            Proto::Query(_) => (Proto::Query(0), flow.port, 0),
            Proto::Other(_) => (flow.proto, 0, 0),
        };
        kind(self) == kind(other) && (self.container, self.server) == (other.container, other.server)
    }

    /// Whether a query is of the flow's kind, and an answer from the end that was asked.
    fn is_usual(self, from: End, content: &Content) -> bool {
        let (Proto::Query(question), Content::Query { kind, .. }) = (self.proto, content) else { return true };
        let answer = if question == 8 { 0 } else { 14 };
        *kind == if from == End::Inside { question } else { answer }
    }
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Self::Tcp { len, .. } | Self::Udp { len, .. } | Self::Query { len, .. } | Self::Other { len } => *len,
        }
    }
}

/// No operation; a router alert (RFC 2113); one that nobody knows, which is to be copied.
const OPTIONS: [&[u8]; 3] = [&[1, 1, 1, 0], &[0x94, 4, 0, 0], &[0xde, 6, 1, 2, 3, 4, 1, 0]];

fn flow(random: &mut Random) -> Flow {
    let proto = match random.below(10) {
        0..=3 => Proto::Tcp,
        4..=6 => Proto::Udp,
        7 | 8 => Proto::Query(random.pick(&[8, 8, 8, 13])),
        _ => Proto::Other(random.pick(&[50, 51, 253, 254])),
    };
    Flow {
        proto,
        container: random.below(2),
        port: random.pick(&[0, 0, 1]),
        server: random.pick(&[0, 0, 1]),
        server_port: random.pick(&[53, 443, 5000]),
    }
}

/// How long payloads are. The uplink takes packets of 1400 octets, the containers' network of 1500.
fn length(random: &mut Random) -> usize {
    match random.below(10) {
        0 => 0,
        1 => 1,
        2 => random.pick(&[1352, 1360, 1361, 1400, 1440]),
        _ => random.below(300),
    }
}

fn head(random: &mut Random) -> Head {
    let tos = random.pick(&[0, 0, 0, 0x10, 0xb8]);
    Head { ttl: 64, tos, id: random.bits() as u16, dont_fragment: random.chance(60), options: Vec::new() }
}

fn life(random: &mut Random, n: usize, flow: Flow) -> Vec<Step> {
    let packets: Vec<(End, Content)> = match flow.proto {
        Proto::Tcp => connection(random),
        proto => {
            // Now and then it is the other end that begins.
            let first = if random.chance(90) { End::Inside } else { End::Outside };
            let end = |random: &mut Random, at| if at == 0 { first } else { random.pick(&[End::Inside, End::Outside]) };
            (0..=random.below(6))
                .map(|at| {
                    let from = end(random, at);
                    // The wire takes no longer ones from outside.
                    let len = length(random).min(if from == End::Inside { 1500 } else { 1352 });
                    (from, content(random, proto, from, len))
                })
                .collect()
        }
    };
    let step = |(from, content)| Step {
        flow: n,
        from,
        head: head(random),
        orderly: flow.is_usual(from, &content),
        content,
        what: What::Packet,
        damage: None,
    };
    packets.into_iter().map(step).collect()
}

fn content(random: &mut Random, proto: Proto, from: End, len: usize) -> Content {
    match proto {
        Proto::Tcp => Content::Tcp {
            flags: random.pick(&[SYN, SYN | ACK, ACK, ACK | PSH, ACK | FIN, RST, RST | ACK]),
            seq: random.bits() as u32,
            ack: random.bits() as u32,
            options: Vec::new(),
            len: len.min(100),
        },
        Proto::Udp => Content::Udp { len, sum: random.chance(85) },
        // A question from outside would be for the host, whose answer to a timestamp is the time of day.
        Proto::Query(question) => {
            let answer = if question == 8 { 0 } else { 14 };
            let (usual, strange) = match from {
                End::Inside => (question, [8, 13, 0, 14]),
                End::Outside => (answer, [0, 14, 8, 0]),
            };
            let kind = if random.chance(85) { usual } else { random.pick(&strange) };
            Content::Query { kind, seq: random.below(100) as u16, len: if kind > 8 { 12 } else { len } }
        }
        Proto::Other(_) => Content::Other { len: len.max(1) },
    }
}

/// The segments of a connection, in order.
fn connection(random: &mut Random) -> Vec<(End, Content)> {
    // By end: what it sends next.
    let mut seq = [random.bits() as u32, random.bits() as u32];
    let options = random.pick(&[&[][..], &[2, 4, 5, 0x14], &[2, 4, 5, 0x14, 4, 2, 1, 3, 3, 7, 1, 1]]).to_vec();
    let mut segments: Vec<(End, Content)> = Vec::new();
    let mut send = |from: End, flags: u8, len: usize, options: &[u8]| {
        let (me, other) = if from == End::Inside { (0, 1) } else { (1, 0) };
        let ack = if flags & ACK == 0 { 0 } else { seq[other] };
        segments.push((from, Content::Tcp { flags, seq: seq[me], ack, options: options.to_vec(), len }));
        seq[me] = seq[me].wrapping_add(len as u32 + u32::from(flags & (SYN | FIN) != 0));
    };
    let (near, far) = (End::Inside, End::Outside);
    send(near, SYN, 0, &options);
    send(far, SYN | ACK, 0, &options);
    send(near, ACK, 0, &[]);
    for _ in 0..random.below(4) {
        let (a, b) = if random.chance(50) { (near, far) } else { (far, near) };
        let len = if random.chance(20) { 1348 } else { 1 + random.below(500) };
        send(a, ACK | PSH, len, &[]);
        if random.chance(70) {
            send(b, ACK, 0, &[]);
        }
    }
    let (a, b) = if random.chance(50) { (near, far) } else { (far, near) };
    match random.below(4) {
        0 => {}
        1 => send(a, RST | ACK, 0, &[]),
        _ => {
            send(a, FIN | ACK, 0, &[]);
            send(b, ACK, 0, &[]);
            send(b, FIN | ACK, 0, &[]);
            send(a, ACK, 0, &[]);
        }
    }
    if random.chance(25) {
        let at = random.below(segments.len());
        segments.insert(at + 1, segments[at].clone());
    }
    segments
}

/// A segment that is not as it should be: anything from a keep-alive to a forgery.
fn rogue(random: &mut Random, model: &Content) -> Content {
    let mut content = model.clone();
    let Content::Tcp { flags, seq, ack, len, options } = &mut content else { return content };
    options.clear();
    match random.below(5) {
        0 => *seq = seq.wrapping_sub(1),
        1 => *seq = seq.wrapping_add(random.pick(&[1 << 17, 1 << 20, 1 << 31])),
        2 => *ack = ack.wrapping_add(random.pick(&[1 << 18, 1 << 31])),
        3 => *flags = random.pick(&[RST, RST | ACK, FIN | ACK, SYN, SYN | ACK, 0, 0xff]),
        _ => {
            (*seq, *ack) = (random.bits() as u32, random.bits() as u32);
            *flags = random.pick(&[RST, RST | ACK, ACK, SYN, FIN | ACK]);
        }
    }
    *len = (*len).min(100);
    content
}

fn error(random: &mut Random, step: &mut Step) {
    let (kind, rest) = random.pick(&[
        ((3, 0), [0; 4]),
        ((3, 1), [0; 4]),
        ((3, 3), [0; 4]),
        ((3, 4), [0, 0, 0x04, 0xb0]),
        ((3, 13), [0; 4]),
        ((4, 0), [0; 4]),
        ((5, 1), [10, 0, 0, 1]),
        ((11, 0), [0; 4]),
        ((11, 1), [0; 4]),
        ((12, 0), [20, 0, 0, 0]),
    ]);
    step.what = What::Error { kind, rest, router: random.chance(60), octets: random.pick(&[8, 8, 20, 64, 500, 4]) };
    if random.chance(20) {
        step.head.options = OPTIONS[1].to_vec();
    }
    let damages = [Damage::IpChecksum, Damage::Checksum, Damage::EmbeddedIpChecksum];
    step.damage = random.chance(15).then(|| random.pick(&damages));
}

fn fragment(random: &mut Random, step: &mut Step) {
    step.head.dont_fragment = false;
    let len = 24 + random.below(1200);
    let header = match &mut step.content {
        // Its checksum covers what comes behind.
        Content::Tcp { len: payload, options, .. } => {
            *payload = len;
            20 + options.len()
        }
        Content::Udp { len: payload, .. } | Content::Query { len: payload, .. } => {
            *payload = len;
            8
        }
        Content::Other { len: payload } => {
            *payload = len;
            0
        }
    };
    let total = header + len;
    // Whole headers in the first one.
    let mut ends: Vec<usize> = (0..=random.below(2)).map(|_| 40 + random.below(total / 8) * 8).collect();
    ends.retain(|end| *end < total);
    ends.push(total);
    ends.sort_unstable();
    ends.dedup();
    let mut order: Vec<usize> = (0..ends.len()).collect();
    if random.chance(50) {
        let (a, b) = (random.below(order.len()), random.below(order.len()));
        order.swap(a, b);
    }
    step.what = What::Fragments { ends, order };
}
