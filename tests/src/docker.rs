//! Real Docker engines, each inside a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::image;
use crate::netns::{Namespace, unique};
use crate::process::{self, Finished, Running};
use crate::requirement;

/// What the reference document says to run on node1 before the iptables rules, word for word.
pub const NODE1_LINES: &str = "\
docker network create --subnet 192.168.110.0/24 --gateway 192.168.110.1 bridge_a
docker run -it --net bridge_a --ip 192.168.110.11 -d --name n1  ubuntu
";

/// What the reference document says to run on node2 before the iptables rules, word for word.
pub const NODE2_LINES: &str = "\
docker network create --subnet 192.168.220.0/24 --gateway 192.168.220.1 bridge_b
docker run -it --net bridge_b --ip 192.168.220.11 -d --name n2  ubuntu
";

/// The document's rules for node1, word for word.
pub const NODE1_RULES: &str = "\
iptables -t nat -A POSTROUTING -s 192.168.110.0/24 ! -o docker0 -j MASQUERADE
iptables -t nat -A PREROUTING -d 192.168.220.0/24 -j DNAT --to-destination 172.29.0.17
";

/// The document's rules for node2, word for word.
pub const NODE2_RULES: &str = "\
iptables -t nat -A POSTROUTING -s 192.168.220.0/24 ! -o docker0 -j MASQUERADE
iptables -t nat -A PREROUTING -d 192.168.110.0/24 -j DNAT --to-destination 172.29.0.4
";

/// Starting an engine or a container, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(60);

/// A Docker engine with an image `ubuntu`. Dropping it removes its containers, its files and its cgroups.
#[derive(Debug)]
pub struct Engine {
    ns: Namespace,
    name: String,
    folder: PathBuf,
    dockerd: Option<Running>,
}

impl Engine {
    /// Starts an engine inside a host, with nothing shared with another engine: its own mount namespace, so
    /// that overlay mounts do not leak; its own containerd (dockerd starts one below its --exec-root); its
    /// own cgroup. Entered with nsenter and not `ip netns exec`, which would hide the cgroups.
    #[track_caller]
    pub fn start(ns: &Namespace) -> Self {
        requirement::program("docker");
        let name = unique("docker");
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let path = |file: &str| folder.join(file).display().to_string();
        let mut command = ns.command("unshare");
        command.args(["--mount", "--propagation", "private", "dockerd"]);
        command.args(["--data-root", &path("data"), "--exec-root", &path("exec")]);
        command.args(["--pidfile", &path("pid"), "--host", &format!("unix://{}", path("sock"))]);
        command.args(["--cgroup-parent", &format!("/{name}"), "--storage-driver", "overlay2"]);
        let dockerd = Running::start(&mut command);
        let mut engine = Self { ns: ns.clone(), name, folder, dockerd: Some(dockerd) };
        let dockerd = engine.dockerd.as_mut().expect("just started");
        dockerd.expect_line("that its API listens", LIMIT, |line| line.contains("API listen on"));
        engine.import_image();
        engine
    }

    /// The host's namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// Runs lines of shell on the host, with `docker` meaning this engine; every line must succeed.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.attempt(script).expect_success()
    }

    /// Runs lines of shell on the host, with `docker` meaning this engine.
    #[track_caller]
    pub fn attempt(&self, script: &str) -> Finished {
        let mut command = self.ns.command("sh");
        command.args(["-e", "-c", script]).env("DOCKER_HOST", format!("unix://{}/sock", self.folder.display()));
        process::run(&mut command, LIMIT)
    }

    /// Runs a line of shell inside a container.
    #[track_caller]
    pub fn inside(&self, container: &str, line: &str) -> Finished {
        self.attempt(&format!("docker exec {container} sh -c '{line}'"))
    }

    /// The host's end of a container's veth.
    #[track_caller]
    pub fn port(&self, container: &str) -> String {
        let index = self.inside(container, "cat /sys/class/net/eth0/iflink").expect_success();
        let prefix = format!("{}: ", index.trim());
        let links = self.ns.ip("-o link show");
        let line = links.lines().find(|line| line.starts_with(&prefix));
        let name = line.and_then(|line| line.split(": ").nth(1)?.split('@').next());
        name.unwrap_or_else(|| panic!("no interface {index} in\n{links}")).to_owned()
    }

    fn import_image(&self) {
        let root = self.folder.join("image");
        image::build(&root);
        let root = root.display();
        self.shell(&format!(
            "tar -C {root} -c . | docker import --change 'CMD [\"/bin/bash\"]' - ubuntu; rm -r {root}"
        ));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Nothing here panics: this may be the unwinding of a failed test.
        let Some(mut dockerd) = self.dockerd.take() else { return };
        if std::thread::panicking() {
            let log = dockerd.stderr();
            let wanted = |line: &&str| line.contains("level=error") || line.contains("level=fatal");
            eprintln!("--- dockerd's errors\n{}", log.lines().filter(wanted).collect::<Vec<_>>().join("\n"));
        }
        if dockerd.is_running() {
            let sock = format!("unix://{}/sock", self.folder.display());
            let mut command = self.ns.command("sh");
            command.env("DOCKER_HOST", sock).args(["-c", "docker ps -aq | xargs -r docker rm -f"]);
            let _ = command.output();
            dockerd.signal(Signal::SIGTERM);
        }
        if dockerd.ended_within(Duration::from_secs(20)).is_none() {
            dockerd.signal(Signal::SIGKILL);
        }
        drop(dockerd);
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("could not remove {}: {error}", self.folder.display());
        }
        remove_cgroups(&self.name);
    }
}

/// Removes the cgroup that the engine made in each hierarchy.
fn remove_cgroups(name: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        remove_cgroup(&hierarchy.path().join(name));
    }
    remove_cgroup(&Path::new("/sys/fs/cgroup").join(name));
}

fn remove_cgroup(folder: &Path) {
    for child in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&child.path());
    }
    // Fails where there is none.
    let _ = fs::remove_dir(folder);
}
