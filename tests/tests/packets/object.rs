//! The object file itself.

use object::{Object as _, ObjectSymbol as _};

use xnat_common::names::program;

use crate::dataplane::{load, object};

/// What no program may exceed. The kernel's limit is a million; older kernels need more steps for the same program.
const INSTRUCTIONS: u32 = 40_000;

#[test]
fn the_verifier_has_room_left() {
    xnat_tests::requirement::root();
    let ebpf = load(&object());
    let mut over = Vec::new();
    for (name, program) in ebpf.programs() {
        let verified = program.info().expect("what the kernel says").verified_instruction_count().expect("Linux 5.16");
        println!("{name}: {verified} instructions verified");
        if verified > INSTRUCTIONS {
            over.push(format!("{name}: {verified}"));
        }
    }
    assert!(ebpf.program(program::LOOPBACK_EGRESS).is_some(), "every program is among them");
    assert!(over.is_empty(), "over {INSTRUCTIONS}: {}", over.join(", "));
}

#[test]
fn nothing_panics() {
    let bytes = object();
    let file = object::File::parse(&*bytes).expect("an ELF file");
    // The first symbol of every file is the undefined one.
    for symbol in file.symbols().filter(|symbol| symbol.index().0 != 0) {
        let name = symbol.name().expect("a name");
        assert!(!symbol.is_undefined(), "{name} is not linked");
        for word in ["panic", "begin_unwind", "unwrap_failed", "expect_failed", "slice_index"] {
            assert!(!name.contains(word), "{name} is linked");
        }
    }
}
