//! PURE: WebSocket frames (RFC 6455) for a load generator: the client's side, without I/O.
//!
//! Not tungstenite, because it copies every message and keeps a read buffer per connection: with thousands of readers the
//! generator would be slower than the server it measures. No extensions, no TLS. Messages up to [`WHOLE_BYTES`] are handed
//! over in one piece; larger ones in pieces as they arrive, so that a hundred and fifty readers of a large document do not
//! buffer it.

use std::ops::Range;

/// Messages up to this length are handed over in one piece.
pub(crate) const WHOLE_BYTES: u64 = 256 * 1024;
/// The first piece of a larger message has at least this many bytes, enough to recognise its type.
const FIRST_PIECE_BYTES: u64 = 4 * 1024;
/// Consecutive pieces overlap by this many bytes, so that a marker, which is one byte longer, is complete in one of them.
pub(crate) const OVERLAP_BYTES: usize = 6;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
/// Opcode of a binary message.
pub(crate) const BINARY: u8 = 2;
/// Opcode of a close frame.
pub(crate) const CLOSE: u8 = 8;
/// Opcode of a ping, which is answered with a [`PONG`].
pub(crate) const PING: u8 = 9;
/// Opcode of a pong.
pub(crate) const PONG: u8 = 10;

/// A constant masking key: servers accept any key, and a constant costs no random numbers.
const MASK: [u8; 4] = [0x5a, 0x1f, 0xc3, 0x96];

/// Appends a message as one masked frame, as a client sends it.
pub(crate) fn write(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_header(out, opcode, payload.len(), MASKED);
    out.extend_from_slice(&MASK);
    let begin = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[begin..], MASK);
}

/// Appends a message as one unmasked frame, as a server sends it.
pub(crate) fn write_plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_header(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

fn write_header(out: &mut Vec<u8>, opcode: u8, len: usize, masked: u8) {
    out.push(FIN | opcode);
    match len {
        0..126 => out.push(masked | len as u8),
        126..65_536 => {
            out.push(masked | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Masks or unmasks a payload.
pub(crate) fn mask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let mut words = payload.chunks_exact_mut(8);
    for word in &mut words {
        let masked = u64::from_ne_bytes(word.try_into().expect("eight bytes")) ^ wide;
        word.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// Opcode of the frame.
    pub opcode: u8,
    /// Masking key; only frames from a client have one.
    pub mask: Option<[u8; 4]>,
    /// Length of the payload.
    pub payload_bytes: u64,
    /// Length of the header itself.
    pub bytes: usize,
}

impl Header {
    /// Parses a header; `None` when it is incomplete.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (payload_bytes, mut at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
            short => (u64::from(short), 2),
        };
        let mask = match second & MASKED {
            0 => None,
            _ => {
                at += 4;
                Some(bytes.get(at - 4..at)?.try_into().ok()?)
            }
        };
        Some(Self { fin: first & FIN != 0, opcode: first & 0x0f, mask, payload_bytes, bytes: at })
    }
}

/// A message of the server, or a part of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// [`BINARY`], [`PING`], ...; in a fragmented message the opcode of its first frame.
    pub opcode: u8,
    /// Payload bytes. The last [`OVERLAP_BYTES`] of a piece are repeated at the start of the next one.
    pub bytes: &'a [u8],
    /// Whether the message begins in this piece.
    pub first: bool,
    /// Whether the message ends in this piece.
    pub last: bool,
}

impl<'a> Piece<'a> {
    /// A binary message in one piece.
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self { opcode: BINARY, bytes, first: true, last: true }
    }
}

/// Joins the pieces of large messages.
#[derive(Debug, Default)]
pub(crate) struct Assembler(Vec<u8>);

impl Assembler {
    /// Adds a piece; returns the message when it is complete.
    pub(crate) fn add<'a>(&'a mut self, bytes: &'a [u8], first: bool, last: bool) -> Option<&'a [u8]> {
        if first && last {
            return Some(bytes);
        }
        // A piece repeats the end of the previous one.
        let begin = if first { 0 } else { self.0.len().saturating_sub(OVERLAP_BYTES) };
        self.0.truncate(begin);
        self.0.extend_from_slice(bytes);
        last.then_some(&self.0)
    }
}

/// Parser state of one connection.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Of the large frame being received: opcode, whether its message ends with it, bytes still to receive.
    inside: Option<(u8, bool, u64)>,
    /// Opcode of the first frame of a fragmented message that is not complete.
    continued: Option<u8>,
}

impl Frames {
    /// Calls `piece` for every piece in `bytes` and returns the number of bytes consumed. The caller must pass the rest again,
    /// followed by more bytes.
    pub(crate) fn parse(&mut self, bytes: &[u8], mut piece: impl FnMut(Piece<'_>)) -> usize {
        let mut at = 0;
        loop {
            if let Some((opcode, fin, left)) = self.inside {
                let Some((range, done, last)) = next_piece(&bytes[at..], left) else { return at };
                let bytes = &bytes[at..][range];
                piece(Piece { opcode, bytes, first: false, last: last && fin });
                self.inside = (!last).then_some((opcode, fin, left - done as u64));
                at += done;
                continue;
            }
            let Some(header) = Header::read(&bytes[at..]) else { return at };
            let body = &bytes[at + header.bytes..];
            let control = header.opcode & 0x08 != 0;
            let wanted = if header.payload_bytes > WHOLE_BYTES { FIRST_PIECE_BYTES } else { header.payload_bytes };
            if (body.len() as u64) < wanted {
                return at;
            }
            let first = header.opcode != CONTINUATION;
            let opcode = match (first, self.continued) {
                (false, Some(opcode)) => opcode,
                _ => header.opcode,
            };
            if !control {
                self.continued = (!header.fin).then_some(opcode);
            }
            at += header.bytes;
            if header.payload_bytes > WHOLE_BYTES {
                let (range, done, last) = next_piece(body, header.payload_bytes).unwrap_or((0..0, 0, false));
                piece(Piece { opcode, bytes: &body[range], first, last: last && header.fin });
                self.inside = (!last).then_some((opcode, header.fin, header.payload_bytes - done as u64));
                at += done;
                continue;
            }
            let len = header.payload_bytes as usize;
            piece(Piece { opcode, bytes: &body[..len], first, last: header.fin });
            at += len;
        }
    }
}

/// For a frame with `left` bytes still to receive: the range to hand over, the bytes consumed, and whether the frame ends.
fn next_piece(bytes: &[u8], left: u64) -> Option<(Range<usize>, usize, bool)> {
    if bytes.len() as u64 >= left {
        return Some((0..left as usize, left as usize, true));
    }
    (bytes.len() > OVERLAP_BYTES).then(|| (0..bytes.len(), bytes.len() - OVERLAP_BYTES, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a server sends it; `first` is its first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        write_plain(&mut plain, first & 0x0f, payload);
        plain[0] = first;
        plain
    }

    #[test]
    fn frame_of_any_length_round_trips() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 70_001] {
            let payload: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let mut written = Vec::new();
            write(&mut written, BINARY, &payload);
            let header = Header::read(&written).unwrap();
            assert_eq!((header.fin, header.opcode, header.payload_bytes), (true, BINARY, len as u64));
            mask(&mut written[header.bytes..], header.mask.unwrap());
            assert_eq!(written[header.bytes..], payload, "{len}");
        }
    }

    #[test]
    fn messages_are_independent_of_how_the_stream_is_split() {
        let large = vec![7; WHOLE_BYTES as usize + 1000];
        let mut stream = frame(FIN | BINARY, b"one");
        stream.extend(frame(FIN | PING, b"?"));
        stream.extend(frame(FIN | BINARY, &large));
        stream.extend(frame(FIN | BINARY, b""));
        for cut in [1, 5, 4096, 100_000, stream.len()] {
            let (mut frames, mut unparsed, mut received) = (Frames::default(), Vec::new(), Vec::new());
            for part in stream.chunks(cut) {
                unparsed.extend_from_slice(part);
                let done = frames.parse(&unparsed, |piece| {
                    let overlap = if piece.first { 0 } else { OVERLAP_BYTES };
                    received.push((piece.opcode, piece.bytes.len() - overlap, piece.last));
                });
                unparsed.drain(..done);
            }
            let mut messages = Vec::new();
            let mut open = 0;
            for (opcode, bytes, last) in received {
                open += bytes;
                if last {
                    messages.push((opcode, std::mem::take(&mut open)));
                }
            }
            assert_eq!(messages, [(BINARY, 3), (PING, 1), (BINARY, large.len()), (BINARY, 0)], "cut {cut}");
        }
    }

    #[test]
    fn assembler_restores_messages_from_their_pieces() {
        let large: Vec<u8> = (0..WHOLE_BYTES + 10_000).map(|byte| (byte % 251) as u8).collect();
        let stream = [frame(FIN | BINARY, b"one"), frame(FIN | BINARY, &large), frame(FIN | BINARY, b"")].concat();
        let (mut frames, mut unparsed, mut assembler) = (Frames::default(), Vec::new(), Assembler::default());
        let mut messages = Vec::new();
        for part in stream.chunks(5_000) {
            unparsed.extend_from_slice(part);
            let done = frames.parse(&unparsed, |piece| {
                messages.extend(assembler.add(piece.bytes, piece.first, piece.last).map(<[u8]>::to_vec));
            });
            unparsed.drain(..done);
        }
        assert!(messages == [b"one".to_vec(), large, Vec::new()], "{} messages", messages.len());
    }

    #[test]
    fn fragmented_message_keeps_its_opcode_and_ends_once() {
        let stream = [frame(BINARY, b"ab"), frame(FIN | PING, b""), frame(FIN, b"c")].concat();
        let mut received = Vec::new();
        let done = Frames::default().parse(&stream, |piece| received.push((piece.opcode, piece.first, piece.last)));
        assert_eq!(done, stream.len());
        assert_eq!(received, [(BINARY, true, false), (PING, true, true), (BINARY, false, true)]);
    }
}
