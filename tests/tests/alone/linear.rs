//! The memory and time that one message costs a hub's document are proportional to its size, whatever its content. Each case
//! runs in a process of its own, whose peak memory is read from `/proc`. `SYNCLINE_LINEAR_BYTES=16777216 cargo test --release
//! -p syncline-tests --test alone linear -- --nocapture` prints the table for larger messages.

use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use syncline_protocol::update::Id;
use syncline_protocol::update::edit::set_key;
use syncline_protocol::update::{ScanLimits, scan_update};
use syncline_protocol::varint::write_var_uint;
use syncline_replica::{HubDocument, HubLimits};
use syncline_tests::hostile_updates::{by_turns, holes, letters, line, passing, spread};
use syncline_tests::process::{alone, memory_bytes};

/// Memory allowed in addition to [`TIMES`] bytes for each byte of the message, or, for encoding the whole state, a diff and a
/// compaction, for each byte of document and message.
const BASE_BYTES: usize = 16 << 20;
const TIMES: usize = 8;
/// Memory allowed per client id in addition, for the diff and the compaction; a document accepts 200,000 ids by default.
const CLIENT_BYTES: usize = 128;

/// A kind of message: its name, and a function that returns the document's updates and the message, of about the given size.
type MessageKind = (&'static str, fn(usize) -> Vec<Vec<u8>>);

/// The last update of each is the measured message.
const KINDS: &[MessageKind] = &[
    ("neighbours in a row", |bytes| vec![neighbours(bytes as u64 / 5)]),
    ("two clients alternating", |bytes| vec![by_turns((1, 2), bytes as u64 / 6)]),
    ("letters in one gap", |bytes| vec![line(7, text(bytes / 9)), spread(8, 0, bytes as u64 / 9, 7)]),
    ("letters that are integrated past all others", |bytes| {
        vec![line(1, text(bytes / 6)), passing(9, bytes as u64 / 6, 1)]
    }),
    ("ranges of garbage and letters alternating", |bytes| vec![garbage(bytes as u64 / 8)]),
    ("a client for each letter", |bytes| vec![clients((bytes as u64 / 13).min(200_000))]),
    ("deletions of every other letter", |bytes| vec![line(1, bytes as u64), holes(1, bytes as u64 / 5)]),
    ("a type in each type", |bytes| vec![types(bytes as u64 / 7)]),
    ("writes of one register at the same time", |bytes| vec![register_writes(bytes as u64 / 60)]),
    ("letters beside a deleted text", |bytes| vec![beside_deleted(bytes as u64)]),
    ("types, the first of which is deleted", |bytes| vec![types(bytes as u64 / 7), vec![0, 1, 1, 1, 0, 1]]),
    ("map entries beside a register", |bytes| vec![register_writes(1), entries(bytes as u64 / 5)]),
    ("a register for each key", |bytes| vec![registers(bytes as u64 / 30)]),
    ("pending letters", |bytes| vec![pending(bytes.min(4_000_000) as u64 / 8)]),
    ("one long text", |bytes| vec![line(1, bytes as u64)]),
];

/// Length of a text that has room for `letters` letters.
fn text(letters: usize) -> u64 {
    (letters + 2).max(1_000_000) as u64
}

/// `count` letters of one client, each a struct of its own whose left origin is the one before.
fn neighbours(count: u64) -> Vec<u8> {
    letters(&(0..count).map(|clock| (1, clock, clock.checked_sub(1).map(|left| (1, left)), None)).collect::<Vec<_>>())
}

/// Letters at the beginning, alternating with garbage of length 1.
fn garbage(count: u64) -> Vec<u8> {
    let mut update = vec![1];
    for number in [2 * count, 1, 0] {
        write_var_uint(&mut update, number);
    }
    (0..count).for_each(|_| update.extend([4, 1, 1, b't', 1, b'x', 0, 1]));
    update.push(0);
    update
}

/// A deleted text of half the bytes, and letters of another client within it.
fn beside_deleted(bytes: u64) -> Vec<u8> {
    let text = line(1, bytes / 2);
    let beside = letters(&(0..bytes / 16).map(|clock| (2, clock, Some((1, 8 * clock)), None)).collect::<Vec<_>>());
    // Both client sections, the larger client id first; all of client 1 is deleted.
    let mut update = vec![2];
    update.extend_from_slice(&beside[1..beside.len() - 1]);
    update.extend_from_slice(&text[1..text.len() - 1]);
    update.extend([1, 1, 1, 0]);
    write_var_uint(&mut update, bytes / 2);
    update
}

/// Writes of one map key, each with the one before as its origin.
fn entries(count: u64) -> Vec<u8> {
    let mut update = vec![1];
    for number in [count, 2, 0] {
        write_var_uint(&mut update, number);
    }
    update.extend([0x28, 1, 1, b'm', 1, b'k', 1, 120]);
    for clock in 1..count {
        update.extend([0xa8, 2]);
        write_var_uint(&mut update, clock - 1);
        update.extend([1, 120]);
    }
    update.push(0);
    update
}

fn clients(count: u64) -> Vec<u8> {
    letters(&(0..count).rev().map(|client| (client << 20, 0, None, None)).collect::<Vec<_>>())
}

fn types(count: u64) -> Vec<u8> {
    let mut update = vec![1];
    for number in [count, 1, 0] {
        write_var_uint(&mut update, number);
    }
    update.extend([7, 1, 1, b't', 0]);
    for clock in 1..count {
        update.extend([7, 0, 1]);
        write_var_uint(&mut update, clock - 1);
        update.push(0);
    }
    update.push(0);
    update
}

/// Concurrent writes of one register, each by a client of its own, at most 100,000.
fn register_writes(count: u64) -> Vec<u8> {
    let place = ("syncline:registers", "key");
    let clients = count.min(100_000);
    let mut update = Vec::new();
    write_var_uint(&mut update, clients);
    for client in (0..clients).rev() {
        let write = set_key(Id { client, clock: 0 }, None, place, &[120], None);
        // Without the number of sections at the start and the delete set at the end.
        let section = &write[1..write.len() - 1];
        update.extend_from_slice(section);
    }
    update.push(0);
    update
}

/// One client writes keys of the root map of registers.
fn registers(count: u64) -> Vec<u8> {
    let mut update = vec![1];
    for number in [count, 1, 0] {
        write_var_uint(&mut update, number);
    }
    for key in 0..count {
        let write =
            set_key(Id { client: 1, clock: key }, None, ("syncline:registers", &format!("{key:06}")), &[120], None);
        // The struct alone: it follows the numbers of sections and structs, the client and the clock.
        let head = 3 + syncline_protocol::varint::var_uint_len(key);
        update.extend_from_slice(&write[head..write.len() - 1]);
    }
    update.push(0);
    update
}

/// Letters of one client, each with a missing left origin of a different client.
fn pending(count: u64) -> Vec<u8> {
    letters(&(0..count).map(|clock| (1, clock, Some((1_000 + clock, 0)), None)).collect::<Vec<_>>())
}

/// Applies one message, encodes the whole state and a diff, compacts, and prints memory and time.
fn measure(kind: usize, bytes: usize) {
    let mut updates = KINDS[kind].1(bytes);
    let message = Bytes::from(updates.pop().unwrap());
    let mut document = HubDocument::default();
    document.limit(HubLimits::default());
    let mut bytes = message.len();
    for update in updates {
        bytes += update.len();
        document.take(&update.into()).unwrap();
    }
    document.compact();
    // Resets the peak memory of the process.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, began) = (memory_bytes("VmRSS"), Instant::now());
    scan_update(&message, &ScanLimits::default()).unwrap();
    let entered = document.take(&message).unwrap();
    let (take_time, peak) = (began.elapsed(), memory_bytes("VmHWM").saturating_sub(before));
    document.encode();
    document.diff(&[0]);
    document.compact();
    let whole = memory_bytes("VmHWM").saturating_sub(before);
    println!(
        "measured {} {bytes} {} {peak} {whole} {} {} {entered:?}",
        message.len(),
        document.known().len(),
        take_time.as_micros(),
        began.elapsed().as_micros()
    );
}

/// Runs one test of this binary, by its full name, in a process of its own; returns what it prints after "measured".
fn measured_in_child(test: &str, environment: &[(&str, usize)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture"]);
    child.envs(environment.iter().map(|(name, value)| (name, value.to_string())));
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let measured = text.lines().find_map(|line| line.split_once("measured ").map(|(_, rest)| rest.to_owned()));
    measured.unwrap_or_else(|| panic!("{environment:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn message_cost_is_proportional_to_its_bytes() {
    let _alone = alone();
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<usize>().unwrap());
    if let Some(kind) = number("SYNCLINE_LINEAR_KIND") {
        return measure(kind, number("SYNCLINE_LINEAR_BYTES").unwrap());
    }
    let most = number("SYNCLINE_LINEAR_BYTES").unwrap_or(2 << 20);
    let mut too_much = Vec::new();
    println!(
        "message, bytes: memory to apply it, times its bytes; time to apply it, ns per byte (with whole state, diff and compaction)"
    );
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        for bytes in [1 << 10, 64 << 10, 1 << 20, 16 << 20].into_iter().filter(|bytes| *bytes < most).chain([most]) {
            let measured = measured_in_child(
                "linear::message_cost_is_proportional_to_its_bytes",
                &[("SYNCLINE_LINEAR_KIND", kind), ("SYNCLINE_LINEAR_BYTES", bytes)],
            );
            let figures: Vec<f64> = measured.split(' ').map_while(|figure| figure.parse().ok()).collect();
            let [len, bytes, clients, peak, whole, taken, all] = figures[..] else { panic!("{measured}") };
            println!(
                "{name}, {len}: {:.1} MiB, {:.1} x; {:.0} ms, {:.0} ns ({:.1} MiB; {:.0} ms) {}",
                peak / 1048576.0,
                peak / len,
                taken / 1e3,
                taken * 1e3 / len,
                whole / 1048576.0,
                all / 1e3,
                measured.rsplit(' ').next().unwrap()
            );
            let most = |bytes| (BASE_BYTES + TIMES * bytes as usize) as f64;
            if peak > most(len) || whole > most(bytes) + CLIENT_BYTES as f64 * clients {
                too_much.push(format!("{name}, {len} bytes of {bytes}: {peak} and {whole} bytes of memory"));
            }
        }
    }
    assert!(too_much.is_empty(), "{too_much:#?}");
}

/// Loads a hundred copies of a compacted document of a real editing session, each with memory of its own; then applies a first
/// change to each.
fn measure_dormant() {
    const DOCUMENTS: usize = 100;
    let state = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/yjs-public/ycrdt-b4-update.bin")).unwrap();
    let state = HubDocument::load(1, &[state.into()]).unwrap().compact();
    let before = memory_bytes("VmRSS");
    let load = |_| HubDocument::load(1, &[Bytes::copy_from_slice(&state)]).unwrap();
    let mut documents: Vec<_> = (0..DOCUMENTS).map(load).collect();
    let took = memory_bytes("VmRSS") - before;
    assert!(documents.iter().all(HubDocument::is_compact));
    let change = Bytes::from(line(99, 1));
    let began = Instant::now();
    for document in &mut documents {
        assert_eq!(document.take(&change), Ok(syncline_replica::WeighOutcome::Changed));
    }
    println!("measured {} {} {}", DOCUMENTS * state.len(), took, began.elapsed().as_micros() / DOCUMENTS as u128);
}

#[test]
fn dormant_documents_take_little_more_memory_than_their_encoding() {
    let _alone = alone();
    if std::env::var_os("SYNCLINE_LINEAR_QUIET").is_some() {
        return measure_dormant();
    }
    let test = "linear::dormant_documents_take_little_more_memory_than_their_encoding";
    let measured = measured_in_child(test, &[("SYNCLINE_LINEAR_QUIET", 1)]);
    let figures: Vec<usize> = measured.split(' ').map(|figure| figure.parse().unwrap()).collect();
    let [encoded, memory, first_change_us] = figures[..] else { panic!("{measured}") };
    println!("{encoded} bytes encoded, {memory} in memory; a first change {first_change_us} us");
    assert!(memory * 10 <= encoded * 12, "{memory} bytes of memory for {encoded} bytes");
}
