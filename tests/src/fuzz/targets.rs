//! The fuzz targets: one function of bytes for each decoder, for the core of a document and for sessions. None
//! may panic, and each checks the invariants of the input it accepts. `fuzz/` runs the same functions with
//! cargo-fuzz.

use std::collections::BTreeSet;

use bytes::Bytes;
use syncline_client::document::driver::Machine;
use syncline_client::yrs::ReadTxn;
use syncline_log::{Record, Snapshot, Stored};
use syncline_protocol::awareness::{AwarenessUpdate, encode};
use syncline_protocol::detect::detect;
use syncline_protocol::hocuspocus::{End, Frame};
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Cursor, ToClient, ToServer};
use syncline_protocol::update::raw::RawUpdate;
use syncline_protocol::update::{
    ScanLimits, Structs, Summary, delete_set, is_circular, needs, scan_state_vector, scan_update, scan_value,
    state_vector_entries, type_depth, update_ranges, verdict,
};
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_replica::{HubDocument, Known, PendingLimits, Replica, StructStore};
use syncline_server::config::RawConfig;
use syncline_server::internals::{
    Acks, Core, CoreLimits, Effect, Event, Format, Head, LeaseId, LoadedDocument, Origin, Outcome, SessionEvent,
    check_import, look, parse_import,
};

use super::session;

/// The name of a target, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The names are also directories in `fuzz/corpus`.
pub const TARGETS: &[Target] = &[
    ("ywebsocket", ywebsocket),
    ("hocuspocus", hocuspocus),
    ("native", native),
    ("detect", |bytes| _ = detect(bytes)),
    ("awareness", awareness),
    ("update", update),
    ("state_vector", state_vector),
    ("value", |bytes| _ = scan_value(bytes, &ScanLimits::default())),
    ("replica", replica),
    ("core", core),
    ("handshake", handshake),
    ("session", session::session),
    ("websocket", syncline_server::internals::fuzz_frames),
    ("layout", syncline_log::fuzzing::layout),
    ("texts", syncline_log::fuzzing::texts),
    ("journal", journal),
    ("admin", syncline_server::internals::fuzz_operator),
    ("config", config),
    ("portable", portable),
];

/// A request head that arrives in pieces gives the same result, and the response is exactly one head.
fn handshake(bytes: &[u8]) {
    let whole = look(bytes, 0);
    if let Head::Upgrade(upgrade) = &whole {
        assert!(upgrade.head_bytes <= bytes.len() && bytes[..upgrade.head_bytes].ends_with(b"\n"));
        let response = upgrade.response.escape_ascii().to_string();
        assert!(response.starts_with("HTTP/1.1 101 ") && response.find("\\r\\n\\r\\n") == Some(response.len() - 8));
    }
    let (mut seen, mut found) = (0, Head::Partial);
    while found == Head::Partial && seen < bytes.len() {
        let next = (seen + 1 + usize::from(bytes[seen] % 32)).min(bytes.len());
        found = look(&bytes[..next], seen);
        seen = next;
    }
    match (whole, found) {
        (Head::Upgrade(whole), Head::Upgrade(found)) => assert_eq!(whole, found),
        (Head::Upgrade(upgrade), found) => panic!("{upgrade:?} in pieces is {found:?}"),
        // An invalid request is detected at its first bytes or only at the end of its head.
        (_, found) => assert!(!matches!(found, Head::Upgrade(_))),
    }
}

fn ywebsocket(bytes: &[u8]) {
    if let Ok(message) = YWebsocketMessage::decode(bytes) {
        assert_eq!(YWebsocketMessage::decode(&message.encode()), Ok(message));
    }
}

fn hocuspocus(bytes: &[u8]) {
    for end in [End::Server, End::Client] {
        if let Ok(Frame::Addressed { address, message }) = Frame::decode(bytes, end) {
            let again = message.encode(address);
            assert_eq!(Frame::decode(&again, end), Ok(Frame::Addressed { address, message }));
        }
    }
}

fn native(bytes: &[u8]) {
    if let Ok(message) = ToServer::decode(bytes) {
        assert_eq!(ToServer::decode(&message.encode()), Ok(message));
    }
    if let Ok(message) = ToClient::decode(bytes) {
        assert_eq!(ToClient::decode(&message.encode()), Ok(message));
    }
}

fn awareness(bytes: &[u8]) {
    let Ok(scanned) = AwarenessUpdate::scan(bytes, &Default::default()) else { return };
    let again = encode(scanned.iter().collect::<Vec<_>>().into_iter());
    let again = AwarenessUpdate::scan(&again, &Default::default()).expect("an encoded valid update is valid");
    assert!(scanned.iter().eq(again.iter()));
}

fn update(bytes: &[u8]) {
    let Ok(summary) = scan_update(bytes, &ScanLimits::default()) else { return };
    assert_eq!(update_ranges(bytes).count() as u64, summary.clients);
    let verdict = verdict(bytes, &|_| 0, &ScanLimits::default()).expect("a valid update has a verdict");
    assert!(verdict.fresh <= summary.structs && verdict.new_clients <= summary.clients);
    _ = type_depth(bytes);
    let is_pending = matches!(verdict.structs, Structs::Gap | Structs::MissingDependency) || verdict.deletes_ahead;
    assert_eq!(
        needs(bytes, &|_| 0).is_ok_and(|needs| !needs.is_empty()),
        is_pending,
        "a pending update needs something"
    );
    if !is_pending && !is_circular(bytes, &|_| 0) {
        check_struct_store(bytes, &summary);
    }
}

/// A struct store encodes one update as a valid state with the same clocks, and encoding that state again changes
/// nothing.
fn check_struct_store(update: &[u8], summary: &Summary) {
    let mut structs = StructStore::default();
    let is_new = structs.add(update);
    assert_eq!(
        is_new,
        summary.structs > summary.skips || summary.has_deletes(),
        "an update with content is new in an empty store"
    );
    assert!(!structs.add(update), "the same update is known the second time");
    let vector = structs.state_vector();
    for state in [structs.encode(), structs.compact()] {
        scan_update(&state, &ScanLimits::STORED).expect("an encoded store is valid");
        let mut again = StructStore::default();
        again.add(&state);
        assert_eq!(again.state_vector(), vector);
        assert!(again.knows_deletions_of(delete_set(update)), "a deletion is lost");
        assert_eq!(structs.diff_for(&vector).to_bytes()[0], 0, "in sync: no structs");
    }
}

fn state_vector(bytes: &[u8]) {
    if let Ok(summary) = scan_state_vector(bytes, &ScanLimits::default()) {
        assert_eq!(state_vector_entries(bytes).count() as u64, summary.clients);
    }
}

/// Splits the input into pieces: a kind byte, a 16-bit big-endian length, and that many bytes.
pub(super) fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = (u8, Bytes)> {
    std::iter::from_fn(move || {
        let (&[kind, high, low], rest) = bytes.split_first_chunk::<3>()?;
        let len = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (piece, rest) = rest.split_at(len);
        bytes = rest;
        Some((kind, Bytes::copy_from_slice(piece)))
    })
}

/// Updates that pass the scanner can be applied to a hub document and to a tree, and the accepted ones can be
/// loaded again.
fn replica(bytes: &[u8]) {
    let (mut hub, mut tree, mut accepted) = (HubDocument::default(), Some(Replica::default()), Vec::new());
    for (_, update) in pieces(bytes) {
        if scan_update(&update, &ScanLimits::default()).is_err() || hub.take(&update).is_err() {
            continue;
        }
        // A tree that reports an error is discarded.
        tree = tree.and_then(|mut tree| tree.take(&update, &PendingLimits::default()).is_ok().then_some(tree));
        accepted.push(update);
    }
    let loaded = HubDocument::load(0, &accepted).expect("accepted updates can be loaded");
    assert_eq!(loaded.state_vector(), hub.state_vector());
    // A hub takes what it can of an update, a tree keeps it whole.
    if let Some(tree) = tree.filter(|tree| tree.pending().len() == 0 && hub.pending_len() == 0) {
        let clocks = |known: Known| known.iter().collect::<Vec<_>>();
        assert_eq!(clocks(tree.known()), clocks(hub.known()), "a tree knows what a hub knows");
    }
}

/// The log of a document as its effects describe it.
#[derive(Default)]
struct CoreLog {
    snapshot: Option<Bytes>,
    /// The records that follow it.
    records: Vec<(Seq, Bytes)>,
    last: Seq,
    durable: Seq,
}

impl CoreLog {
    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Append { seq, update } => {
                self.last = self.last.next();
                assert_eq!(seq, self.last, "sequence numbers are consecutive");
                self.records.push((seq, update));
            }
            Effect::Snapshot { upto, update } => {
                assert!(upto <= self.last, "a snapshot covers records that were appended before");
                self.records.retain(|(seq, _)| *seq > upto);
                self.snapshot = Some(update);
            }
            Effect::Ack { seq, outcome: Outcome::Saved, .. } => assert!(seq <= self.durable, "acknowledged too early"),
            _ => {}
        }
    }

    fn load(&self) -> HubDocument {
        let records = self.records.iter().map(|(_, update)| update);
        let updates: Vec<Bytes> = self.snapshot.iter().chain(records).cloned().collect();
        HubDocument::load(0, &updates).expect("the log can be loaded")
    }
}

/// The event that a piece of the input stands for.
fn core_event(kind: u8, payload: Bytes, written: Seq) -> Option<Event> {
    let lease = LeaseId(u64::from(kind >> 5));
    let event = match kind & 0x1f {
        0..=2 => return Some(Event::Open { lease, acks: Acks::Each, documents: 1 }),
        3 => return Some(Event::Open { lease, acks: Acks::Batches, documents: payload.len() }),
        4..=7 if scan_state_vector(&payload, &ScanLimits::default()).is_ok() => match kind & 0x1f {
            7 => return Some(Event::DeferStep1 { lease, state_vector: payload }),
            _ => SessionEvent::Step1 { state_vector: payload },
        },
        8..=19 if scan_update(&payload, &ScanLimits::default()).is_ok() => {
            let origin = if kind & 1 == 0 { Origin::Change } else { Origin::Step2 };
            SessionEvent::Update { update: payload, origin, batch: u64::from(kind) }
        }
        20..=21 if AwarenessUpdate::scan(&payload, &Default::default()).is_ok() => {
            SessionEvent::Awareness { update: payload }
        }
        22 => return Some(Event::Leave { lease }),
        23..=26 => return Some(Event::Durable { upto: written }),
        27 => return Some(Event::Resync { lease, floor: None }),
        28 => {
            let seq = Seq(payload.len() as u64);
            let cursor = Some(Box::new(Cursor { epoch: Epoch(1), seq }));
            SessionEvent::Resume { cursor, wants_state_vector: false, read_only: false }
        }
        29 => return Some(Event::Compact),
        30 => return Some(Event::MakeDormant),
        31 if payload.is_empty() => return Some(Event::StorageFailed),
        _ => return None,
    };
    Some(Event::Session(lease, event))
}

/// Events in any order: acknowledgements follow the disk, sequence numbers are consecutive, nothing is appended after
/// a failure, and the log holds the same document.
fn core(bytes: &[u8]) {
    let limits = CoreLimits { awareness_bytes: 1024 * 1024, ..CoreLimits::default() };
    let mut core = Core::new(LoadedDocument::empty(HubDocument::default(), Epoch(1)), limits);
    let (mut effects, mut log, mut has_failed) = (Vec::new(), CoreLog::default(), false);
    for (kind, payload) in pieces(bytes) {
        let Some(event) = core_event(kind, payload, log.last) else { continue };
        match event {
            Event::Durable { upto } if !has_failed => log.durable = upto,
            Event::Durable { .. } => continue,
            Event::StorageFailed => has_failed = true,
            _ => {}
        }
        let before = log.last;
        core.handle(event, &mut effects);
        effects.drain(..).for_each(|effect| log.execute(effect));
        assert_eq!(core.last(), log.last);
        assert!(!has_failed || log.last == before, "appended after a failure");
    }
    let mut loaded = log.load();
    if !has_failed {
        core.handle(Event::Compact, &mut effects);
        effects.drain(..).for_each(|effect| log.execute(effect));
        let state = log.snapshot.clone().expect("a snapshot was emitted");
        assert_eq!(normalized(&state), normalized(&loaded.compact()), "the log holds the same document");
        assert_eq!(pending_parts(&log.load()), pending_parts(&loaded), "the log keeps what is pending");
    }
}

/// Client, clock and bytes of a struct.
type EncodedStruct = (u64, u64, Vec<u8>);

/// The pending structs and deletions of a document, however they are grouped.
fn pending_parts(document: &HubDocument) -> (BTreeSet<EncodedStruct>, Vec<Bytes>) {
    let mut structs = BTreeSet::new();
    let mut deletions = Vec::new();
    for update in document.pending() {
        let mut raw = RawUpdate::new(&update);
        while let Some(mut section) = raw.section() {
            structs.extend(section.by_ref().map(|found| (found.client, found.start, found.bytes.to_vec())));
            raw.resume_after(&section);
        }
        if update.first() == Some(&0) {
            deletions.push(update);
        }
    }
    (structs, deletions)
}

/// Encodes a state with shortest integers, for comparison: a loaded state keeps longer encodings.
fn normalized(state: &[u8]) -> Bytes {
    let mut structs = StructStore::default();
    structs.add(state);
    structs.compact()
}

/// A device's journal: decodes each record alone, then loads a device from all of them.
fn journal(bytes: &[u8]) {
    syncline_client::document::fuzzing::journal(bytes);
    let mut records = Vec::new();
    let mut snapshot = None;
    for (kind, update) in pieces(bytes) {
        syncline_client::document::fuzzing::journal(&update);
        let seq = Seq(records.len() as u64 + 1);
        if kind == 0xff && records.is_empty() {
            snapshot = Some(Snapshot { upto: Seq(0), update });
        } else {
            records.push(Record { seq, time_ms: 1, update });
        }
    }
    let (machine, _) = Machine::load(Some(&Stored { epoch: Epoch(1), snapshot, records }));
    _ = machine.status();
    _ = machine.read(|txn| txn.state_vector());
}

/// An invalid configuration is an error, not a panic; the values of a valid one are within their bounds.
fn config(bytes: &[u8]) {
    let Ok(raw) = RawConfig::parse(&String::from_utf8_lossy(bytes)) else { return };
    if let Ok(config) = raw.check() {
        assert!(config.session.outbox_bytes > 0 && config.session.message_bytes >= 1024);
        assert!(
            std::time::Instant::now().checked_add(config.idle_unload).is_some(),
            "the idle time can be added to an instant"
        );
    }
}

/// An imported file can be applied to a new document, or is refused with an error.
fn portable(bytes: &[u8]) {
    for format in [Format::Update, Format::Json] {
        if let Ok(update) = parse_import(Bytes::copy_from_slice(bytes), format) {
            _ = check_import(None, &update);
        }
    }
}
