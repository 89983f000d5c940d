//! Tests the decoders with frames that the npm packages sent (`tests/fixtures/wire/golden.json`, recorded by
//! `tests/node/golden.test.mjs`): every frame decodes to the recorded message, passes the scanner, reveals the dialect if it is
//! the first of a session, and is encoded by `syncline-protocol` to the same bytes.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use syncline_protocol::awareness::AwarenessUpdate;
use syncline_protocol::detect::{Dialect, detect};
use syncline_protocol::hocuspocus::{End, Frame, HocuspocusMessage};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::{scan_state_vector, scan_update};
use syncline_protocol::ywebsocket::YWebsocketMessage;

struct Recorded {
    dialect: Dialect,
    session: String,
    message: String,
    address: Option<String>,
    bytes: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wire/golden.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |frame: &Value, key: &str| frame[key].as_str().map(str::to_owned);
    golden["frames"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|frame| frame.get("hex").is_some())
        .map(|frame| Recorded {
            dialect: match frame["dialect"].as_str().unwrap() {
                "y-websocket" => Dialect::YWebsocket,
                "hocuspocus" => Dialect::Hocuspocus,
                other => panic!("unknown dialect {other}"),
            },
            session: text(frame, "session").unwrap(),
            message: text(frame, "message").unwrap(),
            address: text(frame, "address"),
            bytes: unhex(frame["hex"].as_str().unwrap()),
        })
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The name of a sync message in the recording. Also asserts that the scanner accepts its payload.
fn sync_name(message: &SyncMessage<'_>) -> &'static str {
    match message {
        SyncMessage::Step1(state_vector) => {
            scan_state_vector(state_vector, &Default::default()).unwrap();
            "sync step 1"
        }
        SyncMessage::Step2(update) => {
            scan_update(update, &Default::default()).unwrap();
            "sync step 2"
        }
        SyncMessage::Update(update) => {
            scan_update(update, &Default::default()).unwrap();
            "sync update"
        }
    }
}

fn awareness_name(update: &[u8]) -> &'static str {
    AwarenessUpdate::scan(update, &Default::default()).unwrap();
    "awareness"
}

fn ywebsocket_name(message: &YWebsocketMessage<'_>) -> &'static str {
    match message {
        YWebsocketMessage::Sync(message) => sync_name(message),
        YWebsocketMessage::Awareness(update) => awareness_name(update),
        YWebsocketMessage::PermissionDenied(_) => "permission denied",
        YWebsocketMessage::QueryAwareness => "query awareness",
    }
}

fn hocuspocus_name(message: &HocuspocusMessage<'_>) -> &'static str {
    match message {
        HocuspocusMessage::Sync(message) => sync_name(message),
        HocuspocusMessage::Awareness(update) => awareness_name(update),
        HocuspocusMessage::Token { .. } => "auth token",
        HocuspocusMessage::QueryAwareness => "query awareness",
        HocuspocusMessage::Stateless(_) => "stateless",
        HocuspocusMessage::Close(_) => "close",
        other => panic!("a client does not send {other:?}"),
    }
}

#[test]
fn every_recorded_frame_decodes_and_encodes_as_recorded() {
    let frames = recorded();
    assert!(frames.len() > 20, "only {} frames", frames.len());
    let mut seen = HashSet::new();
    for frame in &frames {
        let what = format!("{}: {}", frame.session, frame.message);
        seen.insert((frame.dialect, frame.message.as_str()));
        match frame.dialect {
            Dialect::YWebsocket => {
                let message = YWebsocketMessage::decode(&frame.bytes).expect(&what);
                assert_eq!(ywebsocket_name(&message), frame.message, "{what}");
                assert_eq!(message.encode(), frame.bytes, "{what}");
            }
            Dialect::Hocuspocus => match Frame::decode(&frame.bytes, End::Server).expect(&what) {
                Frame::Ping | Frame::Pong => assert!(frame.message.starts_with('p'), "{what}"),
                Frame::Addressed { address, message } => {
                    assert_eq!(Some(address), frame.address.as_deref(), "{what}");
                    assert_eq!(hocuspocus_name(&message), frame.message, "{what}");
                    // A close by `syncline-protocol` always has a reason; the provider's never does.
                    if !matches!(message, HocuspocusMessage::Close(_)) {
                        assert_eq!(message.encode(address), frame.bytes, "{what}");
                    }
                }
            },
        }
    }
    for wanted in ["sync step 1", "sync step 2", "sync update", "awareness"] {
        assert!(seen.contains(&(Dialect::YWebsocket, wanted)), "no y-websocket {wanted} was recorded");
        assert!(seen.contains(&(Dialect::Hocuspocus, wanted)), "no Hocuspocus {wanted} was recorded");
    }
    assert!(seen.contains(&(Dialect::Hocuspocus, "auth token")));
}

#[test]
fn first_frame_of_every_recorded_session_reveals_its_dialect() {
    let mut sessions = HashSet::new();
    for frame in recorded() {
        if sessions.insert(frame.session.clone()) {
            assert_eq!(detect(&frame.bytes), Some(frame.dialect), "{}: {}", frame.session, frame.message);
        }
    }
    assert!(sessions.len() >= 3, "{sessions:?}");
}
