//! A scenario made up from a seed: small, and of everything that can happen.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::format::{ClockSkew, Count, Network, Phase, Scenario, Span, Step, Who, Word};
use crate::oracle::Kind;

/// Not the numbers that the run itself draws.
const SALT: u64 = 0x5ce0_a210;
const MS_PER_HOUR: i64 = 3_600_000;

/// A scenario for a seed. `private`: it has its own server, which it may kill.
pub fn generate(seed: u64, private: bool) -> Scenario {
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
            (Who::Word(Word::All), i64::from(devices))
        } else {
            (Who::These(vec![rng.random_range(0..devices)]), 1)
        };
        let times = rng.random_range(1..=6);
        edits -= times * how_many;
        step.push(edit(&mut rng, who, times.unsigned_abs()));
        for _ in 0..rng.random_range(0..=3) {
            happen(&mut rng, devices, private, &mut step);
        }
    }
    Scenario {
        about: format!("made up from seed {seed}"),
        devices,
        nodes: 0,
        documents: if rng.random_bool(0.2) { 2 } else { 1 },
        clock,
        phase: vec![Phase { name: "anything".into(), repeat: 1, step }],
    }
}

fn edit(rng: &mut StdRng, who: Who, times: u64) -> Step {
    let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|_| rng.random_bool(0.6)).collect();
    if kinds.is_empty() {
        kinds.push(Kind::Insert);
    }
    let every_ms = rng.random_bool(0.2).then_some(Count(0, 3));
    Step::Edit { who, times: Count(times, times), kinds, every_ms, must_fail: false }
}

fn happen(rng: &mut StdRng, devices: u32, private: bool, step: &mut Vec<Step>) {
    let who = Who::These(vec![rng.random_range(0..devices)]);
    match rng.random_range(0..100) {
        0..18 => step.push(Step::Offline { who }),
        18..36 => step.push(Step::Online { who }),
        36..42 => step.push(Step::Pass { time: Span { ms: rng.random_range(1..=200) * MS_PER_HOUR } }),
        42..52 => {
            // Its next edits are after it is opened again, or it comes back at the end.
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
            step.push(edit(rng, Who::Word(Word::Some), 2));
            step.push(Step::StartServer);
        }
        88..90 => step.extend([Step::KillProcess { who: who.clone(), after: Count(0, 8) }, Step::Open { who }]),
        90..93 => {
            step.push(Step::Full { who: who.clone() });
            step.push(edit(rng, who.clone(), 1));
            step.push(Step::Freed { who });
        }
        _ => step.push(Step::Network(Network::good(who))),
    }
}

fn network(rng: &mut StdRng, who: Who) -> Network {
    let mut network = Network::good(who);
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
    fn a_seed_makes_one_story_which_can_be_written_down_and_read_again() {
        for seed in 0..200 {
            let scenario = generate(seed, seed % 2 == 0);
            assert_eq!(scenario, generate(seed, seed % 2 == 0));
            let written = scenario.to_toml().unwrap();
            assert_eq!(Scenario::parse(&written).unwrap(), scenario, "{written}");
        }
        assert_ne!(generate(1, true).phase, generate(2, true).phase);
    }

    #[test]
    fn a_story_for_a_shared_server_does_not_kill_it() {
        for seed in 0..500 {
            let kills = |step: &Step| matches!(step, Step::KillServer { .. });
            assert!(!generate(seed, false).phase[0].step.iter().any(kills));
        }
    }
}
