//! What a program may leave behind in a namespace, noted before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::netns::Namespace;

/// Everything that xnat could leave in a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// Notes hooks, qdiscs, filters, routes, rules, addresses, links, firewall and sysctls of a host.
    pub fn of(ns: &Namespace) -> Self {
        let mut found = BTreeMap::new();
        let mut note = |what: &str, text: String| {
            found.insert(what.to_owned(), text);
        };
        note("qdiscs", ns.run(&["tc", "qdisc", "show"]));
        for interface in interfaces(ns) {
            for side in ["ingress", "egress"] {
                // Refused where there is no such qdisc; that is a state like any other.
                let filters = ns.attempt(&["tc", "filter", "show", "dev", &interface, side]).stdout;
                note(&format!("filters of {interface}, {side}"), filters);
            }
        }
        note("bpftool net", ns.run(&["bpftool", "net", "show"]));
        note("routes", ns.ip("-4 route show table all"));
        note("IPv6 routes", without_link_local(&ns.ip("-6 route show table all")));
        note("rules", ns.ip("rule show"));
        note("addresses", ns.ip("-o -4 address show"));
        note("links", ns.ip("-o link show"));
        note("iptables", without_counters(&ns.run(&["iptables-save"])));
        note("sysctls", sysctls(ns));
        Self(found)
    }

    /// Panics with what differs from an earlier snapshot.
    #[track_caller]
    pub fn expect_same_as(&self, before: &Self) {
        let keys: BTreeSet<&String> = self.0.keys().chain(before.0.keys()).collect();
        let mut differences = Vec::new();
        for key in keys {
            let lines = |snapshot: &Self| -> BTreeSet<String> {
                snapshot.0.get(key).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
            };
            let (old, new) = (lines(before), lines(self));
            for line in old.difference(&new) {
                differences.push(format!("{key}: gone:  {line}"));
            }
            for line in new.difference(&old) {
                differences.push(format!("{key}: stays: {line}"));
            }
        }
        assert!(differences.is_empty(), "a trace was left:\n{}", differences.join("\n"));
    }
}

/// The files below a folder, sorted; none where there is no such folder.
pub fn tree(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        files.push(path.display().to_string());
        if path.is_dir() {
            files.extend(tree(&path));
        }
    }
    files.sort();
    files
}

/// The ids of all eBPF programs that exist on this machine.
/// Programs of other tests come and go: ask whether ids seen with one's own xnat are still there.
pub fn programs(ns: &Namespace) -> BTreeSet<u64> {
    let list: serde_json::Value =
        serde_json::from_str(&ns.run(&["bpftool", "-j", "prog", "show"])).expect("bpftool prints JSON");
    list.as_array().into_iter().flatten().filter_map(|program| program["id"].as_u64()).collect()
}

/// The ids of the eBPF programs that a process holds.
pub fn programs_of(ns: &Namespace, process: u32) -> BTreeSet<u64> {
    let mut ids = BTreeSet::new();
    // A descriptor of a program names its id in fdinfo, whatever bpftool knows of processes.
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        ids.extend(text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u64>().ok()));
    }
    // What is attached in this namespace counts too: a program may be held by its link or pin alone.
    let text = ns.run(&["bpftool", "net", "show"]);
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if matches!(word, "id" | "prog_id") {
            ids.extend(words.next().and_then(|id| id.parse::<u64>().ok()));
        }
    }
    ids
}

fn interfaces(ns: &Namespace) -> Vec<String> {
    let output = ns.ip("-o link show");
    let name = |line: &str| line.split(": ").nth(1).map(|name| name.split('@').next().unwrap_or(name).to_owned());
    output.lines().filter_map(name).collect()
}

/// The kernel adds these by itself, seconds after a link came up.
fn without_link_local(routes: &str) -> String {
    let kept = routes.lines().filter(|line| !line.contains("fe80:") && !line.contains("ff00::"));
    kept.collect::<Vec<_>>().join("\n")
}

fn without_counters(save: &str) -> String {
    let kept = save.lines().filter(|line| !line.starts_with('#'));
    kept.map(|line| line.split(" [").next().unwrap_or(line).to_owned() + "\n").collect()
}

fn sysctls(ns: &Namespace) -> String {
    // The kernel's own gauges change while nobody touches them.
    let gauge = |line: &&str| !line.starts_with("net.netfilter.nf_conntrack_count");
    let all = ns.attempt(&["sysctl", "-a", "--pattern", "^net"]).stdout;
    all.lines().filter(gauge).collect::<Vec<_>>().join("\n")
}
