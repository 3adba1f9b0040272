//! What is compared.

use aya::Ebpf;
use nix::sys::signal::Signal;
use xnat_tests::xnat::Xnat;

use crate::kernel;
use crate::rig::{BRIDGE_MAC, CONTAINER_MAC, PEER, Rig, UPLINK_MAC, WIRE_MAC};
use crate::traffic::PORT_BITS;

/// A way for packets between container and wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Candidate {
    /// A bare redirect with known hardware addresses.
    Floor,
    /// The kernel's bridge and routing.
    Plain,
    /// The same, with a masquerading rule.
    IptablesNft,
    /// By the older iptables.
    IptablesLegacy,
    /// By nft.
    Nft,
    /// xnat toward anybody.
    Xnat,
    /// xnat toward a peer's containers.
    XnatPeer,
}

impl Candidate {
    /// All, in the order of the tables.
    pub const ALL: [Self; 7] =
        [Self::Floor, Self::Plain, Self::IptablesNft, Self::IptablesLegacy, Self::Nft, Self::Xnat, Self::XnatPeer];

    /// As `--only` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Plain => "plain",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Nft => "nft",
            Self::Xnat => "xnat",
            Self::XnatPeer => "xnat-peer",
        }
    }

    /// In tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Floor => "bare redirect (the floor)",
            Self::Plain => "plain routing",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Nft => "nft",
            Self::Xnat => "xnat",
            Self::XnatPeer => "xnat to a peer",
        }
    }

    /// Whether it changes addresses.
    pub const fn translates(self) -> bool {
        !matches!(self, Self::Floor | Self::Plain)
    }
}

/// A rig with the candidate at work in it.
pub struct Setup {
    pub candidate: Candidate,
    /// Before the rig, so that it ends first.
    work: Work,
    pub rig: Rig,
}

/// What does the work.
enum Work {
    /// Nothing but the kernel, without a table.
    Kernel,
    /// The kernel's NAT.
    Netfilter,
    Floor {
        _programs: [Ebpf; 2],
    },
    Xnat(Box<Xnat>),
}

/// How a candidate is set up.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Room for this many flows.
    pub flows: u32,
    /// The first of the 2^15 ports that there are, where there are not all.
    pub pool: Option<u16>,
    /// Seconds after which xnat ends an idle UDP flow.
    pub idle: u32,
}

impl Terms {
    /// Room for as many flows, which stay.
    pub const fn of(flows: u32) -> Self {
        // A day: so that no flow ends while others are measured.
        Self { flows, pool: None, idle: 86_400 }
    }
}

impl Setup {
    /// Sets it up.
    pub fn new(candidate: Candidate, terms: Terms) -> Self {
        let rig = Rig::new();
        let work = match candidate {
            Candidate::Floor => floor(&rig),
            Candidate::Plain => Work::Kernel,
            Candidate::IptablesNft => iptables("iptables-nft", &rig, terms),
            Candidate::IptablesLegacy => iptables("iptables-legacy", &rig, terms),
            Candidate::Nft => nft(&rig, terms),
            Candidate::Xnat => Work::Xnat(Box::new(Xnat::start(&rig.host, &xnat_words(terms)))),
            Candidate::XnatPeer => {
                let words = format!("{} --peer {PEER}=192.168.220.0/24", xnat_words(terms));
                Work::Xnat(Box::new(Xnat::start(&rig.host, &words)))
            }
        };
        Self { candidate, work, rig }
    }

    /// Forgets all flows.
    pub fn flush(&mut self) {
        match &mut self.work {
            Work::Xnat(xnat) => {
                // An orderly end takes the table away.
                xnat.stop(Signal::SIGTERM).expect_success();
                xnat.restart();
            }
            Work::Netfilter => drop(self.rig.host.run(&["conntrack", "-F"])),
            Work::Kernel | Work::Floor { .. } => {}
        }
    }

    /// What was counted here, for messages about what went wrong.
    pub fn counters(&self) -> String {
        let counters: Vec<String> = match &self.work {
            Work::Xnat(xnat) => {
                let counters = xnat.status().counters.into_iter().filter(|(_, count)| *count > 0);
                counters.map(|(name, count)| format!("{name} {count}")).collect()
            }
            Work::Netfilter => {
                let lines = self.rig.host.run(&["conntrack", "-S"]);
                let words = lines.split_whitespace().filter(|word| !word.ends_with("=0") && !word.starts_with("cpu="));
                words.map(str::to_owned).collect()
            }
            Work::Kernel | Work::Floor { .. } => return String::new(),
        };
        format!(" ({})", counters.join(", "))
    }

    /// The instance of xnat.
    pub fn xnat(&self) -> &Xnat {
        match &self.work {
            Work::Xnat(xnat) => xnat,
            _ => panic!("{} is not xnat", self.candidate.name()),
        }
    }
}

fn floor(rig: &Rig) -> Work {
    let outward = kernel::attach_floor(&rig.host, "port0", rig.uplink, WIRE_MAC, UPLINK_MAC);
    let inward = kernel::attach_floor(&rig.host, "eth0", rig.port, CONTAINER_MAC, BRIDGE_MAC);
    Work::Floor { _programs: [outward, inward] }
}

fn iptables(program: &str, rig: &Rig, terms: Terms) -> Work {
    let rule = format!("{program} -t nat -A POSTROUTING -s 192.168.110.0/24 -o eth0");
    match terms.pool {
        Some(first) => rig.host.shell(&format!("{rule} -p udp -j MASQUERADE --to-ports {}", ports(first))),
        None => rig.host.shell(&format!("{rule} -j MASQUERADE")),
    };
    keep_flows(rig);
    Work::Netfilter
}

fn nft(rig: &Rig, terms: Terms) -> Work {
    let masquerade = match terms.pool {
        Some(first) => format!("meta l4proto udp masquerade to :{}", ports(first)),
        None => "masquerade".to_owned(),
    };
    rig.host.run(&[
        "nft",
        &format!(
            "add table ip nat; \
             add chain ip nat postrouting {{ type nat hook postrouting priority srcnat; }}; \
             add rule ip nat postrouting ip saddr 192.168.110.0/24 oifname eth0 {masquerade}"
        ),
    ]);
    keep_flows(rig);
    Work::Netfilter
}

/// Idle times so long that no flow ends while others are measured.
fn keep_flows(rig: &Rig) {
    for key in [
        "udp_timeout",
        "udp_timeout_stream",
        "tcp_timeout_syn_sent",
        "tcp_timeout_syn_recv",
        "tcp_timeout_max_retrans",
        "tcp_timeout_unacknowledged",
    ] {
        rig.host.set_sysctl(&format!("net/netfilter/nf_conntrack_{key}"), "86400");
    }
}

fn xnat_words(Terms { flows, pool, idle }: Terms) -> String {
    let ports = pool.map(|first| format!("--ports {}", ports(first))).unwrap_or_default();
    format!(
        "--subnet 192.168.110.0/24 --uplink eth0 --max-flows {} {ports} --udp {idle} --udp-unreplied {idle} \
         --tcp-established 86400 --tcp-transitory 86400",
        flows.max(64)
    )
}

fn ports(first: u16) -> String {
    format!("{first}-{}", u32::from(first) + (1 << PORT_BITS) - 1)
}
