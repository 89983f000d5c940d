//! The kinds of steps in a plan, and their probabilities. Each plan draws its own weights, so that some plans rarely sync
//! and others crash constantly. This produces rare combinations of faults.

/// The scenario of a plan: its clients, and which steps can occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Devices and stock clients together.
    Any,
    /// Stock clients with the same document open, which also exchange updates with each other without the server.
    Tabs,
    /// Only devices, and documents whose history is replaced. (A stock client with the old history would restore it.)
    ReplacedHistories,
}

impl Scenario {
    /// Draws a scenario.
    pub fn draw(rng: &mut fastrand::Rng) -> Self {
        match rng.u32(..10) {
            0..2 => Self::ReplacedHistories,
            2..4 => Self::Tabs,
            _ => Self::Any,
        }
    }

    /// The factor by which the scenario changes the weight of a step.
    fn factor(self, kind: StepKind) -> u32 {
        match (self, kind) {
            // A history must exist before it can be replaced.
            (Self::ReplacedHistories, StepKind::Calm) => 5,
            (Self::Any | Self::Tabs, StepKind::ReplaceHistory) => 0,
            (Self::Any | Self::ReplacedHistories, StepKind::PeerSync) => 0,
            (Self::Tabs, StepKind::PeerSync) => 2,
            _ => 1,
        }
    }
}

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// A client inserts a mark.
    Type,
    /// A client deletes a mark.
    Delete,
    /// A device writes to a register.
    Propose,
    /// A stock client sets its awareness state.
    Awareness,
    /// A stock client receives the state of another one directly and does not forward it, like tabs of the same browser.
    PeerSync,
    /// A slow session performs one of its steps: takes a lease, begins, or sends an edit and ends.
    Lease,
    /// All clients connect, and everything in flight arrives.
    Calm,
    /// The network delivers messages to the server.
    Deliver,
    /// The network delivers bytes to a client.
    Receive,
    /// The server's log takes, commits or reports a batch.
    Disk,
    /// A device's disk syncs a few writes.
    Sync,
    /// A disconnected client connects, or a device reopens closed documents.
    Connect,
    /// A client loses its connection; the server has not yet noticed.
    Cut,
    /// The server notices that a connection is closed.
    HangUp,
    /// Time passes: documents without sessions leave memory.
    Wait,
    /// A long time passes without network traffic: sessions time out.
    WaitLong,
    /// A device's clock jumps.
    ClockJump,
    /// A client crashes and starts again, from its disk if it has one.
    ClientCrash,
    /// A device's disk fails.
    DeviceDiskFails,
    /// The server's next commit fails.
    DiskFails,
    /// The server loses power and starts again.
    Crash,
    /// The server shuts down cleanly and starts again.
    Restart,
    /// A document is deleted permanently while the server is down.
    DeleteDocument,
    /// While the server is down, a document is purged, or one or all documents are replaced from a backup.
    ReplaceHistory,
}

/// The default weight of each kind of step.
const KINDS: [(StepKind, u32); 24] = [
    (StepKind::Type, 160),
    (StepKind::Delete, 30),
    (StepKind::Propose, 20),
    (StepKind::Awareness, 10),
    (StepKind::PeerSync, 25),
    (StepKind::Lease, 20),
    (StepKind::Calm, 5),
    (StepKind::Deliver, 200),
    (StepKind::Receive, 200),
    (StepKind::Disk, 160),
    (StepKind::Sync, 100),
    (StepKind::Connect, 80),
    (StepKind::Cut, 25),
    (StepKind::HangUp, 25),
    (StepKind::Wait, 40),
    (StepKind::WaitLong, 4),
    (StepKind::ClockJump, 4),
    (StepKind::ClientCrash, 10),
    (StepKind::DeviceDiskFails, 5),
    (StepKind::DiskFails, 3),
    (StepKind::Crash, 10),
    (StepKind::Restart, 5),
    (StepKind::DeleteDocument, 2),
    (StepKind::ReplaceHistory, 8),
];

/// The weights of one plan.
#[derive(Debug)]
pub struct Weights {
    weights: Vec<(StepKind, u32)>,
    total: u32,
}

impl Weights {
    /// Draws the weights for a scenario.
    pub fn draw(rng: &mut fastrand::Rng, scenario: Scenario) -> Self {
        let mut weights: Vec<(StepKind, u32)> = KINDS.to_vec();
        for (kind, weight) in &mut weights {
            *weight = match rng.u32(..6) {
                0 => *weight / 5,
                1 => *weight * 4,
                _ => *weight,
            };
            // Without these steps nothing happens.
            if matches!(kind, StepKind::Type | StepKind::Deliver | StepKind::Receive | StepKind::Connect) {
                *weight = (*weight).max(20);
            }
            *weight *= scenario.factor(*kind);
        }
        let total = weights.iter().map(|(_, weight)| weight).sum();
        Self { weights, total }
    }

    /// Draws the next step.
    pub fn next(&self, rng: &mut fastrand::Rng) -> StepKind {
        let mut at = rng.u32(..self.total);
        for (kind, weight) in &self.weights {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        StepKind::Type
    }
}
