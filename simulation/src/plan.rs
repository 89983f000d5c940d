//! What may happen next, and how likely it is. Each plan draws its own likelihoods, so that some plans hardly ever sync
//! and others crash all the time: rare meetings of faults come up that way.

/// What a plan is about: who takes part, and what may happen to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Devices and stock clients, mixed.
    Any,
    /// Stock clients with one document open, which also hear from each other past the server.
    Tabs,
    /// Devices, and documents whose history is replaced: a stock client that has an old one brings it back.
    OtherHistories,
}

impl Story {
    /// Draws one.
    pub fn draw(dice: &mut fastrand::Rng) -> Self {
        match dice.u32(..10) {
            0..2 => Self::OtherHistories,
            2..4 => Self::Tabs,
            _ => Self::Any,
        }
    }

    /// How many times as likely as usual this is.
    fn times(self, kind: Kind) -> u32 {
        match (self, kind) {
            // What is to be replaced must have come about.
            (Self::OtherHistories, Kind::Calm) => 5,
            (Self::Any | Self::Tabs, Kind::OtherHistory) => 0,
            (Self::Any | Self::OtherHistories, Kind::Aside) => 0,
            (Self::Tabs, Kind::Aside) => 2,
            _ => 1,
        }
    }
}

/// One kind of thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client types a mark.
    Type,
    /// A client deletes one.
    Delete,
    /// A device writes a register.
    Propose,
    /// A stock client says who is here.
    Presence,
    /// A stock client hears what another one has, by a way past the server, and does not pass it on: as tabs of one browser do.
    Aside,
    /// A session that takes its time: takes a lease, says who it is, brings an edit, goes. One of these.
    Lease,
    /// A calm moment: everyone connects, and all that is on its way arrives.
    Calm,
    /// The network takes messages to the server.
    Deliver,
    /// The network takes bytes to a client.
    Receive,
    /// The server's disk goes one step on.
    Disk,
    /// A device's disk syncs a few writes.
    Sync,
    /// A client without a connection connects, a device opens what was closed.
    Connect,
    /// A client loses its connection; the server does not know yet.
    Cut,
    /// The server learns that a connection is gone.
    HangUp,
    /// Time passes: documents without sessions leave memory.
    Wait,
    /// Much time passes, without a byte on any network: sessions time out.
    WaitLong,
    /// A device's clock jumps.
    ClockJump,
    /// A client ends without a word and starts again from its disk, if it has one.
    ClientCrash,
    /// A device's disk fails.
    DeviceDiskFails,
    /// The server's next commit fails.
    DiskFails,
    /// The server's power goes; it starts again.
    Crash,
    /// The server is stopped in order and starts again.
    Restart,
    /// While the server is down a document is deleted for good.
    DeleteDocument,
    /// While the server is down a document is forgotten, or it or all of them are replaced by a backup.
    OtherHistory,
}

/// (kind, its usual weight)
const KINDS: [(Kind, u32); 24] = [
    (Kind::Type, 160),
    (Kind::Delete, 30),
    (Kind::Propose, 20),
    (Kind::Presence, 10),
    (Kind::Aside, 25),
    (Kind::Lease, 20),
    (Kind::Calm, 5),
    (Kind::Deliver, 200),
    (Kind::Receive, 200),
    (Kind::Disk, 160),
    (Kind::Sync, 100),
    (Kind::Connect, 80),
    (Kind::Cut, 25),
    (Kind::HangUp, 25),
    (Kind::Wait, 40),
    (Kind::WaitLong, 4),
    (Kind::ClockJump, 4),
    (Kind::ClientCrash, 10),
    (Kind::DeviceDiskFails, 5),
    (Kind::DiskFails, 3),
    (Kind::Crash, 10),
    (Kind::Restart, 5),
    (Kind::DeleteDocument, 2),
    (Kind::OtherHistory, 8),
];

/// The likelihoods of one plan.
#[derive(Debug)]
pub struct Weights {
    weights: Vec<(Kind, u32)>,
    total: u32,
}

impl Weights {
    /// Draws them for a story.
    pub fn draw(dice: &mut fastrand::Rng, story: Story) -> Self {
        let mut weights: Vec<(Kind, u32)> = KINDS.to_vec();
        for (kind, weight) in &mut weights {
            *weight = match dice.u32(..6) {
                0 => *weight / 5,
                1 => *weight * 4,
                _ => *weight,
            };
            // Without these nothing is ever under way.
            if matches!(kind, Kind::Type | Kind::Deliver | Kind::Receive | Kind::Connect) {
                *weight = (*weight).max(20);
            }
            *weight *= story.times(*kind);
        }
        let total = weights.iter().map(|(_, weight)| weight).sum();
        Self { weights, total }
    }

    /// What happens next.
    pub fn next(&self, dice: &mut fastrand::Rng) -> Kind {
        let mut at = dice.u32(..self.total);
        for (kind, weight) in &self.weights {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        Kind::Type
    }
}
