//! A root filesystem for containers, made of this machine's own programs: no registry is reachable.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::requirement;
use crate::wait::SOON;

/// Copied with their libraries; everything else is busybox.
const PROGRAMS: [&str; 4] = ["bash", "ping", "iperf3", "socat"];

/// Makes the root filesystem in an empty folder.
pub fn build(root: &Path) {
    for folder in ["bin", "dev", "etc", "lib64", "proc", "root", "sys", "tmp", "usr/bin", "var/run"] {
        fs::create_dir_all(root.join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n").expect("a writable folder");
    let busybox = requirement::program("busybox");
    copy(&busybox, &root.join("bin/busybox"));
    let applets = process::run(Command::new(&busybox).arg("--list"), SOON).expect_success();
    // Debian's busybox shell runs its own applets whatever is on PATH, its ping included: sh is bash here.
    symlink("bash", root.join("bin/sh")).expect("a writable folder");
    for applet in applets.lines().filter(|applet| !matches!(*applet, "busybox" | "sh") && !PROGRAMS.contains(applet)) {
        symlink("busybox", root.join("bin").join(applet)).unwrap_or_else(|error| panic!("{applet}: {error}"));
    }
    for program in PROGRAMS {
        let file = requirement::program(program);
        copy(&file, &root.join("bin").join(program));
        for library in libraries(&file) {
            let inside = library.strip_prefix("/").expect("an absolute path");
            copy(&library, &root.join(inside));
        }
    }
}

/// The shared libraries of a program, the loader included, as ldd names them.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let output = process::run(Command::new(requirement::program("ldd")).arg(program), SOON).expect_success();
    output.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn copy(from: &Path, to: &Path) {
    let folder = to.parent().expect("a file in a folder");
    fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    fs::copy(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}
