//! Tests of the encoders: what is shared, and that shared and coalesced bytes are those that the dialect writes.

use bytes::Bytes;
use syncline_protocol::awareness::{AwarenessEntry, encode};
use syncline_protocol::ids::{DocumentName, Seq};

use super::{HocuspocusEncoder, NativeEncoder, YWebsocketEncoder};
use crate::document::encoder::{Encoder, OutcomeReply, SharedEncoding};
use crate::document::frame::{Frame, LARGE_CHANGE_BYTES, LARGE_REPLY_BYTES};
use crate::document::message::Message;
use crate::document::outcome::Outcome;
use crate::ids::LeaseId;
use crate::outbox::Outbox;

/// An encoder of each dialect for the document "doc", with each kind of address.
fn encoders() -> Vec<Box<dyn Encoder>> {
    let document = DocumentName::parse("doc").unwrap();
    let hocuspocus = |address| Box::new(HocuspocusEncoder::new(address, &document));
    let native = |channel| Box::new(NativeEncoder::new(channel));
    vec![Box::new(YWebsocketEncoder), hocuspocus("doc"), hocuspocus("doc\0tab"), native(0), native(300)]
}

#[test]
fn payload_of_large_answer_is_shared_and_the_same_in_pieces() {
    for len in [LARGE_REPLY_BYTES - 1, LARGE_REPLY_BYTES] {
        let diff = Bytes::from(vec![7; len]);
        let frame = Frame::at(Seq(9), Message::Step2(diff.clone().into()));
        for encoder in encoders() {
            let answer = frame.encode_reply(&*encoder);
            let is_shared = answer.iter().any(|piece| piece.as_ptr() == diff.as_ptr());
            assert_eq!(is_shared, len == LARGE_REPLY_BYTES, "{encoder:?}");
            assert_eq!(answer.to_bytes(), frame.encode(&*encoder), "{encoder:?}");
        }
    }
}

#[test]
fn large_change_is_a_slice_of_its_encoding() {
    for len in [LARGE_CHANGE_BYTES - 1, LARGE_CHANGE_BYTES] {
        let update = Bytes::from(vec![7; len]);
        let frame = Frame::change(Seq(9), update.clone());
        assert_eq!((frame.message(), frame.seq()), (&Message::Update(update.clone()), Seq(9)));
        let encoded = frame.encode(&YWebsocketEncoder);
        assert_eq!(encoded, Frame::at(Seq(9), Message::Update(update)).encode(&YWebsocketEncoder));
        let Message::Update(payload) = frame.message() else { panic!("not a change") };
        assert_eq!(encoded.as_ptr_range().end == payload.as_ptr_range().end, len == LARGE_CHANGE_BYTES);
    }
}

#[test]
fn coalesced_awareness_is_the_message_that_the_dialect_would_have_written() {
    let entry = |client, clock, state| AwarenessEntry { client, clock, state };
    let message = |entries: &[_]| Frame::new(Message::Awareness(encode(entries.iter().copied()).into()));
    let long = format!("\"{}\"", "x".repeat(200));
    let older = message(&[entry(1, 1, "{}"), entry(2, 7, "{}")]);
    let newer = message(&[entry(1, 2, &long)]);
    let both = message(&[entry(1, 2, &long), entry(2, 7, "{}")]);
    for encoder in encoders() {
        let frames = [&older, &newer].map(|frame| frame.awareness(&*encoder).unwrap());
        let outbox = Outbox::new(1_000);
        frames.into_iter().for_each(|frame| _ = outbox.push_awareness(LeaseId(1), frame));
        assert_eq!(outbox.try_frames(), Ok(vec![both.encode(&*encoder)]), "{encoder:?}");
    }
    assert!(Frame::new(Message::Step1(Bytes::new())).awareness(&YWebsocketEncoder).is_none());
}

#[test]
fn readers_of_a_dialect_share_one_encoding_native_ones_for_their_first_document() {
    let frame = Frame::at(Seq(9), Message::Update(Bytes::from_static(&[0, 0])));
    let shared: Vec<_> = encoders().iter().map(|encoder| encoder.shared()).collect();
    let [plain, named, first] = [SharedEncoding::Plain, SharedEncoding::Named, SharedEncoding::FirstChannel].map(Some);
    assert_eq!(shared, [plain, named, None, first, None]);
    for encoder in encoders() {
        let encoded = [frame.encode(&*encoder), frame.encode(&*encoder)];
        assert_eq!(encoded[0].as_ptr() == encoded[1].as_ptr(), encoder.shared().is_some(), "{encoder:?}");
        assert_eq!(encoded[0], encoder.encode(frame.message(), frame.seq()), "{encoder:?}");
    }
    assert_eq!(frame.encode(&NativeEncoder::new(0))[..], [18, 0, 9, 0, 0]);
    assert_eq!(frame.encode(&NativeEncoder::new(3))[..], [18, 3, 9, 0, 0]);
}

#[test]
fn ywebsocket_session_continues_when_too_much_is_pending() {
    let reply = |outcome| YWebsocketEncoder.reply(0, Seq(1), outcome);
    assert!(matches!(reply(Outcome::TooManyPending), OutcomeReply::Nothing));
    assert!(matches!(reply(Outcome::Forbidden), OutcomeReply::Close(_)));
}
