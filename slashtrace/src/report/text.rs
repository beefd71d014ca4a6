//! The report for a terminal.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    digest::{Level, Report, Says},
    facts,
    table::Table,
    words::{BOLD, BOLD_RED, DIM, GREEN, YELLOW, mib, paint},
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
    stale(report, zone, out, color)?;
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

/// The table of the bug report: sessions by how many of their workers nobody uses.
fn stale(report: &Report, zone: &TimeZone, out: &mut dyn Write, color: bool) -> io::Result<()> {
    let mut stale: Vec<_> =
        report.sessions.iter().filter(|session| session.most_stale > 0).collect();
    if stale.is_empty() {
        return Ok(());
    }
    stale.sort_by_key(|session| std::cmp::Reverse(session.most_stale));
    let keys = stale.iter().map(|session| session.session.as_deref().unwrap_or("unknown"));
    let width = keys.map(|key| key.chars().count()).max().unwrap_or(0).max(7);
    let head = format!("{:<width$}  {:>7}  {:>9}  OLDEST", "SESSION", "UNUSED", "STILL SO");
    writeln!(out, "{}", paint(&head, BOLD, color))?;
    for session in stale {
        writeln!(
            out,
            "{:<width$}  {:>7}  {:>9}  {}",
            session.session.as_deref().unwrap_or("unknown"),
            session.most_stale,
            session.stale,
            session.oldest_stale.map(|time| facts::time(time, zone)).unwrap_or_default(),
        )?;
    }
    let total = report.total;
    writeln!(
        out,
        "{:<width$}  {:>7}  {:>9}  holding {} ({} each)\n",
        "total",
        total.most_stale,
        total.stale,
        mib(total.most_stale_rss_kib),
        mib(total.most_stale_rss_kib / total.most_stale.max(1)),
    )
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
