//! CPU cost of the update checks: scanning an update, classifying it against a document's clocks, and merging queued
//! updates. `cargo bench -p syncline-protocol`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::{ScanLimits, Updates, scan_update, verdict};
use syncline_protocol::varint::{write_var_bytes, write_var_uint};
use syncline_protocol::ywebsocket::YWebsocketMessage;

const CLIENT: u64 = 3_141_592_653;

/// The update for a letter typed after the previous one, as Yjs encodes it.
fn keystroke(clock: u64) -> Vec<u8> {
    let mut out = vec![1, 1];
    write_var_uint(&mut out, CLIENT);
    write_var_uint(&mut out, clock);
    out.push(0x84);
    write_var_uint(&mut out, CLIENT);
    write_var_uint(&mut out, clock - 1);
    write_var_bytes(&mut out, b"x");
    out.push(0);
    out
}

fn updates(criterion: &mut Criterion) {
    let (one, limits) = (keystroke(20_000), ScanLimits::default());
    criterion.bench_function("scan a keystroke", |bench| bench.iter(|| scan_update(black_box(&one), &limits)));
    let clocks = |client: u64| if client == CLIENT { 20_000 } else { 0 };
    criterion.bench_function("classify a keystroke", |bench| {
        bench.iter(|| verdict(black_box(&one), &clocks, &ScanLimits::STORED));
    });
    let frame = YWebsocketMessage::Sync(SyncMessage::Update(&one)).encode();
    criterion.bench_function("decode a y-websocket frame", |bench| {
        bench.iter(|| YWebsocketMessage::decode(black_box(&frame)).is_ok());
    });
    let many: Vec<_> = (20_000..20_064).map(keystroke).collect();
    criterion.bench_function("merge 64 keystrokes", |bench| {
        bench.iter(|| Updates::new(many.iter().map(|update| &update[..])).merge(|_| true));
    });
}

criterion_group!(benches, updates);
criterion_main!(benches);
