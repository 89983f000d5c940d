//! Tests of `awareness.rs`.

use syncline_protocol::awareness::AwarenessUpdate;

use super::*;

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

fn entry(client: u64, clock: u64, state: &str) -> AwarenessEntry<'_> {
    AwarenessEntry { client, clock, state }
}

fn apply(states: &mut AwarenessStates, lease: LeaseId, entries: &[AwarenessEntry<'_>]) -> AwarenessChanges {
    states.update(lease, entries.iter().copied())
}

/// Client, clock and state of each entry of an encoded update.
fn decode(update: &[u8]) -> Vec<(u64, u64, String)> {
    let update = AwarenessUpdate::scan(update, &Default::default()).unwrap();
    update.iter().map(|entry| (entry.client, entry.clock, entry.state.to_owned())).collect()
}

/// The update that everyone is sent.
fn sent(states: &AwarenessStates, changes: &AwarenessChanges) -> Vec<(u64, u64, String)> {
    decode(&states.encode(changes.everyone.iter().copied()))
}

fn applied(states: &mut AwarenessStates, lease: LeaseId, entries: &[AwarenessEntry<'_>]) -> Vec<(u64, u64, String)> {
    let changes = apply(states, lease, entries);
    sent(states, &changes)
}

fn left(states: &mut AwarenessStates, lease: LeaseId) -> Vec<(u64, u64, String)> {
    let changes = states.leave(lease);
    sent(states, &changes)
}

fn row(client: u64, clock: u64, state: &str) -> (u64, u64, String) {
    (client, clock, state.to_owned())
}

#[test]
fn echo_of_known_state_is_dropped() {
    let mut states = AwarenessStates::default();
    apply(&mut states, B, &[entry(20, 0, "{}")]);
    assert_eq!(applied(&mut states, A, &[entry(10, 3, "{}")]), [row(10, 3, "{}")]);
    assert_eq!(apply(&mut states, B, &[entry(10, 3, "{}")]), AwarenessChanges::default());
    assert_eq!(apply(&mut states, B, &[entry(10, 2, "{}")]), AwarenessChanges::default());
    // B's echo did not make the id B's.
    assert_eq!(left(&mut states, B), [row(20, 0, "null")]);
    assert_eq!(left(&mut states, A), [row(10, 3, "null")]);
}

#[test]
fn removal_keeps_clock_and_returning_client_gets_tombstone() {
    let mut states = AwarenessStates::default();
    apply(&mut states, A, &[entry(10, 3, "{}")]);
    states.leave(A);
    // Back on a new connection with the clock it had.
    let changes = apply(&mut states, B, &[entry(10, 3, r#"{"x":1}"#)]);
    assert_eq!(sent(&states, &changes), [row(10, 4, r#"{"x":1}"#)]);
    assert_eq!(decode(changes.sender.as_deref().unwrap()), [row(10, 3, "null")]);
    // With the tombstone, the client announces itself at clock 4, which is known already.
    assert_eq!(apply(&mut states, B, &[entry(10, 4, r#"{"x":1}"#)]), AwarenessChanges::default());
    assert_eq!(left(&mut states, B), [row(10, 4, "null")]);
}

#[test]
fn late_echo_does_not_restore_client_that_left() {
    let mut states = AwarenessStates::default();
    apply(&mut states, B, &[entry(20, 0, "{}")]);
    apply(&mut states, A, &[entry(10, 3, "{}")]);
    states.leave(A);
    assert_eq!(apply(&mut states, B, &[entry(10, 3, "{}")]), AwarenessChanges::default());
}

#[test]
fn client_returning_before_old_connection_ends_owns_its_state() {
    let mut states = AwarenessStates::default();
    apply(&mut states, A, &[entry(10, 3, "{}")]);
    assert_eq!(apply(&mut states, B, &[entry(10, 3, "{}")]), AwarenessChanges::default());
    assert_eq!(states.leave(A), AwarenessChanges::default(), "closing the dead connection removes no client");
    assert_eq!(left(&mut states, B), [row(10, 3, "null")]);
}

#[test]
fn client_can_remove_its_state_and_return() {
    let mut states = AwarenessStates::default();
    apply(&mut states, A, &[entry(10, 3, "{}")]);
    assert_eq!(applied(&mut states, A, &[entry(10, 4, "null")]), [row(10, 4, "null")]);
    assert_eq!(states.all(), None);
    assert_eq!(applied(&mut states, A, &[entry(10, 5, "{}")]), [row(10, 5, "{}")]);
    assert_eq!(decode(&states.all().unwrap()), [row(10, 5, "{}")]);
}

#[test]
fn removal_of_unknown_client_is_not_stored() {
    let mut states = AwarenessStates::default();
    assert_eq!(apply(&mut states, A, &[entry(10, 4, "null")]), AwarenessChanges::default());
    assert!(states.clients.is_empty());
}

#[test]
fn states_are_bounded_and_removed_ones_free_their_bytes() {
    let mut states = AwarenessStates::default();
    let state = format!("\"{}\"", "x".repeat(60_000));
    for client in 0..1_000 {
        apply(&mut states, A, &[entry(client, 0, &state)]);
    }
    let held: usize = states.clients.values().map(Client::state_bytes).sum();
    assert!(held <= MAX_STATE_BYTES);
    assert_eq!(states.state_bytes, held);
    assert_eq!(applied(&mut states, A, &[entry(1, 1, "null")]), [row(1, 1, "null")]);
    assert_eq!(applied(&mut states, B, &[entry(2_000, 0, "{}")]), [row(2_000, 0, "{}")]);
    states.leave(A);
    states.leave(B);
    assert_eq!(states.state_bytes, 0);
}

#[test]
fn lease_limit_counts_own_states_and_ignores_echoes() {
    let mut states = AwarenessStates::with_limit(10_000);
    let state = format!("\"{}\"", "x".repeat(4_000));
    apply(&mut states, B, &[entry(50, 1, &state), entry(51, 1, &state)]);
    // A sends B's states back, as y-websocket clients do: they do not count for A.
    assert_eq!(apply(&mut states, A, &[entry(50, 1, &state), entry(51, 1, &state)]), AwarenessChanges::default());
    assert_eq!(apply(&mut states, A, &[entry(1, 1, &state), entry(2, 1, &state)]).dropped, 0);
    // Replacing a state is within the limit, a further client is not.
    assert_eq!(apply(&mut states, A, &[entry(1, 2, &state)]).dropped, 0);
    let too_much = apply(&mut states, A, &[entry(3, 1, &state)]);
    assert!(too_much.dropped == 1 && too_much.everyone.is_empty());
    apply(&mut states, A, &[entry(1, 3, "null")]);
    assert_eq!(apply(&mut states, A, &[entry(3, 1, &state)]).dropped, 0);
    // Every id costs something, however small its state.
    let many: Vec<_> = (100..300).map(|client| entry(client, 1, "1")).collect();
    assert!(apply(&mut states, LeaseId(3), &many).dropped > 0);
    for lease in [A, B, LeaseId(3)] {
        states.leave(lease);
    }
    assert!(states.leases.is_empty() && states.state_bytes == 0);
}

#[test]
fn tombstones_are_bounded() {
    let mut states = AwarenessStates::default();
    for client in 0..(MAX_TOMBSTONES as u64 + 10) {
        let lease = LeaseId(client + 100);
        apply(&mut states, lease, &[entry(client, 0, "{}")]);
        states.leave(lease);
    }
    assert!(states.clients.len() <= MAX_TOMBSTONES + 10);
    assert!(states.clients.values().filter(|client| client.state.is_none()).count() <= MAX_TOMBSTONES);
}

#[test]
fn state_over_limit_makes_its_client_leave() {
    let mut states = AwarenessStates::default();
    let large = format!("\"{}\"", "x".repeat(MAX_AWARENESS_STATE_BYTES - 2));
    assert_eq!(apply(&mut states, A, &[entry(1, 1, &large)]).everyone, [(1, 1)], "a state at the limit is relayed");
    let larger = format!("\"{}\"", "x".repeat(MAX_AWARENESS_STATE_BYTES - 1));
    let changes = apply(&mut states, A, &[entry(1, 2, &larger)]);
    assert_eq!((changes.dropped, &changes.everyone[..]), (1, &[(1, 2)][..]));
    assert_eq!(states.encode(changes.everyone.into_iter()), encode_tombstones(&[(1, 2)]), "the client leaves");
    assert_eq!(apply(&mut states, A, &[entry(1, 3, "{}")]).everyone, [(1, 3)], "a smaller state brings it back");
    assert_eq!(
        apply(&mut states, A, &[entry(2, 1, &larger)]).everyone,
        [],
        "a client that was never shown cannot leave"
    );
}

#[test]
fn session_cannot_exhaust_clock_of_another_sessions_id() {
    let mut states = AwarenessStates::default();
    apply(&mut states, A, &[entry(10, 3, "{}")]);
    // B poses as the same client: with a state, a removal, many small steps, and after a removal.
    let steps: Vec<_> = (1..1_000).map(|step| entry(10, step * MAX_CLOCK_STEP, r#""evil""#)).collect();
    let top = MAX_AWARENESS_CLOCK;
    apply(&mut states, B, &[entry(10, top, r#""evil""#)]);
    for attack in [&[entry(10, top, "null")][..], &steps, &[entry(10, 3, "null"), entry(10, top, r#""evil""#)]] {
        apply(&mut states, B, attack);
    }
    states.leave(B);
    let clock = states.clients[&10].clock;
    assert!(clock <= 3 + MAX_CLOCK_STEP, "{clock}");
    // A continues from the clock that it has received.
    assert_eq!(applied(&mut states, A, &[entry(10, clock + 1, "{}")]), [row(10, clock + 1, "{}")]);
}

#[test]
fn reconnected_client_may_be_ahead_of_its_old_connection() {
    let mut states = AwarenessStates::default();
    apply(&mut states, A, &[entry(10, 3, "{}")]);
    assert_eq!(applied(&mut states, B, &[entry(10, 3_000, "{}")]), [row(10, 3_000, "{}")]);
    // Its own connection may send any clock, and so may the next one when the others have ended.
    assert_eq!(applied(&mut states, A, &[entry(10, 1_000_000, "{}")]), [row(10, 1_000_000, "{}")]);
    states.leave(A);
    assert_eq!(applied(&mut states, B, &[entry(10, 5_000_000, "{}")]), [row(10, 5_000_000, "{}")]);
    assert_eq!(apply(&mut states, A, &[entry(10, 6_000_000, "{}")]).dropped, 1, "the id is the other session's now");
}

#[test]
fn clock_of_absent_clients_id_cannot_be_exhausted() {
    let mut states = AwarenessStates::default();
    apply(&mut states, A, &[entry(10, 3, "{}")]);
    states.leave(A);
    let steps: Vec<_> = (1..1_000).map(|step| entry(10, MAX_FREE_CLOCK + step * MAX_CLOCK_STEP, "{}")).collect();
    for attack in [&[entry(10, MAX_AWARENESS_CLOCK, "{}")][..], &[entry(10, MAX_FREE_CLOCK, "{}")], &steps] {
        apply(&mut states, B, attack);
    }
    states.leave(B);
    assert_eq!(states.clients[&10].clock, MAX_FREE_CLOCK);
    assert_eq!(applied(&mut states, A, &[entry(10, MAX_FREE_CLOCK + 1, "{}")]), [row(10, MAX_FREE_CLOCK + 1, "{}")]);
}

#[test]
fn clock_of_returning_client_stays_within_32_bits() {
    let mut states = AwarenessStates::default();
    let top = Client { clock: MAX_AWARENESS_CLOCK, state: None, owner: A, claim: None };
    states.clients.insert(10, top);
    for lease in 1..4 {
        apply(&mut states, LeaseId(lease), &[entry(10, 3, "{}")]);
        states.leave(LeaseId(lease));
    }
    assert_eq!(states.clients[&10].clock, u64::from(u32::MAX));
}

#[test]
fn few_sessions_cannot_use_up_the_ids_of_a_document() {
    let mut states = AwarenessStates::default();
    let hostile = |lease: u64| LeaseId(lease + 100);
    let full = (MAX_CLIENTS / MAX_LEASE_CLIENTS) as u64;
    for lease in 0..full {
        let ids = (1..=9_000).map(|id| lease * 9_000 + id + 1_000);
        let many: Vec<_> = ids.map(|id| entry(id, 1, "{}")).collect();
        let changes = apply(&mut states, hostile(lease), &many);
        assert_eq!((changes.everyone.len(), changes.dropped), (MAX_LEASE_CLIENTS, 9_000 - MAX_LEASE_CLIENTS));
        // Those that it shows may change, and be replaced by others.
        assert_eq!(apply(&mut states, hostile(lease), &[entry(lease * 9_000 + 1_001, 2, "1")]).dropped, 0);
    }
    // Even when all are used up, there is room for the own id of every session.
    assert_eq!(states.clients.len(), MAX_CLIENTS);
    assert_eq!(applied(&mut states, A, &[entry(10, 1, "{}")]), [row(10, 1, "{}")]);
    assert_eq!(apply(&mut states, A, &[entry(11, 1, "{}")]).dropped, 1);
    assert_eq!(applied(&mut states, hostile(0), &[entry(1_001, 3, "null")]), [row(1_001, 3, "null")]);
    assert_eq!(states.leases[&hostile(0)].shown, MAX_LEASE_CLIENTS - 1);
}
