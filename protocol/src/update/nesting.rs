//! How deep types lie within types, as far as one update tells.
//!
//! A type's parent is named by id, so 10,000 types, each the child of the one before, are a flat list on the wire and a tower
//! in a tree; yrs recurses down it when it is deleted or collected. This resolves the level of every item, without recursion,
//! from a sorted table of the items, for whoever builds a tree. Levels outside this update count as none.

use super::parse::{Id, Kind, Struct, Visit, pass};
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
    /// One level below this.
    Parent(Id),
    /// On the level of this.
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

/// How deep types lie within types in an update, in levels; for a whole document that is how deep the document is.
/// Costs a table of the update's items.
///
/// # Errors
/// As [`super::scan_update`], by [`ScanLimits::STORED`].
pub fn type_depth(update: &[u8]) -> Result<u32, ScanError> {
    let summary = super::scan_update(update, &ScanLimits::STORED)?;
    deepest(update, &summary)
}

fn deepest(update: &[u8], summary: &Summary) -> Result<u32, ScanError> {
    // The pass that counted them found every struct in the bytes.
    let mut items = Items(Vec::with_capacity(summary.structs as usize));
    let mut deepest = 0;
    pass(update, &ScanLimits::STORED, &mut items)?;
    items.0.sort_unstable_by_key(|item| (item.client, item.start));

    let mut levels = vec![UNKNOWN; items.0.len()];
    let mut way = Vec::new();
    for start in 0..items.0.len() {
        // Up until something known, then down again with the level.
        let mut at = Some(start);
        let mut level = 0;
        while let Some(index) = at {
            match levels[index] {
                UNKNOWN => {}
                // A circle is never integrated.
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
