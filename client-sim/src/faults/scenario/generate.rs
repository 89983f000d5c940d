//! Generates a small random scenario from a seed, with every kind of step.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::format::{ClockSkew, Count, DeviceSelector, Keyword, NetworkFaults, Phase, Scenario, Span, Step};
use crate::faults::oracle::EditKind;

/// Keeps the numbers drawn here apart from those that the run draws with the same seed.
const SALT: u64 = 0x5ce0_a210;
const MS_PER_HOUR: i64 = 3_600_000;

/// Generates the scenario of a seed. `private`: it has its own server, which it may kill.
pub(crate) fn generate(seed: u64, private: bool) -> Scenario {
    let mut rng = StdRng::seed_from_u64(seed ^ SALT);
    let devices = rng.random_range(2..=4);
    let clock = if rng.random_bool(0.3) {
        let ms = rng.random_range(-9000..=9000) * MS_PER_HOUR;
        vec![ClockSkew { device: rng.random_range(0..devices), skew: Span { ms } }]
    } else {
        Vec::new()
    };
    // Between 10 and 60 edits in all.
    let mut edits = rng.random_range(10..=60_i64);
    let mut step = Vec::new();
    while edits > 0 {
        let (who, how_many) = if rng.random_bool(0.5) {
            (DeviceSelector::Keyword(Keyword::All), i64::from(devices))
        } else {
            (DeviceSelector::Numbers(vec![rng.random_range(0..devices)]), 1)
        };
        let times = rng.random_range(1..=6);
        edits -= times * how_many;
        step.push(edit(&mut rng, who, times.unsigned_abs()));
        for _ in 0..rng.random_range(0..=3) {
            push_event(&mut rng, devices, private, &mut step);
        }
    }
    Scenario {
        about: format!("generated from seed {seed}"),
        devices,
        nodes: 0,
        documents: if rng.random_bool(0.2) { 2 } else { 1 },
        clock,
        phase: vec![Phase { name: "random steps".into(), repeat: 1, step }],
    }
}

fn edit(rng: &mut StdRng, who: DeviceSelector, times: u64) -> Step {
    let mut kinds: Vec<EditKind> = EditKind::ALL.into_iter().filter(|_| rng.random_bool(0.6)).collect();
    if kinds.is_empty() {
        kinds.push(EditKind::Insert);
    }
    let every_ms = rng.random_bool(0.2).then_some(Count(0, 3));
    Step::Edit { who, times: Count(times, times), kinds, every_ms, must_fail: false }
}

/// Pushes one random event other than an edit, with the steps that belong to it.
fn push_event(rng: &mut StdRng, devices: u32, private: bool, step: &mut Vec<Step>) {
    let who = DeviceSelector::Numbers(vec![rng.random_range(0..devices)]);
    match rng.random_range(0..100) {
        0..18 => step.push(Step::Offline { who }),
        18..36 => step.push(Step::Online { who }),
        36..42 => step.push(Step::Pass { time: Span { ms: rng.random_range(1..=200) * MS_PER_HOUR } }),
        42..52 => {
            // Without `open` the device edits nothing until the end of the scenario.
            step.push(Step::Kill { who: who.clone() });
            if rng.random_bool(0.8) {
                step.push(Step::Open { who });
            }
        }
        52..58 => step.push(Step::Cut { who }),
        58..62 => step.push(Step::Partition { who }),
        62..64 => step.push(Step::Heal { who }),
        64..85 => step.push(Step::Network(network(rng, who))),
        85..88 if private => {
            step.push(Step::KillServer { after_bytes: rng.random_bool(0.5).then_some(Count(1, 400)) });
            step.push(edit(rng, DeviceSelector::Keyword(Keyword::Some), 2));
            step.push(Step::StartServer);
        }
        88..90 => step.extend([Step::KillProcess { who: who.clone(), after: Count(0, 8) }, Step::Open { who }]),
        90..93 => {
            step.push(Step::Full { who: who.clone() });
            step.push(edit(rng, who.clone(), 1));
            step.push(Step::Freed { who });
        }
        _ => step.push(Step::Network(NetworkFaults::good(who))),
    }
}

fn network(rng: &mut StdRng, who: DeviceSelector) -> NetworkFaults {
    let mut network = NetworkFaults::good(who);
    match rng.random_range(0..9) {
        0 => network.refuse = true,
        1 => network.captive = true,
        2 => {
            (network.stall_up, network.stall_down) =
                *[(true, true), (true, false), (false, true)].choose(rng).unwrap_or(&(true, true))
        }
        3 => network.delay_ms = Some(Count(1, 15)),
        4 => network.bytes_per_s = Some(rng.random_range(20_000..200_000)),
        5 => network.cut_after_bytes = Some(Count(150, 2500)),
        6 => network.cut_after_ms = Some(Count(1, 60)),
        7 => network.silent_after_bytes = Some(Count(150, 1500)),
        _ => network.lost_answer_percent = rng.random_range(20..=90),
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_generates_one_scenario_that_round_trips_through_toml() {
        for seed in 0..200 {
            let scenario = generate(seed, seed % 2 == 0);
            assert_eq!(scenario, generate(seed, seed % 2 == 0));
            let written = scenario.to_toml().unwrap();
            assert_eq!(Scenario::parse(&written).unwrap(), scenario, "{written}");
        }
        assert_ne!(generate(1, true).phase, generate(2, true).phase);
    }

    #[test]
    fn scenario_for_shared_server_never_kills_it() {
        for seed in 0..500 {
            let kills = |step: &Step| matches!(step, Step::KillServer { .. });
            assert!(!generate(seed, false).phase[0].step.iter().any(kills));
        }
    }
}
