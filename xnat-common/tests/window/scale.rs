//! The window scale among a SYN's options.

use proptest::prelude::*;

use xnat_common::tcp::window::{Scale, options};

fn scale(options: &[u8]) -> Scale {
    let mut list = [0; options::ROOM];
    list[..options.len()].copy_from_slice(options);
    options::window_scale(&list, options.len())
}

/// The same, option by option (RFC 9293 §3.1).
fn by_options(mut rest: &[u8]) -> Scale {
    loop {
        rest = match *rest {
            [] | [0, ..] => return Scale::NONE,
            [1, ref behind @ ..] => behind,
            [3, 3, shift, ..] => return Scale::from_option(shift),
            [_, length, ..] if length >= 2 => rest.get(length.into()..).unwrap_or_default(),
            _ => return Scale::NONE,
        };
    }
}

/// Options that make sense, most of them, one behind the other, as far as there is room.
fn list() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        3 => Just(vec![1]),
        1 => Just(vec![0]),
        3 => (0_u8..=20).prop_map(|shift| vec![3, 3, shift]),
        4 => (2_u8..=9, 2_usize..=12).prop_map(|(kind, length)| [&[kind, length as u8], &vec![3; length - 2][..]].concat()),
        1 => (any::<u8>(), 0_u8..=4).prop_map(|(kind, length)| vec![kind, length]),
    ];
    (prop::collection::vec(option, 0..=20), 0_usize..=40).prop_map(|(options, longest)| {
        let mut list = options.concat();
        list.truncate(longest);
        list
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_walk_through_options_is_that_of_the_standard(list in list()) {
        prop_assert_eq!(scale(&list), by_options(&list), "{:?}", list);
    }
}

#[test]
fn the_window_scale_is_found_wherever_it_stands() {
    // As Linux, Windows and macOS have it.
    assert_eq!(scale(&[2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]), Scale(7));
    assert_eq!(scale(&[2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2]), Scale(8));
    assert_eq!(scale(&[2, 4, 5, 180, 1, 3, 3, 6, 1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 4, 2, 0, 0]), Scale(6));
    assert_eq!(scale(&[3, 3, 0]), Scale(0));
    assert_eq!(scale(&[&[1; 37][..], &[3, 3, 200]].concat()), Scale(14));
    // There is none: of another length, cut off, behind the end, behind a damaged option or one that reaches beyond.
    for options in [&[][..], &[1; 40], &[3, 4, 7, 0], &[1, 3, 3], &[0, 3, 3, 7], &[8, 1, 3, 3, 7], &[2, 0, 3, 3, 7]] {
        assert_eq!(scale(options), Scale::NONE, "{options:?}");
    }
    assert_eq!(scale(&[9, 255, 3, 3, 7]), Scale::NONE);
    assert_eq!(scale(&[&[1; 38][..], &[3, 3]].concat()), Scale::NONE);
}
