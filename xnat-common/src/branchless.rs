//! Decisions without a branch: the verifier would follow both its sides, wherever it comes to one.
//!
//! What a comparison says the compiler does not know, lest it make a branch of what is made of it.

/// One if `number`, of no more than 63 bits, is zero, else zero.
#[inline(always)]
#[must_use]
pub fn is_zero(number: u64) -> u64 {
    is_below(number, 1)
}

/// One if `number` is less than `bound`, else zero; both of no more than 63 bits.
#[inline(always)]
#[must_use]
pub fn is_below(number: u64, bound: u64) -> u64 {
    debug_assert!((number | bound) >> 63 == 0, "63 bits: {number:#x}, {bound:#x}");
    highest_bit(number.wrapping_sub(bound))
}

/// `yes` if `condition`, which is one or zero, is one, else `no`.
#[inline(always)]
#[must_use]
pub const fn select(condition: u64, yes: u64, no: u64) -> u64 {
    no ^ (no ^ yes) & condition.wrapping_neg()
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn highest_bit(mut number: u64) -> u64 {
    // SAFETY: nothing but the number changes. In assembly, so that the compiler does not know what becomes of it.
    unsafe { core::arch::asm!("{0} >>= 63", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
const fn highest_bit(number: u64) -> u64 {
    number >> 63
}

#[cfg(test)]
mod tests {
    use super::{is_below, is_zero, select};

    #[test]
    fn conditions_are_one_or_zero() {
        for number in [0, 1, 2, 0xff, 1 << 62, (1 << 63) - 1] {
            assert_eq!(is_zero(number), u64::from(number == 0), "{number}");
            for bound in [0, 1, 2, 3, 1 << 62] {
                assert_eq!(is_below(number, bound), u64::from(number < bound), "{number} {bound}");
            }
        }
        assert_eq!((select(1, 7, u64::MAX), select(0, 7, u64::MAX)), (7, u64::MAX));
    }
}
