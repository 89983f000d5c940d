//! Compares the registers of a hub with those of a yrs tree: random writes by several clients and by the hub, sent alone, merged or as
//! whole states, in any order, with restarts that lose the latest updates. The test prints its seed; `SYNCLINE_SEED=<seed>` replays it.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_protocol::native::Version;
use syncline_replica::{HubDocument, RegisterState, Replica};
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::{Any, Array, Doc, Map, Options, ReadTxn, StateVector, Text, Transact, Update, WriteTxn};

const NAMES: [&str; 2] = ["status", "owner"];
const PLANS: u32 = 400;
const STEPS: u32 = 60;

struct World {
    random: StdRng,
    /// All updates that the hub has applied, in order.
    log: Vec<Bytes>,
    hub: HubDocument,
    /// A tree with the same updates.
    tree: Replica,
    writers: Vec<Doc>,
    /// For each writer, its own and received updates that it has not sent to the hub.
    unsent: Vec<Vec<Bytes>>,
    next: u64,
    /// Number of comparisons of a written register.
    compared: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let writer =
            |client_id: u64| Doc::with_options(Options { client_id: ClientID::new(client_id), ..Options::default() });
        let writers: Vec<Doc> = (0..3).map(|_| writer(random.random_range(1..1 << 40))).collect();
        let unsent = vec![Vec::new(); writers.len()];
        let (hub, tree) = (HubDocument::new(random.random_range(1..1 << 40)), Replica::default());
        Self { random, log: Vec::new(), hub, tree, writers, unsent, next: 0, compared: 0 }
    }

    fn state(&mut self) -> RegisterState {
        self.next += 1;
        let version = Version { number: self.next, id: u128::from(self.next) };
        let value = Any::from(i64::try_from(self.next).unwrap());
        RegisterState { value, version, author: "Ana".into(), at_ms: 0, ids: vec![version.id] }
    }

    fn edit(&mut self) {
        let (at, dice) = (self.random.random_range(0..self.writers.len()), self.random.random_range(0..10));
        let (state, name) = (self.state(), NAMES[self.random.random_range(0..NAMES.len())]);
        let doc = self.writers[at].clone();
        let mut txn = doc.transact_mut();
        match dice {
            0..6 => _ = txn.get_or_insert_map("syncline:registers").insert(&mut txn, name, state.to_any()),
            6 => _ = txn.get_or_insert_map("syncline:registers").remove(&mut txn, name),
            7 => txn.get_or_insert_text("text").push(&mut txn, "some words"),
            8 => _ = txn.get_or_insert_array("list").push_back(&mut txn, name),
            _ => _ = txn.get_or_insert_map("syncline:registers").insert(&mut txn, name, "no register's state"),
        }
        let update = Bytes::from(txn.encode_update_v1());
        drop(txn);
        self.unsent[at].push(update);
    }

    /// One writer receives everything that another has.
    fn sync_writers(&mut self) {
        let (from, to) =
            (self.random.random_range(0..self.writers.len()), self.random.random_range(0..self.writers.len()));
        if from != to {
            let known = self.writers[to].transact().state_vector();
            let update = Bytes::from(self.writers[from].transact().encode_diff_v1(&known));
            self.receive(to, update);
        }
    }

    fn receive(&mut self, to: usize, update: Bytes) {
        self.writers[to].transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
        self.unsent[to].push(update);
    }

    /// The hub receives some unsent updates of a writer: one by one, merged, or as a whole state.
    fn send(&mut self) {
        let at = self.random.random_range(0..self.writers.len());
        let count = self.unsent[at].len();
        if count == 0 {
            return;
        }
        let from = self.random.random_range(0..count);
        let to = self.random.random_range(from..count) + 1;
        let updates: Vec<Bytes> = self.unsent[at].drain(from..to).collect();
        match self.random.random_range(0..3) {
            0 => updates.into_iter().for_each(|update| self.take(update)),
            1 => self.take(yrs::merge_updates_v1(&updates).unwrap().into()),
            _ => {
                let state = self.writers[at].transact().encode_state_as_update_v1(&StateVector::default());
                self.take(state.into());
            }
        }
    }

    fn take(&mut self, update: Bytes) {
        self.hub.take(&update).unwrap();
        self.hub.take_released();
        self.tree.take(&update, &syncline_replica::PendingLimits::default()).unwrap();
        self.log.push(update);
        self.compare();
    }

    /// The hub writes a register; a writer may receive the update.
    fn write(&mut self) {
        let (state, name) = (self.state(), NAMES[self.random.random_range(0..NAMES.len())]);
        let update = self.hub.write_register(name, &state);
        assert_eq!(self.hub.read_register(name), Some(state), "the hub reads its own write");
        self.tree.take(&update, &syncline_replica::PendingLimits::default()).unwrap();
        self.log.push(update.clone());
        self.compare();
        if self.random.random_bool(0.7) {
            let to = self.random.random_range(0..self.writers.len());
            self.receive(to, update);
        }
    }

    /// The hub restarts, possibly without the latest updates.
    fn restart(&mut self) {
        let kept = self.log.len() - self.random.random_range(0..=self.log.len().min(4));
        self.log.truncate(kept);
        let client = self.random.random_range(1..1 << 40);
        self.hub = HubDocument::load(client, &self.log).unwrap();
        self.tree = Replica::load(self.log.iter().cloned()).unwrap();
        if self.random.random_bool(0.5) {
            self.hub.compact();
            let stored: Vec<Bytes> = std::iter::once(self.hub.encode()).chain(self.hub.pending().cloned()).collect();
            self.hub = HubDocument::load(client, &stored).unwrap();
        }
        self.compare();
    }

    fn compare(&mut self) {
        for name in NAMES {
            let read = self.hub.read_register(name);
            self.compared += usize::from(read.is_some());
            assert_eq!(read, self.tree.read_register(name).unwrap(), "{name}, after {} updates", self.log.len());
        }
    }
}

#[test]
fn hub_and_tree_read_the_same_registers() {
    let seed: u64 = std::env::var("SYNCLINE_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("SYNCLINE_SEED={seed}");
    let mut compared = 0;
    for plan in 0..PLANS {
        let mut world = World::new(seed.wrapping_add(u64::from(plan)));
        for _ in 0..STEPS {
            match world.random.random_range(0..16) {
                0..6 => world.edit(),
                6 | 7 => world.sync_writers(),
                8..12 => world.send(),
                12 | 13 => world.write(),
                14 => _ = world.hub.compact(),
                _ => world.restart(),
            }
        }
        compared += world.compared;
    }
    println!("{PLANS} plans, {compared} comparisons");
    assert!(compared > 5_000, "{compared} comparisons");
}
