//! The table of the bug report: one row a gateway and session, what is live, spawned and gone,
//! and the verdict; below it each finding that is still open.

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use super::{
    columns::{Cell, Column, Columns},
    digest::{Report, Session, StillOpen, Total},
    facts,
    style::{BOLD, BOLD_YELLOW, GREEN, PLAIN, YELLOW, paint, style_of},
    words::{age, count},
};

#[cfg(test)]
mod tests;

const COLUMNS: [Column; 9] = [
    Column::left("GATEWAY").breaks(7),
    Column::left("SESSION").breaks(7),
    Column::right("LIVE"),
    Column::right("SPAWNED"),
    Column::right("EXITED"),
    Column::right("OLDEST"),
    Column::right("RSS MiB"),
    Column::right("CALLS"),
    // Wide enough for the longest word there: `leftover-children`.
    Column::left("VERDICT").breaks(17),
];
/// A narrower terminal breaks the lines itself.
const NARROWEST: u16 = 76;
/// On a narrower terminal the columns stand closer.
const ROOMY: u16 = 110;
const UNKNOWN: &str = "–";

/// Columns of the terminal that a descriptor is open on; none if it is no terminal.
pub fn terminal_width(fd: impl AsFd) -> Option<u16> {
    rustix::termios::tcgetwinsize(fd).ok().map(|size| size.ws_col).filter(|&columns| columns > 0)
}

/// Writes the table, and the sentence of each finding that is still open, for a terminal of this
/// width in columns; none for as wide as it needs to be.
///
/// # Errors
/// Those of `out`.
pub fn render(report: &Report, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    if report.sessions.is_empty() {
        writeln!(out, "No worker was seen.")?;
    } else {
        rows(report, width, out)?;
    }
    let recording = &report.recording;
    // One that was cut off has no reason: what it saw is told by the other formats.
    let incomplete = recording.reason.is_some() && !recording.complete;
    if recording.lost > 0 || incomplete {
        let lost = match recording.lost {
            0 => "Not everything was seen".to_owned(),
            1 => "1 event was not seen".to_owned(),
            lost => format!("{lost} events were not seen"),
        };
        let text = format!("{lost}: workers may be missing from this table.");
        writeln!(out, "{}", paint(&text, BOLD_YELLOW))?;
    }
    if report.open.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint("Open findings", BOLD))?;
    for open in &report.open {
        for sentence in &open.first {
            let name = format!("{} ({})", open.kind, sentence.confidence);
            let name = paint(&name, style_of(sentence.confidence));
            writeln!(out, "  {name}: {}", sentence.text)?;
        }
        let more = open.findings - open.first.len() as u64;
        if more > 0 {
            writeln!(out, "  … and {more} more {}", open.kind)?;
        }
    }
    Ok(())
}

fn rows(report: &Report, width: Option<u16>, out: &mut dyn Write) -> io::Result<()> {
    let counted = report.recording.calls_counted;
    let mut table = Columns::new(COLUMNS);
    for session in &report.sessions {
        let [live, spawned, exited, oldest, rss, calls] = Numbers::of(session).cells(counted);
        let name = session.session.as_deref().unwrap_or("unknown").into();
        let gateway = gateway(session).into();
        table.row([gateway, name, live, spawned, exited, oldest, rss, calls, verdict(session)]);
    }
    let findings = match report.open.iter().map(|open: &StillOpen| open.findings).sum() {
        0 => "no open finding".to_owned(),
        open => count(open, "open finding"),
    };
    let [live, spawned, exited, oldest, rss, calls] = Numbers::sum(&report.total).cells(counted);
    let sessions = count(report.total.sessions, "row").into();
    let total = "total".into();
    table.row([total, sessions, live, spawned, exited, oldest, rss, calls, findings.into()]);
    let gap = if width.is_some_and(|width| width < ROOMY) { 1 } else { 2 };
    table.write(gap, width.map(|width| width.max(NARROWEST).into()), out)?;
    legend(report, out)
}

/// The numbers of a row, or of all.
struct Numbers {
    live: u64,
    spawned: u64,
    inherited: u64,
    exited: u64,
    oldest_ms: Option<u64>,
    rss_kib: u64,
    sampled: u64,
    calls: u64,
    calls_exact: bool,
}

impl Numbers {
    fn of(session: &Session) -> Self {
        Self {
            live: session.live,
            spawned: session.spawned,
            inherited: session.inherited,
            exited: session.exited,
            oldest_ms: session.oldest_age_ms,
            rss_kib: session.rss_kib,
            sampled: session.sampled,
            calls: session.calls,
            calls_exact: session.calls_exact,
        }
    }

    fn sum(total: &Total) -> Self {
        Self {
            live: total.live,
            spawned: total.spawned,
            inherited: total.inherited,
            exited: total.exited,
            oldest_ms: total.oldest_age_ms,
            rss_kib: total.rss_kib,
            sampled: total.sampled,
            calls: total.calls,
            calls_exact: total.calls_exact,
        }
    }

    fn cells(&self, counted: bool) -> [Cell; 6] {
        let spawned = match self.inherited {
            0 => self.spawned.to_string(),
            before => format!("{} ({before}*)", self.spawned),
        };
        let mib = self.rss_kib.saturating_add(512) / 1024;
        let rss = match self.sampled {
            0 => UNKNOWN.to_owned(),
            all if all == self.live => mib.to_string(),
            _ => format!("≥ {mib}"),
        };
        let calls = match (self.calls, self.calls_exact) {
            (sum, true) if counted => sum.to_string(),
            (sum @ 1.., false) if counted => format!("≥ {sum}"),
            _ => UNKNOWN.to_owned(),
        };
        let oldest = self.oldest_ms.map(|ms| age(ms.saturating_mul(1_000_000)));
        [
            self.live.to_string(),
            spawned,
            self.exited.to_string(),
            oldest.unwrap_or_else(|| UNKNOWN.to_owned()),
            rss,
            calls,
        ]
        .map(Cell::from)
    }
}

fn gateway(session: &Session) -> String {
    let Some(gateway) = &session.gateway else { return "unknown".to_owned() };
    let presumed = if gateway.presumed { "?" } else { "" };
    let gone = if gateway.gone { ", gone" } else { "" };
    format!("{} {}{presumed}{gone}", gateway.id.pid, gateway.comm)
}

fn verdict(session: &Session) -> Cell {
    let mut cell = Cell::default();
    for (at, open) in session.open.iter().enumerate() {
        let before = if at == 0 { "" } else { ", " };
        cell.push(&format!("{before}{} ", open.kind), PLAIN);
        cell.push(&format!("({})", open.confidence), style_of(open.confidence));
        if open.findings > 1 {
            cell.push(&format!(" ×{}", open.findings), PLAIN);
        }
    }
    for (at, kind) in session.was.iter().enumerate() {
        let before = if at == 0 && session.open.is_empty() { "" } else { ", " };
        cell.push(&format!("{before}was {kind}"), PLAIN);
    }
    let nothing = session.open.is_empty() && session.was.is_empty();
    match facts::unjudged(session, nothing) {
        Some(unjudged) if nothing => cell.push(&unjudged, YELLOW),
        Some(unjudged) => cell.push(&format!(", {unjudged}"), YELLOW),
        None if nothing => cell.push("healthy", GREEN),
        None => {}
    }
    cell
}

fn legend(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut notes = Vec::new();
    if report.total.inherited > 0 {
        notes.push("*: there before the recording, who forked it was not seen");
    }
    let mut gateways = report.sessions.iter().filter_map(|session| session.gateway.as_ref());
    if gateways.any(|gateway| gateway.presumed) {
        notes.push("?: the parent now, perhaps not the one that forked");
    }
    if notes.is_empty() { Ok(()) } else { writeln!(out, "({})", notes.join("; ")) }
}
