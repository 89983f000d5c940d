//! PURE: encoded bytes in pieces. Large pieces share memory with their source.

use std::ops::Range;

use bytes::Bytes;

/// Shorter parts are copied, because a piece of its own costs more than the copy.
const MIN_SHARED_BYTES: usize = 128;

/// A sequence of byte pieces, usually only one. A difference shares the memory of the document's last compaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    first: Bytes,
    rest: Vec<Bytes>,
    len: usize,
    shared_bytes: usize,
}

impl Pieces {
    /// Wraps bytes that are also in a document's memory.
    pub fn shared(bytes: Bytes) -> Self {
        Self { shared_bytes: bytes.len(), ..Self::from(bytes) }
    }

    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of bytes that are also in a document's memory.
    pub fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// True when there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Inserts `head` as the first piece.
    #[must_use]
    pub fn prepend(self, head: Bytes) -> Self {
        let Self { first, rest, len, shared_bytes } = self;
        let len = len + head.len();
        let rest = std::iter::once(first).chain(rest).collect();
        Self { first: head, rest, len, shared_bytes }
    }

    /// All bytes in one piece. Copies them unless there is only one piece.
    pub fn to_bytes(&self) -> Bytes {
        if self.rest.is_empty() {
            return self.first.clone();
        }
        let mut whole = Vec::with_capacity(self.len);
        self.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.into()
    }
}

impl From<Bytes> for Pieces {
    fn from(first: Bytes) -> Self {
        Self { len: first.len(), first, rest: Vec::new(), shared_bytes: 0 }
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<std::iter::Once<Bytes>, std::vec::IntoIter<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest)
    }
}

/// Builds [`Pieces`] whose long parts share the memory of `base`.
pub(super) struct PieceWriter<'a> {
    base: &'a Bytes,
    pieces: Vec<Bytes>,
    /// Copied bytes since the last shared piece.
    copied: Vec<u8>,
    /// The part of the base that was written last, after `copied`. An adjacent part extends it.
    shared: Range<usize>,
    shared_bytes: usize,
}

impl<'a> PieceWriter<'a> {
    pub(super) fn new(base: &'a Bytes) -> Self {
        Self { base, pieces: Vec::new(), copied: Vec::new(), shared: 0..0, shared_bytes: 0 }
    }

    /// Appends a copy of `bytes`.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.flush_shared();
        self.copied.extend_from_slice(bytes);
    }

    /// Appends what `write` writes.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.flush_shared();
        write(&mut self.copied);
    }

    /// Appends a part of the base.
    pub(super) fn share(&mut self, part: Range<usize>) {
        if part.is_empty() {
            return;
        }
        if self.shared.end == part.start && !self.shared.is_empty() {
            self.shared.end = part.end;
            return;
        }
        self.flush_shared();
        self.shared = part;
    }

    /// Appends bytes that are shared, but need not be part of the base.
    pub(super) fn append(&mut self, bytes: &Bytes) {
        self.flush_shared();
        if bytes.len() < MIN_SHARED_BYTES {
            return self.copied.extend_from_slice(bytes);
        }
        self.flush_copied();
        self.shared_bytes += bytes.len();
        self.pieces.push(bytes.clone());
    }

    pub(super) fn finish(mut self) -> Pieces {
        self.flush_shared();
        self.flush_copied();
        let len = self.pieces.iter().map(Bytes::len).sum();
        let mut pieces = self.pieces.into_iter();
        let first = pieces.next().unwrap_or_default();
        Pieces { first, rest: pieces.collect(), len, shared_bytes: self.shared_bytes }
    }

    fn flush_shared(&mut self) {
        let part = std::mem::take(&mut self.shared);
        if part.len() < MIN_SHARED_BYTES {
            return self.copied.extend_from_slice(&self.base[part]);
        }
        self.flush_copied();
        self.shared_bytes += part.len();
        self.pieces.push(self.base.slice(part));
    }

    fn flush_copied(&mut self) {
        if !self.copied.is_empty() {
            self.pieces.push(std::mem::take(&mut self.copied).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_parts_are_shared_and_adjacent_parts_become_one_piece() {
        let base: Bytes = (0..100_000).map(|at| at as u8).collect::<Vec<_>>().into();
        let mut writer = PieceWriter::new(&base);
        writer.copy(b"head");
        // Two adjacent parts, and a short one alone.
        writer.share(100..10_100);
        writer.share(10_100..20_100);
        writer.share(50_000..50_010);
        writer.copy(b"tail");
        writer.append(&base.slice(60_000..90_000));
        let pieces = writer.finish();
        let expected = [b"head", &base[100..20_100], &base[50_000..50_010], b"tail", &base[60_000..90_000]].concat();
        assert_eq!((pieces.to_bytes(), pieces.len()), (Bytes::from(expected), 50_018));
        assert_eq!(pieces.shared_bytes(), 50_000);
        let starts: Vec<_> = pieces.iter().map(|piece| piece.as_ptr()).collect();
        assert_eq!(starts.len(), 4);
        assert_eq!([starts[1], starts[3]], [base[100..].as_ptr(), base[60_000..].as_ptr()]);
        let longer = pieces.clone().prepend(Bytes::from_static(b"> "));
        assert_eq!(longer.to_bytes(), [b"> ", &pieces.to_bytes()[..]].concat());
        assert_eq!(PieceWriter::new(&base).finish(), Pieces::default());
    }
}
