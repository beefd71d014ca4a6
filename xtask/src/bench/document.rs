//! docs/BENCHMARKS.md: its table is that of a run, put there by `--document`.

use std::fs;

use anyhow::{Context as _, Result};

use crate::checkout;

const FILE: &str = "docs/BENCHMARKS.md";
const BEGIN: &str = "<!-- begin: written by `cargo xtask bench --document` -->\n";
const END: &str = "<!-- end -->\n";

/// Puts a run's machine and table in the place of the last one's.
pub(crate) fn update(machine: &serde_json::Value, table: &str) -> Result<()> {
    let file = checkout::file(FILE);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {FILE}"))?;
    let run = format!("{}\n\n{table}", describe(machine));
    let text = replaced(&text, &run).with_context(|| format!("{FILE} has no place for a run"))?;
    fs::write(&file, text).with_context(|| format!("cannot write {FILE}"))?;
    eprintln!("    {FILE} has this run");
    Ok(())
}

fn describe(machine: &serde_json::Value) -> String {
    let text = |name: &str| machine[name].as_str().unwrap_or("unknown");
    let load = machine["load"].as_str().unwrap_or("unknown");
    format!(
        "{}, Linux {}, {}, {} CPUs ({}); load average at the start: {load}.",
        text("slashtrace"),
        text("kernel"),
        text("arch"),
        machine["cpus"],
        text("cpu"),
    )
}

fn replaced(text: &str, run: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{run}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_the_place_of_the_last_one() {
        let text = format!("a\n{BEGIN}\nold\n{END}z\n");
        let once = replaced(&text, "new\n").expect("it has a place");
        assert_eq!(once, format!("a\n{BEGIN}\nnew\n\n{END}z\n"));
        assert_eq!(replaced(&once, "new\n"), Some(once), "the same again changes nothing");
        assert_eq!(replaced("no place", "new"), None);
    }

    #[test]
    fn the_document_has_a_place_for_a_run() {
        let text = fs::read_to_string(checkout::file(FILE)).expect("it is in the checkout");
        assert!(replaced(&text, "").is_some());
    }
}
