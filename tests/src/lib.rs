//! A testbed for xnat on one machine: hosts, containers and the wire between them are network namespaces
//! joined by veth, the programs in them are real, and what a test claims it reads from a capture.
//!
//! Everything a test makes is held by a guard and gone when the guard is dropped, and every name is unique,
//! so that tests run side by side although all of them use the same addresses.
//!
//! The tests run as root with `XNAT_BIN` naming the binary; `cargo xtask test` sees to both.
//! `XNAT_SLOW=1` has every packet take the slow path, as `cargo xtask test --slow-path` does.
//! Those of the testbed itself (`--test testbed`) need no binary.
//! What a test saw is printed when it fails: the captures, and what each xnat said and had in its table.
//!
//! Nothing here returns an error: what the machine refuses to do is a panic that says what was refused.

#![allow(clippy::missing_panics_doc, reason = "what the machine refuses to do is a panic, everywhere here")]
#![allow(clippy::missing_errors_doc, reason = "the only errors are those of sockets, for tests that expect them")]
#![allow(clippy::must_use_candidate, reason = "called for their effect as often as for their value")]

pub mod capture;
pub mod conntrack;
pub mod docker;
pub mod host;
pub mod image;
pub mod netns;
pub mod packet;
pub mod payload;
pub mod process;
pub mod program;
pub mod random;
pub mod raw;
pub mod requirement;
pub mod tcp;
pub mod topology;
pub mod trace;
pub mod udp;
pub mod wait;
pub mod xnat;
