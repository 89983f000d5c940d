//! A scenario as written: TOML, `scenarios/*.toml`. Also what `soak` makes up, so that a plan that failed can be shown.

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::network::faults::Faults;
use crate::oracle::Kind;

/// Most devices in a scenario: each has a store, a port and a task.
const MAX_DEVICES: u32 = 64;

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// What it is about, in a sentence.
    pub about: String,
    /// Devices with our client. They have the numbers from 0.
    pub devices: u32,
    /// Actors with an npm client; numbered after the devices.
    #[serde(default)]
    pub nodes: u32,
    /// Documents, each open on every device.
    #[serde(default = "one")]
    pub documents: u32,
    /// Devices whose clocks are wrong.
    #[serde(default)]
    pub clock: Vec<ClockSkew>,
    /// What happens.
    pub phase: Vec<Phase>,
}

fn one() -> u32 {
    1
}

/// A wrong clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClockSkew {
    /// Whose.
    pub device: u32,
    /// How wrong: "365d", "-90m".
    pub skew: Span,
}

/// A part of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Phase {
    /// For the timeline.
    pub name: String,
    /// How often, one after the other.
    #[serde(default = "one")]
    pub repeat: u32,
    /// One after the other.
    pub step: Vec<Step>,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Step {
    /// Devices edit, all at once, each one edit after the other.
    Edit {
        /// Who.
        who: Who,
        /// How many edits each.
        times: Count,
        /// Which, at random.
        #[serde(default = "edits")]
        kinds: Vec<Kind>,
        /// Real milliseconds between two edits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        every_ms: Option<Count>,
        /// All of them must fail.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        must_fail: bool,
    },
    /// Devices leave the server on purpose.
    Offline {
        /// Who.
        who: Who,
    },
    /// Devices come back.
    Online {
        /// Who.
        who: Who,
    },
    /// Virtual time passes, everywhere.
    Pass {
        /// How much.
        time: Span,
    },
    /// The app ends without a word: what is in memory is gone.
    Kill {
        /// Who.
        who: Who,
    },
    /// A process of its own edits on the device's store, offline, and is killed with signal 9.
    KillProcess {
        /// Who.
        who: Who,
        /// How many accepted edits it is killed after.
        after: Count,
    },
    /// The app is started again.
    Open {
        /// Who.
        who: Who,
    },
    /// The server process is killed with signal 9, once the network has carried this many more bytes.
    KillServer {
        /// How many bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_bytes: Option<Count>,
    },
    /// The server process is started again, on another port.
    StartServer,
    /// Devices' storage is full.
    Full {
        /// Who.
        who: Who,
    },
    /// There is space again.
    Freed {
        /// Who.
        who: Who,
    },
    /// Other network faults, instead of those there were.
    Network(Network),
    /// Nothing passes, and nobody is told.
    Partition {
        /// Who.
        who: Who,
    },
    /// What waited in a partition goes on.
    Heal {
        /// Who.
        who: Who,
    },
    /// Connections are reset.
    Cut {
        /// Who.
        who: Who,
    },
    /// Waits until every device that can has everything, and all is saved.
    Synced,
}

fn edits() -> Vec<Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Proposal).collect()
}

/// Network faults as written. What is absent is not wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// Whose network.
    pub who: Who,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuse: bool,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub captive: bool,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stall_up: bool,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stall_down: bool,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<Count>,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_after_bytes: Option<Count>,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_after_ms: Option<Count>,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_after_bytes: Option<Count>,
    /// See [`Faults`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_answer_percent: u8,
}

fn is_zero(percent: &u8) -> bool {
    *percent == 0
}

impl Network {
    /// A network without faults.
    pub fn good(who: Who) -> Self {
        Self {
            who,
            refuse: false,
            captive: false,
            stall_up: false,
            stall_down: false,
            delay_ms: None,
            bytes_per_s: None,
            cut_after_bytes: None,
            cut_after_ms: None,
            silent_after_bytes: None,
            lost_answer_percent: 0,
        }
    }

    /// For a link.
    pub fn faults(&self) -> Faults {
        let span = |count: &Option<Count>| count.as_ref().map(|count| count.0..=count.1);
        Faults {
            refuse: self.refuse,
            captive: self.captive,
            stall_up: self.stall_up,
            stall_down: self.stall_down,
            delay_ms: span(&self.delay_ms),
            bytes_per_s: self.bytes_per_s,
            cut_after_bytes: span(&self.cut_after_bytes),
            cut_after_ms: span(&self.cut_after_ms),
            silent_after_bytes: span(&self.silent_after_bytes),
            lost_answer_percent: self.lost_answer_percent,
        }
    }
}

/// Which devices: "all", "some" (at least one, at random), "one" (at random), or their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Who {
    /// By a word.
    Word(Word),
    /// By number.
    These(Vec<u32>),
}

/// A word for devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Everybody.
    All,
    /// Each with one chance in two; at least one.
    Some,
    /// One.
    One,
}

impl Who {
    /// Their numbers.
    pub fn draw(&self, everybody: u32, rng: &mut impl Rng) -> Vec<u32> {
        let all: Vec<u32> = (0..everybody).collect();
        let one = |rng: &mut _| all.choose(rng).copied().into_iter().collect();
        match self {
            Who::These(these) => these.clone(),
            Who::Word(Word::All) => all,
            Who::Word(Word::One) => one(rng),
            Who::Word(Word::Some) => {
                let some: Vec<u32> = all.iter().copied().filter(|_| rng.random_bool(0.5)).collect();
                if some.is_empty() { one(rng) } else { some }
            }
        }
    }
}

/// A number, or one at random between two: `5` or `[2, 8]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "CountAs", into = "CountAs")]
pub struct Count(pub u64, pub u64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum CountAs {
    Exactly(u64),
    Between([u64; 2]),
}

impl From<CountAs> for Count {
    fn from(count: CountAs) -> Self {
        match count {
            CountAs::Exactly(count) => Self(count, count),
            CountAs::Between([from, to]) => Self(from, to.max(from)),
        }
    }
}

impl From<Count> for CountAs {
    fn from(count: Count) -> Self {
        if count.0 == count.1 { Self::Exactly(count.0) } else { Self::Between([count.0, count.1]) }
    }
}

impl Count {
    /// The number.
    pub fn draw(self, rng: &mut StdRng) -> u64 {
        rng.random_range(self.0..=self.1)
    }
}

/// A span of time that may be negative: a number and one of ms, s, m, h, d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// In milliseconds.
    pub ms: i64,
}

const UNITS: [(&str, i64); 5] = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = UNITS.iter().find_map(|(unit, ms)| {
            let number: i64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            number.checked_mul(*ms)
        });
        parsed.map(|ms| Self { ms }).ok_or(format!("{text:?} is no span of time such as \"30d\", \"-1h\" or \"250ms\""))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let whole = [1, 2, 3, 4, 0].into_iter().map(|at| UNITS[at]).find(|(_, ms)| span.ms % ms == 0);
        let (unit, ms) = whole.unwrap_or(UNITS[0]);
        format!("{}{unit}", span.ms / ms)
    }
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text).context("this is no scenario")?;
        scenario.check()?;
        Ok(scenario)
    }

    /// As it would be written.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Devices and nodes.
    pub fn everybody(&self) -> u32 {
        self.devices + self.nodes
    }

    fn check(&self) -> Result<()> {
        ensure!(self.everybody() > 0, "a scenario needs at least one device");
        ensure!(self.everybody() <= MAX_DEVICES, "at most {MAX_DEVICES} devices");
        ensure!(self.documents > 0, "a scenario needs at least one document");
        let here = |device: u32| ensure_device(device, self.everybody());
        for skew in &self.clock {
            here(skew.device)?;
        }
        for step in self.phase.iter().flat_map(|phase| &phase.step) {
            if let Some(Who::These(these)) = step.who() {
                these.iter().try_for_each(|device| here(*device))?;
            }
            if let Step::Edit { kinds, .. } = step {
                ensure!(!kinds.is_empty(), "an edit without kinds");
            }
        }
        Ok(())
    }
}

fn ensure_device(device: u32, everybody: u32) -> Result<()> {
    ensure!(device < everybody, "there is no device {device}: they are numbered from 0 to {}", everybody - 1);
    Ok(())
}

impl Step {
    fn who(&self) -> Option<&Who> {
        match self {
            Step::Edit { who, .. }
            | Step::Offline { who }
            | Step::Online { who }
            | Step::Kill { who }
            | Step::KillProcess { who, .. }
            | Step::Open { who }
            | Step::Full { who }
            | Step::Freed { who }
            | Step::Partition { who }
            | Step::Heal { who }
            | Step::Cut { who } => Some(who),
            Step::Network(network) => Some(&network.who),
            Step::Pass { .. } | Step::KillServer { .. } | Step::StartServer | Step::Synced => None,
        }
    }
}

#[cfg(test)]
mod tests;
