//! `xnat check`.

use std::fs;
use std::io::{self, Write};

use aya::maps::MapType;
use aya::sys::is_map_supported;
use serde::Serialize;
use xnat_common::names::program;

use super::{Failure, unless_closed};
use crate::cli::{CheckArgs, Format};
use crate::hooks::has_tcx;
use crate::instance::Instance;
use crate::loader::Dataplane;
use crate::say::{self, BAD, GOOD, HEADING};
use crate::state::{self, Lock, StateError};
use crate::{binds, machine, output};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// How to get what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Not there, and xnat runs without it.
    Absent,
    /// Not there, and xnat cannot run.
    Missing,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn lacking(name: &'static str, verdict: Verdict, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn needed(name: &'static str, there: bool, found: &str, lacking: &str, remedy: &str) -> Self {
        if there { Self::ok(name, found) } else { Self::lacking(name, Verdict::Missing, lacking, remedy) }
    }
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let findings = look(&args.instance.instance);
    let able = findings.iter().all(|finding| finding.verdict != Verdict::Missing);
    let mut out = anstream::stdout();
    unless_closed(match args.output.format {
        Format::Text => print(&mut out, &findings, able),
        Format::Json => output::json::document(&mut out, &serde_json::json!({ "able": able, "checks": findings })),
    })?;
    if able { Ok(()) } else { Err(Failure::Silent) }
}

fn look(instance: &Instance) -> Vec<Finding> {
    let rights = capabilities();
    let privileged = rights.verdict == Verdict::Ok;
    let mut findings = vec![kernel(), rights, btf(), bpffs(), jit(), hooks(privileged)];
    findings.extend(maps(privileged));
    findings.extend(dataplane(privileged));
    findings.push(forwarding());
    findings.push(name(instance));
    findings.push(instances());
    findings.extend(TOOLS.map(|(tool, package, purpose)| find_tool(tool, package, purpose)));
    findings
}

fn kernel() -> Finding {
    let release = machine::kernel_release();
    let (major, minor) = machine::OLDEST;
    let remedy = format!("boot Linux {major}.{minor} or later");
    Finding::needed("kernel", machine::is_new_enough(&release), &release, &release, &remedy)
}

fn capabilities() -> Finding {
    let missing = machine::missing_capabilities();
    let lacking = format!("no {}", say::list(&missing));
    let remedy = "run it as root (sudo xnat check), which also shows more";
    Finding::needed("capabilities", missing.is_empty(), "all that are needed", &lacking, remedy)
}

fn btf() -> Finding {
    let remedy = "use a kernel that is built with CONFIG_DEBUG_INFO_BTF=y, as the distributions' are";
    Finding::needed("BTF", machine::has_btf(), "/sys/kernel/btf/vmlinux", "no /sys/kernel/btf/vmlinux", remedy)
}

fn bpffs() -> Finding {
    let lacking = "no BPF file system at /sys/fs/bpf";
    Finding::needed("bpffs", machine::has_bpffs(), "/sys/fs/bpf", lacking, "mount -t bpf bpf /sys/fs/bpf")
}

fn jit() -> Finding {
    match machine::jit() {
        Ok(false) => Finding::lacking(
            "JIT",
            Verdict::Absent,
            "off: programs are interpreted, which is several times slower",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Ok(true) => Finding::ok("JIT", "on"),
        // The file is the first network namespace's alone.
        Err(_) => Finding::ok("JIT", "not shown in this network namespace"),
    }
}

fn hooks(privileged: bool) -> Finding {
    match (privileged, has_tcx()) {
        (true, true) => Finding::ok("hooks", "TCX, and clsact with --hooks clsact"),
        (true, false) => Finding::lacking(
            "hooks",
            Verdict::Absent,
            "clsact; no TCX",
            "TCX comes with Linux 6.6; clsact serves as well",
        ),
        (false, _) => Finding::lacking("hooks", Verdict::Absent, "not known without rights", "sudo xnat check"),
    }
}

fn maps(privileged: bool) -> Vec<Finding> {
    if !privileged {
        return Vec::new();
    }
    let kinds = [
        ("arrays", MapType::Array),
        ("hash maps", MapType::Hash),
        ("prefix maps", MapType::LpmTrie),
        ("LRU maps", MapType::LruHash),
        ("stacks", MapType::Stack),
        ("queues", MapType::Queue),
        ("program arrays", MapType::ProgramArray),
    ];
    let missing: Vec<&str> =
        kinds.into_iter().filter(|&(_, kind)| !is_map_supported(kind).unwrap_or(false)).map(|(name, _)| name).collect();
    let lacking = format!("no {}", say::list(&missing));
    let remedy = "use a kernel with CONFIG_BPF_SYSCALL=y that is not locked down";
    vec![
        Finding::needed("maps", missing.is_empty(), "all kinds that are needed", &lacking, remedy),
        Finding::needed("mapped arrays", has_mapped_arrays(), "supported", "not supported", "they came with Linux 5.5"),
    ]
}

/// Whether an array can be mapped into memory, which `conntrack dump` reads the flow table by.
fn has_mapped_arrays() -> bool {
    /// The first fields of `union bpf_attr` for `BPF_MAP_CREATE`.
    #[repr(C)]
    struct MapCreate {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_F_MMAPABLE: u32 = 1 << 10;
    let attr = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        map_flags: BPF_F_MMAPABLE,
    };
    // SAFETY: the kernel reads as many bytes of `attr` as the last argument says, and takes the rest as zero.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<MapCreate>()) };
    let Ok(fd) = libc::c_int::try_from(fd) else { return false };
    if fd < 0 {
        return false;
    }
    // SAFETY: the descriptor is new, ours, and used nowhere else.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    true
}

fn dataplane(privileged: bool) -> Vec<Finding> {
    if !privileged {
        return vec![Finding::lacking("dataplane", Verdict::Absent, "not tried without rights", "sudo xnat check")];
    }
    match Dataplane::rehearse() {
        Ok(counts) => {
            let each = say::list(counts.iter().map(|(name, count)| format!("{name} {count}")));
            let loads = Finding::ok("dataplane", format!("loads; instructions verified: {each}"));
            let at_binds = program::AT_BINDS.iter().all(|name| counts.iter().any(|(it, _)| it == name));
            vec![loads, sockets(at_binds)]
        }
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().to_owned();
            vec![Finding::lacking(
                "dataplane",
                Verdict::Missing,
                first,
                "report it, with the kernel's version and `xnat run`'s message",
            )]
        }
    }
}

/// Whether sockets are noted as they are bound; the programs for that could be loaded, or not.
fn sockets(loaded: bool) -> Finding {
    let (lacking, remedy) = match (loaded, binds::can_be_attached()) {
        (true, true) => return Finding::ok("sockets", "noted as they are bound, by programs at the root cgroup"),
        (true, false) => {
            ("the root cgroup is not to be seen", "mount cgroup2 at /sys/fs/cgroup, outside of containers")
        }
        (false, _) => ("no programs at cgroups", "use a kernel that is built with CONFIG_CGROUP_BPF=y"),
    };
    let found = format!("{lacking}: the kernel is asked for each opening whether a socket has the port");
    Finding::lacking("sockets", Verdict::Absent, found, remedy)
}

fn forwarding() -> Finding {
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward").map(|it| it.trim() == "1") {
        Ok(true) => Finding::ok("forwarding", "on"),
        Ok(false) => Finding::ok("forwarding", "off; xnat run switches it on for its interfaces while it runs"),
        Err(error) => Finding::lacking("forwarding", Verdict::Absent, error.to_string(), "mount /proc"),
    }
}

/// Whether a run could have this name.
fn name(instance: &Instance) -> Finding {
    match Lock::holder(instance) {
        Err(StateError::Running { pid, .. }) => {
            let remedy = "stop it, or choose another name with --instance";
            Finding::lacking("instance", Verdict::Absent, format!("`{instance}` is running as process {pid}"), remedy)
        }
        _ => Finding::ok("instance", format!("`{instance}` is not running")),
    }
}

fn instances() -> Finding {
    let (mut running, mut left) = (Vec::new(), Vec::new());
    let instances = state::instances();
    for instance in &instances {
        match Lock::holder(instance) {
            Err(StateError::Running { pid, .. }) => running.push(format!("{instance} (process {pid})")),
            _ => left.push(instance.name()),
        }
    }
    let mut found = match running.as_slice() {
        [] => "none running".to_owned(),
        running => format!("running: {}", say::list(running)),
    };
    if left.is_empty() {
        return Finding::ok("instances", found);
    }
    found = format!("{found}; left behind: {}", say::list(&left));
    let remedy = say::list(left.iter().map(|name| format!("xnat detach --instance {name}")));
    Finding::lacking("instances", Verdict::Absent, found, format!("{remedy}, or run it again, which takes it up"))
}

/// Tools that xnat does not need, and its users like to have.
const TOOLS: [(&str, &str, &str); 3] = [
    ("ip", "iproute2", "makes networks without Docker"),
    ("tcpdump", "tcpdump", "shows the wire"),
    ("bpftool", "bpftool", "shows programs and maps"),
];

fn find_tool(tool: &'static str, package: &str, purpose: &str) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|path| path.is_file());
    if let Some(path) = found {
        return Finding::ok(tool, path.display().to_string());
    }
    let remedy = format!("optional: {purpose}; apt-get install {package}");
    Finding::lacking(tool, Verdict::Absent, "not installed", remedy)
}

fn print(out: &mut impl Write, findings: &[Finding], able: bool) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for Finding { name, verdict, found, remedy } in findings {
        let (style, word) = match verdict {
            Verdict::Ok => (GOOD, "ok"),
            Verdict::Absent => (HEADING, "-"),
            Verdict::Missing => (BAD, "missing"),
        };
        writeln!(out, "{name:<width$}  {style}{word:<7}{style:#}  {found}")?;
        if let Some(remedy) = remedy {
            writeln!(out, "{:<width$}  {:<7}  -> {remedy}", "", "")?;
        }
    }
    let verdict = if able { "xnat can run here" } else { "xnat cannot run here" };
    writeln!(out, "\n{HEADING}{verdict}{HEADING:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_a_remedy() {
        let findings =
            [Finding::ok("kernel", "6.18"), Finding::needed("bpffs", false, "there", "not there", "mount it")];
        let mut out = Vec::new();
        print(&mut out, &findings, false).unwrap();
        let text = String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).unwrap();
        assert_eq!(
            text,
            "kernel  ok       6.18\nbpffs   missing  not there\n                 -> mount it\n\nxnat cannot run here\n"
        );
    }

    #[test]
    fn the_look_works_without_rights() {
        let privileged = false;
        assert!(maps(privileged).is_empty());
        assert!(dataplane(privileged).iter().all(|finding| finding.verdict != Verdict::Ok));
        assert!(look(&"default".parse().unwrap()).iter().any(|finding| finding.name == "kernel"));
    }
}
