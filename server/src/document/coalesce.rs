//! PURE: coalesces queued changes into few frames: one for all readers, and one for each author without its
//! own changes.
//!
//! An author is not sent its own change before it is on disk: some clients take its return for the
//! acknowledgement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::update::{Merged, Updates};

use super::frame::Frame;

use super::message::Message;
use crate::ids::LeaseId;

/// A change to be sent to readers.
#[derive(Debug)]
pub(super) struct Change {
    pub frame: Arc<Frame>,
    /// The lease that is not sent this change.
    pub author: Option<LeaseId>,
}

/// Changes and awareness collected during a turn, to be sent together.
#[derive(Debug, Default)]
pub(super) struct OutgoingFrames {
    pub changes: Vec<Change>,
    /// Clients whose awareness changed in this turn, with their clocks.
    pub changed_awareness: BTreeMap<u64, u64>,
    /// Sessions that are sent all awareness states.
    pub all_awareness: BTreeSet<LeaseId>,
}

impl OutgoingFrames {
    pub(super) fn push_change(&mut self, frame: Arc<Frame>, author: Option<LeaseId>) {
        self.changes.push(Change { frame, author });
    }
}

/// A frame and the number of changes in it.
pub(super) type CountedFrame = (Arc<Frame>, usize);

/// Coalesced changes, in order.
pub(super) struct CoalescedChanges<'a> {
    changes: &'a [Change],
    /// `None` for a single change.
    updates: Option<Updates<'a>>,
    everyone: Vec<CountedFrame>,
    authors: Vec<LeaseId>,
}

impl<'a> CoalescedChanges<'a> {
    /// Coalesces at least one change.
    pub(super) fn new(changes: &'a [Change]) -> Self {
        let updates = (changes.len() > 1).then(|| Updates::new(changes.iter().map(|change| change.update())));
        let mut authors: Vec<_> = changes.iter().filter_map(|change| change.author).collect();
        authors.sort_unstable();
        authors.dedup();
        let mut coalesced = Self { changes, updates, everyone: Vec::new(), authors };
        coalesced.everyone = coalesced.frames(|_| true);
        coalesced
    }

    /// The frames for readers that made none of the changes.
    pub(super) fn for_everyone(&self) -> &[CountedFrame] {
        &self.everyone
    }

    /// True if this lease made some of the changes.
    pub(super) fn is_author(&self, lease: LeaseId) -> bool {
        self.authors.binary_search(&lease).is_ok()
    }

    /// The frames for an author: the changes of others.
    pub(super) fn for_author(&self, author: LeaseId) -> Vec<CountedFrame> {
        self.frames(|change| change.author != Some(author))
    }

    fn frames(&self, wanted: impl Fn(&Change) -> bool) -> Vec<CountedFrame> {
        let Some(updates) = &self.updates else {
            return self.changes.iter().filter(|change| wanted(change)).map(Change::single).collect();
        };
        // Every frame carries the sequence number of the last change.
        let Some(seq) = self.changes.last().map(|change| change.frame.seq()) else { return Vec::new() };
        let merged = updates.merge(|number| wanted(&self.changes[number]));
        let frame = |merged| match merged {
            Merged::Single(number) => self.changes[number].single(),
            Merged::Joined { update, count } => (Frame::at(seq, Message::Update(Bytes::from(update))), count),
        };
        merged.into_iter().map(frame).collect()
    }
}

impl Change {
    fn single(&self) -> CountedFrame {
        (Arc::clone(&self.frame), 1)
    }

    fn update(&self) -> &[u8] {
        match self.frame.message() {
            Message::Update(update) => update,
            // Only updates are broadcast; empty bytes are not coalesced.
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use syncline_protocol::ids::Seq;

    use super::*;

    /// A GC struct of one client, one clock long.
    fn change(seq: u64, client: u8, clock: u8, author: Option<u64>) -> Change {
        let update = Bytes::from(vec![1, 1, client, clock, 0, 1, 0]);
        Change { frame: Frame::at(Seq(seq), Message::Update(update)), author: author.map(LeaseId) }
    }

    fn updates(frames: &[CountedFrame]) -> Vec<(Seq, usize, &[u8])> {
        let mut listed = Vec::new();
        for (frame, count) in frames {
            let Message::Update(bytes) = frame.message() else { panic!("not an update") };
            listed.push((frame.seq(), *count, &bytes[..]));
        }
        listed
    }

    #[test]
    fn readers_get_one_frame_and_authors_the_changes_of_others() {
        let changes =
            [change(5, 1, 0, Some(1)), change(6, 2, 0, Some(2)), change(6, 3, 0, None), change(7, 1, 1, Some(1))];
        let coalesced = CoalescedChanges::new(&changes);
        let all: &[u8] = &[3, 1, 3, 0, 0, 1, 1, 2, 0, 0, 1, 2, 1, 0, 0, 1, 0, 1, 0];
        assert_eq!(updates(coalesced.for_everyone()), [(Seq(7), 4, all)]);
        assert!(coalesced.is_author(LeaseId(1)) && !coalesced.is_author(LeaseId(3)));
        let others: &[u8] = &[2, 1, 3, 0, 0, 1, 1, 2, 0, 0, 1, 0];
        assert_eq!(updates(&coalesced.for_author(LeaseId(1))), [(Seq(7), 2, others)]);
        let single = [change(5, 1, 0, Some(1))];
        let coalesced = CoalescedChanges::new(&single);
        assert_eq!(coalesced.for_everyone()[0].0.seq(), Seq(5));
        assert!(coalesced.for_author(LeaseId(1)).is_empty());
    }
}
