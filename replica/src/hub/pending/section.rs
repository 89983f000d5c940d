//! PURE: the structs of one client that become pending, or that are written behind a gap.

use syncline_protocol::update::StateClock;
use syncline_protocol::update::raw::{RawSection, RawStruct, write_skip};
use syncline_protocol::update::split::{Need, Section};

use super::clocks::PendingClocks;
use crate::structs::StructStore;

/// Structs of one client, with skips where clocks are missing.
#[derive(Debug, Default)]
pub(in crate::hub) struct SectionBuffer {
    pub(super) client: u64,
    /// The first clock.
    pub(super) clock: u64,
    /// The clock after the last one.
    pub(super) end: u64,
    /// Number of structs, with the skips.
    pub(super) structs: u64,
    pub(super) bytes: Vec<u8>,
}

impl SectionBuffer {
    /// An empty section that begins at `clock`.
    pub(super) fn new(client: u64, clock: u64) -> Self {
        Self { client, clock, end: clock, structs: 0, bytes: Vec::new() }
    }

    /// The section.
    pub(super) fn section(&self) -> Section<'_> {
        let Self { client, clock, end, structs, ref bytes } = *self;
        Section { client, clock, end, structs, bytes }
    }

    /// Appends a struct from the clock `from` on, which is not below the end.
    fn push(&mut self, found: &RawStruct<'_>, from: u64) {
        self.skip_to(from);
        let mut cutter = found.cut();
        cutter.skip_to(from);
        let tail = cutter.write_rest(&mut self.bytes);
        self.bytes.extend_from_slice(tail);
        (self.structs, self.end) = (self.structs + 1, found.end);
    }

    fn skip_to(&mut self, clock: u64) {
        if clock > self.end {
            write_skip(clock - self.end, &mut self.bytes);
            (self.structs, self.end) = (self.structs + 1, clock);
        }
    }

    /// Appends what this section lacks of another that begins in it, at its end, or behind it.
    pub(super) fn append(&mut self, more: &Section<'_>) {
        let mut rest = RawSection::new(more.client, more.clock, more.structs, more.bytes);
        self.skip_to(more.clock);
        // Another version of the same clocks: the first one is kept, and the end of a struct that reaches behind it.
        while rest.clock < self.end {
            let Some(found) = rest.next() else { return };
            if found.end > self.end {
                self.push(&found, self.end);
            }
        }
        if more.end > self.end || rest.left > 0 {
            self.bytes.extend_from_slice(rest.rest());
            (self.structs, self.end) = (self.structs + rest.left, more.end);
        }
    }

    /// What is not pending yet of a section that needs `need`; `None` if all of it is.
    pub(super) fn without_pending(
        (section, need): (&Section<'_>, Need),
        pending: &PendingClocks,
        structs: &StructStore,
    ) -> Option<(Self, Need)> {
        if !pending.has_client(section.client) {
            let mut whole = Self::new(section.client, section.clock);
            whole.append(section);
            return Some((whole, need));
        }
        let (known, mut missing) = (structs.clock(section.client), None::<Self>);
        for found in RawSection::new(section.client, section.clock, section.structs, section.bytes) {
            let from = if found.is_skip() { found.end } else { pending.first_missing(&found, known) };
            if from < found.end {
                missing.get_or_insert_with(|| Self::new(section.client, from)).push(&found, from);
            }
        }
        let missing = missing?;
        let is_from_the_start = missing.clock == section.clock;
        let own = Need { client: section.client, clock: missing.clock };
        Some((missing, if is_from_the_start { need } else { own }))
    }
}
