//! RFC 6455 conformance of the public socket: the cases of the Autobahn test suite (groups 1-7, 9 and 10), over
//! documents.
//!
//! The suite itself needs Python 2.7 and runs against an echo server (`tests/autobahn`); these tests run
//! everywhere. Its cases expect an echo of every message. This server echoes only updates: a y-websocket author
//! receives its own update, byte for byte, when it is stored. So the binary cases echo updates. Text is ignored
//! whatever it contains, because all dialects are binary, so the cases of text and UTF-8 (group 6) only check
//! that the session stays open. Left out: the timing of 5.19 and 5.20, and groups 12 and 13, because compression
//! is never negotiated (RSV1 fails, 3.2).

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_tests::live::start;
use syncline_tests::raw_websocket::{
    BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, RawSocket, Received, TEXT, upgrade_request,
};
use syncline_tests::websocket_case::{Expected, Step, begun, case, close, fragments, frame, reserved, run, update};

#[tokio::test]
async fn messages_of_every_length_encoding_arrive_complete() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut cases = Vec::new();
    // 1.2 (binary): the lengths around each change of the length encoding.
    for (number, len) in [17, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        let message = update(len);
        cases.push(case(
            format!("1.2.{}", number + 1),
            vec![frame(BINARY, message.clone())],
            vec![Expected::Echo(message)],
        ));
    }
    let message = update(65_536);
    let chopped = Step::Chopped(Frame::new(BINARY, message.clone()), 997);
    cases.push(case("1.2.8", vec![chopped], vec![Expected::Echo(message)]));
    // No dialect has empty or text messages: the server ignores them.
    let message = update(40);
    let after = || frame(BINARY, message.clone());
    let echo = || vec![Expected::Echo(message.clone())];
    cases.push(case("1.2.empty", vec![frame(BINARY, ""), after()], echo()));
    for (number, len) in [0, 125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        let text = frame(TEXT, vec![b'*'; len]);
        cases.push(case(format!("1.1.{}", number + 1), vec![text, after()], echo()));
    }
    // 9.2, 9.4, 9.6: large messages: in one frame, in fragments, in small writes.
    for (number, len) in [256 * 1024, 1 << 20, 4 << 20].into_iter().enumerate() {
        let message = update(len);
        cases.push(case(
            format!("9.2.{}", number + 1),
            vec![frame(BINARY, message.clone())],
            vec![Expected::Echo(message)],
        ));
    }
    for (number, size) in [64, 256, 1_024, 4_096, 16_384, 65_536].into_iter().enumerate() {
        let message = update(1 << 20);
        let pieces = Step::OneWrite(fragments(&message, size));
        cases.push(case(format!("9.4.{}", number + 1), vec![pieces], vec![Expected::Echo(message)]));
        let message = update(1 << 20);
        let chopped = Step::Chopped(Frame::new(BINARY, message.clone()), size);
        cases.push(case(format!("9.6.{}", number + 1), vec![chopped], vec![Expected::Echo(message)]));
    }
    let (first, second) = (update(65_536), update(65_536));
    let both = vec![Step::OneWrite(fragments(&first, 1_300)), Step::OneWrite(fragments(&second, 1_300))];
    cases.push(case("10.1.1", both, vec![Expected::Echo(first), Expected::Echo(second)]));
    run(&server, cases).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn thousand_small_messages_are_echoed_one_by_one() {
    let server = start(Arc::new(MemoryStore::new())).await;
    // 9.8: messages that each wait for the echo of the one before.
    for len in [17, 64, 256, 1_024] {
        let mut socket = RawSocket::open(server.address(), &format!("/rfc6455-9.8-{len}")).await;
        for _ in 0..250 {
            let message = update(len);
            socket.send(Frame::new(BINARY, message.clone())).await;
            while socket.receive().await != (Received::Frame { opcode: BINARY, payload: message.clone() }) {}
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn pings_are_answered_and_pongs_are_not() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let binary = vec![0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    let ten: Vec<_> = (0..10).map(|n| Frame::new(PING, format!("payload-{n}"))).collect();
    let ten_pongs = || (0..10).map(|n| Expected::Pong(format!("payload-{n}").into())).collect::<Vec<_>>();
    let ten_chopped: Vec<_> = ten.iter().map(|ping| Step::Chopped(ping.clone(), 1)).collect();
    let unasked = || frame(PONG, "unsolicited pong payload");
    let cases = vec![
        case("2.1", vec![frame(PING, "")], vec![Expected::Pong(vec![])]),
        case("2.2", vec![frame(PING, "Hello, world!")], vec![Expected::Pong("Hello, world!".into())]),
        case("2.3", vec![frame(PING, binary.clone())], vec![Expected::Pong(binary)]),
        case("2.4", vec![frame(PING, [0xfe; 125])], vec![Expected::Pong(vec![0xfe; 125])]),
        case("2.5", vec![frame(PING, [0xfe; 126])], vec![Expected::Failure]),
        case("2.6", vec![Step::Chopped(Frame::new(PING, [0xfe; 125]), 1)], vec![Expected::Pong(vec![0xfe; 125])]),
        case("2.7", vec![frame(PONG, "")], vec![]),
        case("2.8", vec![unasked()], vec![]),
        case("2.9", vec![unasked(), frame(PING, "ping")], vec![Expected::Pong("ping".into())]),
        case("2.10", vec![Step::OneWrite(ten)], ten_pongs()),
        case("2.11", ten_chopped, ten_pongs()),
        case("2.pong-126", vec![frame(PONG, [1; 126])], vec![Expected::Failure]),
    ];
    run(&server, cases).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn reserved_bits_and_opcodes_fail_the_connection() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut cases = Vec::new();
    for bits in 1..=7 {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
            cases.push(case(format!("3.{bits}-{opcode}"), vec![reserved(opcode, bits)], vec![Expected::Failure]));
        }
    }
    for opcode in (3..=7).chain(11..=15) {
        cases.push(case(format!("4-{opcode}"), vec![frame(opcode, "")], vec![Expected::Failure]));
        cases.push(case(format!("4-{opcode}-payload"), vec![frame(opcode, "reserved")], vec![Expected::Failure]));
        let chopped = Step::Chopped(Frame::new(opcode, "reserved"), 1);
        cases.push(case(format!("4-{opcode}-chopped"), vec![chopped], vec![Expected::Failure]));
        // A message before the failure is stored; a ping after it is not answered.
        let good = update(30);
        let stored = Step::Await(Expected::Echo(good.clone()));
        let steps = vec![frame(BINARY, good), stored, frame(opcode, ""), frame(PING, "")];
        cases.push(case(format!("4-{opcode}-after"), steps, vec![Expected::Failure]));
    }
    run(&server, cases).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn fragments_form_one_message_with_control_frames_in_between() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let message = update(60);
    let (head, tail) = message.split_at(29);
    let (middle, end) = tail.split_at(11);
    let echo = || Expected::Echo(message.clone());
    let two = || vec![Frame::new(BINARY, head).open(), Frame::new(CONTINUATION, tail)];
    let ping = || Frame::new(PING, "in between");
    let pong = || Expected::Pong("in between".into());
    let single = |frames: Vec<Frame>| frames.into_iter().map(Step::Frame).collect::<Vec<_>>();
    let bytewise = |frames: Vec<Frame>| frames.into_iter().map(|frame| Step::Chopped(frame, 1)).collect::<Vec<_>>();
    let with_ping = || vec![Frame::new(BINARY, head).open(), ping(), Frame::new(CONTINUATION, tail)];
    let with_pings = || {
        let (open, more) = (Frame::new(BINARY, head).open(), Frame::new(CONTINUATION, middle).open());
        vec![open, ping(), more, ping(), Frame::new(CONTINUATION, end)]
    };
    let with_empty = || {
        let nothing = || Frame::new(CONTINUATION, "").open();
        vec![Frame::new(BINARY, "").open(), nothing(), Frame::new(CONTINUATION, message.clone()).open(), nothing()]
    };
    let mut emptied = with_empty();
    emptied.push(Frame::new(CONTINUATION, ""));
    let and_then = |frames, more| vec![Step::OneWrite(frames), Step::Await(echo()), Step::Frame(more)];
    let stray = |fin: bool| Frame { fin, ..Frame::new(CONTINUATION, "stray") };
    let cases = vec![
        case("5.1", vec![begun(PING, "frag"), frame(CONTINUATION, "ment")], vec![Expected::Failure]),
        case("5.2", vec![begun(PONG, "frag"), frame(CONTINUATION, "ment")], vec![Expected::Failure]),
        case("5.close", vec![begun(CLOSE, [3, 232]), frame(CONTINUATION, "")], vec![Expected::Failure]),
        case("5.3", single(two()), vec![echo()]),
        case("5.4", vec![Step::OneWrite(two())], vec![echo()]),
        case("5.5", bytewise(two()), vec![echo()]),
        case("5.6", single(with_ping()), vec![pong(), echo()]),
        case("5.7", vec![Step::OneWrite(with_ping())], vec![pong(), echo()]),
        case("5.8", bytewise(with_ping()), vec![pong(), echo()]),
        case("5.19", single(with_pings()), vec![pong(), pong(), echo()]),
        case("5.20", vec![Step::OneWrite(with_pings())], vec![pong(), pong(), echo()]),
        case("5.empty", single(emptied), vec![echo()]),
        case("5.9", vec![Step::Frame(stray(true)), frame(BINARY, message.clone())], vec![Expected::Failure]),
        case("5.10", vec![Step::OneWrite(vec![stray(true), ping()])], vec![Expected::Failure]),
        case("5.11", vec![Step::Chopped(stray(true), 1)], vec![Expected::Failure]),
        case("5.12", vec![Step::Frame(stray(false)), frame(BINARY, message.clone())], vec![Expected::Failure]),
        case("5.13", vec![Step::OneWrite(vec![stray(false), ping()])], vec![Expected::Failure]),
        case("5.14", vec![Step::Chopped(stray(false), 1)], vec![Expected::Failure]),
        case("5.15", and_then(two(), stray(false)), vec![Expected::Failure]),
        case("5.17", and_then(two(), stray(true)), vec![Expected::Failure]),
        case("5.18", vec![begun(BINARY, head), frame(BINARY, tail)], vec![Expected::Failure]),
        case("5.text-within", vec![begun(BINARY, head), frame(TEXT, "x")], vec![Expected::Failure]),
    ];
    run(&server, cases).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn text_messages_are_ignored_whatever_they_contain() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let valid: [&[u8]; 4] = ["κόσμε".as_bytes(), "\u{10ffff}".as_bytes(), b"\xed\x9f\xbf", b"\xef\xbf\xbf"];
    // Autobahn 6.4, 6.6-6.22: truncated, overlong, surrogates, beyond Unicode, stray bytes.
    let invalid: [&[u8]; 14] = [
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
        b"\xce",
        b"\xce\xba\xe1",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\x80",
        b"\xbf\x80\xbf\x80",
        b"\xfe",
        b"\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80\xed\xb0\x80",
    ];
    let mut cases = Vec::new();
    let message = update(40);
    let after = || frame(BINARY, message.clone());
    let echo = || vec![Expected::Echo(message.clone())];
    for (number, text) in valid.into_iter().enumerate() {
        cases.push(case(format!("6-valid-{number}"), vec![frame(TEXT, text), after()], echo()));
        let pieces = vec![begun(TEXT, &text[..1]), frame(CONTINUATION, &text[1..]), after()];
        cases.push(case(format!("6-valid-{number}-pieces"), pieces, echo()));
    }
    for (number, text) in invalid.into_iter().enumerate() {
        cases.push(case(format!("6-invalid-{number}"), vec![frame(TEXT, text), after()], echo()));
        let pieces = vec![begun(TEXT, &text[..1]), frame(CONTINUATION, &text[1..]), after()];
        cases.push(case(format!("6-invalid-{number}-pieces"), pieces, echo()));
    }
    run(&server, cases).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn closing_handshake_is_answered_and_nothing_follows_it() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let message = update(40);
    let bye = || close(1000, b"bye");
    let stored = Step::Await(Expected::Echo(message.clone()));
    let normal = || Expected::Closed(Some(1000));
    let mut cases = vec![
        case("7.1.1", vec![frame(BINARY, message.clone()), stored, bye()], vec![normal()]),
        case("7.1.2", vec![bye(), bye()], vec![normal()]),
        case("7.1.3", vec![bye(), frame(PING, "late")], vec![normal()]),
        case("7.1.4", vec![bye(), frame(BINARY, update(40))], vec![normal()]),
        case("7.1.5", vec![begun(BINARY, &message[..9]), bye(), frame(CONTINUATION, &message[9..])], vec![normal()]),
        case("7.3.1", vec![frame(CLOSE, "")], vec![Expected::Closed(None)]),
        case("7.3.2", vec![frame(CLOSE, "a")], vec![Expected::Failure]),
        case("7.3.3", vec![close(1000, b"")], vec![normal()]),
        case("7.3.4", vec![close(1000, b"Hello, world!")], vec![normal()]),
        case("7.3.5", vec![close(1000, &[b'*'; 123])], vec![normal()]),
        case("7.3.6", vec![close(1000, &[b'*'; 124])], vec![Expected::Failure]),
        case("7.5.1", vec![close(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited")], vec![Expected::Closed(Some(1007))]),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(case(format!("7.7-{code}"), vec![close(code, b"")], vec![Expected::Closed(Some(code))]));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(case(format!("7.9-{code}"), vec![close(code, b"")], vec![Expected::Failure]));
    }
    run(&server, cases).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn wrong_masks_and_lengths_fail_the_connection() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let unmasked = |opcode| Step::Frame(Frame { is_masked: false, ..Frame::new(opcode, update(40)) });
    let claims = |len: u64| Step::Bytes([&[0x82, 0xff][..], &len.to_be_bytes(), &[1, 2, 3, 4, 5]].concat());
    let mut cases = vec![
        case("unmasked-binary", vec![unmasked(BINARY)], vec![Expected::Failure]),
        case("unmasked-ping", vec![Step::Bytes(vec![0x89, 0])], vec![Expected::Failure]),
        case("unmasked-close", vec![Step::Bytes(vec![0x88, 2, 3, 232])], vec![Expected::Failure]),
    ];
    run(&server, std::mem::take(&mut cases)).await;
    // An absurd length is refused by its header, before any payload.
    for len in [(1 << 30) + 1, 1 << 40, (1 << 63) - 1, 1 << 63, u64::MAX] {
        let mut socket = RawSocket::open(server.address(), "/rfc6455-lengths").await;
        let Step::Bytes(bytes) = claims(len) else { unreachable!() };
        socket.write(&bytes).await;
        let Received::Close { code: Some(code), .. } = socket.receive_close().await else {
            panic!("{len}: no close frame")
        };
        assert_eq!(code, if len > i64::MAX as u64 { 1002 } else { 4413 }, "{len}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn invalid_handshakes_are_refused_over_http() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let good = upgrade_request("/doc");
    for (what, request, status) in [
        ("without a key", good.replace("Sec-WebSocket-Key", "X-Key"), "400"),
        ("of another version", good.replace("Version: 13", "Version: 12"), "426"),
        ("without a version", good.replace("Sec-WebSocket-Version: 13\r\n", ""), "400"),
        ("without Connection: Upgrade", good.replace("Connection: Upgrade", "Connection: close"), "400"),
        ("by POST", good.replace("GET ", "POST "), "400"),
        ("of HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), "400"),
        ("without Upgrade", good.replace("Upgrade: websocket\r\n", ""), "404"),
    ] {
        let mut socket = RawSocket::connect(server.address()).await;
        socket.write(request.as_bytes()).await;
        let head = socket.read_head().await;
        assert_eq!(head.split_whitespace().nth(1), Some(status), "{what}: {head}");
    }
    // The first frame may arrive in the same segment as the handshake.
    let mut socket = RawSocket::connect(server.address()).await;
    let first = update(40);
    socket.write(&[good.as_bytes(), &Frame::new(BINARY, first.clone()).encode()].concat()).await;
    assert!(socket.read_head().await.starts_with("HTTP/1.1 101 "));
    while socket.receive().await != (Received::Frame { opcode: BINARY, payload: first.clone() }) {}
    server.stop().await.unwrap();
}
