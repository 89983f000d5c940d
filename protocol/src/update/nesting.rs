//! Nesting depth of types within one update.
//!
//! An item names its parent by id, so 10,000 types, each the child of the previous one, are a flat list on the wire but
//! a tree of depth 10,000, which yrs deletes and collects by recursion. Code that builds a tree checks the depth first.
//! The level of every item is resolved without recursion, from a sorted table of the items. Levels outside this update
//! are not counted.

use super::walk::{Id, Kind, Struct, Visit, pass};
use super::{ScanError, ScanLimits, Summary};

const UNKNOWN: u32 = u32::MAX;
const ON_THE_WAY: u32 = u32::MAX - 1;

struct Item {
    client: u64,
    start: u64,
    end: u64,
    above: Above,
}

#[derive(Clone, Copy)]
enum Above {
    Root,
    /// The item is one level below this one.
    Parent(Id),
    /// The item is on the same level as this one.
    Beside(Id),
}

struct Items(Vec<Item>);

impl Visit for Items {
    fn structure(&mut self, found: &Struct) {
        let &Struct { client, start, end, kind } = found;
        let Kind::Item { origin, right_origin, parent, .. } = kind else { return };
        let above = match (parent, origin.or(right_origin)) {
            (Some(parent), _) => Above::Parent(parent),
            (None, Some(beside)) => Above::Beside(beside),
            (None, None) => Above::Root,
        };
        self.0.push(Item { client, start, end, above });
    }
}

impl Items {
    fn find(&self, id: Id) -> Option<usize> {
        let after = self.0.partition_point(|item| (item.client, item.start) <= (id.client, id.clock));
        let index = after.checked_sub(1)?;
        let item = &self.0[index];
        (item.client == id.client && id.clock < item.end).then_some(index)
    }
}

/// Nesting depth of the types in an update; for the whole state of a document, the depth of the document.
/// Allocates a table of the update's items.
///
/// # Errors
/// As [`super::scan_update`] with [`ScanLimits::STORED`].
pub fn type_depth(update: &[u8]) -> Result<u32, ScanError> {
    let summary = super::scan_update(update, &ScanLimits::STORED)?;
    deepest(update, &summary)
}

fn deepest(update: &[u8], summary: &Summary) -> Result<u32, ScanError> {
    // The count is safe to allocate by: the scan found every struct in the bytes.
    let mut items = Items(Vec::with_capacity(summary.structs as usize));
    let mut deepest = 0;
    pass(update, &ScanLimits::STORED, &mut items)?;
    items.0.sort_unstable_by_key(|item| (item.client, item.start));

    let mut levels = vec![UNKNOWN; items.0.len()];
    let mut way = Vec::new();
    for start in 0..items.0.len() {
        // Follow the links up to an item of known level, then assign levels on the way back.
        let mut at = Some(start);
        let mut level = 0;
        while let Some(index) = at {
            match levels[index] {
                UNKNOWN => {}
                // A cycle: no reader integrates it.
                ON_THE_WAY => break,
                known => {
                    level = known;
                    break;
                }
            }
            levels[index] = ON_THE_WAY;
            way.push(index);
            at = match items.0[index].above {
                Above::Root => None,
                Above::Parent(id) | Above::Beside(id) => items.find(id),
            };
        }
        while let Some(index) = way.pop() {
            if let Above::Parent(_) = items.0[index].above {
                level += 1;
            }
            levels[index] = level;
            deepest = deepest.max(level);
        }
    }
    Ok(deepest)
}
