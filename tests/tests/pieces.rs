//! An update cut into pieces is the same update: none of them waits for another, and the document ends the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/scanner_fixtures.rs"]
mod scanner_fixtures;

use std::collections::HashMap;

use bytes::Bytes;
use syncline_protocol::update::{ScanLimits, pieces, scan_update, state_vector_entries};
use syncline_replica::{HeldLimits, Replica, Taken};

fn clocks(replica: &Replica) -> HashMap<u64, u64> {
    state_vector_entries(&replica.state_vector()).collect()
}

/// Takes it in pieces of `most`; how many there were.
fn take_in_pieces(replica: &mut Replica, update: &[u8], most: usize) -> usize {
    let known = clocks(replica);
    let state = |client: u64| known.get(&client).copied().unwrap_or(0);
    let whole = scan_update(update, &ScanLimits::default()).unwrap();
    let (mut count, mut structs, mut ranges) = (0, 0, 0);
    let mut cut = pieces(update, &state);
    while let Some(piece) = cut.next(most) {
        let summary = scan_update(&piece, &ScanLimits::default()).unwrap();
        assert!(summary.structs + summary.delete_ranges <= most as u64);
        (structs, ranges) = (structs + summary.structs, ranges + summary.delete_ranges);
        let taken = replica.take(&Bytes::from(piece), &HeldLimits::default()).unwrap();
        assert!(matches!(taken, Taken::Changed | Taken::Known), "{taken:?}");
        count += 1;
    }
    assert_eq!((structs, ranges), (whole.structs, whole.delete_ranges), "nothing is left out or doubled");
    count
}

#[test]
fn pieces_make_the_same_document() {
    let mut cuts = 0;
    for vector in [scanner_fixtures::yjs_vectors(), scanner_fixtures::whole_documents()].into_iter().flatten() {
        let whole: Vec<_> = if vector.others.is_empty() { vector.updates } else { vec![vector.others[0].clone()] };
        for most in [1, 3, 50] {
            let (mut one, mut many) = (Replica::default(), Replica::default());
            for update in &whole {
                one.take(&Bytes::from(update.clone()), &HeldLimits::default()).unwrap();
                cuts += take_in_pieces(&mut many, update, most);
            }
            assert_eq!(one.state_vector().len(), many.state_vector().len(), "{}", vector.name);
            assert_eq!(one.to_json().unwrap(), many.to_json().unwrap(), "{}", vector.name);
        }
    }
    println!("{cuts} pieces");
    assert!(cuts > 10_000);
}

#[test]
fn what_a_peer_lacks_comes_in_pieces_too() {
    for vector in scanner_fixtures::yjs_vectors() {
        let half = vector.updates.len() / 2;
        let (mut behind, mut ahead) = (Replica::default(), Replica::default());
        for (number, update) in vector.updates.iter().enumerate() {
            let update = Bytes::from(update.clone());
            ahead.take(&update, &HeldLimits::default()).unwrap();
            if number < half {
                behind.take(&update, &HeldLimits::default()).unwrap();
            }
        }
        if behind.held().len() == 0 {
            let diff = ahead.diff(&behind.state_vector()).unwrap();
            take_in_pieces(&mut behind, &diff, 2);
            assert_eq!(ahead.to_json().unwrap(), behind.to_json().unwrap(), "{}", vector.name);
        }
    }
}
