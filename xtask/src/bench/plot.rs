//! Cost over size as an SVG: one line a series, both axes logarithmic, so that a cost that does not
//! grow is flat.

use std::fmt::Write as _;

use super::table::number;

/// A line of the plot.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What the legend calls it.
    pub(crate) name: String,
    /// Size, and cost there; both above 0.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 300.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 8] =
    ["#1b6ca8", "#c0392b", "#27864b", "#8e44ad", "#b7791f", "#16838c", "#d1477a", "#555555"];

/// The plot; `sizes` names the x axis, `costs` the y axis.
pub(crate) fn svg(title: &str, sizes: &str, costs: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|line| &line.points);
    let (x_low, x_high) = decades(points().map(|p| p.0));
    let (y_low, y_high) = decades(points().map(|p| p.1));
    let x = |v: f64| LEFT + (v.log10() - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT);
    let y =
        |v: f64| HEIGHT - BOTTOM - (v.log10() - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for value in powers(x_low, x_high) {
        let (at, label) = (x(value), number(value));
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {TOP}V{floor}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            floor + 18.0
        );
    }
    for value in powers(y_low, y_high) {
        let (at, label) = (y(value), number(value));
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"{LEFT}\" y=\"{:.1}\">{}</text>",
        HEIGHT - 10.0,
        escape(sizes),
        TOP - 5.0,
        escape(costs)
    );
    for (n, line) in series.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let dashes = if n < COLOURS.len() { "" } else { " stroke-dasharray=\"5 3\"" };
        let at: Vec<(f64, f64)> = line.points.iter().map(|&(a, b)| (x(a), y(b))).collect();
        let path: Vec<String> = at.iter().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
            path.join(" ")
        );
        for (a, b) in at {
            let _ =
                writeln!(out, "<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let row = TOP + 10.0 + 18.0 * n as f64;
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\
             <text x=\"{:.1}\" y=\"{row:.1}\">{}</text>",
            right + 14.0,
            row - 4.0,
            right + 38.0,
            escape(&line.name)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// The powers of ten around values, as exponents; a decade where there is none.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v.log10().floor()), high.max(v.log10().ceil()))
    });
    if low.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) }
}

fn powers(low: f64, high: f64) -> impl Iterator<Item = f64> {
    (low as i32..=high as i32).map(|exponent| 10f64.powi(exponent))
}

/// Text within an SVG.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_does_not_grow_is_flat_and_one_that_does_rises() {
        let flat = Series { name: "a < b".to_owned(), points: vec![(2e3, 50.0), (2e5, 50.0)] };
        let steep = Series { name: "c".to_owned(), points: vec![(2e3, 50.0), (2e5, 900.0)] };
        let plot = svg("cost", "records", "instructions", &[flat, steep]);
        let lines: Vec<Vec<f64>> = plot
            .lines()
            .filter_map(|line| line.strip_prefix("<polyline points=\"")?.split('"').next())
            .map(|points| points.split([',', ' ']).map(|n| n.parse().expect("a number")).collect())
            .collect();
        let [flat, steep] = &lines[..] else { panic!("{} lines", lines.len()) };
        assert!((flat[1] - flat[3]).abs() < 1e-9, "{flat:?}");
        assert!(steep[3] < steep[1] - 50.0, "up is a lower y: {steep:?}");
        assert!(plot.contains("a &lt; b") && plot.ends_with("</svg>\n"));
        assert!(plot.contains(">1,000<") && plot.contains(">1,000,000<"), "{plot}");
    }

    #[test]
    fn without_a_point_there_are_still_axes() {
        assert!(svg("t", "x", "y", &[]).contains("</svg>"));
        assert_eq!(decades([5.0].into_iter()), (0.0, 1.0));
    }
}
