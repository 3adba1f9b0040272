//! The oldest and another supported kernel, in a virtual machine: every program loads there, and the whole of xnat works
//! between two hosts, with the hooks that the kernel has.
//!
//! `cargo xtask test --tier kernels` fetches the kernels (Debian's packages) and tells the folder in `XNAT_KERNELS`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use xnat_tests::netns::unique;
use xnat_tests::requirement::program;
use xnat_tests::{process, xnat};

/// The guest's first process.
const INIT: &str = include_str!("guest.sh");
/// What the guest needs of the kernel's modules, each after what it depends on.
const MODULES: [&str; 9] =
    ["llc", "stp", "bridge", "veth", "sch_ingress", "cls_bpf", "inet_diag", "tcp_diag", "udp_diag"];
/// Dynamically linked programs in the guest besides xnat; everything else is busybox.
const PROGRAMS: [&str; 3] = ["ip", "tc", "bpftool"];
/// Packing and booting; without KVM the guest is some twenty times slower than the machine.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn linux_6_1_works_with_clsact() {
    boot("6.1", "auto", "clsact");
}

#[test]
fn linux_6_12_works_with_tcx() {
    boot("6.12", "auto", "tcx");
}

#[test]
fn linux_6_12_works_with_clsact() {
    boot("6.12", "clsact", "clsact");
}

/// Boots a kernel and runs everything with these hooks asked for; those `expected` must be in use.
#[track_caller]
fn boot(series: &str, hooks: &str, expected: &str) {
    let folder = Folder::new();
    let kernel = folder.path("kernel");
    run(Command::new(program("dpkg-deb")).arg("-x").arg(package(series)).arg(&kernel));
    let image = find(&kernel, |name| name.starts_with("vmlinuz-")).expect("a kernel in the package");
    let initramfs = pack(&folder, &kernel);
    let mut qemu = Command::new(program("qemu-system-x86_64"));
    qemu.args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "1", "-no-reboot"]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    qemu.args(["-append", &format!("console=ttyS0 quiet panic=-1 hooks={hooks} expect={expected}")]);
    let console = process::run(&mut qemu, LIMIT);
    let said = |line: &str| console.stdout.lines().any(|it| it.trim_end().ends_with(line));
    assert!(said("RESULT: all is well"), "{console}");
    assert!(console.stdout.contains(&format!("Linux {series}.")), "{console}");
}

/// The package of a kernel.
#[track_caller]
fn package(series: &str) -> PathBuf {
    let Some(folder) = std::env::var_os("XNAT_KERNELS").map(PathBuf::from) else {
        panic!("set XNAT_KERNELS to a folder with Debian's kernel packages, or run cargo xtask test --tier kernels");
    };
    let found = find(&folder, |name| name.starts_with(&format!("linux-image-{series}.")));
    found.unwrap_or_else(|| panic!("{} has no package of Linux {series}", folder.display()))
}

/// Makes the guest's root file system of busybox, xnat, some programs with their libraries, and modules.
#[track_caller]
fn pack(folder: &Folder, kernel: &Path) -> PathBuf {
    let root = folder.path("root");
    for name in ["bin", "dev", "modules", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(name)).expect("own folder");
    }
    copy(&program("busybox"), &root.join("bin/busybox"));
    add_program(&root, &xnat::binary(), "xnat");
    for name in PROGRAMS {
        add_program(&root, &program(name), name);
    }
    for name in MODULES {
        let file = find(kernel, |file| file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko")));
        let file = file.unwrap_or_else(|| panic!("no module {name} in the package"));
        // Debian compresses modules from 6.4 on.
        let reader = if file.extension().is_some_and(|it| it == "xz") { "xzcat" } else { "cat" };
        let module = Command::new(program("busybox")).arg(reader).arg(file).output().expect("busybox runs");
        assert!(module.status.success(), "{name}: {}", String::from_utf8_lossy(&module.stderr));
        fs::write(root.join(format!("modules/{name}.ko")), module.stdout).expect("own folder");
    }
    fs::write(root.join("modules/order"), MODULES.join("\n")).expect("own folder");
    fs::write(root.join("init"), INIT).expect("own folder");
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).expect("own file");
    program("cpio");
    let archive = folder.path("initramfs");
    let pack = format!("cd {} && find . | cpio --quiet -o -H newc > {}", root.display(), archive.display());
    run(Command::new("sh").args(["-e", "-c", &pack]));
    archive
}

/// Adds a program and the shared libraries that it asks for, each where the program looks for it.
#[track_caller]
fn add_program(root: &Path, file: &Path, name: &str) {
    copy(file, &root.join("opt").join(name));
    let libraries = process::run(Command::new(program("ldd")).arg(file), LIMIT).stdout;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), &root.join(&library[1..]));
    }
}

/// Copies a file with its permissions, through symbolic links.
#[track_caller]
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a path with a folder")).expect("own folder");
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// The first file below a folder, in the order of names, whose name is wanted.
fn find(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let tree = xnat_tests::trace::tree(folder).into_iter().map(PathBuf::from);
    tree.into_iter().find(|path| path.is_file() && path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())))
}

#[track_caller]
fn run(command: &mut Command) {
    process::run(command, LIMIT).expect_success();
}

/// A folder that is removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(unique("kernel"));
        fs::create_dir_all(&folder).expect("a temporary folder");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
