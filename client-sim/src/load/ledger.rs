//! Who was sent what, and who has it: every update of every writer, every connection of its document. Pure.
//!
//! An update is delivered to a connection when its marker came there, by whatever message; counted once for each.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// What a marker that came in means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// An update came to a connection that did not have it, so long after it was sent.
    Delivered {
        /// By whom.
        writer: usize,
        /// Since it was sent.
        age: Duration,
        /// Everybody has it now.
        everywhere: bool,
    },
    /// An update came back to its writer: the server has it, and whatever it promises by that.
    Echoed(usize),
    /// It came before.
    Known,
    /// No such update was sent: bytes that look like a marker.
    NoUpdate,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    /// Connections that do not have it.
    lacking: u32,
}

#[derive(Debug)]
struct Writer {
    connection: usize,
    /// The number of the first of `open`.
    base: u32,
    /// Sent and not yet everywhere, or behind one that is not.
    open: VecDeque<Sent>,
    /// Sent and not everywhere.
    lacking: u32,
    /// Sent and not acknowledged: number, when.
    unacked: VecDeque<(u32, Instant)>,
    /// Connections it is delivered to.
    receivers: u32,
}

/// What one connection has of one writer.
#[derive(Debug, Clone, Default)]
struct Has {
    /// Everything below.
    next: u32,
    /// And these.
    beyond: BTreeSet<u32>,
}

impl Has {
    /// True when it is new.
    fn add(&mut self, number: u32) -> bool {
        if number == self.next {
            self.next += 1;
            while !self.beyond.is_empty() && self.beyond.remove(&self.next) {
                self.next += 1;
            }
            return true;
        }
        number > self.next && self.beyond.insert(number)
    }
}

#[derive(Debug)]
struct Connection {
    document: usize,
    has: Vec<Has>,
}

/// The ledger. Documents, connections and writers are known by number.
#[derive(Debug, Default)]
pub struct Ledger {
    writers: Vec<Writer>,
    connections: Vec<Connection>,
    /// The writers of each document; their place is their number in markers.
    documents: Vec<Vec<usize>>,
    /// Updates sent.
    pub sent: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries that are still to come.
    pub missing: u64,
    /// Updates acknowledged.
    pub acked: u64,
}

impl Ledger {
    /// For `documents` documents without connections.
    pub fn new(documents: usize) -> Self {
        Self { documents: vec![Vec::new(); documents], ..Self::default() }
    }

    /// Adds a connection that reads `document`, and writes it if `writes`: its writer's number. All connections are
    /// added before the first update is sent.
    pub fn connect(&mut self, document: usize, writes: bool) -> Option<usize> {
        let connection = self.connections.len();
        self.connections.push(Connection { document, has: Vec::new() });
        if !writes {
            return None;
        }
        let (base, open, unacked) = (0, VecDeque::new(), VecDeque::new());
        self.writers.push(Writer { connection, base, open, lacking: 0, unacked, receivers: 0 });
        self.documents[document].push(self.writers.len() - 1);
        Some(self.writers.len() - 1)
    }

    /// Everybody is there.
    pub fn begin(&mut self) {
        for connection in &mut self.connections {
            let writers = &self.documents[connection.document];
            connection.has = vec![Has::default(); writers.len()];
            for &writer in writers {
                self.writers[writer].receivers += 1;
            }
        }
        for writer in &mut self.writers {
            // Not to itself.
            writer.receivers -= 1;
        }
    }

    /// The next update of a writer is sent; gives its number.
    pub fn send(&mut self, writer: usize, now: Instant) -> u32 {
        let writer = &mut self.writers[writer];
        let number = writer.base + writer.open.len() as u32;
        writer.open.push_back(Sent { at: now, lacking: writer.receivers });
        writer.unacked.push_back((number, now));
        writer.lacking += u32::from(writer.receivers > 0);
        self.sent += 1;
        self.missing += u64::from(writer.receivers);
        writer.forget();
        number
    }

    /// A marker came to a connection.
    pub fn arrive(&mut self, connection: usize, place: usize, number: u32, now: Instant) -> Arrival {
        let to = &mut self.connections[connection];
        let (Some(&index), Some(has)) = (self.documents[to.document].get(place), to.has.get_mut(place)) else {
            return Arrival::NoUpdate;
        };
        let writer = &mut self.writers[index];
        if number >= writer.base + writer.open.len() as u32 {
            return Arrival::NoUpdate;
        }
        if !has.add(number) {
            return Arrival::Known;
        }
        if writer.connection == connection {
            return Arrival::Echoed(index);
        }
        let sent = &mut writer.open[(number - writer.base) as usize];
        sent.lacking -= 1;
        let (age, everywhere) = (now.saturating_duration_since(sent.at), sent.lacking == 0);
        self.delivered += 1;
        self.missing -= 1;
        if everywhere {
            writer.lacking -= 1;
            writer.forget();
        }
        Arrival::Delivered { writer: index, age, everywhere }
    }

    /// The oldest update that was not acknowledged is; gives the time since it was sent.
    pub fn acknowledge(&mut self, writer: usize, now: Instant) -> Option<Duration> {
        let (_, at) = self.writers[writer].unacked.pop_front()?;
        self.acked += 1;
        Some(now.saturating_duration_since(at))
    }

    /// Updates of a writer that are not everywhere.
    pub fn undelivered(&self, writer: usize) -> usize {
        self.writers[writer].lacking as usize
    }

    /// Updates of a writer that were not acknowledged.
    pub fn unacknowledged(&self, writer: usize) -> usize {
        self.writers[writer].unacked.len()
    }

    /// How many updates of each of its writers a document has had.
    pub fn totals(&self, document: usize) -> Vec<u32> {
        let sent = |&writer: &usize| self.writers[writer].base + self.writers[writer].open.len() as u32;
        self.documents[document].iter().map(sent).collect()
    }

    /// Who lacks what, in words, for the first few.
    pub fn complaints(&self, most: usize) -> Vec<String> {
        let mut found = Vec::new();
        for (number, connection) in self.connections.iter().enumerate() {
            for (has, &writer) in connection.has.iter().zip(&self.documents[connection.document]) {
                let writer = &self.writers[writer];
                let all = writer.base + writer.open.len() as u32;
                if has.next >= all || writer.connection == number {
                    continue;
                }
                if found.len() == most {
                    found.push("and more".into());
                    return found;
                }
                let lacking = all - has.next - has.beyond.len() as u32;
                let (first, document) = (has.next, connection.document);
                found.push(format!(
                    "connection {number} (document {document}) lacks {lacking} of {all} updates of connection {}, the \
                     first of them number {first}",
                    writer.connection
                ));
            }
        }
        found
    }
}

impl Writer {
    /// Forgets what is everywhere.
    fn forget(&mut self) {
        while self.open.front().is_some_and(|sent| sent.lacking == 0) {
            self.open.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One document: connections 0 and 1 write, 2 reads; another: 3 reads and 4 writes.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(2);
        for (document, writes) in [(0, true), (0, true), (0, false), (1, false), (1, true)] {
            ledger.connect(document, writes);
        }
        ledger.begin();
        ledger
    }

    #[test]
    fn every_update_counts_once_for_every_other_connection_of_its_document() {
        let (mut ledger, now) = (ledger(), Instant::now());
        assert_eq!((ledger.send(1, now), ledger.send(1, now)), (0, 1));
        assert_eq!((ledger.sent, ledger.missing, ledger.undelivered(1)), (2, 4, 2));
        let later = now + Duration::from_millis(3);
        // The second before the first.
        let age = Duration::from_millis(3);
        assert_eq!(ledger.arrive(0, 1, 1, later), Arrival::Delivered { writer: 1, age, everywhere: false });
        assert_eq!(ledger.arrive(2, 1, 1, later), Arrival::Delivered { writer: 1, age, everywhere: true });
        assert_eq!(ledger.arrive(2, 1, 1, later), Arrival::Known);
        assert_eq!(ledger.arrive(1, 1, 0, later), Arrival::Echoed(1));
        assert_eq!(ledger.arrive(3, 1, 0, later), Arrival::NoUpdate);
        assert_eq!(ledger.arrive(2, 1, 2, later), Arrival::NoUpdate);
        assert_eq!((ledger.delivered, ledger.missing, ledger.undelivered(1)), (2, 2, 1));
        assert_eq!(ledger.complaints(9).len(), 2);
        for connection in [0, 2] {
            ledger.arrive(connection, 1, 0, later);
        }
        assert_eq!((ledger.delivered, ledger.missing, ledger.undelivered(1)), (4, 0, 0));
        assert!(ledger.complaints(9).is_empty());
        assert_eq!(ledger.totals(0), [0, 2]);
    }

    #[test]
    fn acknowledgements_come_in_the_order_of_updates() {
        let (mut ledger, now) = (ledger(), Instant::now());
        ledger.send(2, now);
        ledger.send(2, now + Duration::from_millis(1));
        let later = now + Duration::from_millis(5);
        assert_eq!(ledger.acknowledge(2, later), Some(Duration::from_millis(5)));
        assert_eq!(ledger.acknowledge(2, later), Some(Duration::from_millis(4)));
        assert_eq!((ledger.acknowledge(2, later), ledger.acked, ledger.unacknowledged(2)), (None, 2, 0));
    }

    #[test]
    fn a_lost_delivery_is_named() {
        let (mut ledger, now) = (ledger(), Instant::now());
        for number in 0..3 {
            ledger.send(2, now);
            if number != 1 {
                ledger.arrive(3, 0, number, now);
            }
        }
        assert_eq!(ledger.missing, 1);
        assert_eq!(
            ledger.complaints(9),
            ["connection 3 (document 1) lacks 1 of 3 updates of connection 4, the first of them number 1"]
        );
    }
}
