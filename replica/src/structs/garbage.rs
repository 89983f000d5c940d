//! PURE: what lies in deleted types. Every reader makes garbage of it when it integrates; here it is found by following each
//! item to the type in which it lies, without recursion.

use std::ops::Range;

use syncline_protocol::update::raw::{Id, Parent, RawStruct};

use super::client::Client;

/// Structs of which nothing but the clocks is needed.
#[derive(Debug, Default)]
pub(super) struct Garbage(Vec<(u64, Range<u64>)>);

impl Garbage {
    /// True for a struct in it; they are whole structs.
    pub(super) fn holds(&self, client: u64, start: u64) -> bool {
        let by_place = |(of, range): &(u64, Range<u64>)| (*of, range.start).cmp(&(client, start));
        !self.0.is_empty() && self.0.binary_search_by(by_place).is_ok()
    }

    pub(super) fn ranges(self) -> impl Iterator<Item = (u64, Range<u64>)> {
        self.0.into_iter()
    }
}

/// Where a struct lies.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In a root type, or in something unknown.
    Root,
    /// In the type of this item.
    In(Id),
    /// Where this one lies.
    Beside(Id),
    /// It is garbage, and so is what lies in it or beside it.
    Garbage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    /// Being followed: a circle, which no reader integrates.
    Followed,
    Alive,
    Dead,
}

struct Item {
    client: u64,
    start: u64,
    end: u64,
    place: Place,
    is_deleted: bool,
    state: State,
}

/// All structs, by client and clock.
struct Items(Vec<Item>);

/// Follows every struct of a document. `clients` come in rising order.
pub(super) fn find_garbage<'a>(clients: impl Iterator<Item = (u64, &'a Client)>, base: &[u8]) -> Garbage {
    let mut items = Items(Vec::new());
    for (id, client) in clients {
        items.0.extend(client.structs(base, id).map(|found| Item {
            client: id,
            start: found.start,
            end: found.end,
            place: place_of(&found),
            is_deleted: client.is_deleted(found.start..found.end),
            state: State::Unknown,
        }));
    }
    let mut way = Vec::new();
    (0..items.0.len()).for_each(|at| items.follow(at, &mut way));
    let is_new = |item: &&Item| item.state == State::Dead && !matches!(item.place, Place::Garbage);
    Garbage(items.0.iter().filter(is_new).map(|item| (item.client, item.start..item.end)).collect())
}

fn place_of(found: &RawStruct<'_>) -> Place {
    match (found.origin.or(found.right_origin), found.parent) {
        _ if found.is_gc() => Place::Garbage,
        (Some(beside), _) => Place::Beside(beside),
        (None, Some(Parent::Item(id))) => Place::In(id),
        (None, _) => Place::Root,
    }
}

impl Items {
    fn find(&self, id: Id) -> Option<usize> {
        let after = self.0.partition_point(|item| (item.client, item.start) <= (id.client, id.clock));
        let at = after.checked_sub(1)?;
        (self.0[at].client == id.client && id.clock < self.0[at].end).then_some(at)
    }

    /// Finds out about one struct, and about all on the way to its type. `way` is empty before and after.
    fn follow(&mut self, start: usize, way: &mut Vec<usize>) {
        let mut at = start;
        // The last step: what is known there decides about all on the way.
        let state = loop {
            match self.0[at].state {
                State::Unknown => {}
                State::Followed => break State::Alive,
                known => break known,
            }
            self.0[at].state = State::Followed;
            way.push(at);
            let next = match self.0[at].place {
                Place::Garbage => break State::Dead,
                Place::Root => break State::Alive,
                Place::In(id) | Place::Beside(id) => self.find(id),
            };
            match next {
                None => break State::Alive,
                // What lies in a deleted type is dead, whatever that type lies in.
                Some(next) if matches!(self.0[at].place, Place::In(_)) && self.0[next].is_deleted => break State::Dead,
                Some(next) => at = next,
            }
        };
        while let Some(at) = way.pop() {
            self.0[at].state = state;
        }
    }
}
