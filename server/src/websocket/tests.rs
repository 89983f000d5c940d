//! Tests of `codec.rs`: the rules of RFC 6455, and that the result does not depend on how the input is cut.

use super::*;

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
const LIMIT: usize = 200_000;

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    write_head(&mut head, Opcode::Binary, payload.len());
    head[0] = first;
    head[1] |= MASKED;
    head.extend(MASK);
    head.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    head
}

/// Everything decoded from `bytes`, which arrive in pieces of `size`.
fn read(bytes: &[u8], size: usize) -> Result<Vec<Incoming>, FrameError> {
    let (mut decoder, mut input, mut decoded) = (Decoder::new(LIMIT), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        while let Some(incoming) = decoder.next(&mut input)? {
            // Depends on how the bytes are cut: a message that arrives in one piece needs no announcement.
            if !matches!(incoming, Incoming::Long(_)) {
                decoded.push(incoming);
            }
        }
    }
    assert!(!decoder.has_begun() && input.is_empty(), "all input must be consumed");
    Ok(decoded)
}

fn error_of(bytes: &[u8]) -> &'static str {
    match read(bytes, usize::MAX) {
        Err(FrameError::Protocol(reason) | FrameError::Utf8(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 % 251) as u8).collect()
}

#[test]
fn message_of_any_length_survives_any_cut() {
    for len in [0, 1, 2, 3, 4, 7, 8, 9, 125, 126, 127, 65_535, 65_536, 100_001] {
        let payload = bytes(len);
        let expected = vec![Incoming::Binary(payload.clone().into()), Incoming::Binary("next".into())];
        let wire = [frame(0x82, &payload), frame(0x82, b"next")].concat();
        for size in [1, 2, 3, 5, 13, 1_000, 4_099, usize::MAX] {
            if len < 1_000 || size > 4 {
                assert_eq!(read(&wire, size).unwrap(), expected, "{len} bytes in pieces of {size}");
            }
        }
    }
}

#[test]
fn fragments_form_one_message_with_control_frames_between() {
    let wire = [
        frame(0x02, b""),
        frame(0x00, b"one "),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x8a, b"pong"),
        frame(0x80, b"message"),
        frame(0x02, b""),
        frame(0x80, b""),
    ]
    .concat();
    let expected = [
        Incoming::Ping("ping".into()),
        Incoming::Pong("pong".into()),
        Incoming::Binary("one message".into()),
        Incoming::Binary(Bytes::new()),
    ];
    for size in [1, 2, 3, 7, usize::MAX] {
        assert_eq!(read(&wire, size).unwrap(), expected, "in pieces of {size}");
    }
}

#[test]
fn protocol_violations_are_rejected() {
    let unmasked = [0x82, 1, 7];
    let stray = frame(0x80, b"x");
    let within = [frame(0x02, b"x"), frame(0x82, b"y")].concat();
    let text_within = [frame(0x02, b"x"), frame(0x81, b"y")].concat();
    let long_ping = frame(0x89, &[0; 126]);
    let open_ping = frame(0x09, b"x");
    let long_form = [&[0x82, 0x80 | 126, 0, 5][..], &MASK, &[0; 5]].concat();
    let longest_form = [&[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff][..], &MASK].concat();
    let sign_bit = [&[0x82, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat();
    for (bytes, expected) in [
        (&unmasked[..], "masked"),
        (&stray, "continu"),
        (&within, "within"),
        (&text_within, "within"),
        (&long_ping, "control"),
        (&open_ping, "control"),
        (&long_form, "length"),
        (&longest_form, "length"),
        (&sign_bit, "length"),
        (&frame(0x88, &[3]), "half"),
        (&frame(0x88, &[3, 232, 0xff]), "UTF-8"),
    ] {
        let reason = error_of(bytes);
        assert!(reason.contains(expected), "{reason}, not {expected}");
    }
    for opcode in (3..=7).chain(11..=15) {
        assert!(error_of(&frame(0x80 | opcode, b"")).contains("opcode"), "{opcode}");
    }
    for bit in [0x40, 0x20, 0x10] {
        for first in [0x82, 0x88, 0x89, 0x8a] {
            assert!(error_of(&frame(first | bit, b"")).contains("reserved"));
        }
    }
}

#[test]
fn only_close_codes_allowed_on_the_wire_are_accepted() {
    let closing = |code: u16| read(&frame(0x88, &[&code.to_be_bytes()[..], b"why"].concat()), 1);
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4000, 4999] {
        assert_eq!(closing(code).unwrap(), [Incoming::Close(Some(code))]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        assert!(closing(code).is_err(), "{code}");
    }
    assert_eq!(read(&frame(0x88, b""), 1).unwrap(), [Incoming::Close(None)]);
}

#[test]
fn text_is_reported_at_its_header() {
    let mut input = BytesMut::from(&frame(0x81, b"hello")[..6]);
    assert_eq!(Decoder::new(LIMIT).next(&mut input), Ok(Some(Incoming::Text(Bytes::new()))));
}

#[test]
fn texts_are_messages_if_reading_texts_is_enabled() {
    let wire =
        [frame(0x01, b"te"), frame(0x89, b""), frame(0x80, b"xt"), frame(0x82, b"binary"), frame(0x81, b"")].concat();
    let mut decoder = Decoder::new(LIMIT);
    decoder.read_texts();
    let mut input = BytesMut::from(&wire[..]);
    let decoded: Vec<_> = std::iter::from_fn(|| decoder.next(&mut input).unwrap()).collect();
    let expected = [
        Incoming::Ping(Bytes::new()),
        Incoming::Text("text".into()),
        Incoming::Binary("binary".into()),
        Incoming::Text(Bytes::new()),
    ];
    assert_eq!(decoded, expected);
}

#[test]
fn claimed_length_reserves_no_memory() {
    let head = |first: u8, len: u64| [&[first, 0x80 | 127][..], &len.to_be_bytes(), &MASK].concat();
    let mut decoder = Decoder::new(LIMIT);
    for len in [MAX_SKIPPED_BYTES as u64 + 1, 1 << 40, i64::MAX as u64] {
        assert_eq!(Decoder::new(LIMIT).next(&mut head(0x82, len)[..].into()), Err(FrameError::TooLarge), "{len}");
    }
    assert_eq!(decoder.next(&mut head(0x82, LIMIT as u64)[..].into()), Ok(None), "a frame at the limit passes");
    assert!(decoder.message.capacity() < 10_000, "a claimed length reserves no memory");

    let mut decoder = Decoder::new(10);
    let mut input = BytesMut::from(&[frame(0x02, &[1; 6]), frame(0x00, &[1; 4]), frame(0x80, b"x")].concat()[..]);
    let beginning = [&[1; 10][..], b"x"].concat();
    assert_eq!(decoder.next(&mut input), Ok(Some(Incoming::TooLarge(beginning.into()))), "sum of all fragments");
}

#[test]
fn buffer_grows_with_received_bytes() {
    let wire = frame(0x82, &bytes(100_000));
    let mut decoder = Decoder::new(LIMIT);
    for piece in wire[..60_000].chunks(1_000) {
        assert!(matches!(decoder.next(&mut piece.into()), Ok(None | Some(Incoming::Long(_)))));
        let (len, capacity) = (decoder.message.len(), decoder.message.capacity());
        assert!(capacity <= 2 * len + MIN_GROWTH_BYTES, "{capacity} for {len}");
    }
}

#[test]
fn encoded_heads_and_close_frames_can_be_decoded() {
    let mut out = Vec::new();
    for (len, expected) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        out.clear();
        write_head(&mut out, Opcode::Ping, len);
        assert_eq!((out[0], out.len()), (0x89, expected), "{len}");
    }
    let long = "ä".repeat(100);
    let close = close_frame(Some(4400), &long);
    assert_eq!(close[1] as usize, close.len() - 2);
    assert_eq!(read(&frame(0x88, &close[2..]), usize::MAX).unwrap(), [Incoming::Close(Some(4400))]);
    assert_eq!(close_frame(None, ""), [0x88, 0]);
}

#[test]
fn text_is_skipped_to_its_end() {
    let wire = [
        frame(0x01, b"te"),
        frame(0x89, b"ping"),
        frame(0x80, b"xt"),
        frame(0x82, b"binary"),
        frame(0x81, b""),
        frame(0x82, b"after"),
    ]
    .concat();
    let expected = [
        Incoming::Text(Bytes::new()),
        Incoming::Ping("ping".into()),
        Incoming::Skipped,
        Incoming::Binary("binary".into()),
        Incoming::Text(Bytes::new()),
        Incoming::Skipped,
        Incoming::Binary("after".into()),
    ];
    for size in [1, 2, 3, 7, usize::MAX] {
        assert_eq!(read(&wire, size).unwrap(), expected, "in pieces of {size}");
    }
}

#[test]
fn message_over_limit_is_announced_and_skipped() {
    let payload = bytes(LIMIT + 1);
    let whole = [frame(0x82, &payload), frame(0x82, b"after")].concat();
    let (first, second) = payload.split_at(100_000);
    let fragments = [frame(0x02, first), frame(0x89, b""), frame(0x80, second), frame(0x82, b"after")].concat();
    for size in [1_000, 4_099, usize::MAX] {
        let decoded = read(&whole, size).unwrap();
        let beginning = Incoming::TooLarge(payload[..PREFIX_BYTES].to_vec().into());
        let expected = [beginning.clone(), Incoming::Skipped, Incoming::Binary("after".into())];
        // A message that arrives in one piece is skipped right after its announcement.
        let (announced, after) = (decoded.first(), decoded.last());
        assert_eq!((announced, after), (expected.first(), expected.last()), "in pieces of {size}");
        let decoded = read(&fragments, size).unwrap();
        assert_eq!(decoded[0], Incoming::Ping(Bytes::new()));
        assert_eq!((decoded.get(1), decoded.last()), (expected.first(), expected.last()), "in pieces of {size}");
    }
}

#[test]
fn long_message_is_announced_once_and_can_be_skipped() {
    let payload = bytes(150_000);
    let (first, second) = payload.split_at(1_000);
    let one = frame(0x82, &payload);
    let two = [frame(0x02, first), frame(0x80, second)].concat();
    for (wire, skips) in [(&one, false), (&one, true), (&two, false), (&two, true)] {
        let (mut decoder, mut input, mut decoded) = (Decoder::new(LIMIT), BytesMut::new(), Vec::new());
        for piece in [&wire[..], &frame(0x82, b"after")].concat().chunks(7_000) {
            input.extend_from_slice(piece);
            while let Some(incoming) = decoder.next(&mut input).unwrap() {
                if let Incoming::Long(prefix) = &incoming {
                    assert_eq!(prefix[..], payload[..PREFIX_BYTES]);
                    if skips {
                        decoder.skip();
                        assert!(decoder.is_skipping() && decoder.message.capacity() == 0, "nothing is stored");
                    }
                }
                decoded.push(incoming);
            }
        }
        let end = if skips { Incoming::Skipped } else { Incoming::Binary(payload.clone().into()) };
        let prefix = Bytes::copy_from_slice(&payload[..PREFIX_BYTES]);
        assert_eq!(decoded, [Incoming::Long(prefix), end, Incoming::Binary("after".into())]);
    }
}

#[test]
fn frame_claiming_over_one_gibibyte_is_rejected_by_its_header() {
    let head = [&[0x82, 0x80 | 127][..], &(MAX_SKIPPED_BYTES as u64 + 1).to_be_bytes(), &MASK].concat();
    assert_eq!(read(&head, usize::MAX), Err(FrameError::TooLarge));
}

#[test]
fn small_message_does_not_keep_its_input_buffer() {
    let wire =
        [frame(0x82, &bytes(60_000)), frame(0x82, b"small"), frame(0x89, b"ping"), frame(0x82, b"last")].concat();
    let mut input = BytesMut::from(&wire[..]);
    let buffer = input.as_ptr_range();
    let mut decoder = Decoder::new(LIMIT);
    let decoded: Vec<_> = std::iter::from_fn(|| decoder.next(&mut input).unwrap()).collect();
    assert_eq!(decoded.len(), 4);
    for incoming in &decoded[1..] {
        let (Incoming::Binary(payload) | Incoming::Ping(payload)) = incoming else { panic!("{incoming:?}") };
        assert!(!buffer.contains(&payload.as_ptr()), "{payload:?} must be a copy");
    }
    let Incoming::Binary(large) = &decoded[0] else { panic!() };
    assert!(buffer.contains(&large.as_ptr()), "a large message must not be copied");
}
