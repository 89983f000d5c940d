//! Tests of a document's task: how often it answers step 1, and what a batch does when the server gives up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use syncline_log::memory::MemoryStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::dialect::{HocuspocusEncoder, YWebsocketEncoder};
use crate::document::encoder::{OutcomeReply, SharedEncoding};
use crate::document::event::Origin;
use crate::document::inbox::{Sender, inbox};
use crate::document::message::Message;
use crate::document::outcome::{Acks, Outcome};
use crate::document::usage::{Memory, MemoryLimits};
use crate::outbox::UpdateLength;

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

/// A document without records, whose task starts when the test wants it to.
struct Fixture {
    inbox: Sender,
    receiver: Option<Receiver>,
    log: Log,
    options: Arc<DocumentOptions>,
}

impl Fixture {
    fn new() -> Self {
        let (inbox, receiver) = inbox();
        let log = Log::start(Arc::new(MemoryStore::new()));
        let options = Arc::new(DocumentOptions::new(Duration::from_secs(60)));
        Self { inbox, receiver: Some(receiver), log, options }
    }

    fn name() -> DocumentName {
        DocumentName::parse("doc").unwrap()
    }

    fn start(&mut self) -> JoinHandle<TaskEnd> {
        let usage = Memory::new(MemoryLimits::NONE).enter();
        let (log, options) = (self.log.clone(), Arc::clone(&self.options));
        tokio::spawn(run(Self::name(), self.receiver.take().unwrap(), log, options, Arc::default(), usage, |_| false))
    }

    fn send(&self, envelope: Envelope) {
        self.inbox.try_send(envelope).unwrap();
    }

    fn open(&self, lease: LeaseId, encoder: impl Encoder + 'static) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(1024 * 1024));
        self.send(Envelope::Open { lease, outbox: Arc::clone(&outbox), encoder: Box::new(encoder), documents: 1 });
        outbox
    }

    fn step1(&self, lease: LeaseId, state_vector: &[u8]) {
        let state_vector = Bytes::copy_from_slice(state_vector);
        self.send(Envelope::Session(lease, SessionEvent::Step1 { state_vector }, None));
    }

    /// Client 7 types a letter at this clock.
    fn typed(&self, lease: LeaseId, clock: u8) {
        let first = [1, 1, 7, 0, 4, 1, 1, b't', 1, b'a', 0];
        let next = [1, 1, 7, clock, 0x84, 7, clock.wrapping_sub(1), 1, b'a', 0];
        let update = Bytes::copy_from_slice(if clock == 0 { &first } else { &next });
        self.send(Envelope::Session(lease, SessionEvent::Update { update, origin: Origin::Change, batch: 0 }, None));
    }
}

/// The step 2 messages among these y-websocket frames.
fn step2s(frames: &[Bytes]) -> Vec<&Bytes> {
    frames.iter().filter(|frame| frame.starts_with(&[0, 1])).collect()
}

/// Takes frames until there is a step 2; everything sent to the document before has then been handled.
async fn frames_to_step2(outbox: &Outbox) -> Vec<Bytes> {
    let mut frames = outbox.frames().await;
    while step2s(&frames).is_empty() {
        frames.extend(outbox.frames().await);
    }
    frames
}

#[tokio::test]
async fn burst_of_step1_is_answered_by_one_diff() {
    let mut fixture = Fixture::new();
    let (a, b) = (fixture.open(A, YWebsocketEncoder), fixture.open(B, YWebsocketEncoder));
    for _ in 0..20 {
        fixture.step1(A, &[0]);
        fixture.step1(B, &[0]);
    }
    fixture.typed(B, 0);
    fixture.typed(B, 1);
    fixture.step1(A, &[1, 7, 1]);
    fixture.start();
    let frames = frames_to_step2(&a).await;
    let [diff] = step2s(&frames)[..] else { panic!("{frames:?}") };
    assert_eq!(diff[3..], [1, 1, 7, 1, 0x84, 7, 0, 1, b'a', 0], "the newest state vector is answered");
    assert_eq!(step2s(&frames_to_step2(&b).await).len(), 1);
}

#[tokio::test]
async fn step1_waits_while_the_last_diff_is_not_written() {
    let mut fixture = Fixture::new();
    let (a, b) = (fixture.open(A, YWebsocketEncoder), fixture.open(B, YWebsocketEncoder));
    fixture.start();
    fixture.step1(A, &[0]);
    for clock in 0..5 {
        fixture.typed(B, clock);
        fixture.step1(B, &[0]);
        frames_to_step2(&b).await;
        fixture.step1(A, &[1, 7, clock]);
    }
    fixture.step1(B, &[0]);
    frames_to_step2(&b).await;
    let frames = a.frames().await;
    assert_eq!(step2s(&frames).len(), 1, "{frames:?}");
    assert_eq!(a.try_frames(), Ok(vec![]));
    // The socket has drained, and the session requests what the client lacks.
    assert_eq!(a.behind_now(), [A]);
    fixture.step1(A, &[1, 7, 4]);
    fixture.step1(B, &[0]);
    frames_to_step2(&b).await;
    assert_eq!(a.try_frames(), Ok(vec![]), "the request is on its way, and answers this one as well");
    fixture.send(Envelope::Resync { lease: A });
    let frames = frames_to_step2(&a).await;
    let [diff] = step2s(&frames)[..] else { panic!("{frames:?}") };
    assert_eq!(diff[3..], [1, 1, 7, 4, 0x84, 7, 3, 1, b'a', 0], "the newest state vector is answered");
    // From now on it is answered immediately again.
    assert_eq!((a.try_frames(), a.behind_now()), (Ok(vec![]), vec![]));
    fixture.step1(A, &[1, 7, 5]);
    assert_eq!(step2s(&frames_to_step2(&a).await).len(), 1);
}

#[tokio::test]
async fn diff_that_would_be_dropped_is_not_computed() {
    let mut fixture = Fixture::new();
    let (a, b) = (fixture.open(A, YWebsocketEncoder), fixture.open(B, YWebsocketEncoder));
    fixture.start();
    fixture.step1(A, &[0]);
    fixture.step1(B, &[0]);
    frames_to_step2(&b).await;
    // A further step 1, and a request that the session made before it.
    fixture.typed(B, 0);
    fixture.typed(B, 1);
    fixture.step1(A, &[1, 7, 1]);
    fixture.send(Envelope::Resync { lease: A });
    fixture.step1(B, &[0]);
    frames_to_step2(&b).await;
    assert_eq!(step2s(&a.frames().await).len(), 1);
    assert_eq!((a.try_frames(), a.behind_now()), (Ok(vec![]), vec![A]));
    fixture.send(Envelope::Resync { lease: A });
    let frames = frames_to_step2(&a).await;
    assert_eq!(step2s(&frames)[0][3..], [1, 1, 7, 1, 0x84, 7, 0, 1, b'a', 0], "the step 1 is answered");
}

#[tokio::test]
async fn deferred_step1_resets_the_count_of_unsynced_changes() {
    /// Type of a Hocuspocus message that lowers the count.
    const SYNC_STATUS: u8 = 8;
    let mut fixture = Fixture::new();
    let name = Fixture::name();
    let (a, b) = (fixture.open(A, HocuspocusEncoder::new(name.as_str(), &name)), fixture.open(B, YWebsocketEncoder));
    fixture.start();
    fixture.step1(A, &[0]);
    fixture.step1(B, &[0]);
    frames_to_step2(&b).await;
    let step2 = || {
        let (update, origin) = (Bytes::from_static(&[0, 0]), Origin::Step2);
        fixture.send(Envelope::Session(A, SessionEvent::Update { update, origin, batch: 0 }, None));
    };
    step2();
    // Both of these are deferred; the client counts one, for the step 2 that it sends when it is asked.
    fixture.typed(A, 0);
    fixture.step1(A, &[1, 7, 1]);
    fixture.step1(B, &[0]);
    frames_to_step2(&b).await;
    fixture.step1(A, &[1, 7, 1]);
    fixture.step1(B, &[0]);
    frames_to_step2(&b).await;
    let kind = |frame: &Bytes| frame[1 + name.as_str().len()..].to_vec();
    let is_status = |frame: &Bytes| kind(frame)[0] == SYNC_STATUS;
    let is_ask = |frame: &Bytes| kind(frame).starts_with(&[0, 0]);
    a.frames().await;
    assert_eq!((a.try_frames(), a.behind_now()), (Ok(vec![]), vec![A]));
    fixture.send(Envelope::Resync { lease: A });
    let mut frames = a.frames().await;
    assert_eq!(frames.iter().filter(|frame| is_ask(frame)).count(), 1, "{frames:?}");
    assert!(!frames.iter().any(is_status), "{frames:?}");
    step2();
    frames = a.frames().await;
    assert_eq!(frames.iter().filter(|frame| is_status(frame)).count(), 1, "{frames:?}");
}

/// A y-websocket encoder during whose first change the server gives up.
#[derive(Debug)]
struct GivesUp(CancellationToken);

impl Encoder for GivesUp {
    fn shared(&self) -> Option<SharedEncoding> {
        None
    }

    fn acks(&self) -> Acks {
        YWebsocketEncoder.acks()
    }

    fn encode(&self, message: &Message, seq: Seq) -> Bytes {
        if matches!(message, Message::Update(_)) {
            self.0.cancel();
        }
        YWebsocketEncoder.encode(message, seq)
    }

    fn step2_head(&self, bytes: usize, seq: Seq) -> Vec<u8> {
        YWebsocketEncoder.step2_head(bytes, seq)
    }

    fn awareness_length(&self) -> UpdateLength {
        YWebsocketEncoder.awareness_length()
    }

    fn reply(&self, batch: u64, seq: Seq, outcome: Outcome) -> OutcomeReply {
        YWebsocketEncoder.reply(batch, seq, outcome)
    }

    /// So that its outbox keeps the frames when the document ends.
    fn closed(&self, _: &Close) -> Option<Bytes> {
        Some(Bytes::from_static(b"closed"))
    }
}

#[tokio::test]
async fn batch_ends_when_the_server_gives_up() {
    let mut fixture = Fixture::new();
    let a = fixture.open(A, GivesUp(fixture.options.give_up.clone()));
    let b = fixture.open(B, GivesUp(CancellationToken::new()));
    fixture.step1(A, &[0]);
    fixture.typed(B, 0);
    // The change before it is sent, and the server gives up.
    fixture.send(Envelope::Leave { lease: LeaseId(3) });
    fixture.typed(B, 1);
    fixture.step1(B, &[0]);
    let task = fixture.start();
    let (log, options) = (fixture.log.clone(), Arc::clone(&fixture.options));
    drop(fixture);
    assert_eq!(task.await.unwrap(), TaskEnd::Stopped);
    assert_eq!(step2s(&a.try_frames().unwrap()).len(), 1);
    let frames = b.try_frames().unwrap();
    assert_eq!(step2s(&frames).len(), 0, "{frames:?}");
    assert_eq!(frames.iter().filter(|frame| frame.starts_with(&[0, 2])).count(), 1, "one change is acknowledged");
    let loaded = load(&log, &Fixture::name(), &options.draw).await.unwrap();
    assert_eq!(loaded.records, 1, "it is in the log");
}
