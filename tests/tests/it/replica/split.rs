//! Updates of which a part has missing dependencies: the other part is applied, in whatever order updates arrive.
//! The random test prints its seed; `SYNCLINE_SEED=<seed>` replays it.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use syncline_protocol::update::{ScanLimits, scan_update, update_ranges};
use syncline_replica::{Full, HubDocument, HubLimits, WeighOutcome};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

/// One update for each of these insertions at the end of the text `text`.
fn typed(client: u64, parts: &[&str]) -> Vec<Bytes> {
    let doc = Doc::with_client_id(client);
    let text = doc.get_or_insert_text("text");
    let insert = |part: &&str| {
        let mut txn = doc.transact_mut();
        let end = text.len(&txn);
        text.insert(&mut txn, end, part);
        txn.encode_update_v1().into()
    };
    parts.iter().map(insert).collect()
}

fn merged(updates: &[&Bytes]) -> Bytes {
    yrs::merge_updates_v1(updates).unwrap().into()
}

fn text_of(hub: &HubDocument) -> String {
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    doc.transact_mut().apply_update(Update::decode_v1(&hub.encode()).unwrap()).unwrap();
    text.get_string(&doc.transact())
}

#[test]
fn one_foreign_pending_struct_hides_nothing_else() {
    let (own, foreign) = (typed(1, &["own "]), typed(2, &["lost", "late"]));
    let mut hub = HubDocument::default();
    assert_eq!(hub.take(&merged(&[&own[0], &foreign[1]])), Ok(WeighOutcome::Changed));
    assert_eq!((text_of(&hub).as_str(), hub.pending_len()), ("own ", 1));
    let released = hub.take_released();
    assert_eq!(
        released.iter().map(|released| &released.update).collect::<Vec<_>>(),
        [&own[0]],
        "readers get this part"
    );
    // As a stock client does at each connection.
    assert_eq!(hub.take(&merged(&[&own[0], &foreign[1]])), Ok(WeighOutcome::Known), "it is not kept twice");
    assert_eq!(hub.take(&foreign[0]), Ok(WeighOutcome::Changed));
    assert_eq!(hub.pending_len(), 0);
    assert!(text_of(&hub).contains("lostlate"), "{}", text_of(&hub));
}

#[test]
fn parts_that_depend_on_each_other_are_applied() {
    let (c, d) = (typed(3, &["c1", "c2"]), typed(4, &["d1", "d2"]));
    let mut hub = HubDocument::default();
    assert_eq!(hub.take(&merged(&[&c[0], &d[1]])), Ok(WeighOutcome::Changed));
    assert_eq!(hub.take(&merged(&[&c[1], &d[0]])), Ok(WeighOutcome::Changed));
    assert_eq!(hub.pending_len(), 0);
    let text = text_of(&hub);
    assert!(text.contains("c1c2") && text.contains("d1d2"), "{text}");
}

#[test]
fn typing_behind_a_gap_is_one_entry() {
    let updates = typed(5, &["x"; 3_000]);
    let mut hub = HubDocument::default();
    hub.limit(HubLimits::default());
    for update in &updates[1..] {
        assert_eq!(hub.take(update), Ok(WeighOutcome::Pending));
    }
    assert_eq!(hub.pending_len(), 1);
    assert_eq!(hub.take(&updates[0]), Ok(WeighOutcome::Changed));
    assert_eq!((hub.pending_len(), text_of(&hub).len()), (0, 3_000));
}

#[test]
fn what_is_pending_survives_a_restart() {
    let (c, d) = (typed(6, &["c1", "c2", "c3"]), typed(7, &["d1", "d2"]));
    let mut hub = HubDocument::default();
    hub.take(&merged(&[&c[0], &c[2], &d[1]])).unwrap();
    let stored: Vec<Bytes> = std::iter::once(hub.compact()).chain(hub.pending()).collect();
    let mut hub = HubDocument::load(1, &stored).unwrap();
    assert_eq!((text_of(&hub).as_str(), hub.pending_len()), ("c1", 2));
    hub.take(&merged(&[&c[1], &d[0]])).unwrap();
    assert_eq!((text_of(&hub).len(), hub.pending_len()), (10, 0));
}

/// The end of a document, behind gaps: adjacent items are one struct, as Yjs 14 joins them there too.
fn joined_end(doc: &Doc, random: &mut StdRng) -> Bytes {
    let txn = doc.transact();
    let known = txn.state_vector();
    let cut = known.iter().map(|(client, clock)| (*client, random.random_range(0..=*clock)));
    txn.encode_diff_v1(&cut.collect::<StateVector>()).into()
}

/// Some clients type, delete and receive. Their updates, merged in any groups, with gaps, and some of it again in other bytes.
fn shuffled_updates(random: &mut StdRng) -> Vec<Bytes> {
    let docs: Vec<Doc> = (1..=4).map(Doc::with_client_id).collect();
    let mut updates: Vec<Bytes> = Vec::new();
    for _ in 0..60 {
        let doc = &docs[random.random_range(0..docs.len())];
        let text = doc.get_or_insert_text("text");
        let mut txn = doc.transact_mut();
        let len = text.len(&txn);
        if len > 2 && random.random_bool(0.3) {
            let at = random.random_range(0..len - 1);
            text.remove_range(&mut txn, at, random.random_range(1..=(len - at).min(3)));
        } else {
            text.insert(&mut txn, random.random_range(0..=len), "ab");
        }
        updates.push(txn.encode_update_v1().into());
        drop(txn);
        let (from, to) = (random.random_range(0..docs.len()), random.random_range(0..docs.len()));
        if from != to && random.random_bool(0.4) {
            let known = docs[to].transact().state_vector();
            let update = docs[from].transact().encode_diff_v1(&known);
            docs[to].transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
        }
    }
    let mut groups: Vec<Bytes> = Vec::new();
    let mut order: Vec<&Bytes> = updates.iter().collect();
    order.shuffle(random);
    while !order.is_empty() {
        let count = random.random_range(1..=order.len().min(5));
        groups.push(merged(&order.drain(..count).collect::<Vec<_>>()));
        if random.random_bool(0.3) {
            groups.push(joined_end(&docs[random.random_range(0..docs.len())], random));
        }
    }
    groups
}

/// A hub gets these updates.
fn check(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let groups = shuffled_updates(&mut random);
    let mut hub = HubDocument::new(9);
    let mut released = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let is_split = hub.weigh(group).unwrap().is_split();
        hub.take(group).unwrap();
        released.extend((!is_split).then(|| group.clone()));
        released.extend(hub.take_released().into_iter().map(|released| released.update));
        // The same updates in another order.
        let mut others: Vec<Bytes> = groups[..=number].to_vec();
        others.shuffle(&mut random);
        let other = HubDocument::load(9, &others).unwrap();
        assert_eq!(text_of(&hub), text_of(&other), "SYNCLINE_SEED={seed}: after {number} of {}", groups.len());
        assert_eq!(hub.state_vector(), other.state_vector(), "SYNCLINE_SEED={seed}");
    }
    assert_eq!(hub.pending_len(), 0, "SYNCLINE_SEED={seed}");
    let all = Doc::new();
    let text = all.get_or_insert_text("text");
    for update in &released {
        let mut txn = all.transact_mut();
        txn.apply_update(Update::decode_v1(update).unwrap()).unwrap();
        assert!(txn.store().pending_update().is_none(), "SYNCLINE_SEED={seed}: readers never have to wait");
    }
    assert_eq!(text.get_string(&all.transact()), text_of(&hub), "SYNCLINE_SEED={seed}");
    let state = all.transact().encode_state_as_update_v1(&StateVector::default());
    assert_eq!(hub.take(&state.into()), Ok(WeighOutcome::Known), "SYNCLINE_SEED={seed}");
}

#[test]
fn order_and_grouping_of_updates_make_no_difference() {
    let seed = std::env::var("SYNCLINE_SEED").ok().map(|seed| seed.parse().expect("SYNCLINE_SEED is a number"));
    for _ in 0..if seed.is_some() { 1 } else { 40 } {
        check(seed.unwrap_or_else(rand::random));
    }
}

/// Structs of a client at clocks that it uses itself. The first one, and some of the others, can never be applied.
fn forged(known: &[(u64, u64)], random: &mut StdRng) -> Bytes {
    let (client, end) = known[random.random_range(0..known.len())];
    let (mut clock, mut structs) = (random.random_range(0..end), Vec::new());
    while clock < end {
        let len = random.random_range(1..=(end - clock).min(4)) as u8;
        let is_first = structs.is_empty();
        let origin = if is_first || random.random_bool(0.3) {
            [66, random.random_range(0..3)]
        } else {
            [client as u8, clock as u8 - 1]
        };
        structs.push([&[0x84, origin[0], origin[1], len][..], &vec![b'f'; usize::from(len)]].concat());
        clock += u64::from(len);
        if random.random_bool(0.2) {
            break;
        }
    }
    let start = clock - structs.iter().map(|found| u64::from(found[3])).sum::<u64>();
    [&[1, structs.len() as u8, client as u8, start as u8][..], &structs.concat(), &[0]].concat().into()
}

/// A hub gets the updates of some clients and forged structs, and restarts in between.
fn check_with_forged(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let groups = shuffled_updates(&mut random);
    let whole = HubDocument::load(9, &groups).unwrap();
    let known: Vec<(u64, u64)> = whole.known().iter().collect();
    let mut hub = HubDocument::new(9);
    for group in &groups {
        for _ in 0..random.random_range(0..3) {
            hub.take(&forged(&known, &mut random)).unwrap();
        }
        hub.take(group).unwrap();
        assert_eq!(hub.take(group), Ok(WeighOutcome::Known), "SYNCLINE_SEED={seed}");
        if random.random_bool(0.1) {
            let stored: Vec<Bytes> = std::iter::once(hub.compact()).chain(hub.pending()).collect();
            hub = HubDocument::load(9, &stored).unwrap();
        }
    }
    assert_eq!(hub.state_vector(), whole.state_vector(), "SYNCLINE_SEED={seed}");
}

#[test]
fn forged_versions_of_structs_hide_nothing() {
    let seed = std::env::var("SYNCLINE_SEED").ok().map(|seed| seed.parse().expect("SYNCLINE_SEED is a number"));
    for _ in 0..if seed.is_some() { 1 } else { 100 } {
        check_with_forged(seed.unwrap_or_else(rand::random));
    }
}

#[test]
fn encoding_of_everything_holds_what_is_pending() {
    let (c, d, e) = (typed(6, &["c1", "c2", "c3"]), typed(7, &["d1", "d2"]), typed(8, &["e1", "e2"]));
    let mut hub = HubDocument::default();
    hub.take(&merged(&[&c[0], &c[2], &d[1], &e[0]])).unwrap();
    let all = hub.encode_all();
    assert!(scan_update(&all, &ScanLimits::default()).is_ok());
    let mut again = HubDocument::load(1, &[all]).unwrap();
    assert_eq!((again.pending(), again.encode()), (hub.pending(), hub.encode()));
    for hub in [&mut hub, &mut again] {
        hub.take(&merged(&[&c[1], &d[0], &e[1]])).unwrap();
    }
    assert_eq!((hub.pending_len(), hub.encode_all()), (0, again.encode_all()));
}

/// One struct of text for the section of a client at a clock.
fn text_struct(client: u8, clock: u8, origin: (u8, u8), letters: &str) -> Bytes {
    let mut update = vec![1, 1, client, clock, 0x84, origin.0, origin.1, letters.len() as u8];
    update.extend(letters.as_bytes());
    update.push(0);
    update.into()
}

#[test]
fn encoding_of_overlapping_entries_holds_all_clocks() {
    let mut hub = HubDocument::default();
    assert_eq!(hub.take(&text_struct(5, 0, (9, 4), "abc")), Ok(WeighOutcome::Pending));
    // The same client's letters again, joined to one struct that reaches behind the first.
    assert_eq!(hub.take(&text_struct(5, 1, (5, 0), "bcde")), Ok(WeighOutcome::Pending));
    let all = hub.encode_all();
    assert!(scan_update(&all, &ScanLimits::default()).is_ok());
    assert_eq!(update_ranges(&all).map(|range| (range.start, range.end)).collect::<Vec<_>>(), [(0, 5)]);
}

#[test]
fn entry_is_released_by_another_version_of_its_beginning() {
    let mut hub = HubDocument::default();
    hub.take(&text_struct(5, 0, (66, 0), "abc")).unwrap();
    hub.take(&text_struct(5, 3, (5, 2), "def")).unwrap();
    // As after a restart, when the senders are not known: both are one entry.
    assert_eq!(hub.pending_len(), 1);
    let real = Bytes::from(vec![1, 1, 5, 0, 4, 1, 1, b't', 3, b'a', b'b', b'c', 0]);
    assert_eq!(hub.take(&real), Ok(WeighOutcome::Changed));
    assert_eq!((hub.pending_len(), hub.known().clock(5)), (0, 6));
}

#[test]
fn deletion_of_an_unknown_clock_does_not_lift_the_limit_on_deletions() {
    let mut hub = HubDocument::default();
    hub.take(&typed(1, &["a long text"])[0]).unwrap();
    hub.limit(HubLimits { bytes: 10, ..HubLimits::default() });
    let deletions = |unknown: &[u8]| {
        let mut update = vec![0, 1 + u8::from(!unknown.is_empty())];
        update.extend(unknown);
        update.extend([1, 2, 0, 1, 2, 1]);
        Bytes::from(update)
    };
    assert_eq!(hub.take(&deletions(&[])), Ok(WeighOutcome::Full(Full::Bytes)));
    assert_eq!(hub.take(&deletions(&[99, 1, 0, 1])), Ok(WeighOutcome::Full(Full::Bytes)));
}

/// What a client sends that has the letters of `text` from `clock` on as one struct, behind a gap.
fn joined(client: u8, clock: u8, letters: &str) -> Bytes {
    text_struct(client, clock, (client, clock - 1), letters)
}

#[test]
fn pending_letters_are_recognised_when_they_are_sent_again_as_one_struct() {
    let mut hub = HubDocument::default();
    for (clock, letter) in [(5, "a"), (6, "b"), (7, "c")] {
        assert_eq!(hub.take(&joined(1, clock, letter)), Ok(WeighOutcome::Pending));
    }
    assert_eq!(hub.take(&joined(1, 5, "abc")), Ok(WeighOutcome::Known));
    assert_eq!(hub.take(&joined(1, 6, "bc")), Ok(WeighOutcome::Known));
    // Two letters that were typed offline.
    let update = joined(1, 5, "abcde");
    let weighed = hub.weigh(&update).unwrap();
    assert_eq!(weighed.outcome(), WeighOutcome::Pending);
    assert_eq!(hub.enter(weighed, None), Some(joined(1, 8, "de")), "only these are new");
    assert_eq!((hub.pending_len(), hub.take(&update)), (1, Ok(WeighOutcome::Known)));
    // A letter is deleted, and the client has dropped its content.
    let deleted =
        [&[1, 3, 1, 5, 0x84, 1, 4, 1, b'a', 0x81, 1, 5, 1, 0x84, 1, 6, 3][..], b"cde", &[1, 1, 1, 6, 1]].concat();
    assert_eq!(hub.take(&deleted.clone().into()), Ok(WeighOutcome::Pending), "the deletion is new");
    assert_eq!((hub.pending_len(), hub.take(&deleted.into())), (2, Ok(WeighOutcome::Known)));
    let first = Bytes::from(vec![1, 1, 1, 0, 4, 1, 1, b't', 5, b'1', b'2', b'3', b'4', b'5', 0]);
    assert_eq!(hub.take(&first), Ok(WeighOutcome::Changed));
    assert_eq!((hub.pending_len(), hub.known().clock(1)), (0, 10));
}

#[test]
fn reconnects_of_an_author_behind_a_gap_store_only_what_is_new() {
    let mut hub = HubDocument::default();
    hub.limit(HubLimits { pending_bytes: 4_000, ..HubLimits::default() });
    let letters = "x".repeat(100);
    for typed in 1..100 {
        // With another source each time, as after each reconnect.
        let update = joined(1, 5, &letters[..typed]);
        let weighed = hub.weigh(&update).unwrap();
        assert_eq!(weighed.outcome(), WeighOutcome::Pending, "{typed} letters");
        assert_eq!(hub.enter(weighed, Some(typed as u64)), Some(joined(1, 4 + typed as u8, "x")));
    }
}

#[test]
fn version_that_never_becomes_ready_hides_no_other_version() {
    for forged in [text_struct(5, 0, (66, 0), "abcdefghij"), text_struct(5, 4, (66, 0), "forged")] {
        let mut hub = HubDocument::default();
        assert_eq!(hub.take(&forged), Ok(WeighOutcome::Pending));
        let honest = joined(5, 2, "cdefgh");
        assert_eq!(hub.take(&honest), Ok(WeighOutcome::Pending), "kept as well");
        assert_eq!(hub.take(&honest), Ok(WeighOutcome::Known), "once");
        assert_eq!(hub.take(&forged), Ok(WeighOutcome::Known));
        let first = Bytes::from(vec![1, 1, 5, 0, 4, 1, 1, b't', 2, b'a', b'b', 0]);
        assert_eq!(hub.take(&first), Ok(WeighOutcome::Changed));
        assert_eq!(hub.known().clock(5), 8);
    }
}
