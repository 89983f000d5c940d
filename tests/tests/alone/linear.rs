//! Memory and time that one message costs a hub's document: in proportion to its bytes, whatever they are. Each case runs in
//! a process of its own, whose peak memory is read from `/proc`. `SYNCLINE_LINEAR_BYTES=16777216 cargo test --release
//! -p syncline-tests --test alone linear -- --nocapture` prints the table for larger messages.

use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use syncline_protocol::update::edit::set_key;
use syncline_protocol::update::raw::Id;
use syncline_protocol::update::{ScanLimits, scan_update};
use syncline_protocol::varint::write_var_uint;
use syncline_replica::{HubDocument, HubLimits};
use syncline_tests::hostile_updates::{by_turns, holes, letters, line, passing, spread};
use syncline_tests::process::{alone, memory_bytes};

/// What a message may cost beside [`TIMES`] its bytes; and what the whole state, a difference and a compaction may cost beside as
/// many times the bytes of the document and the message.
const BASE_BYTES: usize = 16 << 20;
const TIMES: usize = 8;
/// What each client that it brings may cost besides in the answers and the compaction; a document takes 200,000 of them by default.
const CLIENT_BYTES: usize = 128;

/// A kind of message: its name, the document it meets, and the message, of about so many bytes.
type Kind = (&'static str, fn(usize) -> Vec<Vec<u8>>);

/// The last update is the one that is measured.
const KINDS: &[Kind] = &[
    ("neighbours in a row", |bytes| vec![neighbours(bytes as u64 / 5)]),
    ("two clients by turns", |bytes| vec![by_turns((1, 2), bytes as u64 / 6)]),
    ("letters in one gap", |bytes| vec![line(7, text(bytes / 9)), spread(8, 0, bytes as u64 / 9, 7)]),
    ("letters that pass all others", |bytes| vec![line(1, text(bytes / 6)), passing(9, bytes as u64 / 6, 1)]),
    ("ranges of garbage and letters by turns", |bytes| vec![garbage(bytes as u64 / 8)]),
    ("a client for each letter", |bytes| vec![clients((bytes as u64 / 13).min(200_000))]),
    ("deletions of every other letter", |bytes| vec![line(1, bytes as u64), holes(1, bytes as u64 / 5)]),
    ("a type in each type", |bytes| vec![types(bytes as u64 / 7)]),
    ("writes of one register at the same time", |bytes| vec![register_writes(bytes as u64 / 60)]),
    ("letters beside a deleted text", |bytes| vec![beside_deleted(bytes as u64)]),
    ("types, the first of which is deleted", |bytes| vec![types(bytes as u64 / 7), vec![0, 1, 1, 1, 0, 1]]),
    ("map entries beside a register", |bytes| vec![register_writes(1), entries(bytes as u64 / 5)]),
    ("a register for each key", |bytes| vec![registers(bytes as u64 / 30)]),
    ("letters that wait", |bytes| vec![waiting(bytes.min(4_000_000) as u64 / 8)]),
    ("one long text", |bytes| vec![line(1, bytes as u64)]),
];

/// How long the text is in which so many letters are.
fn text(letters: usize) -> u64 {
    (letters + 2).max(1_000_000) as u64
}

/// `count` letters of one client, each behind the one before, each a struct of its own.
fn neighbours(count: u64) -> Vec<u8> {
    letters(&(0..count).map(|clock| (1, clock, clock.checked_sub(1).map(|left| (1, left)), None)).collect::<Vec<_>>())
}

/// By turns a letter at the beginning and one element of garbage.
fn garbage(count: u64) -> Vec<u8> {
    let mut update = vec![1];
    for number in [2 * count, 1, 0] {
        write_var_uint(&mut update, number);
    }
    (0..count).for_each(|_| update.extend([4, 1, 1, b't', 1, b'x', 0, 1]));
    update.push(0);
    update
}

/// A text of half the bytes, which is deleted, and letters of another client within it.
fn beside_deleted(bytes: u64) -> Vec<u8> {
    let text = line(1, bytes / 2);
    let beside = letters(&(0..bytes / 16).map(|clock| (2, clock, Some((1, 8 * clock)), None)).collect::<Vec<_>>());
    // Both sections, the greater client first; all of client 1 is deleted.
    let mut update = vec![2];
    update.extend_from_slice(&beside[1..beside.len() - 1]);
    update.extend_from_slice(&text[1..text.len() - 1]);
    update.extend([1, 1, 1, 0]);
    write_var_uint(&mut update, bytes / 2);
    update
}

/// Writes of a key in some map, each with the one before as its origin.
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

/// Each by a client of its own, up to the limit of clients; then each client again.
fn register_writes(count: u64) -> Vec<u8> {
    let place = ("syncline:registers", "key");
    let clients = count.min(100_000);
    let mut update = Vec::new();
    write_var_uint(&mut update, clients);
    for client in (0..clients).rev() {
        let of_one = set_key(Id { client, clock: 0 }, None, place, &[120], None);
        // Without the number of sections before and of deletions behind.
        let section = &of_one[1..of_one.len() - 1];
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
        let of_one =
            set_key(Id { client: 1, clock: key }, None, ("syncline:registers", &format!("{key:06}")), &[120], None);
        // The struct alone: behind the numbers of sections and structs, the client and the clock.
        let head = 3 + syncline_protocol::varint::var_uint_len(key);
        update.extend_from_slice(&of_one[head..of_one.len() - 1]);
    }
    update.push(0);
    update
}

/// Letters of one client behind letters of as many clients, none of which are there.
fn waiting(count: u64) -> Vec<u8> {
    letters(&(0..count).map(|clock| (1, clock, Some((1_000 + clock, 0)), None)).collect::<Vec<_>>())
}

/// Takes one message, gives the whole state, a difference, and drops what was deleted.
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
    // From here on the peak counts anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, began) = (memory_bytes("VmRSS"), Instant::now());
    scan_update(&message, &ScanLimits::default()).unwrap();
    let taken = document.take(&message).unwrap();
    let (taken_in, peak) = (began.elapsed(), memory_bytes("VmHWM").saturating_sub(before));
    document.encode();
    document.diff(&[0]);
    document.compact();
    let whole = memory_bytes("VmHWM").saturating_sub(before);
    println!(
        "measured {} {bytes} {} {peak} {whole} {} {} {taken:?}",
        message.len(),
        document.known().len(),
        taken_in.as_micros(),
        began.elapsed().as_micros()
    );
}

/// Runs one test of this binary, by its full name, in a process of its own; returns what it printed behind "measured".
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
fn what_a_message_costs_is_in_proportion_to_its_bytes() {
    let _alone = alone();
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<usize>().unwrap());
    if let Some(kind) = number("SYNCLINE_LINEAR_KIND") {
        return measure(kind, number("SYNCLINE_LINEAR_BYTES").unwrap());
    }
    let most = number("SYNCLINE_LINEAR_BYTES").unwrap_or(2 << 20);
    let mut too_much = Vec::new();
    println!(
        "message, bytes: memory to take it, times its bytes; time to take it, ns a byte (with the whole state twice and once compacted)"
    );
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        for bytes in [1 << 10, 64 << 10, 1 << 20, 16 << 20].into_iter().filter(|bytes| *bytes < most).chain([most]) {
            let measured = measured_in_child(
                "linear::what_a_message_costs_is_in_proportion_to_its_bytes",
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

/// A hundred documents of a real editing session, each with memory of its own, are loaded and become quiet; then each gets its
/// first change.
fn measure_quiet() {
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
        assert_eq!(document.take(&change), Ok(syncline_replica::Entered::Changed));
    }
    println!("measured {} {} {}", DOCUMENTS * state.len(), took, began.elapsed().as_micros() / DOCUMENTS as u128);
}

#[test]
fn quiet_documents_take_little_more_than_their_encoding() {
    let _alone = alone();
    if std::env::var_os("SYNCLINE_LINEAR_QUIET").is_some() {
        return measure_quiet();
    }
    let test = "linear::quiet_documents_take_little_more_than_their_encoding";
    let measured = measured_in_child(test, &[("SYNCLINE_LINEAR_QUIET", 1)]);
    let figures: Vec<usize> = measured.split(' ').map(|figure| figure.parse().unwrap()).collect();
    let [encoded, memory, first_change_us] = figures[..] else { panic!("{measured}") };
    println!("{encoded} bytes encoded, {memory} in memory; a first change {first_change_us} us");
    assert!(memory * 10 <= encoded * 12, "{memory} bytes of memory for {encoded} bytes");
}
