//! PURE: WebSocket frames of a server (RFC 6455): decodes messages and encodes headers.
//!
//! Payloads are slices of the input, or copies where a slice would keep much more than itself in memory. No
//! memory is reserved for a claimed length. The beginning of a long message is returned before the rest is
//! stored, so that the caller can skip it ([`Decoder::skip`]). Messages above the limit are always skipped,
//! that is, read and dropped; so is text, unless [`Decoder::read_texts`] was called. Compression is never negotiated.

use bytes::{Buf, Bytes, BytesMut};
use syncline_protocol::limits::MAX_ADDRESS_BYTES;

/// Opcodes (section 5.2).
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;
/// Maximum payload of a control frame (section 5.5).
const MAX_CONTROL_BYTES: usize = 125;
/// Maximum header of a frame sent by the server.
pub(crate) const MAX_HEAD_BYTES: usize = 10;
/// Minimum growth of the buffer for a message that arrives in pieces.
const MIN_GROWTH_BYTES: usize = 4 * 1024;
/// Longer messages are announced by their beginning.
const LONG_BYTES: usize = 64 * 1024;
/// Length of that beginning: more than any address.
const PREFIX_BYTES: usize = 8 * 1024;
const _: () = assert!(PREFIX_BYTES > MAX_ADDRESS_BYTES);
/// No correct application sends a longer frame: it ends the session instead of being skipped.
const MAX_SKIPPED_BYTES: usize = 1024 * 1024 * 1024;

/// Something a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// A complete message.
    Binary(Bytes),
    /// The beginning of a message over 64 KiB. The complete message follows, unless [`Decoder::skip`] is
    /// called now.
    Long(Bytes),
    /// The beginning of a message over the limit. The rest is skipped.
    TooLarge(Bytes),
    /// A text message, not checked for UTF-8. Without [`Decoder::read_texts`] it is empty and returned when
    /// the message begins; the rest is skipped: no dialect uses text.
    Text(Bytes),
    /// The end of a skipped message.
    Skipped,
    Ping(Bytes),
    Pong(Bytes),
    /// A close frame with its code. No frame may follow.
    Close(Option<u16>),
}

/// Opcodes of frames that the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
}

/// Input that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("{0}")]
    Protocol(&'static str),
    #[error("{0}")]
    Utf8(&'static str),
    #[error("the message is too large")]
    TooLarge,
}

/// A frame whose payload is being read.
#[derive(Debug)]
struct IncomingFrame {
    opcode: u8,
    is_last: bool,
    mask: [u8; 4],
    left: usize,
}

/// What happens to the bytes of the current message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handling {
    /// Stored; its beginning has not been returned.
    Store,
    /// Stored; its beginning has been returned.
    StoreAnnounced,
    /// Over the limit: only its beginning is stored, to be returned.
    Refuse,
    /// Dropped.
    Skip,
}

/// Decodes what one client sends.
#[derive(Debug)]
pub(crate) struct Decoder {
    max_message_bytes: usize,
    frame: Option<IncomingFrame>,
    reads_texts: bool,
    /// A message has begun and not ended.
    within_message: bool,
    /// The current message is text.
    is_text: bool,
    handling: Handling,
    /// The stored part of the current message.
    message: Vec<u8>,
    /// Size of the buffer being decoded: a slice keeps all of it in memory.
    buffer_bytes: usize,
}

impl Decoder {
    pub(crate) fn new(max_message_bytes: usize) -> Self {
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

    /// Drops the current message: the part received so far and the rest.
    pub(crate) fn skip(&mut self) {
        self.handling = Handling::Skip;
        self.message = Vec::new();
    }

    /// True while a message is read and dropped; nothing of it is stored.
    pub(crate) fn is_skipping(&self) -> bool {
        self.within_message && self.handling == Handling::Skip
    }

    /// Returns text messages instead of skipping them: see `echo.rs`.
    pub(crate) fn read_texts(&mut self) {
        self.reads_texts = true;
    }

    /// Takes one message or control frame out of `input`. `None` means that more bytes are needed: they must
    /// be appended to what is left in `input`, which is less than a header or a control frame. Must not be
    /// called after an error.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
        self.buffer_bytes = self.buffer_bytes.max(input.len());
        let next = self.decode(input);
        if input.is_empty() {
            self.buffer_bytes = 0;
        }
        next
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, FrameError> {
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
                return control(opcode, self.without_large_buffer(payload)).map(Some);
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

    /// Returns the beginning of a long message, once.
    fn announce(&mut self) -> Option<Incoming> {
        if self.handling != Handling::Store || self.is_text || self.message.len() < PREFIX_BYTES {
            return None;
        }
        self.handling = Handling::StoreAnnounced;
        Some(Incoming::Long(Bytes::copy_from_slice(&self.message[..PREFIX_BYTES])))
    }

    /// Consumes part of a skipped frame. Returns the beginning of a message over the limit, once, and the end
    /// of a skipped message.
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

    /// True if a message or a frame has begun and not ended.
    #[cfg(test)]
    fn has_begun(&self) -> bool {
        self.within_message || self.frame.is_some()
    }

    /// Makes a payload keep at most twice its size in memory: a slice of a large buffer keeps all of it.
    fn without_large_buffer(&self, payload: BytesMut) -> Bytes {
        if payload.len() * 2 < self.buffer_bytes { Bytes::copy_from_slice(&payload) } else { payload.freeze() }
    }

    /// Processes the end of a data frame. Returns the message if it is complete.
    fn data(&mut self, payload: BytesMut, is_last: bool) -> Option<Bytes> {
        self.within_message = !is_last;
        if is_last && self.message.is_empty() {
            return Some(self.without_large_buffer(payload));
        }
        self.message.extend_from_slice(&payload);
        is_last.then(|| Bytes::from(std::mem::take(&mut self.message)))
    }

    fn check(&mut self, frame: &IncomingFrame) -> Result<(), FrameError> {
        match frame.opcode {
            CLOSE | PING | PONG => return Ok(()),
            CONTINUATION if !self.within_message => {
                return Err(FrameError::Protocol("unexpected continuation frame"));
            }
            TEXT | BINARY if self.within_message => {
                return Err(FrameError::Protocol("a message began within another message"));
            }
            CONTINUATION | TEXT | BINARY => {}
            _ => return Err(FrameError::Protocol("unknown opcode")),
        }
        if frame.left > MAX_SKIPPED_BYTES {
            return Err(FrameError::TooLarge);
        }
        if frame.opcode != CONTINUATION {
            self.is_text = frame.opcode == TEXT;
            self.handling = Handling::Store;
        }
        let is_stored = matches!(self.handling, Handling::Store | Handling::StoreAnnounced);
        if is_stored && frame.left > self.max_message_bytes - self.message.len() {
            if self.reads_texts {
                return Err(FrameError::TooLarge);
            }
            self.handling = Handling::Refuse;
        }
        self.within_message = true;
        Ok(())
    }
}

/// Decodes a frame header and returns its length with it; `None` if it is incomplete.
fn parse_head(input: &[u8]) -> Result<Option<(IncomingFrame, usize)>, FrameError> {
    let &[first, second, ..] = input else { return Ok(None) };
    if first & RESERVED_BITS != 0 {
        return Err(FrameError::Protocol("a reserved bit is set, but no extension was negotiated"));
    }
    if second & MASKED == 0 {
        return Err(FrameError::Protocol("client frames must be masked"));
    }
    let (opcode, is_last) = (first & 0x0f, first & FIN != 0);
    let short = usize::from(second & !MASKED);
    if opcode >= CLOSE && (!is_last || short > MAX_CONTROL_BYTES) {
        return Err(FrameError::Protocol("a control frame must not be fragmented or longer than 125 bytes"));
    }
    let (len, at) = match (short, &input[2..]) {
        (126, &[a, b, ..]) => (u64::from(u16::from_be_bytes([a, b])), 4),
        (127, &[a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10),
        (126 | 127, _) => return Ok(None),
        (short, _) => (short as u64, 2),
    };
    if (short == 126 && len < 126) || (short == 127 && len <= u64::from(u16::MAX)) || len > i64::MAX as u64 {
        return Err(FrameError::Protocol("the frame length is not encoded in the shortest form"));
    }
    let Some(&[a, b, c, d]) = input.get(at..at + 4) else { return Ok(None) };
    let left = usize::try_from(len).map_err(|_| FrameError::TooLarge)?;
    Ok(Some((IncomingFrame { opcode, is_last, mask: [a, b, c, d], left }, at + 4)))
}

/// Stores part of a frame's payload, not its end.
fn take_part(message: &mut Vec<u8>, frame: &mut IncomingFrame, mut part: BytesMut) {
    unmask(&mut part, frame.mask);
    frame.mask.rotate_left(part.len() % 4);
    frame.left -= part.len();
    if message.capacity() - message.len() < part.len() {
        // Grows in proportion to what was received, and never beyond the rest of this frame.
        let growth = message.len().max(MIN_GROWTH_BYTES).min(frame.left);
        message.reserve_exact(part.len() + growth);
    }
    message.extend_from_slice(&part);
}

fn control(opcode: u8, payload: Bytes) -> Result<Incoming, FrameError> {
    match opcode {
        PING => Ok(Incoming::Ping(payload)),
        PONG => Ok(Incoming::Pong(payload)),
        CLOSE => closing(&payload),
        _ => Err(FrameError::Protocol("unknown opcode")),
    }
}

fn closing(payload: &[u8]) -> Result<Incoming, FrameError> {
    let (code, reason) = match payload {
        [] => return Ok(Incoming::Close(None)),
        [_] => return Err(FrameError::Protocol("the close frame has half a status code")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // Section 7.4 and the codes registered since; other codes must not be sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::Protocol("the close frame has a status code that must not be sent"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(FrameError::Utf8("the reason in the close frame is not UTF-8"));
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

/// Appends the header of an unfragmented frame with a payload of `len` bytes.
pub(crate) fn write_head(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
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

/// Encodes a close frame. A reason that is too long is cut at a character boundary.
pub(crate) fn close_frame(code: Option<u16>, reason: &str) -> Vec<u8> {
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
