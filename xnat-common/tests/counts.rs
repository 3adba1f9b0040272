//! Packets and bytes in one word, and what is carried over.

use proptest::prelude::*;
use xnat_common::flow::Counts;

proptest! {
    #[test]
    fn nothing_is_lost(start_packets in 0_u64..1 << 28, start_bytes in 0_u64..1 << 36, lens in prop::collection::vec(20_u32..65_536, 1..200)) {
        // From anywhere below what is carried over.
        let start = (start_packets & ((1 << 27) - 1)) << 36 | start_bytes & ((1 << 35) - 1);
        let near = [start, (1 << 35) - 1000, ((1 << 27) - 3) << 36 | 0x4d, ((1 << 27) - 3) << 36 | ((1 << 35) - 70_000)];
        for start in near {
            let (mut counts, mut carried) = (start, 0_u64);
            let mut expected = Counts::total(start, 0);
            for &len in &lens {
                let added = Counts::of_packet(len);
                let carry = Counts::carry(counts, added);
                counts += added;
                carried += Counts::carried(carry);
                counts -= carry;
                expected = (expected.0 + 1, expected.1 + u64::from(len));
                prop_assert_eq!(Counts::total(counts, carried), expected);
            }
        }
    }
}
