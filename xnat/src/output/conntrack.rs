//! The line format of conntrack-tools, as `conntrack -L` prints it.

use xnat_common::Tuple;
use xnat_common::flow::{Direction, Flow, State};
use xnat_common::packet::proto;

use super::line::Line;
use super::{Expiry, identifier};

const GRE: u8 = 47;

/// Appends the flow.
pub(crate) fn flow(line: &mut Line, flow: &Flow, expiry: &Expiry) {
    let state = State(flow.state);
    // conntrack's "%-8s %u %u ".
    line.text(protocol_name(flow.proto)).pad_to(8).text(" ").number(flow.proto.into());
    line.text(" ").number(expiry.seconds(flow)).text(" ");
    if flow.proto == proto::TCP {
        line.text(state.tcp().name()).text(" ");
    }
    direction(line, flow, Direction::Original);
    if !state.replied() {
        line.text("[UNREPLIED] ");
    }
    direction(line, flow, Direction::Reply);
    // The kernel has no assured pings, whatever it has seen of them.
    if state.has(State::ASSURED) && flow.proto != proto::ICMP {
        line.text("[ASSURED] ");
    }
    line.text("mark=0 use=1");
}

const fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        proto::TCP => "tcp",
        proto::UDP => "udp",
        proto::ICMP => "icmp",
        proto::SCTP => "sctp",
        GRE => "gre",
        _ => "unknown",
    }
}

fn direction(line: &mut Line, flow: &Flow, direction: Direction) {
    let tuple = match direction {
        Direction::Original => &flow.original,
        Direction::Reply => &flow.reply,
    };
    line.text("src=").address(tuple.src).text(" dst=").address(tuple.dst).text(" ");
    layer_4(line, flow.proto, tuple, direction);
    line.text("packets=").number(flow.packets(direction)).text(" bytes=").number(flow.bytes(direction)).text(" ");
}

fn layer_4(line: &mut Line, protocol: u8, tuple: &Tuple, direction: Direction) {
    match protocol {
        proto::TCP | proto::UDP | proto::SCTP => {
            line.text("sport=").port(tuple.sport).text(" dport=").port(tuple.dport).text(" ");
        }
        proto::ICMP => {
            let kind = match direction {
                Direction::Original => "type=8 code=0 id=",
                Direction::Reply => "type=0 code=0 id=",
            };
            line.text(kind).number(identifier(tuple).into()).text(" ");
        }
        // The kernel tracks calls only with its PPTP helper, and prints these keys for every other GRE flow.
        GRE => {
            line.text("srckey=0x0 dstkey=0x0 ");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use xnat_common::Ticks;
    use xnat_common::config::Config;

    use xnat_common::flow::Kind;

    use super::*;
    use crate::output::sample;

    fn print(it: &Flow) -> String {
        let mut line = Line::default();
        flow(&mut line, it, &Expiry::new(&Config::default(), Ticks::from_secs(10)));
        line.take()
    }

    /// The spacing was taken from conntrack 1.4.7 on Linux 6.18.
    #[test]
    fn lines_are_those_of_conntrack_tools() {
        assert_eq!(
            print(&sample::tcp()),
            "tcp      6 7429 ESTABLISHED src=192.168.110.11 dst=192.168.220.11 sport=40000 dport=80 packets=5 \
             bytes=400 src=172.29.0.17 dst=172.29.0.4 sport=80 dport=40000 packets=4 bytes=300 [ASSURED] mark=0 use=1"
        );
        assert_eq!(
            print(&sample::udp()),
            "udp      17 109 src=192.168.110.11 dst=9.9.9.9 sport=5000 dport=53 packets=1 bytes=60 [UNREPLIED] \
             src=9.9.9.9 dst=172.29.0.4 sport=53 dport=5000 packets=0 bytes=0 mark=0 use=1"
        );
        assert_eq!(
            print(&sample::icmp()),
            "icmp     1 49 src=172.29.0.17 dst=172.29.0.4 type=8 code=0 id=77 packets=1 bytes=84 \
             src=192.168.110.11 dst=172.29.0.17 type=0 code=0 id=77 packets=1 bytes=84 mark=0 use=1"
        );
        assert_eq!(
            print(&sample::other()),
            "unknown  50 589 src=192.168.110.11 dst=9.9.9.9 packets=1 bytes=20 [UNREPLIED] \
             src=9.9.9.9 dst=172.29.0.4 packets=0 bytes=0 mark=0 use=1"
        );
    }
    #[test]
    fn what_comes_in_looks_as_the_kernels_own_does() {
        assert_eq!(
            print(&sample::from_outside(Kind::Forward)),
            "tcp      6 7429 ESTABLISHED src=9.9.9.9 dst=172.29.0.4 sport=5000 dport=8080 packets=0 bytes=0 \
             src=192.168.110.11 dst=9.9.9.9 sport=80 dport=5000 packets=0 bytes=0 [ASSURED] mark=0 use=1"
        );
        assert_eq!(
            print(&sample::hairpin()),
            "tcp      6 7429 ESTABLISHED src=192.168.110.12 dst=172.29.0.4 sport=5000 dport=8080 packets=0 bytes=0 \
             src=192.168.110.11 dst=172.29.0.4 sport=80 dport=5000 packets=0 bytes=0 [ASSURED] mark=0 use=1"
        );
    }
}
