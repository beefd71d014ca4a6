//! The figures over time as an SVG: a panel each, what came before the end of the warm-up in grey, the
//! trend behind it as a dashed line.

use std::fmt::Write as _;

use super::figures::{Judged, Verdict, signed};
use crate::bench::{plot::escape, table::number};

const COLUMNS: usize = 2;
const PANEL: (f64, f64) = (440.0, 150.0);
const LEFT: f64 = 62.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 22.0;
const TITLE: f64 = 36.0;

/// The plot; `warm_up` in seconds.
pub(crate) fn svg(title: &str, figures: &[Judged], warm_up: f64) -> String {
    let rows = figures.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL.0 * COLUMNS as f64 + 12.0, TITLE + PANEL.1 * rows as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    // One scale of time for all panels.
    let ends = figures.iter().filter_map(|figure| Some(figure.series.points.last()?.0));
    let last = ends.fold(1.0, f64::max);
    for (n, figure) in figures.iter().enumerate() {
        let (x, y) = ((n % COLUMNS) as f64 * PANEL.0, TITLE + (n / COLUMNS) as f64 * PANEL.1);
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">");
        panel(&mut out, figure, warm_up, last);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, figure: &Judged, warm_up: f64, last: f64) {
    let points = &figure.series.points;
    // Zero is not shown: what matters is whether it changes.
    let (low, high) = points
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p.1), high.max(p.1)));
    let (low, high) = if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) };
    let (right, floor) = (PANEL.0 - 8.0, PANEL.1 - BOTTOM);
    let x = |at: f64| LEFT + at / last * (right - LEFT);
    let y = |value: f64| floor - (value - low) / (high - low) * (floor - TOP);
    let (colour, about) = match &figure.trend {
        Some(trend) => (
            if figure.verdict == Verdict::Beyond { "#c0392b" } else { "#1b6ca8" },
            format!("{} an hour: {}", signed(trend.per_hour), figure.verdict.words()),
        ),
        None => ("#1b6ca8", figure.verdict.words().to_owned()),
    };
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#eee\"/>\
         <path d=\"M{LEFT} {TOP}V{floor}H{right}\" fill=\"none\" stroke=\"#999\"/>\
         <text x=\"{LEFT}\" y=\"16\" font-weight=\"bold\">{}</text>\
         <text x=\"{LEFT}\" y=\"29\" fill=\"{colour}\">{}</text>",
        x(warm_up.min(last)) - LEFT,
        floor - TOP,
        escape(&figure.series.name),
        escape(&about)
    );
    for value in [low, high] {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 5.0,
            y(value) + 4.0,
            number(value)
        );
    }
    for minutes in ticks(last / 60.0) {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{minutes} min</text>",
            x(minutes * 60.0),
            floor + 15.0
        );
    }
    let path: Vec<String> =
        points.iter().map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\"/>",
        path.join(" ")
    );
    if let Some(trend) = &figure.trend {
        let middle = f64::midpoint(warm_up, last);
        let at =
            |t: f64| y((trend.level + trend.per_hour * (t - middle) / 3_600.0).clamp(low, high));
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"black\" stroke-dasharray=\"5 3\"/>",
            x(warm_up),
            at(warm_up),
            x(last),
            at(last)
        );
    }
}

/// Some four round numbers of minutes.
fn ticks(minutes: f64) -> impl Iterator<Item = f64> {
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0];
    let step = step.into_iter().find(|step| minutes / step <= 5.0).unwrap_or(240.0);
    (1..=(minutes / step) as u32).map(move |n| f64::from(n) * step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::{figures::judge, sample::Sample};

    #[test]
    fn each_figure_has_a_panel_and_what_grows_rises() {
        let sample = |n: u32| Sample {
            at: f64::from(n) * 5.0,
            rss_kib: 9_000.0 + f64::from(n) * 20.0,
            threads: 3.0,
            ..Sample::default()
        };
        let samples: Vec<Sample> = (0..200).map(sample).collect();
        let figures = judge(&samples, 300.0, 60.0);
        let plot = svg("soak <1>", &figures, 300.0);
        assert_eq!(plot.matches("<g ").count(), figures.len());
        assert!(plot.contains("soak &lt;1&gt;") && plot.ends_with("</svg>\n"));
        assert!(plot.contains("an hour: GROWS") && plot.contains("0 an hour: no trend"), "{plot}");
        assert!(plot.contains(">5 min<") && plot.contains(">9,000<"));
        let heights = |line: &str| -> Vec<f64> {
            let points = line.split('"').nth(1).expect("points");
            points
                .split(' ')
                .map(|p| p.split_once(',').expect("x,y").1.parse().expect("y"))
                .collect()
        };
        let lines: Vec<_> = plot
            .lines()
            .filter(|line| line.starts_with("<polyline points=\"6"))
            .map(heights)
            .collect();
        assert!(lines[0][0] > lines[0][199], "up is a lower y");
        assert!((lines[3][0] - lines[3][199]).abs() < 1e-9, "flat");
    }

    #[test]
    fn nothing_is_still_a_plot() {
        assert!(svg("t", &judge(&[], 0.0, 60.0), 0.0).contains("too short to say"));
        assert_eq!(ticks(60.0).collect::<Vec<_>>(), [15.0, 30.0, 45.0, 60.0]);
        assert_eq!(ticks(0.2).count(), 0);
    }
}
