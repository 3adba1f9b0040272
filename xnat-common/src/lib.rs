//! What the xnat dataplane and user space share: map layouts and pure decisions.
//!
//! Nothing here does I/O or reads a clock: headers, records and the time come in, decisions go out.
//! The dataplane adds bounds checks, map access and stores; the tests run all of it on the host.
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod addr;
pub mod branchless;
pub mod checksum;
pub mod collection;
pub mod config;
pub mod counter;
pub mod flow;
pub mod fragment;
pub mod hop;
pub mod host_port;
pub mod hygiene;
pub mod index;
pub mod kernel_flow;
pub mod mapping;
pub mod mark;
pub mod names;
pub mod packet;
pub mod port;
pub mod subnet;
pub mod tag;
pub mod tcp;
pub mod time;
pub mod timeout;
pub mod translate;
pub mod tuple;
#[cfg(feature = "user")]
mod user;

pub use addr::{Addr, Port};
pub use flow::{Direction, Flow, FlowRef, Kind};
pub use time::Ticks;
pub use tuple::{FlowKey, Side, Tuple};
