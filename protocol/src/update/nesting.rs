//! Nesting depth of types within one update.
//!
//! An item names its parent by id, so 10,000 types, each the child of the previous one, are a flat list on the wire but
//! a tree of depth 10,000, which yrs deletes and collects by recursion. Code that builds a tree checks the depth first.
//! The level of every item is resolved without recursion, from a sorted table of the items. Levels outside this update
//! are not counted.

use super::id::Id;
use super::parse::{StructHeader, StructKind, Visitor, walk_once};
use super::{ScanError, ScanLimits, Summary};

const UNKNOWN: u32 = u32::MAX;
const ON_PATH: u32 = u32::MAX - 1;

struct Item {
    client: u64,
    start: u64,
    end: u64,
    link: Link,
}

#[derive(Clone, Copy)]
enum Link {
    Root,
    /// The item is one level below this one.
    Parent(Id),
    /// The item is on the same level as this one.
    Sibling(Id),
}

struct ItemTable(Vec<Item>);

impl Visitor for ItemTable {
    fn visit_struct(&mut self, found: &StructHeader) {
        let &StructHeader { client, start, end, kind } = found;
        let StructKind::Item { origin, right_origin, parent, .. } = kind else { return };
        let link = match (parent, origin.or(right_origin)) {
            (Some(parent), _) => Link::Parent(parent),
            (None, Some(sibling)) => Link::Sibling(sibling),
            (None, None) => Link::Root,
        };
        self.0.push(Item { client, start, end, link });
    }
}

impl ItemTable {
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
    max_type_depth(update, &summary)
}

fn max_type_depth(update: &[u8], summary: &Summary) -> Result<u32, ScanError> {
    // The count is safe to allocate by: the scan found every struct in the bytes.
    let mut items = ItemTable(Vec::with_capacity(summary.structs as usize));
    let mut max_depth = 0;
    walk_once(update, &ScanLimits::STORED, &mut items)?;
    items.0.sort_unstable_by_key(|item| (item.client, item.start));

    let mut levels = vec![UNKNOWN; items.0.len()];
    let mut path = Vec::new();
    for start in 0..items.0.len() {
        // Follow the links up to an item of known level, then assign levels on the way back.
        let mut next = Some(start);
        let mut level = 0;
        while let Some(index) = next {
            match levels[index] {
                UNKNOWN => {}
                // A cycle: no reader integrates it.
                ON_PATH => break,
                known => {
                    level = known;
                    break;
                }
            }
            levels[index] = ON_PATH;
            path.push(index);
            next = match items.0[index].link {
                Link::Root => None,
                Link::Parent(id) | Link::Sibling(id) => items.find(id),
            };
        }
        while let Some(index) = path.pop() {
            if let Link::Parent(_) = items.0[index].link {
                level += 1;
            }
            levels[index] = level;
            max_depth = max_depth.max(level);
        }
    }
    Ok(max_depth)
}
