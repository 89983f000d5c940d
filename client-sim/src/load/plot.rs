//! A chart of a run over time: throughput above, latency below. Plain SVG, written without a plotting library because it is
//! only polylines and axes. Pure.

use std::fmt::Write;

use super::measure::Point;
use super::report::{Report, number};

const WIDTH: f64 = 900.0;
const PANEL: f64 = 220.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 60.0;
const GAP: f64 = 60.0;
/// Number of grid lines in a panel.
const LINES: usize = 4;

/// One curve of a panel.
struct Series {
    name: &'static str,
    colour: &'static str,
    value: fn(&Point) -> f64,
}

/// Renders the series of a report as SVG.
pub(super) fn svg(report: &Report) -> String {
    let height = TOP + 2.0 * PANEL + 2.0 * GAP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = format!("{}: {}; {} ({})", report.scenario, report.about, report.url, report.dialect);
    text(&mut out, LEFT, 24.0, "start", &title);
    let throughput = Series { name: "deliveries/s", colour: "#1f6feb", value: |point| point.per_s };
    let median = Series { name: "latency p50, ms", colour: "#1a7f37", value: |point| point.p50_us as f64 / 1e3 };
    let worst = Series { name: "latency p99, ms", colour: "#cf222e", value: |point| point.p99_us as f64 / 1e3 };
    panel(&mut out, TOP, &report.course, &[throughput]);
    panel(&mut out, TOP + PANEL + GAP, &report.course, &[median, worst]);
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, top: f64, points_over_time: &[Point], series: &[Series]) {
    let end = points_over_time.last().map_or(1.0, |point| point.at_s).max(1e-3);
    let values = || points_over_time.iter().flat_map(|point| series.iter().map(|series| (series.value)(point)));
    let top_value = round_up(values().fold(0.0, f64::max));
    let x = |at_s: f64| LEFT + at_s / end * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| top + PANEL - value / top_value * PANEL;
    for line in 0..=LINES {
        let share = line as f64 / LINES as f64;
        let (across, down) = (y(top_value * share), x(end * share));
        line_of(out, (LEFT, across), (WIDTH - RIGHT, across), "#d0d7de");
        text(out, LEFT - 8.0, across + 4.0, "end", &number(top_value * share));
        text(out, down, top + PANEL + 18.0, "middle", &format!("{:.1} s", end * share));
    }
    for (at, series) in series.iter().enumerate() {
        let mut points = String::new();
        for point in points_over_time {
            // Writing into a String cannot fail.
            write!(points, "{:.1},{:.1} ", x(point.at_s), y((series.value)(point))).ok();
        }
        let Series { name, colour, .. } = series;
        out.push_str(&format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>\n",
            points.trim_end()
        ));
        let left = LEFT + 160.0 * at as f64;
        line_of(out, (left, top - 12.0), (left + 20.0, top - 12.0), colour);
        text(out, left + 26.0, top - 8.0, "start", name);
    }
}

fn line_of(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    out.push_str(&format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>\n"));
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    out.push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"));
}

/// Rounds up to one, two or five times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-6).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|&step| step >= value).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svg_draws_every_point_inside_its_panel() {
        let point = |at_s, per_s| Point { at_s, per_s, p50_us: 800, p99_us: 2_500 };
        let report = Report {
            scenario: "a<b".into(),
            course: vec![point(0.1, 900.0), point(0.2, 1_700.0)],
            ..Report::default()
        };
        let drawn = svg(&report);
        assert_eq!(drawn.matches("<polyline").count(), 3);
        assert!(drawn.contains("a&lt;b") && drawn.contains("2,000"), "{drawn}");
        // The second point: at the right end, 1,700 of 2,000.
        let y = TOP + PANEL - 0.85 * PANEL;
        assert!(drawn.contains(&format!("{:.1},{y:.1}\"", WIDTH - RIGHT)), "{drawn}");
    }

    #[test]
    fn axis_ends_at_a_round_number() {
        assert_eq!([0.0, 0.7, 2.1, 1_700.0, 2_000.0].map(round_up)[1..], [1.0, 5.0, 2_000.0, 2_000.0]);
    }
}
