//! An update cut into smaller ones, to be applied one after the other: none waits for a later one, and together they are
//! the same update.
//!
//! For whoever wants to stop in the middle of much work: a CRDT cannot be interrupted within an update. Structs come in the
//! order of their dependencies, as they are written; deletions come last.

use std::collections::HashMap;

use super::walk::{Id, Kind, Struct, UNLIMITED, delete_set, read_section_head, read_struct};
use super::{StateClock, Summary};
use crate::varint::{Reader, write_var_uint};

/// The pieces of one update.
#[derive(Debug)]
pub struct Pieces<'a, S> {
    state: &'a S,
    sections: Vec<Section<'a>>,
    /// Where each client's section is.
    places: HashMap<u64, usize>,
    /// Sections being read, each because the one below it needs its structs up to some clock.
    wanted: Vec<(usize, u64)>,
    /// All before it have been read.
    next_section: usize,
    /// Dependencies go round in a circle, or the bytes are no update: the rest is one piece.
    gave_up: bool,
    deletes: Deletes<'a>,
}

/// What is left of one client's structs.
#[derive(Debug)]
struct Section<'a> {
    client: u64,
    clock: u64,
    left: u64,
    reader: Reader<'a>,
    is_wanted: bool,
    /// Of this piece: where it began, and how many structs it has.
    from: (u64, &'a [u8]),
    taken: u64,
}

/// What is left of the delete set.
#[derive(Debug)]
struct Deletes<'a> {
    reader: Reader<'a>,
    clients_left: u64,
    client: u64,
    ranges_left: u64,
}

/// Cuts an update that [`super::scan_update`] accepted, for a document with `state` that lacks nothing it needs.
pub fn pieces<'a, S: StateClock>(update: &'a [u8], state: &'a S) -> Pieces<'a, S> {
    let mut reader = Reader::new(update);
    let mut sections = Vec::new();
    for _ in 0..reader.var_uint().unwrap_or(0) {
        let Ok((left, client, clock)) = read_section_head(&mut reader) else { break };
        let from = (clock, reader.rest());
        sections.push(Section { client, clock, left, reader, is_wanted: false, from, taken: 0 });
        let mut end = clock;
        for _ in 0..left {
            let Ok(found) = read_struct(&mut reader, client, end, &UNLIMITED, &mut Summary::default()) else { break };
            end = found.end;
        }
    }
    let places = sections.iter().enumerate().map(|(place, section)| (section.client, place)).collect();
    let mut deletes = Reader::new(delete_set(update));
    let clients_left = deletes.var_uint().unwrap_or(0);
    let deletes = Deletes { reader: deletes, clients_left, client: 0, ranges_left: 0 };
    Pieces { state, sections, places, wanted: Vec::new(), next_section: 0, gave_up: false, deletes }
}

impl<S: StateClock> Pieces<'_, S> {
    /// The next update, of about `most` structs or deleted ranges; `None` at the end.
    pub fn next(&mut self, most: usize) -> Option<Vec<u8>> {
        self.structs(most).or_else(|| self.deletes.next(most))
    }

    fn structs(&mut self, most: usize) -> Option<Vec<u8>> {
        let (mut touched, mut taken) = (Vec::new(), 0);
        while taken < most || self.gave_up {
            let Some(&(place, upto)) = self.wanted.last() else {
                while self.sections.get(self.next_section).is_some_and(|section| section.left == 0) {
                    self.next_section += 1;
                }
                if self.next_section == self.sections.len() {
                    break;
                }
                self.want(self.next_section, u64::MAX);
                continue;
            };
            let section = &self.sections[place];
            if section.left == 0 || section.clock > upto {
                self.sections[place].is_wanted = false;
                self.wanted.pop();
                continue;
            }
            let mut reader = section.reader;
            let read = read_struct(&mut reader, section.client, section.clock, &UNLIMITED, &mut Summary::default());
            let Ok(found) = read else {
                // Not sound: the document is to say so.
                self.sections[place].left = 0;
                continue;
            };
            match self.missing(&found).filter(|_| !self.gave_up) {
                Some((needed, _)) if self.sections[needed].is_wanted => self.gave_up = true,
                Some((needed, clock)) => self.want(needed, clock),
                None => {
                    let section = &mut self.sections[place];
                    if section.taken == 0 {
                        touched.push(place);
                        section.from = (section.clock, section.reader.rest());
                    }
                    (section.reader, section.clock) = (reader, found.end);
                    (section.left, section.taken) = (section.left - 1, section.taken + 1);
                    taken += 1;
                }
            }
        }
        (!touched.is_empty()).then(|| self.write(&touched))
    }

    fn want(&mut self, place: usize, upto: u64) {
        self.sections[place].is_wanted = true;
        self.wanted.push((place, upto));
    }

    /// The section whose struct must come first, and its clock.
    fn missing(&self, of: &Struct) -> Option<(usize, u64)> {
        let Kind::Item { origin, right_origin, parent, .. } = of.kind else { return None };
        [origin, right_origin, parent].into_iter().flatten().find_map(|Id { client, clock }| {
            let place = *self.places.get(&client)?;
            let is_there =
                client == of.client || clock < self.sections[place].clock || clock < self.state.clock(client);
            (!is_there && self.sections[place].left > 0).then_some((place, clock))
        })
    }

    /// What was taken since the last piece.
    fn write(&mut self, touched: &[usize]) -> Vec<u8> {
        let mut piece = Vec::new();
        write_var_uint(&mut piece, touched.len() as u64);
        for &place in touched {
            let section = &mut self.sections[place];
            let (clock, bytes) = section.from;
            for number in [section.taken, section.client, clock] {
                write_var_uint(&mut piece, number);
            }
            piece.extend_from_slice(&bytes[..bytes.len() - section.reader.remaining()]);
            section.taken = 0;
        }
        piece.push(0);
        piece
    }
}

impl Deletes<'_> {
    fn next(&mut self, most: usize) -> Option<Vec<u8>> {
        let (mut clients, mut ranges, mut body, mut taken) = (0, Vec::new(), Vec::new(), 0);
        while taken < most {
            if self.ranges_left == 0 {
                if self.clients_left == 0 {
                    break;
                }
                self.clients_left -= 1;
                self.client = self.reader.var_uint().ok()?;
                self.ranges_left = self.reader.var_uint().ok()?;
                continue;
            }
            let count = self.ranges_left.min((most - taken) as u64);
            ranges.clear();
            for _ in 0..2 * count {
                write_var_uint(&mut ranges, self.reader.var_uint().ok()?);
            }
            for number in [self.client, count] {
                write_var_uint(&mut body, number);
            }
            body.extend_from_slice(&ranges);
            self.ranges_left -= count;
            (clients, taken) = (clients + 1, taken + count as usize);
        }
        if taken == 0 {
            return None;
        }
        let mut piece = vec![0];
        write_var_uint(&mut piece, clients);
        piece.extend_from_slice(&body);
        Some(piece)
    }
}
