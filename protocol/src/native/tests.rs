//! Round trip of every message, and truncation at every byte.

use super::*;

const CURSOR: Cursor = Cursor { epoch: Epoch(u128::MAX - 1), seq: Seq(300) };

fn to_server() -> Vec<ToServer<'static>> {
    let proposal = |based_on| Proposal {
        register: "status",
        id: 7,
        based_on,
        author: "Ana",
        at_ms: 1 << 40,
        value: &[119, 1, b'a'],
    };
    vec![
        ToServer::Hello { version: VERSION, device: 1 << 100 },
        ToServer::Open { channel: 0, document: "doc", token: "", cursor: None, wants_state_vector: false },
        ToServer::Open { channel: 9, document: "a/b", token: "t", cursor: Some(CURSOR), wants_state_vector: true },
        ToServer::Change { channel: 1, batch: 200, update: &[0, 0] },
        ToServer::Propose { channel: 1, batch: 2, proposal: proposal(None) },
        ToServer::Propose { channel: 1, batch: 2, proposal: proposal(Some(Version { number: 10, id: 3 })) },
        ToServer::StateVector { channel: 1, state_vector: &[0] },
        ToServer::Presence { channel: 1, update: &[0] },
        ToServer::Leave { channel: 1 },
        ToServer::Ping,
    ]
}

fn to_client() -> Vec<ToClient<'static>> {
    let opened =
        |resume, state_vector| ToClient::Opened { channel: 1, cursor: CURSOR, read_only: true, resume, state_vector };
    vec![
        ToClient::Welcome { version: VERSION, time_ms: 1 << 41, max_message_bytes: 1 << 24 },
        opened(Resume::FromCursor, None),
        opened(Resume::SendStateVector, Some(&[0])),
        opened(Resume::OtherHistory, None),
        ToClient::Change { channel: 1, seq: Seq(4), update: &[0, 0] },
        ToClient::Diff { channel: 1, seq: Seq(4), update: &[0, 0] },
        ToClient::Durable { channel: 1, seq: Seq(4) },
        ToClient::Ack { channel: 1, batch: 3, seq: Seq(4) },
        ToClient::Refused { channel: 1, batch: 3, code: 4403, reason: "no" },
        ToClient::Decided { channel: 1, batch: 3, accepted: false, register: &[118, 0] },
        ToClient::Presence { channel: 1, update: &[0] },
        ToClient::Closed { channel: 1, code: 4410, reason: "deleted" },
        ToClient::Pong,
    ]
}

#[test]
fn every_message_survives_a_round_trip() {
    for message in to_server() {
        assert_eq!(ToServer::decode(&message.encode()), Ok(message));
    }
    for message in to_client() {
        assert_eq!(ToClient::decode(&message.encode()), Ok(message));
    }
}

#[test]
fn truncated_or_extended_frame_never_decodes_to_the_original_message() {
    for message in to_server() {
        let frame = message.encode();
        for len in 0..frame.len() {
            assert_ne!(ToServer::decode(&frame[..len]), Ok(message), "cut at {len}");
        }
        assert_ne!(ToServer::decode(&[&frame[..], &[0]].concat()), Ok(message));
    }
    for message in to_client() {
        let frame = message.encode();
        for len in 0..frame.len() {
            assert_ne!(ToClient::decode(&frame[..len]), Ok(message), "cut at {len}");
        }
        assert_ne!(ToClient::decode(&[&frame[..], &[0]].concat()), Ok(message));
    }
}

#[test]
fn reconnect_without_missed_changes_takes_under_150_bytes() {
    let name = "a document with a name of some length";
    let open =
        ToServer::Open { channel: 0, document: name, token: "", cursor: Some(CURSOR), wants_state_vector: false };
    let sent = ToServer::Hello { version: 1, device: u128::MAX }.encode().len() + open.encode().len();
    let answers = to_client()[..2].iter().map(|message| message.encode().len()).sum::<usize>();
    assert!(sent + answers < 150, "{sent} + {answers}");
}

#[test]
fn hello_is_recognised_and_hocuspocus_frames_are_not() {
    assert!(is_hello(&to_server()[0].encode()));
    let address = crate::hocuspocus::HocuspocusMessage::Token { token: "", version: None }.encode("_syncline");
    assert!(!is_hello(&address), "an address of nine bytes");
    assert!(!is_hello(&crate::hocuspocus::PING_FRAME));
}
