//! Atomic operations on map memory, as single BPF instructions (kernel 5.12, commit 5ffa25502b5a).
//!
//! `core::sync::atomic` does not compile to them with LLVM 22, hence the assembly.

use core::arch::asm;

/// Adds to a counter that other processors add to as well.
///
/// # Safety
/// `counter` points into a map value and is aligned.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u64 *)(r1 + 0) += r2", in("r1") counter, in("r2") value) }
}

/// Adds and returns the value before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_add(counter: *mut u64, value: u64) -> u64 {
    let before;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!("r2 = atomic_fetch_add((u64 *)(r1 + 0), r2)", in("r1") counter, inout("r2") value => before);
    }
    before
}

/// Sets bits and returns the word before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    let before;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!("r2 = atomic_fetch_or((u64 *)(r1 + 0), r2)", in("r1") word, inout("r2") bits => before);
    }
    before
}

/// Sets bits.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn set(word: *mut u64, bits: u64) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u64 *)(r1 + 0) |= r2", in("r1") word, in("r2") bits) }
}

/// Clears all bits but these and returns the word before, which orders it before what follows on every processor.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_and(word: *mut u64, bits: u64) -> u64 {
    let before;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!("r2 = atomic_fetch_and((u64 *)(r1 + 0), r2)", in("r1") word, inout("r2") bits => before);
    }
    before
}

/// Sets bits.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn set32(word: *mut u32, bits: u32) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u32 *)(r1 + 0) |= w2", in("r1") word, in("r2") u64::from(bits)) }
}

/// Clears all bits but these.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn keep32(word: *mut u32, bits: u32) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u32 *)(r1 + 0) &= w2", in("r1") word, in("r2") u64::from(bits)) }
}

/// Stores `new` and returns the word before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn exchange(word: *mut u64, new: u64) -> u64 {
    let before;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!("r2 = xchg_64(r1 + 0, r2)", in("r1") word, inout("r2") new => before);
    }
    before
}

/// Stores `new` where `old` was; true if it did.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn compare_and_swap(word: *mut u64, old: u64, new: u64) -> bool {
    let before: u64;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!("r0 = cmpxchg_64(r1 + 0, r0, r2)", in("r1") word, in("r2") new, inout("r0") old => before);
    }
    before == old
}

/// Stores `new` where `old` was; true if it did.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn compare_and_swap32(word: *mut u32, old: u32, new: u32) -> bool {
    let before: u64;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!(
            "w0 = cmpxchg32_32(r1 + 0, w0, w2)",
            in("r1") word,
            in("r2") u64::from(new),
            inout("r0") u64::from(old) => before,
        );
    }
    before as u32 == old
}
