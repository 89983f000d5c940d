//! Tests of the TOML format.

use rand::SeedableRng;

use super::*;

#[test]
fn every_bundled_scenario_round_trips_through_toml() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap() {
        let path = entry.unwrap().path();
        let scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap());
        let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
        assert_eq!(Scenario::parse(&scenario.to_toml().unwrap()).unwrap(), scenario);
        names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    assert!(names.len() >= 10, "{names:?}");
}

fn with_step(step: &str) -> Result<Scenario> {
    Scenario::parse(&format!("about = \"x\"\ndevices = 2\n[[phase]]\nname = \"p\"\nstep = [{step}]"))
}

#[test]
fn absent_keys_take_their_defaults() {
    let scenario = with_step("{ do = \"edit\", who = [1], times = [2, 5] }").unwrap();
    assert_eq!((scenario.nodes, scenario.documents, scenario.phase[0].repeat), (0, 1, 1));
    let Step::Edit { who, times, kinds, every_ms, must_fail } = &scenario.phase[0].step[0] else { panic!() };
    assert_eq!((who, *times, *every_ms, *must_fail), (&DeviceSelector::Numbers(vec![1]), Count(2, 5), None, false));
    assert!(kinds.contains(&EditKind::Insert) && !kinds.contains(&EditKind::Proposal));
}

#[test]
fn parse_error_names_the_mistake() {
    for (step, expected) in [
        ("{ do = \"dance\" }", "dance"),
        ("{ do = \"offline\", who = [2] }", "no device 2"),
        ("{ do = \"offline\", who = \"nobody\" }", "untagged enum DeviceSelector"),
        ("{ do = \"pass\", time = \"3 weeks\" }", "3 weeks"),
        ("{ do = \"edit\", who = \"all\", times = 1, kinds = [] }", "empty list of kinds"),
        ("{ do = \"network\", who = \"all\", dely-ms = 5 }", "dely-ms"),
    ] {
        let error = format!("{:#}", with_step(step).unwrap_err());
        assert!(error.contains(expected), "{step}: {error}");
    }
}

#[test]
fn span_round_trips_in_its_largest_exact_unit() {
    for (text, ms) in [("30d", 2_592_000_000), ("-1h", -3_600_000), ("5m", 300_000), ("7s", 7000), ("250ms", 250)] {
        let span = Span::try_from(text.to_owned()).unwrap();
        assert_eq!((span.ms, String::from(span)), (ms, text.to_owned()));
    }
    assert!(Span::try_from("99999999999999999d".to_owned()).is_err());
}

#[test]
fn keyword_some_selects_at_least_one_device() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..200 {
        let some = DeviceSelector::Keyword(Keyword::Some).draw(3, &mut rng);
        assert!(!some.is_empty() && some.len() <= 3 && some.is_sorted(), "{some:?}");
        assert_eq!(DeviceSelector::Keyword(Keyword::One).draw(3, &mut rng).len(), 1);
    }
    assert_eq!(DeviceSelector::Keyword(Keyword::All).draw(3, &mut rng), [0, 1, 2]);
}
