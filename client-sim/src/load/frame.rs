//! WebSocket frames (RFC 6455) for a load generator: the client's half, without I/O. Pure.
//!
//! Ours instead of tungstenite, which copies every message and keeps a read buffer for each connection: with thousands
//! of readers the generator would be slower than the server it measures. No extensions, no TLS. Messages up to
//! [`WHOLE_BYTES`] come in one piece; larger ones are passed on as they arrive, so that a hundred and fifty readers of
//! a large document need no memory for it.

use std::ops::Range;

/// Messages up to this length are handed over in one piece.
pub const WHOLE_BYTES: u64 = 256 * 1024;
/// Of a larger message the first piece has at least so many bytes: enough to see what it is.
const FIRST_PIECE_BYTES: u64 = 4 * 1024;
/// Pieces overlap by so much: what is shorter than this plus one lies whole in one of them.
pub const OVERLAP_BYTES: usize = 6;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
/// A message of bytes.
pub const BINARY: u8 = 2;
/// The end.
pub const CLOSE: u8 = 8;
/// A question that wants a [`PONG`].
pub const PING: u8 = 9;
/// Its answer.
pub const PONG: u8 = 10;

/// Any key is as good as another to a server, and this one costs no random numbers.
const MASK: [u8; 4] = [0x5a, 0x1f, 0xc3, 0x96];

/// Appends one masked frame that holds a whole message, as a client does.
pub fn write(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_header(out, opcode, payload.len(), MASKED);
    out.extend_from_slice(&MASK);
    let begin = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[begin..], MASK);
}

/// Appends one frame that is not masked, as a server does.
pub fn write_plain(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
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

/// Masks, or unmasks.
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
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

/// The front of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The last frame of its message.
    pub fin: bool,
    /// What it is.
    pub opcode: u8,
    /// The mask, of frames from a client.
    pub mask: Option<[u8; 4]>,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Bytes of the header itself.
    pub bytes: usize,
}

impl Header {
    /// Reads one; None when it is not all there yet.
    pub fn read(bytes: &[u8]) -> Option<Self> {
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

/// A part of what a server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// [`BINARY`], [`PING`], ... ; of a continued message that of its first frame.
    pub opcode: u8,
    /// The bytes. All but the last piece end with [`OVERLAP_BYTES`] that the next one begins with.
    pub bytes: &'a [u8],
    /// The message begins here.
    pub first: bool,
    /// The message ends here.
    pub last: bool,
}

/// Where in the stream of one connection we are.
#[derive(Debug, Default)]
pub struct Frames {
    /// Of the large frame we are in: opcode, whether its message ends with it, bytes to come.
    inside: Option<(u8, bool, u64)>,
    /// Earlier frames of a message that comes in several: opcode of the first.
    continued: Option<u8>,
}

impl Frames {
    /// Passes on all pieces that `bytes` hold and tells how many bytes are done with; the rest must come again, with
    /// more behind it.
    pub fn take(&mut self, bytes: &[u8], mut piece: impl FnMut(Piece<'_>)) -> usize {
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

/// Of a frame with `left` bytes to come: what to pass on, how much of it is done with, whether the frame ends.
fn next_piece(bytes: &[u8], left: u64) -> Option<(Range<usize>, usize, bool)> {
    if bytes.len() as u64 >= left {
        return Some((0..left as usize, left as usize, true));
    }
    (bytes.len() > OVERLAP_BYTES).then(|| (0..bytes.len(), bytes.len() - OVERLAP_BYTES, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a server writes it; `first` is the first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        write_plain(&mut plain, first & 0x0f, payload);
        plain[0] = first;
        plain
    }

    #[test]
    fn what_is_written_is_read_back_whatever_its_length() {
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
    fn however_the_stream_is_cut_the_same_messages_come_out() {
        let large = vec![7; WHOLE_BYTES as usize + 1000];
        let mut stream = frame(FIN | BINARY, b"one");
        stream.extend(frame(FIN | PING, b"?"));
        stream.extend(frame(FIN | BINARY, &large));
        stream.extend(frame(FIN | BINARY, b""));
        for cut in [1, 5, 4096, 100_000, stream.len()] {
            let (mut frames, mut waiting, mut heard) = (Frames::default(), Vec::new(), Vec::new());
            for part in stream.chunks(cut) {
                waiting.extend_from_slice(part);
                let done = frames.take(&waiting, |piece| {
                    let lead = if piece.first { 0 } else { OVERLAP_BYTES };
                    heard.push((piece.opcode, piece.bytes.len() - lead, piece.last));
                });
                waiting.drain(..done);
            }
            let mut messages = Vec::new();
            let mut open = 0;
            for (opcode, bytes, last) in heard {
                open += bytes;
                if last {
                    messages.push((opcode, std::mem::take(&mut open)));
                }
            }
            assert_eq!(messages, [(BINARY, 3), (PING, 1), (BINARY, large.len()), (BINARY, 0)], "cut {cut}");
        }
    }

    #[test]
    fn a_message_in_several_frames_keeps_its_kind_and_ends_once() {
        let stream = [frame(BINARY, b"ab"), frame(FIN | PING, b""), frame(FIN, b"c")].concat();
        let mut heard = Vec::new();
        let done = Frames::default().take(&stream, |piece| heard.push((piece.opcode, piece.first, piece.last)));
        assert_eq!(done, stream.len());
        assert_eq!(heard, [(BINARY, true, false), (PING, true, true), (BINARY, false, true)]);
    }
}
