//! What happens beside the clients' own talk with the server: ways past it, slow sessions, calm moments.

use std::collections::BTreeSet;

use bytes::Bytes;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_server::registry::Lease;
use yrs::{ClientID, Doc, Options, Transact};

use super::World;
use crate::client::{Client, Sort};
use crate::plan::Kind;
use crate::text;

/// Most sessions that take their time, at a time.
const MAX_SLOW: usize = 2;
/// Rounds of a calm moment: enough for what is queued to be sent, written and told.
const CALM_ROUNDS: usize = 3;

/// A session between two of its steps. Its lease must keep the document in memory, whatever the document knows of it.
pub(crate) struct Slow {
    lease: Lease,
    document: usize,
    begun: bool,
}

impl World {
    /// Two pages of one document: one types, the other hears of it and goes on from that. The server may hear of it in any
    /// order, of the one that was heard of perhaps never.
    pub(super) fn hear_aside(&mut self) -> Result<(), String> {
        let page = |client: &Client| if let Sort::Stock(page) = &client.sort { Some(page.document) } else { None };
        let pairs: Vec<(usize, usize)> = (0..self.clients.len())
            .flat_map(|to| (0..self.clients.len()).map(move |from| (to, from)))
            .filter(|&(to, from)| {
                to != from && page(&self.clients[to]).is_some() && page(&self.clients[to]) == page(&self.clients[from])
            })
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let (to, from) = pairs[self.dice.usize(..pairs.len())];
        if self.dice.bool() {
            self.edit(from, Kind::Type)?;
        }
        let before: BTreeSet<u32> = text::marks(&self.clients[to].text(0)).collect();
        let Ok([hears, other]) = self.clients.get_disjoint_mut([to, from]) else { return Ok(()) };
        let (Sort::Stock(page), Sort::Stock(other)) = (&mut hears.sort, &other.sort) else { return Ok(()) };
        let Some(heard) = page.hear_aside(&self.names[page.document], other) else { return Ok(()) };
        heard.map_err(|error| format!("A CLIENT UNDERSTANDS: client {to}: {error}"))?;
        self.counts.add("heard past the server", 1);
        self.note(|_| format!("client {to} hears past the server what client {from} has"));
        self.hear(to)?;
        let news = text::marks(&self.clients[to].text(0)).position(|mark| !before.contains(&mark));
        let Some(news) = news.filter(|_| self.dice.bool()) else { return Ok(()) };
        let kind = if self.dice.u32(..4) == 0 { Kind::Delete } else { Kind::Type };
        self.edit_at(to, kind, Some(news))
    }

    /// A session that takes its time does one more thing, or a new one takes a lease.
    pub(super) fn lease(&mut self) -> Result<(), String> {
        if self.leases.len() == MAX_SLOW || self.dice.bool() {
            return self.use_lease().map(drop);
        }
        let document = self.dice.usize(..self.names.len());
        self.note(|world| format!("a session takes a lease on {}", world.names[document]));
        let name = self.names[document].clone();
        let lease = self.server().lease(&name);
        self.leases.push(Slow { lease, document, begun: false });
        Ok(())
    }

    /// The oldest of them says who it is, or brings an edit and goes. False: there is none.
    pub(crate) fn use_lease(&mut self) -> Result<bool, String> {
        if self.leases.is_empty() {
            return Ok(false);
        }
        let mut slow = self.leases.remove(0);
        let document = slow.document;
        let is_there = if slow.begun {
            let mark = self.next_mark();
            self.note(|world| format!("a session brings <{mark}> to {} and goes", world.names[document]));
            let update = self.type_alone(mark);
            let is_there = self.server().bring(&slow.lease, update);
            self.ledgers[document].given(mark, is_there && !self.deleted[document]);
            self.server().end(slow.lease);
            self.counts.add("slow sessions", 1);
            is_there
        } else {
            self.note(|world| format!("a session begins with {}", world.names[document]));
            slow.begun = self.server().begin(&slow.lease);
            let is_there = slow.begun;
            if is_there {
                self.leases.push(slow);
            } else {
                self.server().end(slow.lease);
            }
            is_there
        };
        // A deleted document tells its sessions to go.
        if is_there || self.deleted[document] {
            return Ok(true);
        }
        Err(format!("NONE LEAVES UNDER A LEASE: {} has left memory under one", self.names[document]))
    }

    /// Sessions end before the documents, as they do in a server that stops.
    pub(super) fn drop_leases(&mut self) {
        for slow in std::mem::take(&mut self.leases) {
            self.server().end(slow.lease);
        }
    }

    /// Everyone connects, and all that is on its way arrives.
    pub(super) fn calm(&mut self) -> Result<(), String> {
        self.note(|_| "a calm moment".into());
        self.counts.add("calm moments", 1);
        (0..CALM_ROUNDS).try_for_each(|_| self.round().map(drop))?;
        if self.dice.bool() {
            self.back_up();
        }
        Ok(())
    }

    /// An edit by somebody who has nothing else.
    fn type_alone(&mut self, mark: u32) -> Bytes {
        let client = ClientID::new(self.dice.u64(1..1 << 53));
        let doc = Doc::with_options(Options::with_guid_and_client_id("alone".into(), client));
        let mut txn = doc.transact_mut();
        text::insert(&mut txn, self.shape, 0, mark);
        let update = txn.encode_update_v1();
        debug_assert!(update != EMPTY_UPDATE);
        update.into()
    }
}
