//! PURE: WebSocket frames of a server (RFC 6455): bytes to messages, and the headers of what is sent.
//!
//! Payloads are handed out as slices of what was read, or as copies where a slice would keep much more than itself in memory. Nothing is reserved by a length that a peer merely claims. The beginning
//! of a long message is handed out before the rest is stored, so that its receiver can skip it ([`Decoder::skip`]); text and
//! messages above the limit are always skipped: read from the socket and dropped. Compression is never negotiated.

use bytes::{Buf, Bytes, BytesMut};
use syncline_protocol::limits::MAX_ADDRESS_BYTES;

/// Opcodes (section 5.2) of what is sent and read.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Longest payload of a control frame (section 5.5).
const MAX_CONTROL_BYTES: usize = 125;
/// Longest header of a frame that the server sends.
pub(super) const MAX_HEAD_BYTES: usize = 10;
/// A message that comes in pieces is given room for at least this much more at a time.
const MIN_GROWTH_BYTES: usize = 4 * 1024;
/// A message that is longer is announced by its beginning.
const LONG_BYTES: usize = 64 * 1024;
/// How much of a long message is handed out as its beginning: more than any address.
const PREFIX_BYTES: usize = 8 * 1024;
const _: () = assert!(PREFIX_BYTES > MAX_ADDRESS_BYTES);
/// A frame that claims more is no mistake of an application: it ends the session instead of being skipped.
const MAX_SKIPPED_BYTES: usize = 1024 * 1024 * 1024;

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole message.
    Binary(Bytes),
    /// The beginning of a message of more than 64 KiB. The whole follows, unless [`Decoder::skip`] is called now.
    Long(Bytes),
    /// The beginning of a message that is over the limit. The rest is skipped.
    TooLarge(Bytes),
    /// A text message, not checked for UTF-8. Unless texts are read it is empty, comes at the message's beginning, and the rest
    /// is skipped: no dialect has text.
    Text(Bytes),
    /// The end of a message that was skipped.
    Skipped,
    Ping(Bytes),
    Pong(Bytes),
    /// The code it gave. Nothing may follow.
    Close(Option<u16>),
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
}

/// Bytes that are no frames of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Protocol(&'static str),
    #[error("{0}")]
    Utf8(&'static str),
    #[error("the message is too large")]
    TooLarge,
}

/// A frame whose payload is being read.
#[derive(Debug)]
struct Frame {
    opcode: u8,
    is_last: bool,
    mask: [u8; 4],
    left: usize,
}

/// What is done with the bytes of the message that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handling {
    /// Stored. Its beginning has not been handed out.
    Store,
    /// Stored. Its beginning has been handed out.
    StoreAnnounced,
    /// Over the limit: its beginning is stored, to be handed out.
    Refuse,
    /// Dropped.
    Skip,
}

/// Reads what one client sends.
#[derive(Debug)]
pub(super) struct Decoder {
    max_message_bytes: usize,
    frame: Option<Frame>,
    reads_texts: bool,
    /// A message has begun and not ended.
    within_message: bool,
    /// It is a text.
    is_text: bool,
    handling: Handling,
    /// What has come of it and is stored.
    message: Vec<u8>,
    /// Bytes of the buffer that is being decoded: a slice of it keeps all of them.
    buffer_bytes: usize,
}

impl Decoder {
    pub(super) fn new(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes,
            frame: None,
            reads_texts: false,
            within_message: false,
            is_text: false,
            handling: Handling::Store,
            message: Vec::new(),
            buffer_bytes: 0,
        }
    }

    /// Drops what has come of the current message and what will come of it.
    pub(super) fn skip(&mut self) {
        self.handling = Handling::Skip;
        self.message = Vec::new();
    }

    /// True while a message is read and dropped: nothing of it is stored.
    pub(super) fn is_skipping(&self) -> bool {
        self.within_message && self.handling == Handling::Skip
    }

    /// Texts are messages, too: see `echo.rs`.
    pub(super) fn read_texts(&mut self) {
        self.reads_texts = true;
    }

    /// Takes one message or control frame out of `input`. `None`: more bytes are needed; what is left in `input` is to
    /// stay in front of them, and is less than a header or a control frame. After an error nothing more is to be asked.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, Fault> {
        self.buffer_bytes = self.buffer_bytes.max(input.len());
        let next = self.decode(input);
        if input.is_empty() {
            self.buffer_bytes = 0;
        }
        next
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, Fault> {
        loop {
            let frame = match &mut self.frame {
                Some(frame) => frame,
                None => {
                    let Some((frame, head_bytes)) = parse_head(input)? else { return Ok(None) };
                    self.check(&frame)?;
                    input.advance(head_bytes);
                    let begins_text = frame.opcode == TEXT && !self.reads_texts;
                    self.frame = Some(frame);
                    if begins_text {
                        self.handling = Handling::Skip;
                        return Ok(Some(Incoming::Text(Bytes::new())));
                    }
                    continue;
                }
            };
            let is_control = frame.opcode >= CLOSE;
            if !is_control && matches!(self.handling, Handling::Skip | Handling::Refuse) {
                if let Some(incoming) = self.drop_part(input) {
                    return Ok(Some(incoming));
                }
                if self.frame.is_some() {
                    return Ok(None);
                }
                continue;
            }
            if input.len() < frame.left {
                if !is_control {
                    take_part(&mut self.message, frame, std::mem::take(input));
                    let is_long = self.message.len() + frame.left > LONG_BYTES;
                    return Ok(if is_long { self.announce() } else { None });
                }
                return Ok(None);
            }
            let mut payload =
                if input.len() == frame.left { std::mem::take(input) } else { input.split_to(frame.left) };
            unmask(&mut payload, frame.mask);
            let (opcode, is_last) = (frame.opcode, frame.is_last);
            self.frame = None;
            if is_control {
                return control(opcode, self.owned(payload)).map(Some);
            }
            if let Some(message) = self.data(payload, is_last) {
                return Ok(Some(if self.is_text { Incoming::Text(message) } else { Incoming::Binary(message) }));
            }
            if self.message.len() > LONG_BYTES
                && let Some(beginning) = self.announce()
            {
                return Ok(Some(beginning));
            }
        }
    }

    /// The beginning of a long message, once.
    fn announce(&mut self) -> Option<Incoming> {
        if self.handling != Handling::Store || self.is_text || self.message.len() < PREFIX_BYTES {
            return None;
        }
        self.handling = Handling::StoreAnnounced;
        Some(Incoming::Long(Bytes::copy_from_slice(&self.message[..PREFIX_BYTES])))
    }

    /// Takes what has come of a frame that is skipped. Returns the beginning of a message that is over the limit, once, and
    /// the end of a skipped message.
    fn drop_part(&mut self, input: &mut BytesMut) -> Option<Incoming> {
        let frame = self.frame.as_mut()?;
        let mut part = input.split_to(input.len().min(frame.left));
        frame.left -= part.len();
        let is_end_of_frame = frame.left == 0;
        let is_end = is_end_of_frame && frame.is_last;
        let mut incoming = is_end.then_some(Incoming::Skipped);
        if self.handling == Handling::Refuse {
            unmask(&mut part, frame.mask);
            frame.mask.rotate_left(part.len() % 4);
            let wanted = PREFIX_BYTES.saturating_sub(self.message.len()).min(part.len());
            self.message.extend_from_slice(&part[..wanted]);
            if is_end || self.message.len() >= PREFIX_BYTES {
                self.message.truncate(PREFIX_BYTES);
                incoming = Some(Incoming::TooLarge(std::mem::take(&mut self.message).into()));
                self.handling = Handling::Skip;
            }
        }
        if is_end_of_frame {
            self.frame = None;
        }
        if is_end {
            self.within_message = false;
        }
        incoming
    }

    /// A message has begun and not ended, or a frame.
    #[cfg(test)]
    fn is_within(&self) -> bool {
        self.within_message || self.frame.is_some()
    }

    /// A payload that keeps at most twice its bytes in memory: small messages that came together may stay for long.
    fn owned(&self, payload: BytesMut) -> Bytes {
        if payload.len() * 2 < self.buffer_bytes { Bytes::copy_from_slice(&payload) } else { payload.freeze() }
    }

    /// The end of a frame of a message.
    fn data(&mut self, payload: BytesMut, is_last: bool) -> Option<Bytes> {
        self.within_message = !is_last;
        if is_last && self.message.is_empty() {
            return Some(self.owned(payload));
        }
        self.message.extend_from_slice(&payload);
        is_last.then(|| Bytes::from(std::mem::take(&mut self.message)))
    }

    fn check(&mut self, frame: &Frame) -> Result<(), Fault> {
        match frame.opcode {
            CLOSE | PING | PONG => return Ok(()),
            CONTINUATION if !self.within_message => {
                return Err(Fault::Protocol("a continuation frame came without a message to continue"));
            }
            TEXT | BINARY if self.within_message => {
                return Err(Fault::Protocol("a message began within another"));
            }
            CONTINUATION | TEXT | BINARY => {}
            _ => return Err(Fault::Protocol("the frame has an opcode that does not exist")),
        }
        if frame.left > MAX_SKIPPED_BYTES {
            return Err(Fault::TooLarge);
        }
        if frame.opcode != CONTINUATION {
            self.is_text = frame.opcode == TEXT;
            self.handling = Handling::Store;
        }
        let is_stored = matches!(self.handling, Handling::Store | Handling::StoreAnnounced);
        if is_stored && frame.left > self.max_message_bytes - self.message.len() {
            if self.reads_texts {
                return Err(Fault::TooLarge);
            }
            self.handling = Handling::Refuse;
        }
        self.within_message = true;
        Ok(())
    }
}

/// The header of the next frame and its length. `None`: it has not come whole.
fn parse_head(input: &[u8]) -> Result<Option<(Frame, usize)>, Fault> {
    let &[first, second, ..] = input else { return Ok(None) };
    if first & RESERVED_BITS != 0 {
        return Err(Fault::Protocol("a reserved bit is set: no extension was agreed on"));
    }
    if second & MASKED == 0 {
        return Err(Fault::Protocol("a client's frames must be masked"));
    }
    let (opcode, is_last) = (first & 0x0f, first & FIN != 0);
    let short = usize::from(second & !MASKED);
    if opcode >= CLOSE && (!is_last || short > MAX_CONTROL_BYTES) {
        return Err(Fault::Protocol("a control frame must be whole and at most 125 bytes long"));
    }
    let (len, at) = match (short, &input[2..]) {
        (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 4),
        (127, &[a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10),
        (126 | 127, _) => return Ok(None),
        (short, _) => (short as u64, 2),
    };
    if (short == 126 && len < 126) || (short == 127 && len <= u64::from(u16::MAX)) || len > i64::MAX as u64 {
        return Err(Fault::Protocol("a frame's length is not written as it must be"));
    }
    let Some(&[a, b, c, d]) = input.get(at..at + 4) else { return Ok(None) };
    let left = usize::try_from(len).map_err(|_| Fault::TooLarge)?;
    Ok(Some((Frame { opcode, is_last, mask: [a, b, c, d], left }, at + 4)))
}

/// A part of a frame's payload, not the end of it.
fn take_part(message: &mut Vec<u8>, frame: &mut Frame, mut part: BytesMut) {
    unmask(&mut part, frame.mask);
    frame.mask.rotate_left(part.len() % 4);
    frame.left -= part.len();
    if message.capacity() - message.len() < part.len() {
        // Grows with what has come, and not beyond what this frame still wants.
        let growth = message.len().max(MIN_GROWTH_BYTES).min(frame.left);
        message.reserve_exact(part.len() + growth);
    }
    message.extend_from_slice(&part);
}

fn control(opcode: u8, payload: Bytes) -> Result<Incoming, Fault> {
    match opcode {
        PING => Ok(Incoming::Ping(payload)),
        PONG => Ok(Incoming::Pong(payload)),
        CLOSE => closing(&payload),
        _ => Err(Fault::Protocol("the frame has an opcode that does not exist")),
    }
}

fn closing(payload: &[u8]) -> Result<Incoming, Fault> {
    let (code, reason) = match payload {
        [] => return Ok(Incoming::Close(None)),
        [_] => return Err(Fault::Protocol("a close frame holds half a code")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // Section 7.4 and the codes registered since; the others are not for the wire.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Fault::Protocol("a close frame has a code that may not be sent"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Fault::Utf8("the reason in a close frame is not UTF-8"));
    }
    Ok(Incoming::Close(Some(code)))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut words = payload.chunks_exact_mut(8);
    for bytes in &mut words {
        let masked: [u8; 8] = std::array::from_fn(|at| bytes[at]);
        bytes.copy_from_slice(&(u64::from_ne_bytes(masked) ^ word).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends the header of a whole frame with a payload of `len` bytes.
pub(super) fn write_head(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    out.push(
        FIN | match opcode {
            Opcode::Text => TEXT,
            Opcode::Binary => BINARY,
            Opcode::Ping => PING,
            Opcode::Pong => PONG,
            Opcode::Close => CLOSE,
        },
    );
    match len {
        0..126 => out.push(len as u8),
        126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// A close frame. A reason that does not fit is cut at a character.
pub(super) fn close_frame(code: Option<u16>, reason: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(MAX_CONTROL_BYTES - 2)]);
    }
    let mut frame = Vec::with_capacity(MAX_HEAD_BYTES + payload.len());
    write_head(&mut frame, Opcode::Close, payload.len());
    frame.extend_from_slice(&payload);
    frame
}

#[cfg(test)]
mod tests;
