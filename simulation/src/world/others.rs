//! Steps outside the clients' own connections: direct exchange between pages, slow sessions, calm moments.

use std::collections::BTreeSet;

use bytes::Bytes;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_server::internals::Lease;
use yrs::{ClientID, Doc, Options, Transact};

use super::World;
use crate::client::{Client, ClientKind};
use crate::plan::StepKind;
use crate::text;

/// The limit of concurrent slow sessions.
const MAX_SLOW_SESSIONS: usize = 2;
/// Rounds of a calm moment: enough for queued edits to be sent, committed and acknowledged.
const CALM_ROUNDS: usize = 3;

/// A session between two of its steps. Its lease must keep the document in memory, even before the document knows of it.
pub(crate) struct SlowSession {
    lease: Lease,
    document: usize,
    has_begun: bool,
}

impl World {
    /// One page receives the edits of another page of the same document directly, and may edit after them. The server may
    /// receive the edits in any order, and those of the first page possibly never.
    pub(super) fn sync_from_peer(&mut self) -> Result<(), String> {
        let page =
            |client: &Client| if let ClientKind::Stock(page) = &client.kind { Some(page.document) } else { None };
        let pairs: Vec<(usize, usize)> = (0..self.clients.len())
            .flat_map(|to| (0..self.clients.len()).map(move |from| (to, from)))
            .filter(|&(to, from)| {
                to != from && page(&self.clients[to]).is_some() && page(&self.clients[to]) == page(&self.clients[from])
            })
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let (to, from) = pairs[self.rng.usize(..pairs.len())];
        if self.rng.bool() {
            self.edit(from, StepKind::Type)?;
        }
        let before: BTreeSet<u32> = text::marks(&self.clients[to].text(0)).collect();
        let Ok([receiver, peer]) = self.clients.get_disjoint_mut([to, from]) else { return Ok(()) };
        let (ClientKind::Stock(page), ClientKind::Stock(peer)) = (&mut receiver.kind, &peer.kind) else {
            return Ok(());
        };
        let Some(received) = page.receive_from_peer(&self.names[page.document], peer) else { return Ok(()) };
        received.map_err(|error| format!("A CLIENT UNDERSTANDS: client {to}: {error}"))?;
        self.counts.add("direct exchanges between pages", 1);
        self.trace_line(|_| format!("client {to} receives the state of client {from} directly"));
        self.process_events(to)?;
        let new_mark = text::marks(&self.clients[to].text(0)).position(|mark| !before.contains(&mark));
        let Some(new_mark) = new_mark.filter(|_| self.rng.bool()) else { return Ok(()) };
        let kind = if self.rng.u32(..4) == 0 { StepKind::Delete } else { StepKind::Type };
        self.edit_at(to, kind, Some(new_mark))
    }

    /// The oldest slow session performs its next step, or a new one takes a lease.
    pub(super) fn slow_session_step(&mut self) -> Result<(), String> {
        if self.slow_sessions.len() == MAX_SLOW_SESSIONS || self.rng.bool() {
            return self.advance_slow_session().map(drop);
        }
        let document = self.rng.usize(..self.names.len());
        self.trace_line(|world| format!("a slow session takes a lease on {}", world.names[document]));
        let name = self.names[document].clone();
        let lease = self.server().lease(&name);
        self.slow_sessions.push(SlowSession { lease, document, has_begun: false });
        Ok(())
    }

    /// The oldest slow session begins, or sends an edit and ends. False: there is no slow session.
    pub(crate) fn advance_slow_session(&mut self) -> Result<bool, String> {
        if self.slow_sessions.is_empty() {
            return Ok(false);
        }
        let mut slow = self.slow_sessions.remove(0);
        let document = slow.document;
        let is_loaded = if slow.has_begun {
            let mark = self.next_mark();
            self.trace_line(|world| format!("a slow session sends <{mark}> to {} and ends", world.names[document]));
            let update = self.standalone_insert(mark);
            let is_loaded = self.server().send_update(&slow.lease, update);
            self.ledgers[document].update_from_session(mark, is_loaded && !self.deleted[document]);
            self.server().end_session(slow.lease);
            self.counts.add("slow sessions", 1);
            is_loaded
        } else {
            self.trace_line(|world| format!("a slow session begins with {}", world.names[document]));
            slow.has_begun = self.server().begin_session(&slow.lease);
            let is_loaded = slow.has_begun;
            if is_loaded {
                self.slow_sessions.push(slow);
            } else {
                self.server().end_session(slow.lease);
            }
            is_loaded
        };
        // A deleted document closes its sessions.
        if is_loaded || self.deleted[document] {
            return Ok(true);
        }
        Err(format!("NONE LEAVES UNDER A LEASE: {} has left memory despite a lease", self.names[document]))
    }

    /// Ends the slow sessions, which a stopping server does before it unloads documents.
    pub(super) fn end_slow_sessions(&mut self) {
        for slow in std::mem::take(&mut self.slow_sessions) {
            self.server().end_session(slow.lease);
        }
    }

    /// All clients connect, and everything in flight arrives.
    pub(super) fn calm(&mut self) -> Result<(), String> {
        self.trace_line(|_| "a calm moment".into());
        self.counts.add("calm moments", 1);
        (0..CALM_ROUNDS).try_for_each(|_| self.round().map(drop))?;
        if self.rng.bool() {
            self.back_up();
        }
        Ok(())
    }

    /// An update that inserts a mark into an empty document, by a client without any other state.
    fn standalone_insert(&mut self, mark: u32) -> Bytes {
        let client = ClientID::new(self.rng.u64(1..1 << 53));
        let doc = Doc::with_options(Options::with_guid_and_client_id("alone".into(), client));
        let mut txn = doc.transact_mut();
        text::insert(&mut txn, self.shape, 0, mark);
        let update = txn.encode_update_v1();
        debug_assert!(update != EMPTY_UPDATE);
        update.into()
    }
}
