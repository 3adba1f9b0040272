//! The status for a person.

use std::io::{self, Write};

use xnat_common::config::Config;
use xnat_common::counter::{Class, Counter};

use crate::port_range::PortRange;
use crate::say::{self, BAD, GOOD, HEADING};
use crate::status::{self, Flows, Peer, Status};

/// Prints the status.
pub(crate) fn print(out: &mut impl Write, status: &Status) -> io::Result<()> {
    print_head(out, status)?;
    for inside in &status.insides {
        let ports =
            if inside.ports.is_empty() { String::new() } else { format!(", ports {}", say::list(&inside.ports)) };
        writeln!(out, "inside    {} holds {}{ports}", inside.name, say::list(&inside.subnets))?;
    }
    writeln!(out, "flows     {}", flows(status.flows))?;
    print_behaviour(out, status)?;
    print_inbound(out, status)?;
    print_peers(out, status)?;
    print_hooks(out, status)?;
    let drops = [Class::Drop];
    print_counters(out, status, "Dropped packets", &drops)?;
    print_counters(out, status, "Events and slower ways", &[Class::Event, Class::Fallback])
}

fn print_head(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let instance = &status.instance;
    match (status.running, status.pid) {
        (true, Some(pid)) => writeln!(out, "instance  {instance}, {GOOD}running{GOOD:#} as process {pid}")?,
        (true, None) => writeln!(out, "instance  {instance}, {GOOD}running{GOOD:#}")?,
        (false, _) => {
            writeln!(out, "instance  {instance}, {BAD}no daemon runs{BAD:#}; the dataplane goes on as it was left")?;
        }
    }
    let uplink = &status.uplink;
    writeln!(out, "uplink    {} with {}, MTU {}", uplink.name, uplink.address, uplink.mtu)
}

fn flows(flows: Flows) -> String {
    let Flows { used, max } = flows;
    let percent = used * 100 / max.max(1);
    format!("{used} used, {} free ({percent} % of {max})", max.saturating_sub(used))
}

/// What is not as it is by default.
fn print_behaviour(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let usual = Config::default();
    for (name, kinds, usual) in [
        ("mapping", &status.mapping, status::kinds(&usual, Config::mapping)),
        ("filtering", &status.filtering, status::kinds(&usual, Config::filtering)),
    ] {
        if *kinds != usual {
            writeln!(out, "{name:<9} {}", say::list(kinds.iter().map(|(class, kind)| format!("{class} {kind}"))))?;
        }
    }
    let quota = status.max_ports_per_container.map(|ports| format!("at most {ports} a container"));
    let range = Some(status.ports).filter(|&ports| ports != PortRange::ALL).map(|ports| ports.to_string());
    let ports: Vec<String> = range.into_iter().chain(quota).collect();
    if ports.is_empty() { Ok(()) } else { writeln!(out, "ports     {}", say::list(ports)) }
}

fn print_inbound(out: &mut impl Write, status: &Status) -> io::Result<()> {
    if status.forwarded_ports > 0 {
        writeln!(out, "forwards  {}; xnat forward list shows them", say::count(status.forwarded_ports, "port"))?;
    }
    match status.default_inbound {
        Some(address) => writeln!(out, "inbound   what nothing else claims goes to {address}"),
        None => Ok(()),
    }
}

fn print_peers(out: &mut impl Write, status: &Status) -> io::Result<()> {
    if status.peers.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{HEADING}Peers{HEADING:#}")?;
    for peer in &status.peers {
        let owns = if peer.subnets.is_empty() { "no subnet known".to_owned() } else { say::list(&peer.subnets) };
        let origin = if peer.stated { " (stated)" } else { "" };
        write!(out, "  {:<15}  {owns}{origin}, ", peer.address.to_string())?;
        print_liveness(out, status, peer)?;
        if peer.stated && peer.speaks_xnat && !same(peer) {
            writeln!(out, "  {:<15}  announces {}, which is not used", "", say::list(&peer.announced))?;
        }
        for refusal in &peer.refused {
            writeln!(out, "  {:<15}  {BAD}refused{BAD:#} {}: {}", "", refusal.subnet, refusal.reason)?;
        }
    }
    if let Some(link) = status.peer_link.as_ref().filter(|link| link.strangers > 0) {
        writeln!(out, "  {} ignored that came from no peer's daemon", say::count(link.strangers as usize, "message"))?;
    }
    Ok(())
}

fn print_liveness(out: &mut impl Write, status: &Status, peer: &Peer) -> io::Result<()> {
    let speaks = if peer.speaks_xnat { "speaks xnat" } else { "does not speak xnat" };
    match (peer.alive, peer.last_heard_seconds) {
        (true, _) => writeln!(out, "{GOOD}alive{GOOD:#}"),
        (false, Some(seconds)) if !peer.speaks_xnat => writeln!(out, "said goodbye {seconds} s ago"),
        (false, Some(seconds)) => writeln!(out, "{BAD}silent{BAD:#} for {seconds} s, {speaks}{}", other_version(peer)),
        (false, None) if status.running => writeln!(out, "never heard{}", other_version(peer)),
        (false, None) => writeln!(out, "{speaks}"),
    }
}

fn other_version(peer: &Peer) -> String {
    match peer.version {
        Some(version) if version != crate::peer::message::VERSION => {
            format!(", version {version} of the peer link, which is not spoken here")
        }
        _ => String::new(),
    }
}

fn same(peer: &Peer) -> bool {
    let mut announced = peer.announced.clone();
    announced.sort_unstable();
    announced == peer.subnets
}

fn print_hooks(out: &mut impl Write, status: &Status) -> io::Result<()> {
    writeln!(out, "\n{HEADING}Hooks{HEADING:#}")?;
    let width = status.hooks.iter().map(|hook| hook.interface.len()).max().unwrap_or(0);
    let name = status.hooks.iter().map(|hook| hook.program.len()).max().unwrap_or(0);
    for hook in &status.hooks {
        writeln!(out, "  {:<width$}  {:<name$}  {}", hook.interface, hook.program, hook.kind)?;
    }
    if status.hooks.is_empty() { writeln!(out, "  none") } else { Ok(()) }
}

fn print_counters(out: &mut impl Write, status: &Status, title: &str, classes: &[Class]) -> io::Result<()> {
    let value = |counter: &Counter| status.counters.get(counter.name()).copied().unwrap_or(0);
    let shown: Vec<&Counter> =
        Counter::ALL.iter().filter(|it| classes.contains(&it.class()) && value(it) > 0).collect();
    if shown.is_empty() {
        return if classes == [Class::Drop] { writeln!(out, "\n{HEADING}{title}{HEADING:#}\n  none") } else { Ok(()) };
    }
    writeln!(out, "\n{HEADING}{title}{HEADING:#}")?;
    let name = shown.iter().map(|it| it.name().len()).max().unwrap_or(0);
    let digits = shown.iter().map(|it| value(it).to_string().len()).max().unwrap_or(0);
    for counter in shown {
        writeln!(out, "  {:<name$}  {:>digits$}  {}", counter.name(), value(counter), counter.help())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::peer::claims::Refusal;
    use crate::status::Uplink;

    fn peer() -> Peer {
        Peer {
            address: [172, 29, 0, 17].into(),
            subnets: vec!["192.168.220.0/24".parse().unwrap()],
            stated: false,
            announced: vec!["192.168.220.0/24".parse().unwrap()],
            alive: true,
            speaks_xnat: true,
            version: Some(1),
            last_heard_seconds: Some(0),
            refused: vec![Refusal { subnet: "10.0.0.0/8".parse().unwrap(), reason: "it is ours".to_owned() }],
        }
    }

    fn status() -> Status {
        Status {
            instance: "default".to_owned(),
            running: true,
            version: None,
            pid: Some(1),
            uplink: Uplink { name: "eth0".to_owned(), address: [172, 29, 0, 4].into(), mtu: 1500 },
            insides: Vec::new(),
            peers: vec![peer()],
            peer_link: None,
            hooks: Vec::new(),
            flows: Flows { used: 3, max: 300 },
            mapping: status::kinds(&Config::default(), Config::mapping),
            filtering: status::kinds(&Config::default(), Config::filtering),
            ports: PortRange::ALL,
            max_ports_per_container: None,
            forwarded_ports: 0,
            default_inbound: None,
            counters: BTreeMap::from([("malformed".to_owned(), 7), ("tags_sent".to_owned(), 0)]),
        }
    }

    fn text(status: &Status) -> String {
        let mut out = Vec::new();
        print(&mut out, status).unwrap();
        anstream::adapter::strip_bytes(&out).into_vec().try_into().unwrap()
    }

    #[test]
    fn everything_worth_knowing_is_there() {
        let text = text(&status());
        for part in [
            "default, running as process 1",
            "eth0 with 172.29.0.4, MTU 1500",
            "3 used, 297 free (1 % of 300)",
            "192.168.220.0/24, alive",
            "refused 10.0.0.0/8: it is ours",
            "malformed  7  packets whose headers",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("tags_sent"), "zero counters are not shown");
    }

    #[test]
    fn ports_are_told_where_they_are_not_as_usual() {
        let usual = text(&status());
        for heading in ["mapping", "filtering", "ports", "forwards", "inbound"] {
            assert!(!usual.contains(&format!("\n{heading}")), "{heading} is in\n{usual}");
        }
        let mut config = Config::default();
        config.mapping[1] = 1;
        let status = Status {
            mapping: status::kinds(&config, Config::mapping),
            ports: PortRange::new(1024, 40000).unwrap(),
            max_ports_per_container: Some(500),
            forwarded_ports: 12,
            default_inbound: Some([192, 168, 110, 11].into()),
            ..status()
        };
        let text = text(&status);
        for line in [
            "mapping   icmp endpoint-independent, tcp endpoint-independent, udp address-dependent\n",
            "ports     1024-40000, at most 500 a container\n",
            "forwards  12 ports; xnat forward list shows them\n",
            "inbound   what nothing else claims goes to 192.168.110.11\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn json_is_read_back() {
        let json = serde_json::to_string(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status());
    }

    #[test]
    fn silence_is_told() {
        let mut status = status();
        status.peers[0].alive = false;
        status.peers[0].last_heard_seconds = Some(9);
        assert!(text(&status).contains("silent for 9 s, speaks xnat"));
        status.peers[0].last_heard_seconds = None;
        assert!(text(&status).contains("never heard"));
    }
}
