//! The table of a benchmark as markdown: medians, ratios, targets; and its insertion into a document. Pure.

use anyhow::{Context, Result};

use super::measures::{Goal, Measure, TableRow};
use crate::load::report::number;

/// A document holds the table between these markers.
const BEGIN: &str = "<!-- bench: written by `syncline-sim bench --write` -->";
const END: &str = "<!-- /bench -->";

/// The values of one row, one for each round.
#[derive(Debug, Default, Clone)]
pub(super) struct Rounds {
    /// Values of Syncline.
    pub server: Vec<f64>,
    /// Values of the floor.
    pub floor: Vec<f64>,
}

/// The benchmark table.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Scenario, Syncline's median and the markdown of each row.
    lines: Vec<(&'static str, f64, String)>,
}

/// The median; for an even count the mean of the two middle values.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

impl Table {
    /// Adds the rows of a scenario, in the order of [`Measure::rows`].
    pub(super) fn add(&mut self, measure: &Measure, rounds: &[Rounds]) {
        for (row, rounds) in measure.rows.iter().zip(rounds) {
            self.add_row(measure.scenario, row, rounds);
        }
    }

    fn add_row(&mut self, scenario: &'static str, row: &TableRow, rounds: &Rounds) {
        let floor = median(&rounds.floor);
        let Some(server) = median(&rounds.server) else {
            self.lines.push((scenario, f64::NAN, format!("| {} | failed | - | - | - | **no** |", row.name)));
            return;
        };
        let shown = |value: Option<f64>| value.map_or("-".into(), number);
        let (target, reached) = match row.target {
            Goal::AtLeast(0.0) => ("-".into(), None),
            Goal::AtLeast(least) => (format!("at least {}", number(least)), Some(server >= least)),
            Goal::AtMost(most) => (format!("at most {}", number(most)), Some(server <= most)),
            Goal::OfFloor(times) => {
                (format!("at most {times} x the floor"), floor.map(|floor| server <= times * floor))
            }
            Goal::OfScenario(times, other) => {
                let other_value = self.lines.iter().find(|line| line.0 == other).map(|line| line.1);
                (format!("at most {times} x `{other}`"), other_value.map(|value| server <= times * value))
            }
        };
        let reached = match reached {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        let ratio = floor.filter(|&floor| floor > 0.0).map(|floor| server / floor);
        self.lines.push((
            scenario,
            server,
            format!(
                "| {} | {} | {} | {} | {target} | {reached} |",
                row.name,
                number(server),
                shown(floor),
                shown(ratio)
            ),
        ));
    }

    /// Renders the table as markdown.
    pub(super) fn markdown(&self) -> String {
        let mut out =
            String::from("| measure | Syncline | floor | ratio | target | reached |\n|---|---|---|---|---|---|\n");
        for (_, _, line) in &self.lines {
            out.push_str(line);
            out.push('\n');
        }
        out
    }
}

/// Returns the document with the table between its markers replaced.
pub(super) fn replace_table(document: &str, table: &str) -> Result<String> {
    let missing = || format!("the document has no place for the table; add the two lines {BEGIN:?} and {END:?}");
    let (before, rest) = document.split_once(BEGIN).with_context(missing)?;
    let (_, after) = rest.split_once(END).with_context(missing)?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", table.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::super::measures::{MEASURES, Stage};
    use super::*;

    #[test]
    fn median_is_middle_value_or_mean_of_two() {
        assert_eq!((median(&[]), median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0])), (None, Some(2.0), Some(2.5)));
    }

    #[test]
    fn targets_compare_with_constants_the_floor_and_other_rows() {
        let row = |target| TableRow { name: "x", pointer: "", scale: 1.0, target };
        let rounds = Rounds { server: vec![3.0, 9.0, 4.0], floor: vec![2.0] };
        let mut table = Table::default();
        for target in [Goal::AtMost(4.0), Goal::AtLeast(4.5), Goal::OfFloor(1.9), Goal::OfScenario(1.0, "before")] {
            table.add_row("before", &row(target), &rounds);
        }
        table.add_row("failed", &row(Goal::AtMost(1.0)), &Rounds::default());
        let lines: Vec<&str> = table.lines.iter().map(|line| line.2.as_str()).collect();
        assert_eq!(
            lines,
            [
                "| x | 4.00 | 2.00 | 2.00 | at most 4.00 | yes |",
                "| x | 4.00 | 2.00 | 2.00 | at least 4.50 | **no** |",
                "| x | 4.00 | 2.00 | 2.00 | at most 1.9 x the floor | **no** |",
                "| x | 4.00 | 2.00 | 2.00 | at most 1 x `before` | yes |",
                "| x | failed | - | - | - | **no** |",
            ]
        );
        assert!(MEASURES.iter().any(|measure| measure.stage == Stage::Both));
    }

    #[test]
    fn replace_table_changes_only_text_between_markers() {
        let document = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replace_table(&document, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replace_table("nothing", "new").is_err());
    }
}
