//! The TOML format of scenarios (`scenarios/*.toml`). `soak` writes its random plans in it, to print those that fail.

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::faults::network::faults::Faults;
use crate::faults::oracle::EditKind;

/// Largest number of devices in a scenario: each has a store, a port and a task.
const MAX_DEVICES: u32 = 64;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Scenario {
    /// Summary in one sentence, printed at the start of a run.
    pub about: String,
    /// Number of devices with Syncline's client, numbered from 0.
    pub devices: u32,
    /// Number of npm clients, numbered after the devices.
    #[serde(default)]
    pub nodes: u32,
    /// Number of documents, each open on every device.
    #[serde(default = "one")]
    pub documents: u32,
    /// Devices whose clocks are wrong.
    #[serde(default)]
    pub clock: Vec<ClockSkew>,
    /// The phases, executed in order.
    pub phase: Vec<Phase>,
}

fn one() -> u32 {
    1
}

/// A device's wrong clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ClockSkew {
    /// Number of the device.
    pub device: u32,
    /// Offset from the true time, such as "365d" or "-90m".
    pub skew: Span,
}

/// A named part of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Phase {
    /// Heading in the timeline.
    pub name: String,
    /// Number of times that the steps are executed.
    #[serde(default = "one")]
    pub repeat: u32,
    /// The steps, executed in order.
    pub step: Vec<Step>,
}

/// One step. Each is executed for the selected devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", deny_unknown_fields, rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub(crate) enum Step {
    /// Devices edit in parallel; each makes its edits one after the other.
    Edit {
        /// Devices that edit.
        who: DeviceSelector,
        /// Number of edits of each device.
        times: Count,
        /// Kinds of edits, chosen at random.
        #[serde(default = "edits")]
        kinds: Vec<EditKind>,
        /// Real milliseconds between two edits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        every_ms: Option<Count>,
        /// Every edit must fail.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        must_fail: bool,
    },
    /// Devices go offline deliberately.
    Offline {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// Devices go online again.
    Online {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// Virtual time passes for all devices.
    Pass {
        /// Amount of time.
        time: Span,
    },
    /// The app ends without closing: its memory is lost.
    Kill {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// A separate process edits on the device's store, offline, and is killed with signal 9.
    KillProcess {
        /// Devices concerned.
        who: DeviceSelector,
        /// Number of accepted edits after which the process is killed.
        after: Count,
    },
    /// The app is started again.
    Open {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// The server process is killed with signal 9, once the network has carried this many more bytes.
    KillServer {
        /// Number of bytes to wait for; none kills the server immediately.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_bytes: Option<Count>,
    },
    /// The server process is started again, on another port.
    StartServer,
    /// The devices' storage becomes full.
    Full {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// The devices' storage has space again.
    Freed {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// Replaces the network faults of the devices.
    Network(NetworkFaults),
    /// The network carries nothing, without closing connections.
    Partition {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// The network carries data again; data held back by the partition is delivered.
    Heal {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// Connections are reset.
    Cut {
        /// Devices concerned.
        who: DeviceSelector,
    },
    /// Waits until all online devices are saved and equal.
    Synced,
}

fn edits() -> Vec<EditKind> {
    EditKind::ALL.into_iter().filter(|kind| *kind != EditKind::Proposal).collect()
}

/// Network faults in TOML form. An absent key means that the fault is off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NetworkFaults {
    /// Devices whose network it is.
    pub who: DeviceSelector,
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

impl NetworkFaults {
    /// A network without faults.
    pub(crate) fn good(who: DeviceSelector) -> Self {
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

    /// The faults in the form that a network link takes.
    pub(crate) fn faults(&self) -> Faults {
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

/// A selection of devices: "all", "some" (at least one, at random), "one" (at random), or a list of numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum DeviceSelector {
    /// Selected by keyword.
    Keyword(Keyword),
    /// Selected by number.
    Numbers(Vec<u32>),
}

/// A keyword that selects devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Keyword {
    /// All devices.
    All,
    /// Each device with a probability of one half; at least one device.
    Some,
    /// One device.
    One,
}

impl DeviceSelector {
    /// Returns the numbers of the selected devices, of `count` devices in all.
    pub(crate) fn draw(&self, count: u32, rng: &mut impl Rng) -> Vec<u32> {
        let all: Vec<u32> = (0..count).collect();
        let one = |rng: &mut _| all.choose(rng).copied().into_iter().collect();
        match self {
            DeviceSelector::Numbers(numbers) => numbers.clone(),
            DeviceSelector::Keyword(Keyword::All) => all,
            DeviceSelector::Keyword(Keyword::One) => one(rng),
            DeviceSelector::Keyword(Keyword::Some) => {
                let some: Vec<u32> = all.iter().copied().filter(|_| rng.random_bool(0.5)).collect();
                if some.is_empty() { one(rng) } else { some }
            }
        }
    }
}

/// A number, or a range (both ends included) from which a number is drawn: `5` or `[2, 8]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "CountAs", into = "CountAs")]
pub(crate) struct Count(pub u64, pub u64);

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
    /// Draws the number.
    pub(crate) fn draw(self, rng: &mut StdRng) -> u64 {
        rng.random_range(self.0..=self.1)
    }
}

/// A duration that may be negative: a number followed by ms, s, m, h or d.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// Milliseconds.
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
        parsed.map(|ms| Self { ms }).ok_or(format!("{text:?} is not a duration such as \"30d\", \"-1h\" or \"250ms\""))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let exact = [1, 2, 3, 4, 0].into_iter().map(|at| UNITS[at]).find(|(_, ms)| span.ms % ms == 0);
        let (unit, ms) = exact.unwrap_or(UNITS[0]);
        format!("{}{unit}", span.ms / ms)
    }
}

impl Scenario {
    /// Parses and validates a scenario.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text).context("not a valid scenario file")?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Writes the scenario as TOML.
    pub(crate) fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Number of devices and npm clients together.
    pub(crate) fn replica_count(&self) -> u32 {
        self.devices + self.nodes
    }

    fn check(&self) -> Result<()> {
        ensure!(self.replica_count() > 0, "a scenario needs at least one device");
        ensure!(self.replica_count() <= MAX_DEVICES, "at most {MAX_DEVICES} devices");
        ensure!(self.documents > 0, "a scenario needs at least one document");
        let check_number = |device: u32| ensure_device(device, self.replica_count());
        for skew in &self.clock {
            check_number(skew.device)?;
        }
        for step in self.phase.iter().flat_map(|phase| &phase.step) {
            if let Some(DeviceSelector::Numbers(numbers)) = step.who() {
                numbers.iter().try_for_each(|device| check_number(*device))?;
            }
            if let Step::Edit { kinds, .. } = step {
                ensure!(!kinds.is_empty(), "the step `edit` has an empty list of kinds");
            }
        }
        Ok(())
    }
}

fn ensure_device(device: u32, count: u32) -> Result<()> {
    ensure!(device < count, "no device {device}: devices are numbered from 0 to {}", count - 1);
    Ok(())
}

impl Step {
    fn who(&self) -> Option<&DeviceSelector> {
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
