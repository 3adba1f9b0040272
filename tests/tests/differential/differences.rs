//! Where the two sides are meant to differ, each with the reason. Whatever is not here is a fault.

use xnat_tests::packet::Checksum;
use xnat_tests::topology::NODE1;

use crate::side::{Place, container};
use crate::stage::Seen;
use crate::story::{Damage, End, Flow, Proto, Step, Story, What};

/// A step that had two outcomes.
pub struct Case<'a> {
    pub story: &'a Story,
    pub at: usize,
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
            End::Inside => !self.kernel.is_empty() && self.kernel.iter().all(|seen| self.is_untranslated(seen)),
            End::Outside => !self.kernel.iter().any(|seen| seen.place != Place::Far),
        }
    }

    /// Whether a packet has left with the container's own address.
    fn is_untranslated(&self, seen: &Seen) -> bool {
        seen.place == Place::Far && seen.packet.src == container(self.flow().container)
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

    fn is_tcp(&self) -> bool {
        self.flow().proto == Proto::Tcp && !matches!(self.step().what, What::Error { .. })
    }
}

/// All of them.
pub const ALL: &[Difference] = &[
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
        explains: |case| {
            case.is_tcp() && !case.step().orderly && case.kernel_refuses() && case.xnat_translates()
        },
    },
    Difference {
        name: "middle of a connection",
        reason: "the kernel picks up connections in their middle (nf_conntrack_tcp_loose); xnat does so only toward peers, \
                 which can confirm them",
        explains: |case| {
            let left = |seen: &Seen| seen.place == Place::Far && seen.packet.src == NODE1;
            case.is_tcp()
                && !case.step().orderly
                && case.step().from == End::Inside
                && case.kernel.iter().all(left)
                && case.xnat_drops()
        },
    },
];
