//! How the table looks.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};

use super::{Calls, Key, Row, Table, Worker};
use crate::{
    model::Confidence,
    report::words::{BOLD, BOLD_YELLOW, GREEN, age, colour_of, count, paint, plain},
};

const COLUMNS: [&str; 9] =
    ["GATEWAY", "SESSION", "LIVE", "SPAWNED", "EXITED", "OLDEST", "RSS MiB", "CALLS", "VERDICT"];
/// Columns of numbers: to the right, never broken into lines.
const NUMBERS: std::ops::Range<usize> = 2..8;
/// A narrower terminal breaks the lines itself.
const NARROWEST: u16 = 76;
/// On a narrower terminal the columns stand closer.
const ROOMY: u16 = 110;
/// Sentences of findings of one kind that are shown.
const SHOWN_OF_KIND: usize = 10;
const UNKNOWN: &str = "–";
const HEALTHY: &str = "healthy";

/// One line's worth of numbers; the total is the sum of the rows'.
#[derive(Debug, Default)]
struct Numbers {
    live: u64,
    spawned: u64,
    inherited: u64,
    oldest: Option<u64>,
    rss_kib: u64,
    /// Live workers whose memory was sampled.
    sampled: u64,
    calls: Calls,
}

impl Numbers {
    fn of(row: &Row, now: u64) -> Self {
        let live = || row.live.values().filter(|worker| !worker.left);
        let mut calls = row.calls;
        row.live.values().map(Worker::calls).for_each(|more| calls.add(more));
        Self {
            live: live().count() as u64,
            spawned: row.spawned,
            inherited: row.inherited,
            oldest: live().map(|worker| now.saturating_sub(worker.start_ns)).max(),
            rss_kib: live().filter_map(|worker| worker.rss_kib).sum(),
            sampled: live().filter(|worker| worker.rss_kib.is_some()).count() as u64,
            calls,
        }
    }

    fn add(&mut self, other: &Self) {
        self.live += other.live;
        self.spawned += other.spawned;
        self.inherited += other.inherited;
        self.oldest = self.oldest.max(other.oldest);
        self.rss_kib += other.rss_kib;
        self.sampled += other.sampled;
        self.calls.add(other.calls);
    }

    /// The cells of the columns [`NUMBERS`].
    fn cells(&self, counted: bool) -> [String; 6] {
        let spawned = match self.inherited {
            0 => self.spawned.to_string(),
            before => format!("{} ({before}*)", self.spawned),
        };
        let mib = (self.rss_kib + 512) / 1024;
        let rss = match self.sampled {
            0 => UNKNOWN.to_owned(),
            all if all == self.live => mib.to_string(),
            _ => format!("≥ {mib}"),
        };
        let calls = match self.calls {
            Calls { sum, exact: true } if counted => sum.to_string(),
            Calls { sum: 1.., exact: false } if counted => format!("≥ {}", self.calls.sum),
            Calls { .. } => UNKNOWN.to_owned(),
        };
        [
            self.live.to_string(),
            spawned,
            (self.spawned - self.live).to_string(),
            self.oldest.map_or_else(|| UNKNOWN.to_owned(), age),
            rss,
            calls,
        ]
    }
}

pub(super) fn render(table: &Table, out: &mut dyn Write, color: bool) -> io::Result<()> {
    if table.rows.is_empty() {
        writeln!(out, "No worker was seen.")?;
    } else {
        rows(table, out, color)?;
    }
    if table.lost > 0 || table.incomplete {
        let lost = match table.lost {
            0 => "Not everything was seen".to_owned(),
            1 => "1 event was not seen".to_owned(),
            lost => format!("{lost} events were not seen"),
        };
        let text = format!("{lost}: workers may be missing from this table.");
        writeln!(out, "{}", paint(&text, BOLD_YELLOW, color))?;
    }
    if table.open.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint("Open findings", BOLD, color))?;
    let mut open: Vec<_> = table.open.values().map(|open| &open.finding).collect();
    open.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    let mut of_kind = 0;
    for (at, finding) in open.iter().enumerate() {
        of_kind = if at > 0 && open[at - 1].kind == finding.kind { of_kind + 1 } else { 1 };
        if of_kind > SHOWN_OF_KIND {
            let last = open.get(at + 1).is_none_or(|next| next.kind != finding.kind);
            if last {
                writeln!(out, "  … and {} more {}", of_kind - SHOWN_OF_KIND, finding.kind)?;
            }
            continue;
        }
        let name = format!("{} ({})", finding.kind, finding.confidence);
        let name = paint(&name, colour_of(finding.confidence), color);
        writeln!(out, "  {name}: {}", plain(&finding.text))?;
    }
    Ok(())
}

fn rows(table: &Table, out: &mut dyn Write, color: bool) -> io::Result<()> {
    let mut text = comfy_table::Table::new();
    text.load_style(presets::NOTHING).set_header(COLUMNS);
    let mut total = Numbers::default();
    let mut keys: Vec<(&Key, &Row)> = table.rows.iter().collect();
    keys.sort_by_key(|(key, _)| (key.gateway.is_none(), key.gateway, key.session.is_none()));
    for &(key, row) in &keys {
        let numbers = Numbers::of(row, table.now);
        total.add(&numbers);
        let session = key.session.as_deref().unwrap_or("unknown");
        let first = [gateway(table, key), plain(session).into_owned()];
        let cells = first.into_iter().chain(numbers.cells(table.calls_counted));
        text.add_row(cells.chain([verdict(table, key, row)]).collect::<Vec<_>>());
    }
    let findings = match table.open.len() {
        0 => "no open finding".to_owned(),
        open => count(open as u64, "open finding"),
    };
    let first = ["total".to_owned(), count(keys.len() as u64, "row")];
    let cells = first.into_iter().chain(total.cells(table.calls_counted));
    text.add_row(cells.chain([findings]).collect::<Vec<_>>());
    arrange(&mut text, table.width);
    print(&text, out, color)?;
    legend(table, &total, out)
}

fn arrange(text: &mut comfy_table::Table, width: Option<u16>) {
    if let Some(width) = width {
        text.set_width(width.max(NARROWEST)).set_content_arrangement(ContentArrangement::Dynamic);
    }
    let last = COLUMNS.len() - 1;
    let gap = if width.is_some_and(|width| width < ROOMY) { 1 } else { 2 };
    for (index, column) in text.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { gap }));
        if NUMBERS.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::ContentWidth);
        } else if width.is_some() {
            // Wide enough for the longest word there: `leftover-children`.
            let least = if index == last { 17 } else { 7 };
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least)));
        }
    }
}

/// The table does not know of colours: they are put into its finished lines, so that they have no
/// width.
fn print(text: &comfy_table::Table, out: &mut dyn Write, color: bool) -> io::Result<()> {
    let mut verdicts = None;
    for line in text.lines() {
        let line = line.trim_end();
        let Some(start) = verdicts else {
            verdicts = line.find(COLUMNS[COLUMNS.len() - 1]);
            writeln!(out, "{}", paint(line, BOLD, color))?;
            continue;
        };
        let at = line.char_indices().nth(start).map_or(line.len(), |(at, _)| at);
        let (numbers, verdict) = line.split_at(at);
        writeln!(out, "{numbers}{}", coloured(verdict, color))?;
    }
    Ok(())
}

fn coloured(verdict: &str, color: bool) -> String {
    let mut text = verdict.replace(HEALTHY, &paint(HEALTHY, GREEN, color));
    for confidence in [Confidence::Proven, Confidence::Strong, Confidence::Weak] {
        let word = format!("({confidence})");
        text = text.replace(&word, &paint(&word, colour_of(confidence), color));
    }
    text
}

fn gateway(table: &Table, key: &Key) -> String {
    let Some((id, known)) =
        key.gateway.and_then(|id| table.gateways.get(&id).map(|known| (id, known)))
    else {
        return "unknown".to_owned();
    };
    let presumed = if known.presumed { "?" } else { "" };
    let gone = if known.gone { ", gone" } else { "" };
    format!("{} {}{presumed}{gone}", id.pid, plain(&known.comm))
}

fn verdict(table: &Table, key: &Key, row: &Row) -> String {
    let open = table.open_in(key);
    let mut words: Vec<String> = open
        .iter()
        .map(|(kind, (confidence, count))| match count {
            1 => format!("{kind} ({confidence})"),
            _ => format!("{kind} ({confidence}) ×{count}"),
        })
        .collect();
    let was = row.was.iter().filter(|kind| !open.contains_key(kind));
    words.extend(was.map(|kind| format!("was {kind}")));
    if words.is_empty() { HEALTHY.to_owned() } else { words.join(", ") }
}

fn legend(table: &Table, total: &Numbers, out: &mut dyn Write) -> io::Result<()> {
    let mut notes = Vec::new();
    if total.inherited > 0 {
        notes.push("*: there before the recording, who forked it was not seen");
    }
    if table.gateways.values().any(|gateway| gateway.presumed) {
        notes.push("?: the parent now, perhaps not the one that forked");
    }
    if notes.is_empty() { Ok(()) } else { writeln!(out, "({})", notes.join("; ")) }
}
