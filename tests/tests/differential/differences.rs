//! Where the two sides are meant to differ, each with the reason. Whatever is not here is a fault.

use xnat_tests::packet::{ACK, Checksum, FIN, RST, SYN};
use xnat_tests::topology::NODE1;

use crate::side::{Place, container};
use crate::stage::Seen;
use crate::story::{Content, Damage, End, Flow, Proto, Step, Story, What};

/// A step that had two outcomes.
pub struct Case<'a> {
    pub story: &'a Story,
    pub at: usize,
    /// Whether xnat leaves forwarding to the kernel (`--kernel-path`).
    pub on_the_kernels_path: bool,
    /// Which of the steps before have sent something out, by the kernel.
    pub left: &'a [bool],
    pub kernel: &'a [Seen],
    pub xnat: &'a [Seen],
}

/// A way in which they may differ.
pub struct Difference {
    /// Its name in the report.
    pub name: &'static str,
    /// Why xnat does otherwise.
    pub reason: &'static str,
    /// Whether this is it.
    pub explains: fn(&Case) -> bool,
}

impl Case<'_> {
    pub fn step(&self) -> &Step {
        &self.story.steps[self.at]
    }

    pub fn flow(&self) -> Flow {
        self.story.flows[self.step().flow]
    }
}

impl Case<'_> {
    /// Whether the kernel's tracker calls the packet invalid, as far as can be seen: from inside it leaves as it is, from outside
    /// it is for the host, which knows nothing of it.
    fn kernel_refuses(&self) -> bool {
        match self.step().from {
            End::Inside => !self.kernel.is_empty() && self.kernel.iter().all(Self::is_untranslated),
            End::Outside => !self.kernel.iter().any(|seen| seen.place != Place::Far),
        }
    }

    /// Whether a packet has left with an address of the containers' network.
    fn is_untranslated(seen: &Seen) -> bool {
        seen.place == Place::Far && seen.packet.src.octets()[..3] == container(0).octets()[..3]
    }

    /// Whether xnat has translated the packet, the whole of it, and nothing else has come of it.
    fn xnat_translates(&self) -> bool {
        let [seen] = self.xnat else { return false };
        match self.step().from {
            End::Inside => seen.place == Place::Far && seen.packet.src == NODE1,
            End::Outside => {
                let container = self.flow().container;
                seen.place == Place::Container(container) && seen.packet.dst == crate::side::container(container)
            }
        }
    }

    fn xnat_drops(&self) -> bool {
        self.xnat.is_empty()
    }

    /// Whether the kernel has sent a packet of the flow out, translated.
    pub fn leaves(&self) -> bool {
        let out = |seen: &Seen| seen.place == Place::Far && seen.packet.src == NODE1;
        self.step().from == End::Inside && !self.is_error() && self.kernel.iter().any(out)
    }

    /// Whether an earlier step is such a one.
    fn earlier(&self, wanted: impl Fn(Flow, &Step) -> bool) -> bool {
        self.story.steps[..self.at].iter().any(|step| wanted(self.story.flows[step.flow], step))
    }

    /// Whether such a packet has been sent out before, translated.
    fn has_left(&self, wanted: impl Fn(Flow, &Step) -> bool) -> bool {
        let mut earlier = self.story.steps.iter().zip(self.left);
        earlier.any(|(step, left)| *left && wanted(self.story.flows[step.flow], step))
    }

    /// Whether the question has been asked that a packet from outside is the answer to.
    fn is_asked(&self) -> bool {
        let kind = |step: &Step| if let Content::Query { kind, .. } = step.content { kind } else { 0 };
        let question = match kind(self.step()) {
            0 => 8,
            14 => 13,
            kind => kind,
        };
        self.has_left(|flow, step| flow == self.flow() && kind(step) == question)
    }

    /// Whether a SYN of the flow has left before.
    fn is_opened(&self) -> bool {
        let opens = |step: &Step| match step.content {
            Content::Tcp { flags, .. } => flags & (SYN | ACK | RST | FIN) == SYN,
            _ => true,
        };
        self.has_left(|flow, step| flow == self.flow() && opens(step))
    }

    /// Whether it comes from exactly where the flow has sent to.
    fn is_answer(&self) -> bool {
        !matches!(self.step().what, What::Stray { .. }) && self.has_left(|flow, _| flow == self.flow())
    }

    fn is_error(&self) -> bool {
        matches!(self.step().what, What::Error { .. })
    }

    fn is_tcp(&self) -> bool {
        self.flow().proto == Proto::Tcp && !self.is_error()
    }
}

/// All of them.
pub const ALL: &[Difference] = &[
    Difference {
        name: "identification",
        reason: "two containers that fragment to one place must not be mixed up: what may be fragmented gets another \
                 identification on its way out (RFC 7857 §10, RFC 6864 §5.3.1)",
        explains: |case| {
            let without = |seen: &[Seen]| -> Vec<Seen> {
                let blank = |seen: &Seen| {
                    let mut seen = seen.clone();
                    let may_change = seen.place == Place::Far && !seen.packet.dont_fragment;
                    seen.packet.id = if may_change { 0 } else { seen.packet.id };
                    seen
                };
                seen.iter().map(blank).collect()
            };
            case.step().from == End::Inside && without(case.kernel) == without(case.xnat)
        },
    },
    Difference {
        name: "early fragments on the kernel's path",
        reason: "at the uplink's egress hook nothing can be kept until the first fragment comes; without --kernel-path it is \
                 kept at the containers' side",
        explains: |case| {
            let What::Fragments { order, .. } = &case.step().what else { return false };
            let is_part =
                |seen: &Seen| seen.place == Place::Far && seen.packet.src == NODE1 && seen.packet.is_fragment();
            case.on_the_kernels_path
                && case.step().from == End::Inside
                && !order.is_sorted()
                && case.xnat.iter().all(is_part)
        },
    },
    Difference {
        name: "damaged IP header in an error",
        reason: "the kernel does not verify the checksum of an embedded header; xnat does, and drops the error (RFC 5508 REQ-3a)",
        explains: |case| {
            case.step().damage == Some(Damage::EmbeddedIpChecksum) && !case.kernel_refuses() && case.xnat_drops()
        },
    },
    Difference {
        name: "damaged IP header",
        reason: "the fast path does not verify the header's checksum of a flow's packet; it keeps the damage, and whoever \
                 gets the packet drops it",
        explains: |case| {
            let is_damaged = |seen: &Seen| seen.packet.ip_checksum == Checksum::Wrong;
            case.step().damage == Some(Damage::IpChecksum) && case.kernel.is_empty() && case.xnat.iter().all(is_damaged)
        },
    },
    Difference {
        name: "nothing leaves untranslated",
        reason: "the kernel forwards what its tracker calls invalid with the container's address; xnat's last gate drops it",
        explains: |case| {
            !case.step().orderly && case.step().from == End::Inside && case.kernel_refuses() && case.xnat_drops()
        },
    },
    Difference {
        name: "implausible segment",
        reason: "the kernel does not translate a segment that does not fit its state or window; xnat translates it, without \
                 effect on the flow, and leaves it to the other end to judge",
        explains: |case| case.is_tcp() && !case.step().orderly && case.kernel_refuses() && case.xnat_translates(),
    },
    Difference {
        name: "answer of another kind",
        reason: "the kernel tells questions of different ICMP types apart, xnat only their identifiers",
        explains: |case| {
            matches!(case.flow().proto, Proto::Query(_))
                && !case.is_asked()
                && case.xnat.iter().all(|seen| seen.place != Place::Far || seen.packet.src == NODE1)
        },
    },
    Difference {
        name: "refusal",
        reason: "what the kernel has no free tuple for it drops in silence; xnat tells the container (RFC 5508 REQ-8)",
        explains: |case| {
            let told = |seen: &Seen| {
                seen.place == Place::Container(case.flow().container)
                    && (seen.packet.icmp_type, seen.packet.icmp_code) == (3, 13)
                    && seen.embedded.is_some()
            };
            case.step().from == End::Inside && case.kernel.is_empty() && case.xnat.iter().all(told)
        },
    },
    Difference {
        name: "filtering",
        reason: "the kernel filters by address and port, and the host answers what does not match; xnat filters by address, and \
                 drops without an answer what a mapping does not let in (RFC 4787 REQ-8, RFC 5382 REQ-4)",
        explains: |case| {
            // Whoever has a port of this number; which of two has it on the wire is not told here.
            let same = |flow: Flow| flow.is_of_kind(case.flow()) && flow.port == case.flow().port;
            let owner = |container| case.has_left(|flow, _| same(flow) && flow.container == container);
            let to_owner = |seen: &Seen| matches!(seen.place, Place::Container(container) if owner(container));
            let mapped = case.has_left(|flow, _| same(flow));
            // What is let in may be too old to get there.
            let is_late =
                |seen: &Seen| seen.place == Place::Far && (seen.packet.icmp_type, seen.packet.icmp_code) == (11, 0);
            let expired = case.step().head.ttl == 1 && case.xnat.iter().all(is_late);
            case.step().from == End::Outside
                && !case.is_answer()
                && mapped
                && case.kernel_refuses()
                && (case.xnat.iter().all(to_owner) || expired)
        },
    },
    Difference {
        name: "protocol without ports",
        reason: "an unsolicited packet to the host blocks a container's flow with the same server in the kernel's table, \
                 xnat gives it to the container",
        explains: |case| {
            let same = |flow: Flow| (flow.proto, flow.server) == (case.flow().proto, case.flow().server);
            let unsolicited = case.earlier(|flow, step| same(flow) && step.from == End::Outside);
            let blocked = case.kernel.is_empty() || case.kernel_refuses();
            // Whoever has opened it.
            let opener = |container| {
                case.earlier(|flow, step| same(flow) && step.from == End::Inside && flow.container == container)
            };
            let to_opener = |seen: &Seen| matches!(seen.place, Place::Container(container) if opener(container));
            matches!(case.flow().proto, Proto::Other(_))
                && unsolicited
                && blocked
                && (case.xnat_translates() || case.xnat.iter().all(to_opener))
        },
    },
    Difference {
        name: "damaged checksum",
        reason: "the kernel does not translate a packet with a wrong transport checksum; xnat translates a flow's, still \
                 wrong, so that whoever gets it drops it, and opens nothing for it",
        explains: |case| {
            let wrong = || case.xnat.iter().all(|seen| seen.packet.l4_checksum == Checksum::Wrong);
            case.step().damage == Some(Damage::Checksum)
                && !case.is_error()
                && (case.kernel_refuses() || case.kernel.is_empty())
                && (case.xnat_drops() || case.xnat_translates() && wrong())
        },
    },
    Difference {
        name: "error with less than eight octets",
        reason: "the kernel does not look at errors that carry less of the packet than RFC 792 says; xnat translates what there is",
        explains: |case| {
            matches!(case.step().what, What::Error { octets: 0..8, .. })
                && (case.kernel_refuses() || case.kernel.is_empty())
                && case.xnat_translates()
        },
    },
    Difference {
        name: "middle of a connection",
        reason: "the kernel picks up connections in their middle (nf_conntrack_tcp_loose); xnat does so only toward peers, \
                 which can confirm them",
        explains: |case| {
            let by_host = |seen: &Seen| seen.place == Place::Far && seen.packet.flags & RST != 0;
            case.flow().proto == Proto::Tcp
                && !case.is_opened()
                && !case.kernel_refuses()
                && match case.step().from {
                    End::Inside => case.xnat_drops(),
                    End::Outside => case.xnat.iter().all(by_host),
                }
        },
    },
];
