//! Two routers that lead to the same place: who gets a datagram tells which way it took.

use std::net::Ipv4Addr;
use std::time::Duration;

use xnat_tests::host::Host;
use xnat_tests::netns::Namespace;
use xnat_tests::topology::{ANYWHERE, Reference};
use xnat_tests::udp;
use xnat_tests::wait::{self, SOON};
use xnat_tests::xnat::{self, Xnat};

use super::{A_SECOND_AND_MORE, AT_ONCE, Datagrams, PORT, RUN, Talk, keep_on};

/// The other router's address.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(172, 29, 0, 101);

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    /// node1's default router, where flows begin.
    First,
    Other,
}

/// Another router, which leads to these addresses as well.
pub fn other_router(reference: &Reference, addresses: &[Ipv4Addr]) -> Host {
    let other = Host::new(&reference.lan, "other", &format!("{OTHER}/24"));
    for address in addresses {
        other.ns().ip(&format!("address replace {address}/32 dev lo"));
    }
    other
}

/// Sends a datagram of a flow and tells who got it, which may take some time after its echo should have come. `other` is the
/// other router's server, the flow's own the first one's.
pub fn taken(flow: &mut Datagrams, other: &udp::Server, patience: Duration) -> Option<Router> {
    flow.is_echoed();
    wait::within(patience, || {
        let first = flow.has_reached(&flow.server).then_some(Router::First);
        first.or_else(|| flow.has_reached(other).then_some(Router::Other))
    })
}

/// A flow of n1's to `ANYWHERE`, which both lead to.
pub struct Fork {
    pub talk: Talk,
    pub other: Host,
    there: udp::Server,
    pub reference: Reference,
    _xnat: (Xnat, Xnat),
}

impl Fork {
    /// With what `prepare` does on node1 beforehand.
    #[track_caller]
    pub fn begin(prepare: impl Fn(&Namespace)) -> Self {
        let reference = Reference::new();
        prepare(reference.node1.host.ns());
        let xnat = xnat::start_both(&reference);
        let other = other_router(&reference, &[ANYWHERE]);
        let there = udp::Server::echo_at(other.ns(), (ANYWHERE, PORT));
        let talk = Talk::begin(reference.n1().ns(), reference.outside.ns(), ANYWHERE);
        Self { talk, other, there, reference, _xnat: xnat }
    }

    /// node1.
    pub fn host(&self) -> &Namespace {
        self.reference.node1.host.ns()
    }

    /// The other router's server.
    pub fn there(&self) -> &udp::Server {
        &self.there
    }

    /// Sends the next datagram and tells who got it.
    pub fn taken(&mut self, patience: Duration) -> Option<Router> {
        taken(&mut self.talk.udp, &self.there, patience)
    }

    /// Awaits that datagrams go by this router, and none by the other one from then on.
    #[track_caller]
    pub fn expect_by(&mut self, router: Router) {
        self.expect_always(&format!("datagrams go by {router:?}"), |fork, patience| {
            fork.taken(patience) == Some(router)
        });
    }

    /// Awaits a run of what `is_right` sends, at once. From then on it has to be right always, as what goes by the kernel's
    /// own neighbour is.
    #[track_caller]
    pub fn expect_always(&mut self, what: &str, is_right: impl Fn(&mut Self, Duration) -> bool) {
        wait::until_true(what, AT_ONCE, || (0..RUN).all(|_| is_right(self, Duration::ZERO)));
        keep_on(A_SECOND_AND_MORE, || assert!(is_right(self, SOON), "{what}: not all of them"));
    }
}
