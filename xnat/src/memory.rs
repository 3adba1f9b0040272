//! The memory that starting takes and running does not.

/// Gives back to the kernel what has been freed: taking the dataplane's object apart needs several megabytes once.
pub(crate) fn give_back() {
    // Other C libraries do so by themselves.
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
