//! Sessions against a minimal server that holds one document.

use syncline_protocol::hocuspocus::{End, Frame, HocuspocusMessage};
use syncline_protocol::ywebsocket::YWebsocketMessage;
use yrs::{GetString, Text, WriteTxn};

use super::*;

/// Applies and relays updates like a server. Tests send acknowledgements themselves.
struct Server {
    doc: Doc,
    dialect: Dialect,
}

impl Server {
    fn new(dialect: Dialect) -> Self {
        Self { doc: Doc::with_options(Options::with_client_id(ClientID::new(1))), dialect }
    }

    fn frame(&self, sync: SyncMessage<'_>) -> Vec<u8> {
        match self.dialect {
            Dialect::YWebsocket => YWebsocketMessage::Sync(sync).encode(),
            Dialect::Hocuspocus => HocuspocusMessage::Sync(sync).encode("doc"),
        }
    }

    fn step1(&self) -> Vec<u8> {
        self.frame(SyncMessage::Step1(&self.doc.transact().state_vector().encode_v1()))
    }

    /// Handles one frame of a client. Returns the answer and the frame to relay to others.
    fn take(&mut self, frame: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let sync = match self.dialect {
            Dialect::YWebsocket => match YWebsocketMessage::decode(frame).unwrap() {
                YWebsocketMessage::Sync(sync) => sync,
                _ => return (None, None),
            },
            Dialect::Hocuspocus => match Frame::decode(frame, End::Server).unwrap() {
                Frame::Addressed { message: HocuspocusMessage::Sync(sync), .. } => sync,
                _ => return (None, None),
            },
        };
        match sync {
            SyncMessage::Step1(sv) => {
                let sv = StateVector::decode_v1(sv).unwrap();
                let update = self.doc.transact().encode_state_as_update_v1(&sv);
                (Some(self.frame(SyncMessage::Step2(&update))), None)
            }
            SyncMessage::Step2(update) | SyncMessage::Update(update) => {
                self.doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
                (None, Some(self.frame(SyncMessage::Update(update))))
            }
        }
    }

    fn text(&self) -> String {
        let txn = self.doc.transact();
        txn.get_text("text").map(|text| text.get_string(&txn)).unwrap_or_default()
    }
}

fn session(dialect: Dialect, client_id: u64) -> Session {
    Session::new(SessionConfig {
        document: DocumentName::parse("doc").unwrap(),
        dialect,
        token: "secret".into(),
        echo: Echo::Saved,
        client_id,
    })
}

fn type_text(session: &mut Session, text: &str, out: &mut SessionOutputs) {
    session.edit(
        |txn| {
            let root = txn.get_or_insert_text("text");
            root.push(txn, text);
        },
        out,
    );
}

fn text(session: &Session) -> String {
    session.read(|txn| txn.get_text("text").map(|text| text.get_string(txn)).unwrap_or_default())
}

/// Delivers all frames and answers until there are none left.
fn pump(session: &mut Session, server: &mut Server, out: &mut SessionOutputs) {
    while !out.frames.is_empty() {
        for frame in std::mem::take(&mut out.frames) {
            if let Some(answer) = server.take(&frame).0 {
                session.received(&answer, out).unwrap();
            }
        }
    }
}

fn connect(session: &mut Session, server: &mut Server, out: &mut SessionOutputs) {
    session.connected(out);
    session.received(&server.step1(), out).unwrap();
    pump(session, server, out);
    assert!(session.is_synced());
}

const BOTH: [Dialect; 2] = [Dialect::YWebsocket, Dialect::Hocuspocus];

#[test]
fn two_sessions_converge_online_and_after_being_offline() {
    for dialect in BOTH {
        let mut server = Server::new(dialect);
        let (mut a, mut b) = (session(dialect, 10), session(dialect, 11));
        let (mut out_a, mut out_b) = (SessionOutputs::default(), SessionOutputs::default());
        type_text(&mut a, "offline ", &mut out_a);
        assert!(out_a.frames.is_empty(), "nothing is sent without a connection");
        connect(&mut a, &mut server, &mut out_a);
        connect(&mut b, &mut server, &mut out_b);
        assert_eq!(text(&b), "offline ");

        type_text(&mut a, "online", &mut out_a);
        let update = out_a.frames.pop().unwrap();
        let relayed = server.take(&update).1.unwrap();
        b.received(&relayed, &mut out_b).unwrap();
        assert_eq!(text(&b), "offline online");
        assert!(out_b.events.contains(&SessionEvent::RemoteUpdate));

        b.disconnected();
        type_text(&mut b, "!", &mut out_b);
        connect(&mut b, &mut server, &mut out_b);
        assert_eq!(server.text(), "offline online!");
    }
}

#[test]
fn edits_before_the_servers_step1_are_sent_once() {
    let mut server = Server::new(Dialect::YWebsocket);
    let mut a = session(Dialect::YWebsocket, 10);
    let mut out = SessionOutputs::default();
    a.connected(&mut out);
    type_text(&mut a, "x", &mut out);
    assert_eq!(out.frames.len(), 1, "only SyncStep1");
    a.received(&server.step1(), &mut out).unwrap();
    assert_eq!(out.frames.len(), 3, "the answer, and the empty update that acknowledges it");
    pump(&mut a, &mut server, &mut out);
    assert_eq!(server.text(), "x");
}

#[test]
fn hocuspocus_sends_token_and_step1_and_matches_statuses_in_order() {
    let mut server = Server::new(Dialect::Hocuspocus);
    let mut a = session(Dialect::Hocuspocus, 10);
    let mut out = SessionOutputs::default();
    type_text(&mut a, "x", &mut out);
    a.connected(&mut out);
    let first = Frame::decode(&out.frames[0], End::Server).unwrap();
    let token = HocuspocusMessage::Token { token: "secret", version: None };
    assert_eq!(first, Frame::Addressed { address: "doc", message: token });
    a.received(&server.step1(), &mut out).unwrap();
    pump(&mut a, &mut server, &mut out);
    type_text(&mut a, "y", &mut out);
    assert_eq!(a.unsaved(), 2);

    let status = |saved| HocuspocusMessage::SyncStatus(saved).encode("doc");
    out.events.clear();
    a.received(&status(true), &mut out).unwrap();
    assert_eq!(out.events, [SessionEvent::Saved(1)], "the full sync");
    a.received(&status(false), &mut out).unwrap();
    assert_eq!(out.events[1], SessionEvent::Refused(2));
    assert_eq!(a.unsaved(), 1);
}

#[test]
fn edits_in_flight_are_saved_by_the_next_sync() {
    let mut server = Server::new(Dialect::Hocuspocus);
    let mut a = session(Dialect::Hocuspocus, 10);
    let mut out = SessionOutputs::default();
    connect(&mut a, &mut server, &mut out);
    type_text(&mut a, "lost", &mut out);
    out.frames.clear();
    a.disconnected();
    connect(&mut a, &mut server, &mut out);
    assert_eq!(server.text(), "lost");
    assert_eq!(a.unsaved(), 1);
    a.received(&HocuspocusMessage::SyncStatus(true).encode("doc"), &mut out).unwrap();
    assert_eq!(a.unsaved(), 0);
}

#[test]
fn y_websocket_echo_means_saved_and_makes_acks_known() {
    let mut server = Server::new(Dialect::YWebsocket);
    let mut a = session(Dialect::YWebsocket, 10);
    let mut out = SessionOutputs::default();
    connect(&mut a, &mut server, &mut out);
    type_text(&mut a, "x", &mut out);
    assert_eq!((a.unsaved(), a.ack_knowledge()), (1, AckKnowledge::Unknown));
    let echo = server.take(&out.frames.pop().unwrap()).1.unwrap();
    out.events.clear();
    a.received(&echo, &mut out).unwrap();
    assert_eq!(out.events, [SessionEvent::Saved(1)]);
    assert_eq!((a.unsaved(), a.ack_knowledge()), (0, AckKnowledge::Known));
}

#[test]
fn gap_is_requested_once_and_filled_by_the_answer() {
    let mut server = Server::new(Dialect::YWebsocket);
    let (mut a, mut b) = (session(Dialect::YWebsocket, 10), session(Dialect::YWebsocket, 11));
    let (mut out_a, mut out_b) = (SessionOutputs::default(), SessionOutputs::default());
    connect(&mut a, &mut server, &mut out_a);
    connect(&mut b, &mut server, &mut out_b);
    for letter in ["a", "b", "c"] {
        type_text(&mut a, letter, &mut out_a);
    }
    let relayed: Vec<_> = out_a.frames.iter().map(|frame| server.take(frame).1.unwrap()).collect();
    b.received(&relayed[1], &mut out_b).unwrap();
    b.received(&relayed[2], &mut out_b).unwrap();
    assert!(b.has_missing_updates());
    assert_eq!(out_b.frames.len(), 1, "requested once");
    pump(&mut b, &mut server, &mut out_b);
    assert_eq!(text(&b), "abc");
    assert!(!b.has_missing_updates());
}

#[test]
fn offline_deletions_reach_the_server_despite_equal_state_vectors() {
    for dialect in BOTH {
        let mut server = Server::new(dialect);
        let mut a = session(dialect, 10);
        let mut out = SessionOutputs::default();
        type_text(&mut a, "abc", &mut out);
        connect(&mut a, &mut server, &mut out);
        a.disconnected();
        a.edit(
            |txn| {
                let root = txn.get_or_insert_text("text");
                root.remove_range(txn, 1, 1);
            },
            &mut out,
        );
        connect(&mut a, &mut server, &mut out);
        assert_eq!(server.text(), "ac");
    }
}

#[test]
fn edit_without_change_sends_nothing() {
    let mut server = Server::new(Dialect::YWebsocket);
    let mut a = session(Dialect::YWebsocket, 10);
    let mut out = SessionOutputs::default();
    connect(&mut a, &mut server, &mut out);
    a.edit(|txn| txn.get_or_insert_text("text").len(txn), &mut out);
    assert!(out.frames.is_empty());
    assert_eq!(a.unsaved(), 0);
}

#[test]
fn awareness_is_sent_on_connect_and_on_query() {
    let mut a = session(Dialect::YWebsocket, 10);
    let mut out = SessionOutputs::default();
    a.set_presence(Some("{}".into()), &mut out);
    assert!(out.frames.is_empty());
    a.connected(&mut out);
    assert_eq!(out.frames.len(), 2);
    a.received(&YWebsocketMessage::QueryAwareness.encode(), &mut out).unwrap();
    assert_eq!(out.frames[2][..], YWebsocketMessage::Awareness(&[1, 10, 3, 2, b'{', b'}']).encode());
}

#[test]
fn invalid_message_is_an_error_and_denial_an_event() {
    for dialect in BOTH {
        let mut a = session(dialect, 10);
        let mut out = SessionOutputs::default();
        a.connected(&mut out);
        let bad = Server::new(dialect).frame(SyncMessage::Update(&[0xff, 0xff, 0xff]));
        assert!(matches!(a.received(&bad, &mut out), Err(SessionError::BadUpdate(_))));
        assert!(a.received(&[0, 1, 200], &mut out).is_err());
        let denied = match dialect {
            Dialect::YWebsocket => YWebsocketMessage::PermissionDenied("no").encode(),
            Dialect::Hocuspocus => HocuspocusMessage::PermissionDenied("no").encode("doc"),
        };
        a.received(&denied, &mut out).unwrap();
        assert_eq!(out.events.last(), Some(&SessionEvent::Denied("no".into())));
    }
}

#[test]
fn offsets_count_utf16_units_as_yjs_does() {
    let mut a = session(Dialect::YWebsocket, 10);
    let mut out = SessionOutputs::default();
    type_text(&mut a, "😀b", &mut out);
    a.edit(
        |txn| {
            let root = txn.get_or_insert_text("text");
            root.insert(txn, 2, "a");
        },
        &mut out,
    );
    assert_eq!(text(&a), "😀ab");
}

#[test]
fn equal_deletion_by_another_client_is_not_an_echo() {
    let server = Server::new(Dialect::YWebsocket);
    let config = SessionConfig {
        document: DocumentName::parse("doc").unwrap(),
        dialect: Dialect::YWebsocket,
        token: String::new(),
        echo: Echo::Saved,
        client_id: 9,
    };
    let (mut session, mut out) = (Session::new(config), SessionOutputs::default());
    session.connected(&mut out);
    // Client 1 typed "ab"; then the server sends its SyncStep1.
    let ab = [1, 1, 1, 0, 4, 1, 4, b't', b'e', b'x', b't', 2, b'a', b'b', 0];
    session.received(&server.frame(SyncMessage::Step2(&ab)), &mut out).unwrap();
    session.received(&server.frame(SyncMessage::Step1(&[1, 1, 2])), &mut out).unwrap();
    session.edit(|txn| txn.get_or_insert_text("text").insert(txn, 2, "mine"), &mut out);
    out.frames.clear();
    session.edit(|txn| txn.get_or_insert_text("text").remove_range(txn, 0, 1), &mut out);
    let deletion = SyncMessage::Update(&[0, 1, 1, 1, 0, 1]);
    let empty = SyncMessage::Update(&EMPTY_UPDATE);
    assert_eq!(out.frames, [server.frame(deletion), server.frame(empty)]);

    session.received(&server.frame(deletion), &mut out).unwrap();
    assert_eq!(session.unsaved(), 2, "the deletion of another client is not an acknowledgement");
    // The answer to the server's SyncStep1 was empty and is echoed first.
    session.received(&server.frame(empty), &mut out).unwrap();
    session.received(&server.frame(empty), &mut out).unwrap();
    assert_eq!(session.unsaved(), 0);
}
