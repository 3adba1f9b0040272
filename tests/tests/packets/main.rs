//! Packets through the programs, one at a time, with `BPF_PROG_TEST_RUN`: tables of what is known, a packet in, its fate
//! and the packet out, octet by octet. New behaviour is a new row.
//!
//! A packet of a test run always belongs to a socket, so at the uplink's egress hook every opening is the host's own here;
//! the containers' way through the kernel is in `wire`, where the hooks are attached.

#![expect(clippy::too_many_lines, reason = "a table is as long as it is")]

mod crossing;
mod dataplane;
mod express;
mod fixture;
mod forgotten;
mod forwards;
mod fragments;
mod hairpin;
mod host;
mod hygiene;
mod icmp_errors;
mod lane;
mod lanes;
mod ledger;
mod mapping;
mod mutated;
mod object;
mod outside;
mod packet;
mod peers;
mod ports;
mod receive;
mod refusals;
mod skb;
mod stages;
mod stories;
mod tcp;
mod tuples;
mod untouched;
mod wire;
mod world;
