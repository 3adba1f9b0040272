//! How soon the ports of a bridge are hooked as they join, and released as they leave.

use std::ffi::CString;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use aya::programs::TcAttachType;
use xnat_tests::netns::Namespace;
use xnat_tests::requirement;

use crate::candidate::Setup;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::sample::Measured;
use crate::start::is_hooked;

/// So many ports join at once.
const BURST: usize = 16;
/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// Steps of progress.
pub fn steps(plan: &Plan) -> u64 {
    plan.joins as u64 + 1
}

/// One port that joins and leaves again and again, then many that do so at once.
pub fn measure(plan: &Plan, setup: &Setup, progress: &Progress, measured: &mut Measured) -> Result<()> {
    let host = &setup.rig.host;
    let names: Vec<String> = (0..BURST).map(|number| format!("late{number}")).collect();
    for name in &names {
        host.ip(&format!("link add {name} up type veth peer name {name}p"));
        host.ip(&format!("link set {name}p up"));
    }
    let (mut hooked, mut released) = (Vec::new(), Vec::new());
    for _ in 0..plan.joins {
        progress.doing("a port that joins".to_owned())?;
        hooked.push(time(host, &names[..1], "master br0", true)?.as_secs_f64() * 1e3);
        released.push(time(host, &names[..1], "nomaster", false)?.as_secs_f64() * 1e3);
        progress.done(1);
    }
    measured.note_runs("port/hooked", "from `ip link set master` until the port is hooked", "ms", &hooked);
    measured.note_runs("port/released", "from `ip link set nomaster` until the port is released", "ms", &released);
    progress.doing(format!("{BURST} ports that join"))?;
    let last = time(host, &names, "master br0", true)?.as_secs_f64() * 1e3;
    measured.note(
        "ports/hooked",
        &format!("{BURST} ports that join one right after the other, until the last one is hooked"),
        "ms",
        last,
    );
    let last = time(host, &names, "nomaster", false)?.as_secs_f64() * 1e3;
    measured.note(
        "ports/released",
        &format!("{BURST} ports that leave one right after the other, until the last one is released"),
        "ms",
        last,
    );
    progress.done(1);
    Ok(())
}

/// Changes all ports by `ip link set`, and waits until they are hooked, or until none is. What running that takes counts.
fn time(host: &Namespace, ports: &[String], change: &str, hooked: bool) -> Result<Duration> {
    let script: Vec<_> = ports.iter().map(|port| format!("ip link set {port} {change}")).collect();
    let interfaces = ports.iter().map(|port| CString::new(port.as_str())).collect::<Result<Vec<_>, _>>()?;
    host.within(|| {
        let start = Instant::now();
        let mut child = Command::new(requirement::program("sh")).args(["-e", "-c", &script.join("\n")]).spawn()?;
        while interfaces.iter().any(|interface| is_hooked(interface, TcAttachType::Ingress) != hooked) {
            if start.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                bail!("after {LIMIT:?} not all of {ports:?} were what they should be after: {change}");
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        let time = start.elapsed();
        let status = child.wait()?;
        if !status.success() {
            bail!("`ip link set {change}` ended with {status}");
        }
        Ok(time)
    })
}
