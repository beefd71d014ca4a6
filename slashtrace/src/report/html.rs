//! report.html: one file that draws a report, without a network. Everything but the timeline is in
//! it as HTML; the timeline is drawn by hand-sized JavaScript from the same data.
//!
//! Whatever is in a report may have been written by anybody: the template escapes it, the data is
//! JSON without a character that HTML obeys, and the script only ever makes text of it.

use std::io::Write;

use anyhow::{Context as _, Result};
use askama::Template;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{
    digest::{Case, Happening, Level, Life, Node, Report, Says, Session},
    facts,
    words::{age, count, mib},
};
use crate::model::Role;

/// Findings, and sessions, that are shown one by one.
const SHOWN_MAX: usize = 500;
/// Lines that the timeline draws.
const LINES_MAX: usize = 1_000;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    about: &'a str,
    css: &'static str,
    js: String,
    data: String,
    /// Class, sign and word: not by colour alone.
    level: (&'static str, &'static str, &'static str),
    held: String,
    growth: String,
    cases: Vec<Shown<'a>>,
    more_findings: usize,
    rows: Vec<Row>,
    more_sessions: usize,
    hypotheses: Vec<(&'static str, &'static str, &'a str, &'a str, &'a [String])>,
    tree: Vec<Branch<'a>>,
    facts: Vec<(&'static str, String)>,
}

struct Shown<'a> {
    kind: String,
    confidence: String,
    session: &'a str,
    when: String,
    text: &'a str,
    because: String,
    workers: String,
    known: Vec<(&'a str, u32, String)>,
}

struct Row {
    gateway: String,
    session: String,
    live: u64,
    stale: u64,
    most_stale: u64,
    oldest: String,
    spawned: u64,
    exited: u64,
    mib: u64,
    calls: String,
    findings: String,
}

struct Branch<'a> {
    indent: String,
    pid: u32,
    comm: &'a str,
    role: &'static str,
    session: &'a str,
    rss: String,
    argv: String,
}

/// What the script draws. A worker is a tuple, for size: see `model.js`.
#[derive(Serialize)]
struct Data<'a> {
    began_ms: i64,
    lasted_ms: u64,
    sessions: Vec<SessionData<'a>>,
    workers: Vec<WorkerData<'a>>,
    workers_omitted: u64,
    findings: Vec<FindingData<'a>>,
    events: Vec<EventData>,
    series: Vec<(u64, u64, u64, Option<u64>)>,
}

#[derive(Serialize)]
struct SessionData<'a> {
    session: &'a str,
    gateway: String,
    live: u64,
    stale: u64,
}

#[derive(Serialize)]
struct FindingData<'a> {
    kind: String,
    session: Option<&'a str>,
    workers: String,
    text: &'a str,
}

#[derive(Serialize)]
struct EventData {
    at: u64,
    kind: Happening,
    row: Option<usize>,
}

type WorkerData<'a> = (
    u32,
    usize,
    u64,
    Option<u64>,
    u8,
    &'a [u64],
    Option<u64>,
    Option<u32>,
    Vec<usize>,
    Option<&'a str>,
    Option<u64>,
);

/// Writes the report as one HTML file, with times of the system's zone.
///
/// # Errors
/// Those of `out`.
pub fn render(report: &Report, out: &mut dyn Write) -> Result<()> {
    let zone = TimeZone::system();
    let recording = &report.recording;
    let page = Page {
        report,
        about: recording.project.as_deref().unwrap_or(&recording.profile),
        css: include_str!("html/report.css"),
        js: [
            include_str!("html/model.js"),
            include_str!("html/draw.js"),
            include_str!("html/act.js"),
        ]
        .concat(),
        data: harmless(&serde_json::to_string(&data(report)).context("a report is plain data")?),
        level: match report.verdict.level {
            Level::Leak => ("leak", "▲", "workers leak"),
            Level::Cost => ("cost", "◆", "no leak, but a cost"),
            Level::Healthy => ("healthy", "●", "no leak was seen"),
            Level::NotJudged => ("cost", "◇", "not every worker could be judged"),
            Level::Nothing => ("nothing", "○", "no worker was seen"),
        },
        held: mib(report.total.stale_rss_kib.max(report.total.most_stale_rss_kib)),
        growth: report.memory.growth.map_or_else(
            || "–".to_owned(),
            |growth| format!("{} ({})", growth.workers_per_hour, mib(growth.kib_per_hour)),
        ),
        cases: report.findings.iter().take(SHOWN_MAX).map(|case| shown(case, &zone)).collect(),
        more_findings: report.findings.len().saturating_sub(SHOWN_MAX),
        rows: report.sessions.iter().take(SHOWN_MAX).map(|it| row(it, report, &zone)).collect(),
        more_sessions: report.sessions.len().saturating_sub(SHOWN_MAX),
        hypotheses: report
            .hypotheses
            .iter()
            .map(|judged| {
                let (class, says) = match judged.says {
                    Says::Supports => ("supports", "supported"),
                    Says::Refutes => ("refutes", "refuted"),
                    Says::Mixed => ("mixed", "it happens, but not always"),
                    Says::Nothing => ("open", "nothing for or against it"),
                };
                (class, says, &*judged.claim, &*judged.because, &*judged.places)
            })
            .collect(),
        tree: report.tree.nodes.iter().map(branch).collect(),
        facts: facts::of(report, &zone),
    };
    out.write_all(page.render().context("cannot fill in report.html")?.as_bytes())?;
    Ok(())
}

fn shown<'a>(case: &'a Case, zone: &TimeZone) -> Shown<'a> {
    let until = match case.closed_ms {
        Some(closed) => {
            let lasted = closed.saturating_sub(case.opened_ms);
            format!("closed after {}", age(lasted.saturating_mul(1_000_000)))
        }
        None => "open at the end".to_owned(),
    };
    let because: Vec<String> = case.because.iter().take(30).map(u64::to_string).collect();
    let more = case.because.len().saturating_sub(because.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Shown {
        kind: case.kind.to_string(),
        confidence: case.confidence.to_string(),
        session: case.session.as_deref().unwrap_or_default(),
        when: format!("since {}, {until}", facts::time(case.opened, zone)),
        text: &case.text,
        because: because.join(", ") + &more,
        workers: count(case.workers.len() as u64, "worker"),
        known: case
            .known
            .iter()
            .filter(|known| known.url.starts_with("https://"))
            .map(|known| {
                let fixed = known.fixed_in.as_ref();
                let fixed = fixed.map(|version| format!(" (not seen any more in {version})"));
                (&*known.url, known.issue, format!("{}{}", known.title, fixed.unwrap_or_default()))
            })
            .collect(),
    }
}

fn row(session: &Session, report: &Report, zone: &TimeZone) -> Row {
    let kinds = session.findings.iter().map(|kind| kind.name().to_owned());
    let kinds: Vec<String> =
        kinds.chain(facts::unjudged(session, session.findings.is_empty())).collect();
    Row {
        gateway: facts::gateway(session),
        session: session.session.clone().unwrap_or_else(|| "unknown".to_owned()),
        live: session.live,
        stale: session.stale,
        most_stale: session.most_stale,
        oldest: session.oldest_stale.map(|time| facts::time(time, zone)).unwrap_or_default(),
        spawned: session.spawned,
        exited: session.exited,
        mib: session.rss_kib.saturating_add(512) / 1024,
        calls: match (report.recording.calls_counted, session.calls_exact) {
            (false, _) => "–".to_owned(),
            (true, true) => session.calls.to_string(),
            (true, false) => format!("≥ {}", session.calls),
        },
        findings: kinds.join(", "),
    }
}

fn branch(node: &Node) -> Branch<'_> {
    Branch {
        indent: "│ ".repeat(node.depth.min(20) as usize),
        pid: node.id.pid,
        comm: &node.comm,
        role: match node.role {
            Role::Worker => "worker",
            Role::Descendant => "below",
            Role::Gateway => "gateway",
            Role::Ancestor => "above",
        },
        session: node.session.as_deref().unwrap_or_default(),
        rss: node.rss_kib.map(mib).unwrap_or_default(),
        argv: node.argv.join(" "),
    }
}

fn data(report: &Report) -> Data<'_> {
    let row_of = |session: Option<&str>| {
        session.and_then(|key| {
            report.sessions.iter().position(|row| row.session.as_deref() == Some(key))
        })
    };
    let lines = report.timeline.iter().filter(|event| {
        !matches!(event.kind, Happening::Spawn | Happening::Exit | Happening::FindingClosed)
    });
    Data {
        began_ms: report.recording.began.map_or(0, Timestamp::as_millisecond),
        lasted_ms: report.recording.lasted_ms,
        sessions: report
            .sessions
            .iter()
            .map(|session| SessionData {
                session: session.session.as_deref().unwrap_or("unknown"),
                gateway: facts::gateway(session),
                live: session.live,
                stale: session.stale,
            })
            .collect(),
        workers: report.workers.iter().map(worker).collect(),
        workers_omitted: report.workers_omitted,
        findings: report
            .findings
            .iter()
            .take(SHOWN_MAX)
            .map(|case| FindingData {
                kind: case.kind.to_string(),
                session: case.session.as_deref(),
                workers: count(case.workers.len() as u64, "worker"),
                text: &case.text,
            })
            .collect(),
        events: lines
            .take(LINES_MAX)
            .map(|event| EventData {
                at: event.at_ms,
                kind: event.kind,
                row: row_of(event.session.as_deref()),
            })
            .collect(),
        series: report
            .series
            .iter()
            .map(|point| (point.at_ms, point.live, point.rss_kib, point.available_kib))
            .collect(),
    }
}

fn worker(life: &Life) -> WorkerData<'_> {
    let findings = life.findings.iter().copied().filter(|&index| index < SHOWN_MAX).collect();
    (
        life.id.pid,
        life.row,
        life.from_ms,
        life.to_ms,
        u8::from(life.inherited) | u8::from(life.stale) << 1,
        &life.calls_ms,
        life.rss_kib,
        life.terminal,
        findings,
        life.end.as_deref(),
        life.calls,
    )
}

/// JSON without a character that ends a script or begins a tag, and without the line separators
/// that were no JSON in JavaScript once.
fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{digest::Digest, samples::digest};

    fn html(report: &Report) -> String {
        let mut bytes = Vec::new();
        render(report, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_anybody_wrote_is_text() {
        let mut report = digest(3).report();
        let evil = "</script><img src=x onerror=alert(1)>\u{2028}\"'&";
        report.verdict.headline = evil.to_owned();
        report.sessions[0].session = Some(evil.to_owned());
        report.findings[0].text = evil.to_owned();
        report.findings[0].known[0].url = "javascript:alert(1)".to_owned();
        report.tree.nodes[0].comm = evil.to_owned();
        let html = html(&report);
        assert!(!html.contains("<img") && !html.contains("javascript:"));
        assert_eq!(html.matches("</script>").count(), 2, "the data's, and the script's own");
        assert!(
            !html.contains('\u{2028}')
                || !html.split("id=\"data\"").nth(1).unwrap().contains('\u{2028}')
        );
    }

    #[test]
    fn nothing_is_fetched_from_anywhere() {
        let html = html(&digest(12).report());
        assert!(html.contains("default-src 'none'"));
        for (at, _) in html.match_indices("://") {
            let from = html[..at].rfind(['"', '\'', ' ', '\n']).map_or(0, |from| from + 1);
            let link = &html[from..];
            assert!(
                link.starts_with("https://github.com/NousResearch/hermes-agent/issues/"),
                "{}",
                &link[..60]
            );
        }
        for what in ["src=", "@import", "url(", "fetch(", "XMLHttpRequest", "innerHTML"] {
            assert!(!html.contains(what), "{what}");
        }
    }

    #[test]
    fn a_report_of_nothing_is_one_too() {
        let html = html(&Digest::new().report());
        assert!(html.contains("No worker was seen"));
    }

    #[test]
    fn many_workers_make_no_huge_file() {
        let html = html(&digest(5_000).report());
        assert!(html.len() < 3 << 20, "{} KiB", html.len() >> 10);
    }
}
