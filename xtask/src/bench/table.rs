//! What was measured, as rows: text for a terminal, Markdown for docs/BENCHMARKS.md, JSON for
//! programs, and back from JSON, to put an earlier run beside this one.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Samples of one figure, one per round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figure(pub(crate) Vec<f64>);

impl Figure {
    /// A figure that was measured once.
    pub(crate) fn one(value: f64) -> Self {
        Self(vec![value])
    }

    /// The middle one, or the mean of the two in the middle; 0 without samples.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
        }
    }

    /// Median, and lowest and highest where there is more than one sample.
    fn show(&self) -> String {
        let low = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self.0.len() {
            0 => "-".to_owned(),
            1 => number(self.0[0]),
            _ => format!("{} ({}-{})", number(self.median()), number(low), number(high)),
        }
    }
}

/// What a row must come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// The median, at most.
    AtMost(f64),
    /// The ratio, at most.
    RatioAtMost(f64),
    /// None: the figure is for people.
    None,
}

/// Counts repeat on any machine and come first; times depend on it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Sort {
    /// A count: events, instructions, bytes, wake-ups, ns by the kernel's own count.
    Count,
    /// A time or a size that others on the machine change.
    Time,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What was measured, with its unit.
    pub(crate) what: String,
    /// Count or time.
    pub(crate) sort: Sort,
    /// Slashtrace's figure.
    pub(crate) ours: Figure,
    /// The peers' figures, by their names.
    pub(crate) peers: BTreeMap<String, Figure>,
    /// Slashtrace's figure by another one, which `what` names; else by the lowest peer's.
    pub(crate) ratio: Option<f64>,
    /// What it must come to.
    pub(crate) target: Target,
}

impl Row {
    /// A row without peers and target.
    pub(crate) fn new(sort: Sort, what: impl Into<String>, ours: Figure) -> Self {
        let (peers, ratio) = (BTreeMap::new(), None);
        Self { what: what.into(), sort, ours, peers, ratio, target: Target::None }
    }

    /// The same with a target.
    pub(crate) fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// The same with a peer's figure.
    pub(crate) fn peer(mut self, name: &str, figure: Figure) -> Self {
        self.peers.insert(name.to_owned(), figure);
        self
    }

    /// The same with a ratio to something that is no peer.
    pub(crate) fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio);
        self
    }

    fn shown_ratio(&self) -> Option<f64> {
        let lowest = self.peers.values().map(Figure::median).min_by(f64::total_cmp);
        self.ratio.or_else(|| Some(self.ours.median() / lowest.filter(|&peer| peer > 0.0)?))
    }

    /// Whether the target is met; without one there is nothing to meet.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtMost(most) => Some(!self.ours.0.is_empty() && self.ours.median() <= most),
            Target::RatioAtMost(most) => Some(self.shown_ratio().is_some_and(|r| r <= most)),
            Target::None => None,
        }
    }
}

/// A number with as many places as say something.
pub(crate) fn number(value: f64) -> String {
    let places = match value.abs() {
        v if v >= 100.0 || v.fract() <= f64::EPSILON => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.places$}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut grouped = String::new();
    for (n, digit) in whole.chars().enumerate() {
        let left = whole.len() - n;
        if n > 0 && left.is_multiple_of(3) && whole.as_bytes()[n - 1] != b'-' {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

/// Heads and cells; the columns of peers are those that any row has.
fn cells(rows: &[Row], before: &BTreeMap<String, f64>) -> Vec<Vec<String>> {
    let mut names: Vec<&String> = rows.iter().flat_map(|row| row.peers.keys()).collect();
    names.sort();
    names.dedup();
    let mut head = vec!["what".to_owned(), "slashtrace".to_owned()];
    if !before.is_empty() {
        head.push("before".to_owned());
    }
    head.extend(names.iter().map(|&name| name.clone()));
    head.extend(["ratio", "target", "met"].map(str::to_owned));
    let mut table = vec![head];
    for row in rows {
        let mut line = vec![row.what.clone(), row.ours.show()];
        if !before.is_empty() {
            line.push(before.get(&row.what).map_or("-".to_owned(), |&value| number(value)));
        }
        line.extend(names.iter().map(|&n| row.peers.get(n).map_or("-".to_owned(), Figure::show)));
        line.push(row.shown_ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
        line.push(match row.target {
            Target::AtMost(0.0) => "0".to_owned(),
            Target::AtMost(most) => format!("≤ {}", number(most)),
            Target::RatioAtMost(most) => format!("ratio ≤ {}", number(most)),
            Target::None => "-".to_owned(),
        });
        line.push(row.met().map_or("-", |met| if met { "yes" } else { "NO" }).to_owned());
        table.push(line);
    }
    table
}

/// Aligned columns: the first to the left, figures to the right.
pub(crate) fn text(rows: &[Row], before: &BTreeMap<String, f64>) -> String {
    let table = cells(rows, before);
    let width = |column: usize| table.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..table[0].len()).map(|c| width(c).unwrap_or(0)).collect();
    let mut out = String::new();
    for line in &table {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    }
    out
}

/// The same as a Markdown table.
pub(crate) fn markdown(rows: &[Row], before: &BTreeMap<String, f64>) -> String {
    let mut out = String::new();
    for (n, line) in cells(rows, before).iter().enumerate() {
        let _ = writeln!(out, "| {} |", line.join(" | "));
        if n == 0 {
            let _ = writeln!(out, "| --- |{}", " ---: |".repeat(line.len() - 1));
        }
    }
    out
}

/// Every sample of every row.
pub(crate) fn json(machine: &Value, rows: &[Row]) -> Value {
    let figure = |f: &Figure| json!({"median": f.median(), "samples": f.0});
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let peers: serde_json::Map<String, Value> =
                row.peers.iter().map(|(name, f)| (name.clone(), figure(f))).collect();
            let (at_most, ratio_at_most) = match row.target {
                Target::AtMost(most) => (Some(most), None),
                Target::RatioAtMost(most) => (None, Some(most)),
                Target::None => (None, None),
            };
            json!({
                "what": row.what,
                "kind": if row.sort == Sort::Count { "count" } else { "time" },
                "slashtrace": figure(&row.ours),
                "peers": peers,
                "ratio": row.shown_ratio(),
                "at_most": at_most,
                "ratio_at_most": ratio_at_most,
                "met": row.met(),
            })
        })
        .collect();
    json!({"machine": machine, "rows": rows})
}

/// Medians by row, of a run that [`json()`] wrote.
pub(crate) fn medians(text: &str) -> Result<BTreeMap<String, f64>> {
    let run: Value = serde_json::from_str(text).context("not JSON")?;
    let rows = run["rows"].as_array().context("no `rows`: not written by `cargo xtask bench`")?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            Some((row["what"].as_str()?.to_owned(), row["slashtrace"]["median"].as_f64()?))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        vec![
            Row::new(Sort::Count, "lost events", Figure(vec![0.0, 0.0]))
                .target(Target::AtMost(0.0)),
            Row::new(Sort::Time, "CPU per life, µs", Figure(vec![90.0, 70.0, 80.0]))
                .peer("forkstat", Figure::one(40.0))
                .target(Target::RatioAtMost(1.5)),
            Row::new(Sort::Time, "lives per second", Figure::one(12_345.0)),
        ]
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert!((Figure(vec![4.0, 1.0, 3.0, 2.0]).median() - 2.5).abs() < 1e-9);
        assert!((Figure(vec![9.0, 1.0, 3.0]).median() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_have_the_places_that_say_something() {
        let shown = [0.0, 1.234, 12.34, 123.4, 1_234_567.8, -1234.0].map(number);
        assert_eq!(shown, ["0", "1.23", "12.3", "123", "1,234,568", "-1,234"]);
    }

    #[test]
    fn columns_are_aligned_and_say_what_is_not_met() {
        assert_eq!(
            text(&rows(), &BTreeMap::new()),
            "what              slashtrace  forkstat  ratio        target  met\n\
             lost events          0 (0-0)         -      -             0  yes\n\
             CPU per life, µs  80 (70-90)        40   2.00  ratio ≤ 1.50   NO\n\
             lives per second      12,345         -      -             -    -\n"
        );
    }

    #[test]
    fn an_earlier_run_is_a_column() {
        let before = medians(&json(&json!({}), &rows()[1..2]).to_string()).expect("our own JSON");
        let table = markdown(&rows(), &before);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "| what | slashtrace | before | forkstat | ratio | target | met |");
        assert_eq!(lines[1], "| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
        assert_eq!(
            lines[3],
            "| CPU per life, µs | 80 (70-90) | 80 | 40 | 2.00 | ratio ≤ 1.50 | NO |"
        );
        assert!(lines[2].contains("| 0 (0-0) | - |"), "{}", lines[2]);
        assert!(medians("{}").is_err());
    }

    #[test]
    fn json_has_every_sample_and_the_target() {
        let run = json(&json!({"cpus": 2}), &rows());
        assert_eq!(run["rows"][1]["slashtrace"]["samples"], json!([90.0, 70.0, 80.0]));
        assert_eq!(run["rows"][1]["ratio_at_most"], 1.5);
        assert_eq!(run["rows"][1]["met"], false);
        assert_eq!(run["rows"][2]["met"], Value::Null);
        assert_eq!(run["machine"]["cpus"], 2);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let row = Row::new(Sort::Time, "x", Figure::default()).target(Target::AtMost(1.0));
        assert_eq!(row.met(), Some(false));
    }
}
