//! The report for a terminal.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    columns::{Column, Columns},
    digest::{Level, Report, Says},
    facts,
    style::{BOLD, BOLD_RED, DIM, GREEN, YELLOW, paint},
    table,
    words::mib,
};

/// Writes the verdict, the table (for a terminal of this width in columns; none for as wide as it
/// needs to be), and what else is to be known.
///
/// # Errors
/// Those of `out`.
pub fn render(
    report: &Report,
    width: Option<u16>,
    zone: &TimeZone,
    out: &mut dyn Write,
) -> io::Result<()> {
    verdict(report, out)?;
    writeln!(out)?;
    for (name, value) in facts::of(report, zone) {
        writeln!(out, "{} {value}", paint(&format!("{name:<10}"), DIM))?;
    }
    writeln!(out)?;
    stale(report, zone, out)?;
    table::render(report, width, out)?;
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
        writeln!(out, "\n{}", paint("Which code path", BOLD))?;
    }
    for judged in &report.hypotheses {
        let (says, colour) = match judged.says {
            Says::Supports => ("supported", BOLD_RED),
            Says::Refutes => ("refuted", GREEN),
            Says::Mixed => ("sometimes", YELLOW),
            Says::Nothing => ("not seen", DIM),
        };
        let says = paint(&format!("{says:<9}"), colour);
        writeln!(out, "  {says}  {} ({})", judged.claim, judged.because)?;
        for place in &judged.places {
            writeln!(out, "             look at {place}")?;
        }
    }
    if !report.not_seen.is_empty() {
        writeln!(out, "\n{}", paint("What was not seen", BOLD))?;
        for text in &report.not_seen {
            writeln!(out, "  {text}")?;
        }
    }
    Ok(())
}

/// The table of the bug report: sessions by how many of their workers nobody uses.
fn stale(report: &Report, zone: &TimeZone, out: &mut dyn Write) -> io::Result<()> {
    let mut stale: Vec<_> =
        report.sessions.iter().filter(|session| session.most_stale > 0).collect();
    if stale.is_empty() {
        return Ok(());
    }
    stale.sort_by_key(|session| std::cmp::Reverse(session.most_stale));
    let mut table = Columns::new([
        Column::left("SESSION"),
        Column::right("UNUSED").least(7),
        Column::right("STILL SO").least(9),
        Column::left("OLDEST"),
    ]);
    for session in stale {
        table.row([
            session.session.as_deref().unwrap_or("unknown").into(),
            session.most_stale.to_string().into(),
            session.stale.to_string().into(),
            session.oldest_stale.map(|time| facts::time(time, zone)).unwrap_or_default().into(),
        ]);
    }
    let total = report.total;
    let each = mib(total.most_stale_rss_kib / total.most_stale.max(1));
    table.row([
        "total".into(),
        total.most_stale.to_string().into(),
        total.stale.to_string().into(),
        format!("holding {} ({each} each)", mib(total.most_stale_rss_kib)).into(),
    ]);
    table.write(2, None, out)?;
    writeln!(out)
}

/// The verdict alone.
///
/// # Errors
/// Those of `out`.
pub fn verdict(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let colour = match report.verdict.level {
        Level::Leak => BOLD_RED,
        Level::Cost | Level::NotJudged => YELLOW,
        Level::Healthy => GREEN,
        Level::Nothing => BOLD,
    };
    writeln!(out, "{}", paint(&report.verdict.headline, colour))?;
    writeln!(out, "{}", report.verdict.detail)
}
