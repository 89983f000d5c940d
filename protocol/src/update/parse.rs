//! Parses an update in one pass and reports sections, structs and delete set to a [`Visitor`] implementation.

use super::client_ids::{self, ClientOrder, SortedLists};
use super::id::Id;
use super::{ScanError, ScanLimits, Summary, check_limit, content};
use crate::varint::{ReadError, Reader};

pub(super) const GC: u8 = 0;
pub(super) const SKIP: u8 = 10;
pub(super) const TAG_BITS: u8 = 0b0001_1111;
pub(super) const HAS_PARENT_SUB: u8 = 0x20;
pub(super) const HAS_RIGHT_ORIGIN: u8 = 0x40;
pub(super) const HAS_ORIGIN: u8 = 0x80;

/// Number of structs, client, clock, one struct.
const MIN_SECTION_BYTES: u64 = 5;
/// A GC range or a skip.
const MIN_STRUCT_BYTES: u64 = 2;
/// One client of a delete set: client, number of ranges, one range.
const MIN_DELETE_CLIENT_BYTES: u64 = 4;
/// Clock, length.
const MIN_RANGE_BYTES: u64 = 2;

/// The clocks and dependencies of one struct.
#[derive(Debug, Clone, Copy)]
pub(super) struct StructHeader {
    pub(super) client: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: StructKind,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum StructKind {
    Gc,
    Skip,
    Item { origin: Option<Id>, right_origin: Option<Id>, parent: Option<Id> },
}

/// Receives what a pass finds, in order.
pub(super) trait Visitor {
    fn visit_section(&mut self, _client: u64, _clock: u64) {}
    fn visit_struct(&mut self, _found: &StructHeader) {}
    fn visit_deletion(&mut self, _client: u64, _start: u64, _end: u64) {}
}

/// Ignores everything: for callers that only validate.
pub(super) struct NoVisitor;

impl Visitor for NoVisitor {}

/// Checks every rule. `visitor` receives only valid structs and ranges, but it may receive the first ones of an update
/// that is then refused.
pub(super) fn walk(update: &[u8], limits: &ScanLimits, visitor: &mut impl Visitor) -> Result<Summary, ScanError> {
    let (summary, sorted) = walk_once(update, limits, visitor)?;
    if !(sorted.sections && sorted.deletes) {
        client_ids::check_unsorted(update, &summary, sorted)?;
    }
    Ok(summary)
}

/// Checks every rule but one: duplicates among unsorted clients.
pub(super) fn walk_once(
    update: &[u8],
    limits: &ScanLimits,
    visitor: &mut impl Visitor,
) -> Result<(Summary, SortedLists), ScanError> {
    let mut reader = Reader::new(update);
    let mut summary = Summary::default();
    let sections = read_structs(&mut reader, limits, &mut summary, visitor)?;
    let deletes = read_delete_set(&mut reader, limits, &mut summary, visitor)?;
    match reader.remaining() {
        0 => Ok((summary, SortedLists { sections, deletes })),
        more => Err(ScanError::TrailingBytes(more)),
    }
}

/// Returns whether the clients are sorted.
fn read_structs(
    reader: &mut Reader<'_>,
    limits: &ScanLimits,
    summary: &mut Summary,
    visitor: &mut impl Visitor,
) -> Result<bool, ScanError> {
    summary.clients = read_count(reader, MIN_SECTION_BYTES)?;
    check_limit("clients", summary.clients, limits.clients)?;
    let mut clients = ClientOrder::new();
    for _ in 0..summary.clients {
        let (structs, client, mut clock) = read_section_header(reader)?;
        clients.add(client)?;
        if structs == 0 {
            return Err(ScanError::Empty(client));
        }
        summary.structs += structs;
        visitor.visit_section(client, clock);
        for _ in 0..structs {
            let found = read_struct(reader, client, clock, limits, summary)?;
            clock = found.end;
            visitor.visit_struct(&found);
        }
    }
    Ok(clients.is_sorted())
}

fn read_count(reader: &mut Reader<'_>, bytes_each: u64) -> Result<u64, ScanError> {
    let count = reader.var_uint()?;
    if count > reader.remaining() as u64 / bytes_each {
        return Err(ScanError::CountBeyondBytes(count));
    }
    Ok(count)
}

pub(super) fn read_section_header(reader: &mut Reader<'_>) -> Result<(u64, u64, u64), ScanError> {
    let structs = read_count(reader, MIN_STRUCT_BYTES)?;
    Ok((structs, reader.var_uint()?, reader.var_uint()?))
}

#[inline]
pub(super) fn read_struct(
    reader: &mut Reader<'_>,
    client: u64,
    start: u64,
    limits: &ScanLimits,
    summary: &mut Summary,
) -> Result<StructHeader, ScanError> {
    let info = reader.u8()?;
    let (kind, len) = match info {
        GC => (StructKind::Gc, reader.var_uint()?),
        SKIP => {
            summary.skips += 1;
            (StructKind::Skip, reader.var_uint()?)
        }
        _ => {
            let tag = info & TAG_BITS;
            if !(1..=content::SUBDOCUMENT).contains(&tag) {
                return Err(ScanError::UnknownStruct(info));
            }
            let item = read_origins_and_parent(reader, info, Id { client, clock: start }, limits)?;
            if let StructKind::Item { parent: Some(_), .. } = item {
                summary.nested += 1;
            }
            (item, content::read(reader, tag, limits, summary)?)
        }
    };
    if len == 0 {
        return Err(ScanError::Empty(client));
    }
    // Both are below 2^53.
    let end = start + len;
    if end > limits.clock {
        return Err(ScanError::ClockTooLarge { client, clock: end });
    }
    Ok(StructHeader { client, start, end, kind })
}

/// Reads the position of an item: its origins, or, with neither, its parent and possibly its key in it.
#[inline]
fn read_origins_and_parent(
    reader: &mut Reader<'_>,
    info: u8,
    own: Id,
    limits: &ScanLimits,
) -> Result<StructKind, ScanError> {
    let origin = if info & HAS_ORIGIN != 0 { Some(read_id(reader, own, limits)?) } else { None };
    let right_origin = if info & HAS_RIGHT_ORIGIN != 0 { Some(read_id(reader, own, limits)?) } else { None };
    let mut parent = None;
    if origin.is_none() && right_origin.is_none() {
        match reader.var_uint()? {
            0 => parent = Some(read_id(reader, own, limits)?),
            1 => _ = reader.var_str()?,
            other => return Err(ScanError::BadParentInfo(other)),
        }
        if info & HAS_PARENT_SUB != 0 {
            reader.var_str()?;
        }
    }
    Ok(StructKind::Item { origin, right_origin, parent })
}

#[inline]
fn read_id(reader: &mut Reader<'_>, own: Id, limits: &ScanLimits) -> Result<Id, ScanError> {
    let (client, clock) = (reader.var_uint()?, reader.var_uint()?);
    if clock >= limits.clock {
        return Err(ScanError::ClockTooLarge { client, clock });
    }
    if client == own.client && clock >= own.clock {
        return Err(ScanError::SelfReference { client, clock: own.clock });
    }
    Ok(Id { client, clock })
}

/// Returns whether the clients are sorted.
fn read_delete_set(
    reader: &mut Reader<'_>,
    limits: &ScanLimits,
    summary: &mut Summary,
    visitor: &mut impl Visitor,
) -> Result<bool, ScanError> {
    summary.delete_clients = read_count(reader, MIN_DELETE_CLIENT_BYTES)?;
    check_limit("clients in the delete set", summary.delete_clients, limits.clients)?;
    let mut clients = ClientOrder::new();
    for _ in 0..summary.delete_clients {
        let client = reader.var_uint()?;
        clients.add(client)?;
        let ranges = read_count(reader, MIN_RANGE_BYTES)?;
        if ranges == 0 {
            return Err(ScanError::Empty(client));
        }
        summary.delete_ranges += ranges;
        let mut last_end = 0;
        for _ in 0..ranges {
            let (start, len) = (reader.var_uint()?, reader.var_uint()?);
            let end = start + len;
            if len == 0 {
                return Err(ScanError::Empty(client));
            }
            if end > limits.clock {
                return Err(ScanError::ClockTooLarge { client, clock: end });
            }
            if start < last_end {
                return Err(ScanError::UnsortedRanges(client));
            }
            last_end = end;
            visitor.visit_deletion(client, start, end);
        }
    }
    Ok(clients.is_sorted())
}

/// The clocks that an update has of one client, skips included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRange {
    /// Client id.
    pub client: u64,
    /// The first clock.
    pub start: u64,
    /// The clock after the last one.
    pub end: u64,
}

/// The sections of an update that [`super::scan_update`] accepted. For other bytes, the sections before the first error.
pub fn update_ranges(update: &[u8]) -> ClientRanges<'_> {
    let mut reader = Reader::new(update);
    let left = reader.var_uint().unwrap_or(0);
    ClientRanges { reader, left }
}

/// Iterator of [`update_ranges`].
#[derive(Debug, Clone)]
pub struct ClientRanges<'a> {
    reader: Reader<'a>,
    left: u64,
}

impl ClientRanges<'_> {
    fn read(&mut self) -> Result<ClientRange, ScanError> {
        let (structs, client, start) = read_section_header(&mut self.reader)?;
        let (mut end, mut ignored) = (start, Summary::default());
        for _ in 0..structs {
            end = read_struct(&mut self.reader, client, end, &UNLIMITED, &mut ignored)?.end;
        }
        Ok(ClientRange { client, start, end })
    }
}

impl Iterator for ClientRanges<'_> {
    type Item = ClientRange;

    fn next(&mut self) -> Option<ClientRange> {
        self.left = self.left.checked_sub(1)?;
        let range = self.read();
        if range.is_err() {
            self.left = 0;
        }
        range.ok()
    }
}

/// The encoded delete set of an update that [`super::scan_update`] accepted.
pub fn delete_set(update: &[u8]) -> &[u8] {
    let mut ranges = update_ranges(update);
    ranges.by_ref().for_each(drop);
    ranges.reader.rest()
}

/// The clients in the delete set of an update that [`walk_once`] accepted.
pub(super) fn delete_set_clients(update: &[u8]) -> Result<Vec<u64>, ReadError> {
    let mut reader = Reader::new(delete_set(update));
    let mut clients = Vec::new();
    for _ in 0..reader.var_uint()? {
        clients.push(reader.var_uint()?);
        for _ in 0..reader.var_uint()? {
            reader.var_uint()?;
            reader.var_uint()?;
        }
    }
    Ok(clients)
}

/// Calls `visit` for every range of the delete set that `reader` is at. The bytes must end with the delete set.
pub(super) fn read_delete_ranges(reader: &mut Reader<'_>, mut visit: impl FnMut(ClientRange)) -> Result<(), ScanError> {
    for _ in 0..reader.var_uint()? {
        let client = reader.var_uint()?;
        for _ in 0..reader.var_uint()? {
            let (start, len) = (reader.var_uint()?, reader.var_uint()?);
            visit(ClientRange { client, start, end: start + len });
        }
    }
    if reader.is_empty() { Ok(()) } else { Err(ScanError::TrailingBytes(reader.remaining())) }
}

/// For updates that were already scanned, under whatever limits.
pub(super) const UNLIMITED: ScanLimits = ScanLimits { clock: u64::MAX, ..ScanLimits::STORED };
