//! Detects updates whose structs depend on each other in a cycle: no reader could ever integrate them.

use std::collections::HashMap;

use super::StateClock;
use super::raw::{RawSection, RawUpdate};

/// The unvisited structs of one client.
struct SectionState<'a> {
    structs: RawSection<'a>,
    end: u64,
    /// The section is on the stack: it is being visited up to a clock that another section depends on.
    is_on_stack: bool,
}

/// True when structs of a scanned update depend on each other in a cycle. The update must have no missing dependencies:
/// `state` must contain everything that the update depends on and does not contain itself.
pub fn is_circular(update: &[u8], state: &impl StateClock) -> bool {
    // Within one section there is no cycle: the scanner refuses references to later structs of the same client.
    if update.first() == Some(&1) {
        return false;
    }
    let mut raw = RawUpdate::new(update);
    let (mut sections, mut index_of) = (Vec::new(), HashMap::new());
    while let Some(structs) = raw.section() {
        let mut rest = structs.clone();
        rest.by_ref().for_each(drop);
        raw.resume_after(&rest);
        index_of.insert(structs.client, sections.len());
        sections.push(SectionState { structs, end: rest.clock, is_on_stack: false });
    }
    (0..sections.len()).any(|first| !visit_section(first, &mut sections, &index_of, state))
}

/// Visits one section, and every section that it depends on, as far as needed. Returns false when it reaches a section
/// that is already on the stack.
fn visit_section(
    first: usize,
    sections: &mut [SectionState<'_>],
    index_of: &HashMap<u64, usize>,
    state: &impl StateClock,
) -> bool {
    let mut stack = vec![(first, sections[first].end)];
    sections[first].is_on_stack = true;
    while let Some(&(at, until)) = stack.last() {
        let mut next = sections[at].structs.clone();
        let found = next.next().filter(|found| found.start < until);
        let Some(found) = found else {
            sections[at].is_on_stack = false;
            stack.pop();
            continue;
        };
        let dependency = found.dependencies().find_map(|id| {
            let target = *index_of.get(&id.client).filter(|target| **target != at)?;
            let is_satisfied = id.clock < sections[target].structs.clock || id.clock < state.clock(id.client);
            (!is_satisfied && id.clock < sections[target].end).then_some((target, id.clock + 1))
        });
        match dependency.filter(|_| found.end > state.clock(found.client)) {
            None => sections[at].structs = next,
            Some((target, _)) if sections[target].is_on_stack => return false,
            Some((target, until)) => {
                sections[target].is_on_stack = true;
                stack.push((target, until));
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter of client 1 and one of client 2, both at clock 0, with these origins (client, clock).
    fn two(first: Option<(u8, u8)>, second: Option<(u8, u8)>) -> Vec<u8> {
        let mut update = vec![2];
        for (client, origin) in [(2, second), (1, first)] {
            update.extend([1, client, 0]);
            match origin {
                Some((client, clock)) => update.extend([0x84, client, clock]),
                None => update.extend([4, 1, 1, b't']),
            }
            update.extend([1, b'x']);
        }
        update.push(0);
        update
    }

    #[test]
    fn only_cyclic_dependencies_are_circular() {
        assert!(!is_circular(&two(None, None), &|_| 0));
        assert!(!is_circular(&two(None, Some((1, 0))), &|_| 0));
        assert!(!is_circular(&two(Some((2, 0)), None), &|_| 0));
        assert!(is_circular(&two(Some((2, 0)), Some((1, 0))), &|_| 0));
        assert!(
            !is_circular(&two(Some((2, 0)), Some((1, 0))), &|client| u64::from(client == 1)),
            "one of them is known"
        );
    }
}
