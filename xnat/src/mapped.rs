//! Arrays of the dataplane that are mapped into memory: read and written without a system call an entry.

use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// What may be done with the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// An array of `T` that is mapped into memory.
#[derive(Debug)]
pub(crate) struct Mapped<T> {
    base: NonNull<T>,
    bytes: NonZeroUsize,
    len: usize,
    entries: PhantomData<T>,
}

impl<T: aya::Pod> Mapped<T> {
    /// Maps an array that was made with `BPF_F_MMAPABLE`. Its entries lie at multiples of eight bytes
    /// (`array_map_alloc`), so only such a `T` will do.
    ///
    /// # Errors
    /// What the kernel says when the map is no such array.
    pub(crate) fn new(map: &MapData, access: Access) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        const { assert!(size_of::<T>().is_multiple_of(8), "entries lie at multiples of eight bytes") };
        if info.value_size() as usize != size_of::<T>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its entries have another length"));
        }
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok());
        let len = info.max_entries() as usize;
        let bytes = (len * size_of::<T>()).next_multiple_of(page.unwrap_or(4096));
        let bytes = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice, of a map whose size is fixed.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0)? };
        Ok(Self { base: base.cast(), bytes, len, entries: PhantomData })
    }

    /// How many entries there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Where the entry at `index` is; valid as long as the mapping, and shared with the dataplane.
    pub(crate) fn entry(&self, index: usize) -> Option<NonNull<T>> {
        // SAFETY: the mapping holds `len` entries.
        (index < self.len).then(|| unsafe { self.base.add(index) })
    }
}

impl Mapped<u64> {
    /// The entries, which the dataplane changes as well, of an array that was mapped to be changed.
    pub(crate) const fn atomics(&self) -> &[AtomicU64] {
        // SAFETY: so many there are, aligned and for as long as the mapping; they are only ever looked at as atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrowed from it outlives it: callers take copies.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}
