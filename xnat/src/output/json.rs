//! JSON: one object a flow, or one document.

use std::io::{self, Write};

use serde::Serialize;
use xnat_common::flow::{Direction, Flow, Kind, State};
use xnat_common::packet::proto;
use xnat_common::{Addr, Tuple};

use super::line::Line;
use super::{Expiry, identifier, state_name};
use crate::filter::Protocol;

/// Writes one document.
pub(crate) fn document(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Appends the flow. Nothing in it needs escaping.
pub(crate) fn flow(line: &mut Line, flow: &Flow, expiry: &Expiry) {
    line.text(r#"{"proto":""#);
    match Protocol(flow.proto).name() {
        Some(name) => line.text(name),
        None => line.number(flow.proto.into()),
    };
    line.text(r#"","state":""#).text(state_name(flow));
    line.text(r#"","kind":""#).text(Kind::from_u8(flow.kind).map_or("unknown", Kind::name));
    if flow.peer != Addr::UNSPECIFIED {
        line.text(r#"","peer":""#).address(flow.peer);
    }
    line.text(r#"","timeout":"#).number(expiry.seconds(flow));
    let confirmed = State(flow.state).has(State::CONFIRMED);
    line.text(r#","confirmed":"#).text(if confirmed { "true" } else { "false" });
    line.text(r#","original":"#);
    direction(line, flow, &flow.original, Direction::Original);
    line.text(r#","reply":"#);
    direction(line, flow, &flow.reply, Direction::Reply);
    line.text("}");
}

fn direction(line: &mut Line, flow: &Flow, tuple: &Tuple, direction: Direction) {
    line.text(r#"{"src":""#).address(tuple.src).text(r#"","dst":""#).address(tuple.dst).text("\"");
    if Protocol(flow.proto).has_ports() {
        line.text(r#","sport":"#).port(tuple.sport).text(r#","dport":"#).port(tuple.dport);
    } else if flow.proto == proto::ICMP {
        line.text(r#","id":"#).number(identifier(tuple).into());
    }
    line.text(r#","packets":"#).number(flow.packets(direction));
    line.text(r#","bytes":"#).number(flow.bytes(direction)).text("}");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use xnat_common::Ticks;
    use xnat_common::config::Config;

    use super::*;
    use crate::output::sample;

    fn print(it: &Flow) -> Value {
        let mut line = Line::default();
        flow(&mut line, it, &Expiry::new(&Config::default(), Ticks::from_secs(10)));
        serde_json::from_str(&line.take()).unwrap()
    }

    #[test]
    fn objects_have_the_documented_fields() {
        assert_eq!(
            print(&sample::tcp()),
            json!({
                "proto": "tcp", "state": "ESTABLISHED", "kind": "peer", "peer": "172.29.0.17", "timeout": 7429,
                "confirmed": true,
                "original": {"src": "192.168.110.11", "dst": "192.168.220.11", "sport": 40000, "dport": 80,
                             "packets": 5, "bytes": 400},
                "reply": {"src": "172.29.0.17", "dst": "172.29.0.4", "sport": 80, "dport": 40000,
                          "packets": 4, "bytes": 300},
            })
        );
        assert_eq!(print(&sample::udp()).get("peer"), None);
        assert_eq!(print(&sample::udp())["state"], "UNREPLIED");
        let icmp = print(&sample::icmp());
        assert_eq!((&icmp["original"]["id"], &icmp["reply"]["id"]), (&json!(77), &json!(77)));
        assert_eq!(icmp["original"].get("sport"), None);
        assert_eq!(print(&sample::other())["proto"], "50");
    }
    #[test]
    fn what_comes_in_has_its_kind_and_no_peer() {
        for (it, kind) in [
            (sample::from_outside(Kind::Forward), "forward"),
            (sample::from_outside(Kind::Mapped), "mapped"),
            (sample::hairpin(), "hairpin"),
        ] {
            let printed = print(&it);
            assert_eq!((&printed["kind"], printed.get("peer")), (&json!(kind), None));
            assert_eq!((&printed["original"]["dport"], &printed["reply"]["sport"]), (&json!(8080), &json!(80)));
        }
    }
}
