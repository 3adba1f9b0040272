//! A testbed for xnat on one machine: hosts, containers and the wire between them are network namespaces
//! joined by veth, the programs in them are real, and what a test claims it reads from a capture.
//!
//! Everything a test makes is held by a guard and gone when the guard is dropped, and every name is unique,
//! so that tests run side by side although all of them use the same addresses.
//! Nothing here returns an error: what the machine refuses to do is a panic that says what was refused.

// Panicking with a message is what every helper here does when the machine does not do as it is told.
#![allow(clippy::missing_panics_doc)]
// Builders and parsed results are used for their effect as often as for their value.
#![allow(clippy::must_use_candidate)]

pub mod capture;
pub mod conntrack;
pub mod docker;
pub mod host;
pub mod image;
pub mod netns;
pub mod packet;
pub mod process;
pub mod program;
pub mod requirement;
pub mod tcp;
pub mod topology;
pub mod trace;
pub mod udp;
pub mod wait;
pub mod xnat;
