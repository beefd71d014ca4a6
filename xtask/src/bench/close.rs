//! From the close of a terminal to SIGTERM, against inotify and kill in C.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    Bench,
    table::{Figure, Row, Sort, Target},
};
use crate::{checkout, step};

/// It may take this many times as long as in C.
const RATIO: f64 = 2.0;

/// Alternating rounds of tests/benches/close_to_term.
pub(crate) fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let rounds = if bench.quick { "15" } else { "40" };
    eprintln!("    close to SIGTERM: {rounds} alternating rounds");
    let mut command = Command::new("python3");
    command.arg(checkout::file("tests/benches/close_to_term/bench.py"));
    let text = step::output(command.arg(&bench.program).args([rounds, "--json"]))?;
    Ok(vec![row(&serde_json::from_str(&text).context("bench.py printed no JSON")?)?])
}

fn row(times: &Value) -> Result<Row> {
    let figure = |name: &str| {
        let samples = times[name].as_array().with_context(|| format!("no `{name}`"))?;
        anyhow::Ok(Figure(samples.iter().filter_map(|ns| Some(ns.as_f64()? / 1e3)).collect()))
    };
    let what = "close of a terminal to SIGTERM, µs";
    Ok(Row::new(Sort::Time, what, figure("slashtrace")?)
        .peer("inotify + kill in C", figure("inotify + kill")?)
        .target(Target::RatioAtMost(RATIO)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let times = json!({"slashtrace": [500_000, 900_000, 400_000], "inotify + kill": [200_000, 200_000]});
        let row = row(&times).expect("both are there");
        assert!((row.ours.median() - 500.0).abs() < 1e-9);
        assert_eq!(row.met(), Some(false), "2.5 times");
        assert!(super::row(&json!({})).is_err());
    }
}
