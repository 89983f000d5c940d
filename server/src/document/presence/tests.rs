//! Tests of `presence.rs`.

use syncline_protocol::awareness::AwarenessUpdate;

use super::*;

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

fn entry(client: u64, clock: u64, state: &str) -> AwarenessEntry<'_> {
    AwarenessEntry { client, clock, state }
}

fn bring(presence: &mut Presence, lease: LeaseId, entries: &[AwarenessEntry<'_>]) -> Changes {
    presence.update(lease, entries.iter().copied())
}

/// (client, clock, state) of an encoded update.
fn decode(update: &[u8]) -> Vec<(u64, u64, String)> {
    let update = AwarenessUpdate::scan(update, &Default::default()).unwrap();
    update.iter().map(|entry| (entry.client, entry.clock, entry.state.to_owned())).collect()
}

/// What everyone is sent.
fn sent(presence: &Presence, changes: &Changes) -> Vec<(u64, u64, String)> {
    decode(&presence.encode(changes.everyone.iter().copied()))
}

fn brought(presence: &mut Presence, lease: LeaseId, entries: &[AwarenessEntry<'_>]) -> Vec<(u64, u64, String)> {
    let changes = bring(presence, lease, entries);
    sent(presence, &changes)
}

fn left(presence: &mut Presence, lease: LeaseId) -> Vec<(u64, u64, String)> {
    let changes = presence.leave(lease);
    sent(presence, &changes)
}

fn row(client: u64, clock: u64, state: &str) -> (u64, u64, String) {
    (client, clock, state.to_owned())
}

#[test]
fn an_echo_of_what_is_known_is_dropped() {
    let mut presence = Presence::default();
    bring(&mut presence, B, &[entry(20, 0, "{}")]);
    assert_eq!(brought(&mut presence, A, &[entry(10, 3, "{}")]), [row(10, 3, "{}")]);
    assert_eq!(bring(&mut presence, B, &[entry(10, 3, "{}")]), Changes::default());
    assert_eq!(bring(&mut presence, B, &[entry(10, 2, "{}")]), Changes::default());
    // B's echo did not make the id B's.
    assert_eq!(left(&mut presence, B), [row(20, 0, "null")]);
    assert_eq!(left(&mut presence, A), [row(10, 3, "null")]);
}

#[test]
fn a_removal_keeps_the_clock_and_a_return_is_helped() {
    let mut presence = Presence::default();
    bring(&mut presence, A, &[entry(10, 3, "{}")]);
    presence.leave(A);
    // Back on a new connection with the clock it had.
    let changes = bring(&mut presence, B, &[entry(10, 3, r#"{"x":1}"#)]);
    assert_eq!(sent(&presence, &changes), [row(10, 4, r#"{"x":1}"#)]);
    assert_eq!(decode(changes.bringer.as_deref().unwrap()), [row(10, 3, "null")]);
    // The client, told so, announces itself at clock 4: known already.
    assert_eq!(bring(&mut presence, B, &[entry(10, 4, r#"{"x":1}"#)]), Changes::default());
    assert_eq!(left(&mut presence, B), [row(10, 4, "null")]);
}

#[test]
fn a_late_echo_does_not_bring_back_one_who_left() {
    let mut presence = Presence::default();
    bring(&mut presence, B, &[entry(20, 0, "{}")]);
    bring(&mut presence, A, &[entry(10, 3, "{}")]);
    presence.leave(A);
    assert_eq!(bring(&mut presence, B, &[entry(10, 3, "{}")]), Changes::default());
}

#[test]
fn one_who_returns_before_the_old_connection_is_found_dead_owns_itself() {
    let mut presence = Presence::default();
    bring(&mut presence, A, &[entry(10, 3, "{}")]);
    assert_eq!(bring(&mut presence, B, &[entry(10, 3, "{}")]), Changes::default());
    assert_eq!(presence.leave(A), Changes::default(), "the dead connection takes nobody along");
    assert_eq!(left(&mut presence, B), [row(10, 3, "null")]);
}

#[test]
fn a_client_may_say_goodbye_and_come_back() {
    let mut presence = Presence::default();
    bring(&mut presence, A, &[entry(10, 3, "{}")]);
    assert_eq!(brought(&mut presence, A, &[entry(10, 4, "null")]), [row(10, 4, "null")]);
    assert_eq!(presence.everyone(), None);
    assert_eq!(brought(&mut presence, A, &[entry(10, 5, "{}")]), [row(10, 5, "{}")]);
    assert_eq!(decode(&presence.everyone().unwrap()), [row(10, 5, "{}")]);
}

#[test]
fn the_dead_of_strangers_are_not_remembered() {
    let mut presence = Presence::default();
    assert_eq!(bring(&mut presence, A, &[entry(10, 4, "null")]), Changes::default());
    assert!(presence.clients.is_empty());
}

#[test]
fn states_are_bounded_and_make_room_when_they_go() {
    let mut presence = Presence::default();
    let state = format!("\"{}\"", "x".repeat(60_000));
    for client in 0..1_000 {
        bring(&mut presence, A, &[entry(client, 0, &state)]);
    }
    let held: usize = presence.clients.values().map(Client::state_bytes).sum();
    assert!(held <= MAX_STATE_BYTES);
    assert_eq!(presence.state_bytes, held);
    assert_eq!(brought(&mut presence, A, &[entry(1, 1, "null")]), [row(1, 1, "null")]);
    assert_eq!(brought(&mut presence, B, &[entry(2_000, 0, "{}")]), [row(2_000, 0, "{}")]);
    presence.leave(A);
    presence.leave(B);
    assert_eq!(presence.state_bytes, 0);
}

#[test]
fn one_lease_shows_only_so_much_and_echoes_are_not_its_own() {
    let mut presence = Presence::with_limit(10_000);
    let state = format!("\"{}\"", "x".repeat(4_000));
    bring(&mut presence, B, &[entry(50, 1, &state), entry(51, 1, &state)]);
    // What B said comes back from A, as y-websocket clients do it: nothing of it counts.
    assert_eq!(bring(&mut presence, A, &[entry(50, 1, &state), entry(51, 1, &state)]), Changes::default());
    assert_eq!(bring(&mut presence, A, &[entry(1, 1, &state), entry(2, 1, &state)]).dropped, 0);
    // A new state in place of an old one is fine, another client is too much.
    assert_eq!(bring(&mut presence, A, &[entry(1, 2, &state)]).dropped, 0);
    let too_much = bring(&mut presence, A, &[entry(3, 1, &state)]);
    assert!(too_much.dropped == 1 && too_much.everyone.is_empty());
    bring(&mut presence, A, &[entry(1, 3, "null")]);
    assert_eq!(bring(&mut presence, A, &[entry(3, 1, &state)]).dropped, 0);
    // Ids cost, however little they say.
    let many: Vec<_> = (100..300).map(|client| entry(client, 1, "1")).collect();
    assert!(bring(&mut presence, LeaseId(3), &many).dropped > 0);
    for lease in [A, B, LeaseId(3)] {
        presence.leave(lease);
    }
    assert!(presence.leases.is_empty() && presence.state_bytes == 0);
}

#[test]
fn tombstones_are_bounded() {
    let mut presence = Presence::default();
    for client in 0..(MAX_TOMBSTONES as u64 + 10) {
        let lease = LeaseId(client + 100);
        bring(&mut presence, lease, &[entry(client, 0, "{}")]);
        presence.leave(lease);
    }
    assert!(presence.clients.len() <= MAX_TOMBSTONES + 10);
    assert!(presence.clients.values().filter(|client| client.state.is_none()).count() <= MAX_TOMBSTONES);
}

#[test]
fn state_over_the_limit_makes_its_client_leave() {
    let mut presence = Presence::default();
    let large = format!("\"{}\"", "x".repeat(MAX_AWARENESS_STATE_BYTES - 2));
    assert_eq!(bring(&mut presence, A, &[entry(1, 1, &large)]).everyone, [(1, 1)], "one at the limit is relayed");
    let larger = format!("\"{}\"", "x".repeat(MAX_AWARENESS_STATE_BYTES - 1));
    let changes = bring(&mut presence, A, &[entry(1, 2, &larger)]);
    assert_eq!((changes.dropped, &changes.everyone[..]), (1, &[(1, 2)][..]));
    assert_eq!(presence.encode(changes.everyone.into_iter()), encode_tombstones(&[(1, 2)]), "it leaves");
    assert_eq!(bring(&mut presence, A, &[entry(1, 3, "{}")]).everyone, [(1, 3)], "it is back with a smaller one");
    assert_eq!(
        bring(&mut presence, A, &[entry(2, 1, &larger)]).everyone,
        [],
        "one that was never shown does not leave"
    );
}
