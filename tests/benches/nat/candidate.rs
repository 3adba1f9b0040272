//! What is compared.

use aya::Ebpf;
use xnat_tests::xnat::Xnat;

use crate::kernel;
use crate::rig::{BRIDGE_MAC, CONTAINER_MAC, Rig, UPLINK_MAC, WIRE_MAC};

/// A way for packets between container and wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    pub const ALL: [Self; 7] = [
        Self::Floor,
        Self::Plain,
        Self::IptablesNft,
        Self::IptablesLegacy,
        Self::Nft,
        Self::Xnat,
        Self::XnatPeer,
    ];

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

/// What does the work, where that is not the kernel by itself.
enum Work {
    Kernel,
    Floor { _programs: [Ebpf; 2] },
    Xnat(Xnat),
}

impl Setup {
    /// Sets it up for this many flows.
    pub fn new(candidate: Candidate, flows: u32) -> Self {
        let rig = Rig::new();
        let host = &rig.host;
        let work = match candidate {
            Candidate::Floor => Work::Floor {
                _programs: [
                    kernel::attach_floor(host, "port0", rig.uplink, WIRE_MAC, UPLINK_MAC),
                    kernel::attach_floor(host, "eth0", rig.port, CONTAINER_MAC, BRIDGE_MAC),
                ],
            },
            Candidate::Plain => Work::Kernel,
            Candidate::IptablesNft | Candidate::IptablesLegacy => {
                let program = if candidate == Candidate::IptablesNft { "iptables-nft" } else { "iptables-legacy" };
                host.shell(&format!("{program} -t nat -A POSTROUTING -s 192.168.110.0/24 -o eth0 -j MASQUERADE"));
                Work::Kernel
            }
            Candidate::Nft => {
                host.run(&[
                    "nft",
                    "add table ip nat; add chain ip nat postrouting { type nat hook postrouting priority srcnat; }; \
                     add rule ip nat postrouting ip saddr 192.168.110.0/24 oifname eth0 masquerade",
                ]);
                Work::Kernel
            }
            Candidate::Xnat | Candidate::XnatPeer => {
                let peer = if candidate == Candidate::XnatPeer { "--peer 172.29.0.17=192.168.220.0/24" } else { "" };
                Work::Xnat(Xnat::start(
                    host,
                    &format!(
                        "--subnet 192.168.110.0/24 --uplink eth0 {peer} --max-flows {} --udp 86400 --udp-unreplied 86400 \
                         --tcp-established 86400 --tcp-transitory 86400",
                        flows.max(64)
                    ),
                ))
            }
        };
        if matches!(candidate, Candidate::IptablesNft | Candidate::IptablesLegacy | Candidate::Nft) {
            for key in [
                "udp_timeout",
                "udp_timeout_stream",
                "tcp_timeout_syn_sent",
                "tcp_timeout_syn_recv",
                "tcp_timeout_max_retrans",
                "tcp_timeout_unacknowledged",
            ] {
                host.set_sysctl(&format!("net/netfilter/nf_conntrack_{key}"), "86400");
            }
        }
        Self { candidate, work, rig }
    }

    /// Forgets all flows.
    pub fn flush(&self) {
        match &self.work {
            Work::Xnat(xnat) => drop(xnat.run("conntrack flush")),
            Work::Kernel if self.candidate.translates() => drop(self.rig.host.run(&["conntrack", "-F"])),
            Work::Kernel | Work::Floor { .. } => {}
        }
    }
}
