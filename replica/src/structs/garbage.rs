//! PURE: finds the structs within deleted types. Every reader turns them into garbage when it integrates them; here they
//! are found without recursion, by following each item to its parent type.

use std::collections::BTreeMap;
use std::ops::Range;

use syncline_protocol::update::Id;
use syncline_protocol::update::raw::{Parent, RawStruct};

use super::client::ClientStructs;

/// Structs within deleted types, of which only the clocks are needed.
#[derive(Debug, Default)]
pub(super) struct Garbage(Vec<(u64, Range<u64>)>);

impl Garbage {
    /// True if the struct that begins at `start` is garbage. Structs are garbage as a whole.
    pub(super) fn contains(&self, client: u64, start: u64) -> bool {
        let by_place = |(of, range): &(u64, Range<u64>)| (*of, range.start).cmp(&(client, start));
        !self.0.is_empty() && self.0.binary_search_by(by_place).is_ok()
    }

    pub(super) fn ranges(self) -> impl Iterator<Item = (u64, Range<u64>)> {
        self.0.into_iter()
    }
}

/// The struct is in a root type, or its origin is unknown.
const NO_LINK: u32 = u32::MAX;
/// The struct is a child of the one that `link` names, not a sibling.
const IS_CHILD: u8 = 1;
const IS_DELETED: u8 = 2;
const IS_GC: u8 = 4;
/// On the current path. A path that reaches such a struct is a cycle, which no reader integrates.
const ON_PATH: u8 = 8;
const IS_LIVE: u8 = 16;
const IS_GARBAGE: u8 = 32;

/// A table of all structs, sorted by client and clock: nine bytes for each.
#[derive(Default)]
struct StructTable {
    /// Client id, index of its first struct, and next clock.
    clients: Vec<(u64, usize, u64)>,
    starts: Vec<u32>,
    /// For each struct, the index of its parent or of a sibling.
    link: Vec<u32>,
    flags: Vec<u8>,
}

/// Finds every struct of a document that is within a deleted type.
pub(super) fn find_garbage(clients: &BTreeMap<u64, ClientStructs>, base: &[u8]) -> Garbage {
    let mut structs = StructTable::default();
    for (id, client) in clients {
        structs.clients.push((*id, structs.starts.len(), client.end()));
        structs.starts.extend(client.structs(base, *id).map(|found| found.start as u32));
    }
    structs.flags.reserve_exact(structs.starts.len());
    structs.link.reserve_exact(structs.starts.len());
    for (id, client) in clients {
        client.structs(base, *id).for_each(|found| structs.add(&found, client));
    }
    let mut path = Vec::new();
    (0..structs.starts.len()).for_each(|at| structs.resolve(at, &mut path));
    structs.garbage()
}

impl StructTable {
    fn add(&mut self, found: &RawStruct<'_>, client: &ClientStructs) {
        let is_deleted = client.is_deleted(found.start..found.end);
        let (link, is_child) = match (found.origin.or(found.right_origin), found.parent) {
            (Some(sibling), _) => (Some(sibling), false),
            (None, Some(Parent::Item(id))) => (Some(id), true),
            (None, _) => (None, false),
        };
        let link = link.and_then(|id| self.find(id));
        self.link.push(link.map_or(NO_LINK, |at| at as u32));
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        self.flags.push(flag(is_child, IS_CHILD) | flag(is_deleted, IS_DELETED) | flag(found.is_gc(), IS_GC));
    }

    fn find(&self, id: Id) -> Option<usize> {
        let client = self.clients.binary_search_by_key(&id.client, |(client, ..)| *client).ok()?;
        let (_, first, end) = self.clients[client];
        let last = self.clients.get(client + 1).map_or(self.starts.len(), |(_, first, _)| *first);
        let after = self.starts[first..last].partition_point(|start| u64::from(*start) <= id.clock);
        (id.clock < end && after > 0).then(|| first + after - 1)
    }

    /// Decides for one struct, and for all structs on the path to its type, whether they are garbage. `path` is empty
    /// before and after.
    fn resolve(&mut self, start: usize, path: &mut Vec<usize>) {
        let mut at = start;
        // The last struct of the path decides for all of them.
        let state = loop {
            let flags = self.flags[at];
            if flags & (ON_PATH | IS_LIVE | IS_GARBAGE) != 0 {
                break if flags & IS_GARBAGE != 0 { IS_GARBAGE } else { IS_LIVE };
            }
            self.flags[at] |= ON_PATH;
            path.push(at);
            let link = self.link[at];
            if flags & IS_GC != 0 {
                break IS_GARBAGE;
            }
            if link == NO_LINK {
                break IS_LIVE;
            }
            // A child of a deleted type is garbage, wherever that type is.
            if flags & IS_CHILD != 0 && self.flags[link as usize] & IS_DELETED != 0 {
                break IS_GARBAGE;
            }
            at = link as usize;
        };
        path.drain(..).for_each(|at| self.flags[at] = self.flags[at] & !ON_PATH | state);
    }

    /// The structs within deleted types that are not garbage yet.
    fn garbage(&self) -> Garbage {
        let mut garbage = Vec::new();
        for (number, (client, first, end)) in self.clients.iter().enumerate() {
            let last = self.clients.get(number + 1).map_or(self.starts.len(), |(_, first, _)| *first);
            for at in (*first..last).filter(|at| self.flags[*at] & (IS_GARBAGE | IS_GC) == IS_GARBAGE) {
                let end = if at + 1 < last { u64::from(self.starts[at + 1]) } else { *end };
                garbage.push((*client, u64::from(self.starts[at])..end));
            }
        }
        Garbage(garbage)
    }
}
