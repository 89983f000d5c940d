//! Each rule of the scanner, on hand-written updates.

use super::*;
use crate::varint::{write_var_bytes, write_var_uint};

const CLIENT: u64 = 9;

fn numbers(values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|&value| write_var_uint(&mut out, value));
    out
}

/// An item of the root type `t` with the given content, at clock 0.
fn item(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, 1, 1, b't'][..], content].concat()
}

/// An update with sections of (client, clock, structs) and an empty delete set.
fn update(sections: &[(u64, u64, &[Vec<u8>])]) -> Vec<u8> {
    let mut out = numbers(&[sections.len() as u64]);
    for (client, clock, structs) in sections {
        out.extend(numbers(&[structs.len() as u64, *client, *clock]));
        structs.iter().for_each(|bytes| out.extend_from_slice(bytes));
    }
    out.push(0);
    out
}

fn text(content: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_var_bytes(&mut bytes, content.as_bytes());
    item(4, &bytes)
}

/// A text item with this origin.
fn after(origin: (u64, u64), content: &str) -> Vec<u8> {
    let mut bytes = [&[0x84][..], &numbers(&[origin.0, origin.1])].concat();
    write_var_bytes(&mut bytes, content.as_bytes());
    bytes
}

fn scan(update: &[u8]) -> Result<Summary, ScanError> {
    scan_update(update, &ScanLimits::default())
}

fn scan_item(tag: u8, content: &[u8]) -> Result<Summary, ScanError> {
    scan(&update(&[(CLIENT, 0, &[item(tag, content)])]))
}

fn structs(update: &[u8], state: &[(u64, u64)]) -> Structs {
    let clock = |client| state.iter().find(|entry| entry.0 == client).map_or(0, |entry| entry.1);
    verdict(update, &clock, &ScanLimits::default()).expect("a valid update").structs
}

#[test]
fn empty_update_is_valid_and_has_no_structs() {
    assert!(scan(&EMPTY_UPDATE).expect("a valid update").is_empty());
    assert_eq!(structs(&EMPTY_UPDATE, &[]), Structs::None);
    assert_eq!(scan(&[]), Err(ReadError::UnexpectedEnd.into()));
    assert_eq!(scan(&[0, 0, 0]), Err(ScanError::TrailingBytes(1)));
}

#[test]
fn text_advances_the_clock_by_its_utf16_length() {
    for (content, len) in [("a", 1), ("é", 1), ("€", 1), ("😀", 2), ("a😀é", 4)] {
        let bytes = update(&[(CLIENT, 5, &[text(content)])]);
        let ranges: Vec<_> = update_ranges(&bytes).collect();
        assert_eq!(ranges, [ClientRange { client: CLIENT, start: 5, end: 5 + len }], "{content}");
    }
}

#[test]
fn every_truncation_of_a_valid_update_is_refused() {
    let values = [2, 118, 1, 1, b'k', 117, 2, 125, 0xc1, 1, 123, 0, 0, 0, 0, 0, 0, 0, 0, 119, 1, b'x'];
    let mut bytes = update(&[
        (CLIENT, 0, &[text("ab"), item(8, &values), item(5, b"\x04[{}]"), item(6, b"\x01b\x04true")]),
        (
            3,
            7,
            &[
                vec![0, 4],
                vec![10, 2],
                after((CLIENT, 0), "x"),
                item(0x27, b"\x01k\x03\x01p"),
                item(9, b"\x01g\x76\x00"),
            ],
        ),
    ]);
    bytes.pop();
    bytes.extend_from_slice(&[1, 3, 2, 0, 1, 2, 5]);
    let summary = scan(&bytes).expect("a valid update");
    assert_eq!((summary.clients, summary.structs, summary.skips), (2, 9, 1));
    assert_eq!((summary.delete_clients, summary.delete_ranges), (1, 2));
    assert_eq!((summary.value_depth, summary.subdocuments), (2, 1));
    for len in 0..bytes.len() {
        assert!(scan(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn tags_unknown_to_yjs_are_refused() {
    for info in [0x10, 0x14, 0x0b, 0x1f, 0x80, 0x8a, 0x2a, 0xe0] {
        assert_eq!(scan_item(info, &[0; 9]), Err(ScanError::UnknownStruct(info)), "{info:#x}");
    }
    for tag in [7, 9, 15] {
        assert_eq!(scan_item(7, &[tag]), Err(ScanError::UnknownType(tag.into())));
    }
    assert_eq!(scan_item(8, &[1, 115]), Err(ScanError::UnknownValue(115)));
    assert_eq!(scan_item(9, &[0, 126]), Err(ScanError::BadSubdocument));
}

#[test]
fn content_that_only_yjs_reads_is_accepted() {
    // A list from Yjs before 13, and a hook with its name.
    let texts = item(2, b"\x03\x011\x09undefined\x04\x22\xc3\xa9\x22");
    let bytes = update(&[(CLIENT, 5, &[texts])]);
    assert!(scan(&bytes).is_ok());
    assert_eq!(update_ranges(&bytes).next().map(|range| range.end), Some(8));
    assert!(scan_item(7, b"\x05\x04hook").is_ok());
    assert!(scan_item(7, b"\x85\x00\x04hook").is_ok(), "a padded number");
    assert_eq!(scan_item(2, b"\x01\x03nil"), Err(ScanError::BadJson));
    // A lone surrogate, as JSON.stringify writes it.
    assert!(scan_item(5, b"\x08\"\\ud83d\"").is_ok());
}

#[test]
fn empty_sections_structs_and_ranges_are_refused() {
    assert_eq!(scan_item(4, &[0]), Err(ScanError::Empty(CLIENT)));
    assert_eq!(scan_item(8, &[0]), Err(ScanError::Empty(CLIENT)));
    assert_eq!(scan(&update(&[(CLIENT, 0, &[vec![0, 0]])])), Err(ScanError::Empty(CLIENT)));
    assert_eq!(scan(&update(&[(CLIENT, 0, &[vec![10, 0]])])), Err(ScanError::Empty(CLIENT)));
    assert_eq!(scan(&update(&[(CLIENT, 0, &[]), (1, 0, &[text("a")])])), Err(ScanError::Empty(CLIENT)));
    assert_eq!(scan(&[0, 1, 9, 0, 0, 0]), Err(ScanError::Empty(CLIENT)));
    assert_eq!(scan(&[0, 1, 9, 1, 4, 0]), Err(ScanError::Empty(CLIENT)));
}

#[test]
fn clocks_that_would_overflow_yrs_are_refused() {
    let far = |clock, len| update(&[(CLIENT, clock, &[[&[0][..], &numbers(&[len])].concat()])]);
    assert!(scan(&far(0, limits::MAX_CLOCK)).is_ok());
    for (clock, len) in [(1, limits::MAX_CLOCK), (limits::MAX_CLOCK, 1), (4_000_000_000, 1), (0, (1 << 53) - 1)] {
        assert!(matches!(scan(&far(clock, len)), Err(ScanError::ClockTooLarge { .. })), "{clock} {len}");
    }
    let deleted = [&[0, 1, 9, 1][..], &numbers(&[1, limits::MAX_CLOCK])].concat();
    assert!(matches!(scan(&deleted), Err(ScanError::ClockTooLarge { .. })));
}

#[test]
fn references_to_own_or_later_clocks_are_refused() {
    for clock in [5, 6, 100] {
        let bytes = update(&[(CLIENT, 5, &[after((CLIENT, clock), "x")])]);
        assert_eq!(scan(&bytes), Err(ScanError::SelfReference { client: CLIENT, clock: 5 }));
    }
    assert!(scan(&update(&[(CLIENT, 5, &[after((CLIENT, 4), "x"), after((CLIENT, 5), "y")])])).is_ok());
}

#[test]
fn duplicate_clients_are_refused_in_any_order() {
    let a = [text("a")];
    assert!(scan(&update(&[(1, 0, &a), (3, 0, &a), (2, 0, &a)])).is_ok());
    assert_eq!(scan(&update(&[(1, 0, &a), (3, 0, &a), (1, 0, &a)])), Err(ScanError::DuplicateClient(1)));
    assert_eq!(scan(&update(&[(1, 0, &a), (1, 1, &a)])), Err(ScanError::DuplicateClient(1)));
    assert_eq!(scan(&[0, 3, 1, 1, 0, 1, 2, 1, 0, 1, 1, 1, 5, 1]), Err(ScanError::DuplicateClient(1)));
    assert!(scan(&[0, 3, 1, 1, 0, 1, 3, 1, 0, 1, 2, 1, 5, 1]).is_ok());
}

#[test]
fn unsorted_delete_ranges_are_refused() {
    assert!(scan(&[0, 1, 1, 2, 0, 2, 2, 1]).is_ok());
    assert_eq!(scan(&[0, 1, 1, 2, 0, 2, 1, 1]), Err(ScanError::UnsortedRanges(1)));
}

#[test]
fn counts_beyond_the_bytes_or_the_limits_are_refused() {
    let huge = numbers(&[1 << 40]);
    assert_eq!(scan(&huge), Err(ScanError::CountBeyondBytes(1 << 40)));
    assert_eq!(scan_item(8, &huge), Err(ScanError::CountBeyondBytes(1 << 40)));
    assert_eq!(scan_item(8, &[&[1, 117][..], &huge].concat()), Err(ScanError::CountBeyondBytes(1 << 40)));
    let few = ScanLimits { clients: 1, ..ScanLimits::default() };
    for (bytes, what) in [
        (update(&[(1, 0, &[text("a")]), (2, 0, &[text("b")])]), "clients"),
        (vec![0, 2, 1, 1, 0, 2, 2, 1, 0, 2], "clients in the delete set"),
    ] {
        assert!(matches!(scan_update(&bytes, &few), Err(ScanError::TooMany { what: found, .. }) if found == what));
    }
}

#[test]
fn values_nested_too_deep_are_refused() {
    let deep = |levels: usize| [&[1][..], &[117, 1].repeat(levels), &[127]].concat();
    assert_eq!(scan_item(8, &deep(100)).expect("a valid update").value_depth, 100);
    assert_eq!(scan_item(8, &deep(101)), Err(ScanError::ValueTooDeep(100)));
    let limits = ScanLimits { value_depth: usize::MAX, ..ScanLimits::default() };
    let bytes = update(&[(1, 0, &[item(8, &deep(100_000))])]);
    assert_eq!(scan_update(&bytes, &limits), Err(ScanError::ValueTooDeep(VALUE_DEPTH_CEILING)));
}

/// `count` nested types, each the child of the previous one; with `siblings`, inserted after a sibling.
fn nested_types(count: u64, siblings: bool) -> Vec<u8> {
    let mut structs = vec![item(7, &[1])];
    let mut parent = 0;
    let mut clock = 1;
    for _ in 1..count {
        if siblings {
            structs.push([&[0x04, 0][..], &numbers(&[CLIENT, parent]), &[1, b'x']].concat());
            structs.push([&[0x87][..], &numbers(&[CLIENT, clock]), &[1]].concat());
            parent = clock + 1;
            clock += 2;
        } else {
            structs.push([&[0x07, 0][..], &numbers(&[CLIENT, parent]), &[1]].concat());
            parent = clock;
            clock += 1;
        }
    }
    update(&[(CLIENT, 0, &structs)])
}

#[test]
fn type_depth_counts_nested_types() {
    for siblings in [false, true] {
        assert!(scan(&nested_types(10_000, siblings)).is_ok());
        assert_eq!(type_depth(&nested_types(501, siblings)), Ok(500));
        assert_eq!(type_depth(&nested_types(10_000, siblings)), Ok(9_999));
    }
}

#[test]
fn many_shallow_types_are_accepted() {
    let child = [&[0x07, 0][..], &numbers(&[CLIENT, 0]), &[1]].concat();
    let structs: Vec<_> = std::iter::once(item(7, &[1])).chain(std::iter::repeat_n(child, 20_000)).collect();
    assert_eq!(scan(&update(&[(CLIENT, 0, &structs)])).expect("a valid update").nested, 20_000);
}

#[test]
fn verdict_follows_from_the_clocks() {
    let bytes = update(&[(CLIENT, 2, &[text("ab"), after((CLIENT, 3), "c"), after((4, 1), "d")])]);
    assert_eq!(structs(&bytes, &[(CLIENT, 2), (4, 2)]), Structs::Fresh);
    assert_eq!(structs(&bytes, &[(CLIENT, 6), (4, 2)]), Structs::Known);
    assert_eq!(structs(&bytes, &[(CLIENT, 99)]), Structs::Known);
    assert_eq!(structs(&bytes, &[(CLIENT, 3), (4, 2)]), Structs::Overlaps);
    assert_eq!(structs(&bytes, &[(CLIENT, 4), (4, 2)]), Structs::Overlaps);
    assert_eq!(structs(&bytes, &[(CLIENT, 1), (4, 2)]), Structs::Gap);
    assert_eq!(structs(&bytes, &[(CLIENT, 2), (4, 1)]), Structs::MissingDependency);
    let holed = update(&[(CLIENT, 0, &[text("a"), vec![10, 3], after((CLIENT, 0), "b")])]);
    assert_eq!(structs(&holed, &[]), Structs::Gap);
    assert_eq!(structs(&holed, &[(CLIENT, 4)]), Structs::Overlaps);
}

#[test]
fn dependencies_within_an_update_are_found_for_any_section_count() {
    for sections in [2, 8, 9, 40] {
        // Each client depends on the next one, which comes later in the bytes.
        let structs_of: Vec<_> = (0..sections).map(|client| vec![after((client + 1, 0), "x")]).collect();
        let mut list: Vec<(u64, u64, &[Vec<u8>])> =
            (0..).zip(&structs_of).map(|(client, of)| (client, 0, &of[..])).collect();
        let first = [text("x")];
        assert_eq!(structs(&update(&list), &[]), Structs::MissingDependency, "{sections}");
        list.push((sections, 0, &first));
        assert_eq!(structs(&update(&list), &[]), Structs::Fresh, "{sections}");
    }
}

#[test]
fn deletions_of_missing_elements_are_reported() {
    let mut bytes = update(&[(CLIENT, 0, &[text("ab")])]);
    bytes.pop();
    bytes.extend_from_slice(&[2, 9, 1, 0, 2, 4, 1, 0, 3]);
    let ahead = |clock: u64| {
        let state = move |client| if client == 4 { clock } else { 0 };
        let verdict = verdict(&bytes, &state, &ScanLimits::default()).expect("a valid update");
        assert!(verdict.deletes);
        verdict.deletes_ahead
    };
    assert!(!ahead(3));
    assert!(ahead(2));
}
