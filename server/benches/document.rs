//! Cost of a document between two sockets: handling an update, encoding its frame, queueing it for a hundred
//! outboxes.
//! `cargo bench -p syncline-server`

#![allow(clippy::unwrap_used, reason = "a measurement")]

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use syncline_protocol::ids::{Epoch, Seq};
use syncline_replica::HubDocument;
use syncline_server::internals::{
    Acks, Core, CoreLimits, Event, Frame, LeaseId, LoadedDocument, Message, Origin, Outbox, SessionEvent,
    YWebsocketEncoder,
};
use yrs::{Doc, Text, Transact};

fn document(criterion: &mut Criterion) {
    let doc = Doc::with_client_id(3_141_592_653);
    let text = doc.get_or_insert_text("text");
    let mut core = Core::new(LoadedDocument::empty(HubDocument::default(), Epoch(1)), CoreLimits::default());
    let (lease, mut effects) = (LeaseId(1), Vec::new());
    core.handle(Event::Open { lease, acks: Acks::Each, documents: 1 }, &mut effects);
    criterion.bench_function("make a keystroke and handle it", |bench| {
        bench.iter(|| {
            let update = {
                let mut txn = doc.transact_mut();
                let len = text.len(&txn);
                text.insert(&mut txn, len, "x");
                Bytes::from(txn.encode_update_v1())
            };
            core.handle(
                Event::Session(lease, SessionEvent::Update { update, origin: Origin::Change, batch: 0 }),
                &mut effects,
            );
            core.handle(Event::Durable { upto: core.last() }, &mut effects);
            effects.clear();
        });
    });
    let update = Bytes::from(vec![7; 30]);
    let outboxes: Vec<_> = (0..100).map(|_| Outbox::new(1 << 20)).collect();
    criterion.bench_function("encode a frame and queue it for 100 readers", |bench| {
        bench.iter(|| {
            let frame = Frame::at(Seq(1), Message::Update(update.clone()));
            for outbox in &outboxes {
                outbox.push_document(lease, frame.encode(&YWebsocketEncoder));
                outbox.forget(lease);
            }
        });
    });
}

criterion_group!(benches, document);
criterion_main!(benches);
