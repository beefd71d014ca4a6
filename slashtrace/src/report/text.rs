//! The report for a terminal.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    digest::{Level, Report, Says},
    facts,
    table::Table,
    words::{BOLD, BOLD_RED, DIM, GREEN, YELLOW, paint},
};

/// Writes the verdict, the table, and what else is to be known.
///
/// # Errors
/// Those of `out`.
pub fn render(
    report: &Report,
    table: &Table,
    zone: &TimeZone,
    out: &mut dyn Write,
    color: bool,
) -> io::Result<()> {
    verdict(report, out, color)?;
    writeln!(out)?;
    for (name, value) in facts::of(report, zone) {
        writeln!(out, "{} {value}", paint(&format!("{name:<10}"), DIM, color))?;
    }
    writeln!(out)?;
    table.render(out, color)?;
    writeln!(out)?;
    if let Some(growth) = facts::growth(&report.memory) {
        writeln!(out, "{growth}")?;
    }
    let known = report.findings.iter().flat_map(|case| &case.known);
    let mut seen = Vec::new();
    for known in known {
        if !seen.contains(&known) {
            seen.push(known);
        }
    }
    for known in seen {
        let fixed = known.fixed_in.as_ref();
        let fixed = fixed.map(|version| format!("; not seen any more in {version}"));
        let fixed = fixed.unwrap_or_default();
        writeln!(out, "looks like {}: {}{fixed}", known.url, known.title)?;
    }
    if !report.hypotheses.is_empty() {
        writeln!(out, "\n{}", paint("Which code path", BOLD, color))?;
    }
    for judged in &report.hypotheses {
        let (says, colour) = match judged.says {
            Says::Supports => ("supported", BOLD_RED),
            Says::Refutes => ("refuted", GREEN),
            Says::Mixed => ("sometimes", YELLOW),
            Says::Nothing => ("not seen", DIM),
        };
        let says = paint(&format!("{says:<9}"), colour, color);
        writeln!(out, "  {says}  {} ({})", judged.claim, judged.because)?;
        for place in &judged.places {
            writeln!(out, "             look at {place}")?;
        }
    }
    if !report.not_seen.is_empty() {
        writeln!(out, "\n{}", paint("What was not seen", BOLD, color))?;
        for text in &report.not_seen {
            writeln!(out, "  {text}")?;
        }
    }
    Ok(())
}

/// The verdict alone.
///
/// # Errors
/// Those of `out`.
pub fn verdict(report: &Report, out: &mut dyn Write, color: bool) -> io::Result<()> {
    let colour = match report.verdict.level {
        Level::Leak => BOLD_RED,
        Level::Cost => YELLOW,
        Level::Healthy => GREEN,
        Level::Nothing => BOLD,
    };
    writeln!(out, "{}", paint(&report.verdict.headline, colour, color))?;
    writeln!(out, "{}", report.verdict.detail)
}
