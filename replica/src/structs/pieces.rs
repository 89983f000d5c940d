//! PURE: encoded bytes in pieces, of which the large ones lie in memory that others use, too.

use std::ops::Range;

use bytes::Bytes;

/// Shorter parts are copied: a piece costs more than they do.
const MIN_SHARED_BYTES: usize = 16 * 1024;

/// Bytes in order. Mostly one piece; a difference that leaves most of a document out is copied, one that has most of it
/// shares the document's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Pieces {
    /// Bytes of all.
    pub fn len(&self) -> usize {
        self.iter().map(Bytes::len).sum()
    }

    /// True without any bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The same with `head` before it.
    #[must_use]
    pub fn behind(self, head: Bytes) -> Self {
        let mut rest = vec![self.first];
        rest.extend(self.rest);
        Self { first: head, rest }
    }

    /// In one piece: a copy, unless it is one already.
    pub fn to_bytes(&self) -> Bytes {
        if self.rest.is_empty() {
            self.first.clone()
        } else {
            self.iter().flatten().copied().collect::<Vec<_>>().into()
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(first: Bytes) -> Self {
        Self { first, rest: Vec::new() }
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<std::iter::Once<Bytes>, std::vec::IntoIter<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest)
    }
}

/// Writes [`Pieces`] of which long parts are parts of one `base`.
pub(super) struct PieceWriter<'a> {
    base: &'a Bytes,
    pieces: Vec<Bytes>,
    /// Copied bytes since the last shared piece.
    copied: Vec<u8>,
    /// The part of the base that was written last, behind `copied`: what follows it there goes on with it.
    shared: Range<usize>,
}

impl<'a> PieceWriter<'a> {
    pub(super) fn new(base: &'a Bytes) -> Self {
        Self { base, pieces: Vec::new(), copied: Vec::new(), shared: 0..0 }
    }

    /// Appends bytes that lie anywhere.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.settle_shared();
        self.copied.extend_from_slice(bytes);
    }

    /// Lets `write` append bytes.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.settle_shared();
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
        self.settle_shared();
        self.shared = part;
    }

    /// Appends bytes that lie elsewhere and are shared there.
    pub(super) fn append(&mut self, bytes: &Bytes) {
        self.settle_shared();
        if bytes.len() < MIN_SHARED_BYTES {
            return self.copied.extend_from_slice(bytes);
        }
        self.settle_copied();
        self.pieces.push(bytes.clone());
    }

    pub(super) fn finish(mut self) -> Pieces {
        self.settle_shared();
        self.settle_copied();
        let mut pieces = self.pieces.into_iter();
        Pieces { first: pieces.next().unwrap_or_default(), rest: pieces.collect() }
    }

    fn settle_shared(&mut self) {
        let part = std::mem::take(&mut self.shared);
        if part.len() < MIN_SHARED_BYTES {
            return self.copied.extend_from_slice(&self.base[part]);
        }
        self.settle_copied();
        self.pieces.push(self.base.slice(part));
    }

    fn settle_copied(&mut self) {
        if !self.copied.is_empty() {
            self.pieces.push(std::mem::take(&mut self.copied).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_parts_are_shared_and_neighbours_in_the_base_are_one_part() {
        let base: Bytes = (0..100_000).map(|at| at as u8).collect::<Vec<_>>().into();
        let mut writer = PieceWriter::new(&base);
        writer.copy(b"head");
        // Two short neighbours that are long together, and one alone.
        writer.share(100..10_100);
        writer.share(10_100..20_100);
        writer.share(50_000..50_010);
        writer.copy(b"tail");
        writer.append(&base.slice(60_000..90_000));
        let pieces = writer.finish();
        let expected = [b"head", &base[100..20_100], &base[50_000..50_010], b"tail", &base[60_000..90_000]].concat();
        assert_eq!((pieces.to_bytes(), pieces.len()), (Bytes::from(expected), 50_018));
        let starts: Vec<_> = pieces.iter().map(|piece| piece.as_ptr()).collect();
        assert_eq!(starts.len(), 4);
        assert_eq!([starts[1], starts[3]], [base[100..].as_ptr(), base[60_000..].as_ptr()]);
        let behind = pieces.clone().behind(Bytes::from_static(b"> "));
        assert_eq!(behind.to_bytes(), [b"> ", &pieces.to_bytes()[..]].concat());
        assert_eq!(PieceWriter::new(&base).finish(), Pieces::default());
    }
}
