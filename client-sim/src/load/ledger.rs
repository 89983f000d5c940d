//! Tracks, for every update of every writer, which connections of its document have received it. Pure.
//!
//! An update is delivered to a connection when its marker arrives there, in whatever message; each connection counts once.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Meaning of a received marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// An update reached a connection for the first time.
    Delivered {
        /// Number of the writer that sent it.
        writer: usize,
        /// Time since it was sent.
        age: Duration,
        /// Whether all connections of the document have it now.
        everywhere: bool,
    },
    /// The server echoed an update to its writer. What the echo guarantees depends on the server.
    Echoed(usize),
    /// The connection had received the update before.
    Known,
    /// No such update was sent: the bytes look like a marker by chance.
    NoUpdate,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    /// Number of connections that have not received it.
    lacking: u32,
}

#[derive(Debug)]
struct LedgerWriter {
    connection: usize,
    /// Number of the first update in `open`.
    base: u32,
    /// Updates from the oldest that is not delivered everywhere to the newest.
    open: VecDeque<Sent>,
    /// Number of updates that are not delivered everywhere.
    lacking: u32,
    /// Updates not acknowledged: number, time of sending.
    unacked: VecDeque<(u32, Instant)>,
    /// Number of connections that its updates are delivered to.
    receivers: u32,
}

/// The updates of one writer that one connection has received.
#[derive(Debug, Clone, Default)]
struct ReceivedNumbers {
    /// Every update below this number.
    next: u32,
    /// Updates above `next`.
    beyond: BTreeSet<u32>,
}

impl ReceivedNumbers {
    /// Adds an update; returns whether it is new.
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
struct LedgerConnection {
    document: usize,
    /// One entry per writer of the document.
    received: Vec<ReceivedNumbers>,
}

/// The ledger. Documents, connections and writers are identified by number.
#[derive(Debug, Default)]
pub(super) struct DeliveryLedger {
    writers: Vec<LedgerWriter>,
    connections: Vec<LedgerConnection>,
    /// The writers of each document, in the order of their numbers in markers.
    documents: Vec<Vec<usize>>,
    /// Number of updates sent.
    pub sent: u64,
    /// Number of deliveries.
    pub delivered: u64,
    /// Number of deliveries still to come.
    pub missing: u64,
    /// Number of updates acknowledged.
    pub acked: u64,
}

impl DeliveryLedger {
    /// A ledger for `documents` documents without connections.
    pub(super) fn new(documents: usize) -> Self {
        Self { documents: vec![Vec::new(); documents], ..Self::default() }
    }

    /// Adds a connection to `document`. Returns the number of its writer if `writes`. All connections must be added before
    /// the first update is sent.
    pub(super) fn connect(&mut self, document: usize, writes: bool) -> Option<usize> {
        let connection = self.connections.len();
        self.connections.push(LedgerConnection { document, received: Vec::new() });
        if !writes {
            return None;
        }
        let (base, open, unacked) = (0, VecDeque::new(), VecDeque::new());
        self.writers.push(LedgerWriter { connection, base, open, lacking: 0, unacked, receivers: 0 });
        self.documents[document].push(self.writers.len() - 1);
        Some(self.writers.len() - 1)
    }

    /// To be called once all connections are added.
    pub(super) fn begin(&mut self) {
        for connection in &mut self.connections {
            let writers = &self.documents[connection.document];
            connection.received = vec![ReceivedNumbers::default(); writers.len()];
            for &writer in writers {
                self.writers[writer].receivers += 1;
            }
        }
        for writer in &mut self.writers {
            // A writer's own connection does not count.
            writer.receivers -= 1;
        }
    }

    /// Records that a writer sends its next update; returns the update's number.
    pub(super) fn send(&mut self, writer: usize, now: Instant) -> u32 {
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

    /// Records that a marker arrived at a connection. `place` is the writer's number in markers.
    pub(super) fn arrive(&mut self, connection: usize, place: usize, number: u32, now: Instant) -> Arrival {
        let to = &mut self.connections[connection];
        let writer = self.documents[to.document].get(place);
        let (Some(&index), Some(received)) = (writer, to.received.get_mut(place)) else {
            return Arrival::NoUpdate;
        };
        let writer = &mut self.writers[index];
        if number >= writer.base + writer.open.len() as u32 {
            return Arrival::NoUpdate;
        }
        if !received.add(number) {
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

    /// Records an acknowledgement of the writer's oldest unacknowledged update; returns the time since it was sent.
    pub(super) fn acknowledge(&mut self, writer: usize, now: Instant) -> Option<Duration> {
        let (_, at) = self.writers[writer].unacked.pop_front()?;
        self.acked += 1;
        Some(now.saturating_duration_since(at))
    }

    /// Number of a writer's updates that are not delivered everywhere.
    pub(super) fn undelivered(&self, writer: usize) -> usize {
        self.writers[writer].lacking as usize
    }

    /// Number of a writer's updates that are not acknowledged.
    pub(super) fn unacknowledged(&self, writer: usize) -> usize {
        self.writers[writer].unacked.len()
    }

    /// Number of updates sent by each writer of a document.
    pub(super) fn totals(&self, document: usize) -> Vec<u32> {
        let sent = |&writer: &usize| self.writers[writer].base + self.writers[writer].open.len() as u32;
        self.documents[document].iter().map(sent).collect()
    }

    /// Describes undelivered updates, at most `limit` lines.
    pub(super) fn complaints(&self, limit: usize) -> Vec<String> {
        let mut found = Vec::new();
        for (number, connection) in self.connections.iter().enumerate() {
            for (received, &writer) in connection.received.iter().zip(&self.documents[connection.document]) {
                let writer = &self.writers[writer];
                let all = writer.base + writer.open.len() as u32;
                if received.next >= all || writer.connection == number {
                    continue;
                }
                if found.len() == limit {
                    found.push("and more".into());
                    return found;
                }
                let lacking = all - received.next - received.beyond.len() as u32;
                let (first, document) = (received.next, connection.document);
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

impl LedgerWriter {
    /// Removes leading updates that are delivered everywhere.
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
    fn ledger() -> DeliveryLedger {
        let mut ledger = DeliveryLedger::new(2);
        for (document, writes) in [(0, true), (0, true), (0, false), (1, false), (1, true)] {
            ledger.connect(document, writes);
        }
        ledger.begin();
        ledger
    }

    #[test]
    fn update_counts_once_per_other_connection_of_its_document() {
        let (mut ledger, now) = (ledger(), Instant::now());
        assert_eq!((ledger.send(1, now), ledger.send(1, now)), (0, 1));
        assert_eq!((ledger.sent, ledger.missing, ledger.undelivered(1)), (2, 4, 2));
        let later = now + Duration::from_millis(3);
        // The second update arrives before the first.
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
    fn acknowledgements_apply_to_updates_in_order() {
        let (mut ledger, now) = (ledger(), Instant::now());
        ledger.send(2, now);
        ledger.send(2, now + Duration::from_millis(1));
        let later = now + Duration::from_millis(5);
        assert_eq!(ledger.acknowledge(2, later), Some(Duration::from_millis(5)));
        assert_eq!(ledger.acknowledge(2, later), Some(Duration::from_millis(4)));
        assert_eq!((ledger.acknowledge(2, later), ledger.acked, ledger.unacknowledged(2)), (None, 2, 0));
    }

    #[test]
    fn complaints_name_a_missing_delivery() {
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
