//! Compiles the dataplane (`xnat-ebpf`) for the BPF target and tells `xnat` where the object is:
//! `aya::include_bytes_aligned!(env!("XNAT_EBPF_OBJECT"))`.
//!
//! aya-build does the same in general, but leaves no way to set the target CPU.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// What the object's contents depend on, from the workspace's root.
const SOURCES: [&str; 6] =
    ["xnat-ebpf/src", "xnat-ebpf/Cargo.toml", "xnat-common/src", "xnat-common/Cargo.toml", "Cargo.toml", "Cargo.lock"];

/// Variables meant for the outer cargo's compilations that would misdirect the inner one's: the
/// host's compiler, and the wrapper by which clippy puts itself in the compiler's place.
const OUTER: [&str; 4] = ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_LINKER", "RUSTDOC"];

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Rather than returned from here: with RUST_BACKTRACE, a page of frames would follow.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Compiles the dataplane and tells cargo about it.
fn embed() -> Result<()> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?).join("..");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    require_linker()?;
    let object = build_object(&root)?;
    println!("cargo::rustc-env=XNAT_EBPF_OBJECT={}", object.display());
    Ok(())
}

/// Runs the inner cargo; returns the object's path.
fn build_object(root: &Path) -> Result<PathBuf> {
    let target = match var("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let out_dir = PathBuf::from(var("OUT_DIR")?);
    let target_dir = target_dir(&out_dir);

    let mut cargo = Command::new(var("CARGO")?);
    cargo
        .current_dir(root)
        // `--quiet` leaves what the compiler has to say, and nothing else.
        .args(["build", "--quiet", "--package=xnat-ebpf", "--profile=ebpf"])
        .args(["--target", target, "-Zbuild-std=core", "--target-dir"])
        .arg(&target_dir)
        // The pinned compiler is a stable one; only this variable lets it take `-Z`.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&var("CARGO_CFG_TARGET_ARCH")?));
    for name in OUTER {
        cargo.env_remove(name);
    }

    let output = cargo.output().with_context(|| format!("cannot start {cargo:?}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("xnat-ebpf does not build:\n{messages}");
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }
    let built = target_dir.join(target).join("ebpf/xnat");
    let whole = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let stripped = stripped(&whole).with_context(|| format!("cannot strip {}", built.display()))?;
    // A copy of our own: the other may be replaced while this build of xnat still embeds it.
    let object = out_dir.join("xnat.o");
    fs::write(&object, stripped).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(object)
}

/// The object without what each start would have to read through for nothing: DWARF, from which the linker has made BTF,
/// and the source line of each instruction, of which aya makes a copy for each function and the kernel one more.
fn stripped(object: &[u8]) -> Result<Vec<u8>> {
    const DROPPED: [&[u8]; 3] = [b".debug_", b".rel.debug_", b".rel.BTF"];
    let mut object = Builder::read(object)?;
    for section in &mut object.sections {
        section.delete = DROPPED.iter().any(|prefix| section.name.starts_with(prefix));
        if let (b".BTF.ext", SectionData::Data(data)) = (section.name.as_slice(), &mut section.data) {
            drop_lines(data.to_mut())?;
        }
    }
    object.delete_orphan_symbols();
    object.delete_orphan_relocations();
    // LLVM has sections' names among those of symbols, the builder has them apart.
    let names = object.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}

/// Takes the source lines out of `.BTF.ext` (`struct btf_ext_header`), behind which there is nothing else.
fn drop_lines(data: &mut Vec<u8>) -> Result<()> {
    // Words of the header: its own length, and offset and length of lines and of relocations.
    let [length, lines, lines_len, relocations, relocations_len] = [4, 16, 20, 24, 28];
    let word = |data: &[u8], at: usize| -> Result<u32> {
        let bytes = data.get(at..at + 4).context(".BTF.ext is shorter than its header")?;
        Ok(u32::from_ne_bytes(bytes.try_into()?))
    };
    if word(data, relocations_len)? != 0 {
        bail!(".BTF.ext has relocations, which would be lost with the source lines");
    }
    let end = word(data, length)? + word(data, lines)?;
    data.truncate(end as usize);
    for at in [lines_len, relocations] {
        data[at..at + 4].fill(0);
    }
    Ok(())
}

/// Where the inner cargo builds: `ebpf` beside the profiles' directories, so that the profiles, and
/// clippy, build the dataplane once between them. Never the outer cargo's own directory, on which
/// it holds a lock (rust-lang/cargo#6412).
fn target_dir(out_dir: &Path) -> PathBuf {
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE/out.
    out_dir.ancestors().skip_while(|dir| !dir.ends_with("build")).nth(2).unwrap_or(out_dir).join("ebpf")
}

/// The flags for the BPF target, in the form in which cargo takes them from a variable.
fn rustflags(host_arch: &str) -> String {
    // aya-ebpf chooses the layout of the host's registers by this.
    let arch = format!("--cfg=bpf_target_arch=\"{host_arch}\"");
    [
        arch.as_str(),
        // 32-bit registers and jumps, from Linux 5.1 on.
        "-Ctarget-cpu=v3",
        "-Clinker=bpf-linker",
        // The linker turns debug information into BTF.
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ]
    .join("\x1f")
}

/// Fails, with the remedy, where the inner cargo would fail with a page of linker arguments.
fn require_linker() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|dir| dir.join("bpf-linker").is_file()) {
        return Ok(());
    }
    bail!(
        "bpf-linker, which xnat's eBPF object is linked with, is not on PATH: run `cargo xtask \
         build`, or `cargo xtask cargo …` for any other cargo command"
    )
}

/// A variable that cargo sets for build scripts.
fn var(name: impl AsRef<OsStr>) -> Result<String> {
    let name = name.as_ref();
    env::var(name).with_context(|| format!("{} is not set: run this through cargo", name.display()))
}
