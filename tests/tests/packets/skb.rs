//! One run of a program on one packet, through `bpf(BPF_PROG_TEST_RUN)`.
//!
//! Not aya's `TestRun`, which has no way to ask for `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` (kernel 6.11, commit
//! a3cfe84cca28): with it the kernel gives the packet a sum as a network card does, and fails the run with EBADMSG if
//! the program changes the packet without keeping that sum.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{BPF_F_TEST_SKB_CHECKSUM_COMPLETE, bpf_attr, bpf_cmd};

/// Size of `struct __sk_buff`, and where the fields are that a run may set.
const CONTEXT_LEN: usize = 192;
const MARK: usize = 8;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;

/// What goes in.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The frame.
    pub frame: &'a [u8],
    /// The interface, of the network namespace in which the run is made.
    pub ifindex: u32,
    /// The packet's mark.
    pub mark: u32,
    /// The size of the segments that the packet will be cut into, or zero.
    pub gso_size: u32,
    /// The network card has summed the packet up (`CHECKSUM_COMPLETE`).
    pub summed: bool,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The program's return value.
    pub action: i32,
    /// The frame.
    pub frame: Vec<u8>,
    /// The packet's mark.
    pub mark: u32,
}

impl Run<'_> {
    /// Runs the program in the network namespace of the calling thread.
    pub fn on(&self, program: BorrowedFd<'_>) -> io::Result<Outcome> {
        let mut context = [0_u8; CONTEXT_LEN];
        let mut set = |at: usize, value: u32| context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        set(MARK, self.mark);
        set(IFINDEX, self.ifindex);
        set(GSO_SIZE, self.gso_size);
        let mut frame = vec![0; self.frame.len() + 256];
        // SAFETY: a plain C union for which all zeroes are valid.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the member of this command; every pointer below outlives the call and is as long as said.
        let test = unsafe { &mut attributes.test };
        test.prog_fd = program.as_raw_fd().cast_unsigned();
        test.data_in = self.frame.as_ptr().expose_provenance() as u64;
        test.data_size_in = self.frame.len() as u32;
        test.data_out = frame.as_mut_ptr().expose_provenance() as u64;
        test.data_size_out = frame.len() as u32;
        test.ctx_in = context.as_ptr().expose_provenance() as u64;
        test.ctx_size_in = CONTEXT_LEN as u32;
        test.ctx_out = context.as_mut_ptr().expose_provenance() as u64;
        test.ctx_size_out = CONTEXT_LEN as u32;
        test.flags = if self.summed { BPF_F_TEST_SKB_CHECKSUM_COMPLETE } else { 0 };
        let command = bpf_cmd::BPF_PROG_TEST_RUN as libc::c_long;
        // SAFETY: the attributes are those of the command.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<bpf_attr>()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above; the kernel has filled it in.
        let test = unsafe { &attributes.test };
        frame.truncate(test.data_size_out as usize);
        let mark = u32::from_ne_bytes(context[MARK..MARK + 4].try_into().expect("four octets"));
        Ok(Outcome { action: test.retval.cast_signed(), frame, mark })
    }
}
