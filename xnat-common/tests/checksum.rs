//! Checksums that are updated equal checksums that are computed from nothing.

use proptest::prelude::*;
use xnat_common::checksum;

/// Even lengths up to the longest header, biased to the octets at which one's complement is special.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![3 => any::<u8>(), 1 => Just(0), 1 => Just(0xff)];
    prop::collection::vec(octet, 8..120).prop_map(|mut bytes| {
        bytes.truncate(bytes.len() & !1);
        bytes
    })
}

fn read16(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn read32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four octets"))
}

/// The textbook definition, octet by octet, in network order.
fn by_the_book(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for (at, octet) in bytes.iter().enumerate() {
        sum += if at % 2 == 0 { u64::from(*octet) << 8 } else { u64::from(*octet) };
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

proptest! {
    #[test]
    fn compute_is_the_textbook_checksum(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(checksum::compute(&bytes).to_ne_bytes(), by_the_book(&bytes).to_be_bytes());
    }

    #[test]
    fn a_16_bit_change_equals_recomputation(mut bytes in words(), at in any::<prop::sample::Index>(), new in edgy16()) {
        let at = at.index(bytes.len() / 2) * 2;
        let before = checksum::compute(&bytes);
        let delta = checksum::delta16(read16(&bytes, at), new);
        bytes[at..at + 2].copy_from_slice(&new.to_ne_bytes());
        prop_assert!(same_sum(checksum::update(before, delta), &bytes));
    }

    #[test]
    fn a_32_bit_change_equals_recomputation(mut bytes in words(), at in any::<prop::sample::Index>(), new in edgy32()) {
        let at = at.index((bytes.len() - 2) / 2) * 2;
        let before = checksum::compute(&bytes);
        let delta = checksum::delta32(read32(&bytes, at), new);
        bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
        prop_assert!(same_sum(checksum::update(before, delta), &bytes));
    }

    #[test]
    fn many_changes_in_one_sum_equal_recomputation(mut bytes in words(), new in prop::collection::vec(edgy16(), 4)) {
        let before = checksum::compute(&bytes);
        let mut delta = 0;
        for (nth, new) in new.into_iter().enumerate() {
            let at = nth * 2;
            delta += checksum::delta16(read16(&bytes, at), new);
            bytes[at..at + 2].copy_from_slice(&new.to_ne_bytes());
        }
        prop_assert!(same_sum(checksum::update(before, delta), &bytes));
    }

    #[test]
    fn a_change_to_the_same_changes_no_valid_checksum(bytes in words(), value in edgy32()) {
        prop_assume!(bytes.iter().any(|octet| *octet != 0));
        let before = checksum::compute(&bytes);
        prop_assert_eq!(checksum::update(before, checksum::delta32(value, value)), before);
    }

    #[test]
    fn fold_keeps_the_sum_modulo_ffff(sum in any::<u32>()) {
        prop_assert_eq!(u32::from(checksum::fold(sum)) % 0xffff, sum % 0xffff);
        prop_assert_eq!(checksum::fold(sum) == 0, sum == 0);
    }

    #[test]
    fn deltas_stay_within_18_bits(old in edgy32(), new in edgy32()) {
        prop_assert!(checksum::delta32(old, new) < 1 << 18);
    }
}

fn edgy16() -> impl Strategy<Value = u16> {
    prop_oneof![2 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff)]
}

fn edgy32() -> impl Strategy<Value = u32> {
    prop_oneof![2 => any::<u32>(), 1 => Just(0), 1 => Just(u32::MAX), 1 => Just(0xffff), 1 => Just(0xffff_0000)]
}

/// Whether `updated` is the checksum of `bytes`. Data of nothing but zeroes, which no packet is, has two.
fn same_sum(updated: u16, bytes: &[u8]) -> bool {
    updated == checksum::compute(bytes) || bytes.iter().all(|octet| *octet == 0) && updated == 0
}

#[test]
fn the_two_zeroes_are_one_checksum() {
    let unchanged = checksum::delta16(0x1234, 0x1234);
    // 0xffff is what UDP writes for a sum of zero; a change on top of it must count from there.
    assert_eq!(checksum::update(0xffff, unchanged), 0x0000);
    assert_eq!(checksum::update(0x0000, unchanged), 0x0000);
    let one_more = checksum::delta16(0, 1);
    assert_eq!(checksum::update(0xffff, one_more), checksum::update(0x0000, one_more));
    assert_eq!(checksum::delta16(0xffff, 0), 0, "the one change between different words that is none of the sum");
}
