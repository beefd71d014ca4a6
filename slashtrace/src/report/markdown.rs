//! report.md: to be pasted into an issue, so it is short whatever was recorded.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::{
    digest::{Case, Happening, Report, Says, Session},
    facts,
    words::{age, count, mib},
};
use crate::model::Role;

/// GitHub takes 65,536 characters in an issue; some are left for what people write themselves.
pub const MARKDOWN_CHARS_MAX: usize = 60_000;
/// Characters of one text that are shown.
const TEXT_MAX: usize = 600;

/// How many lines of each part are shown.
#[derive(Clone, Copy, Debug)]
struct Room {
    sessions: usize,
    findings: usize,
    events: usize,
    nodes: usize,
    others: usize,
}

impl Room {
    const ALL: Self = Self { sessions: 60, findings: 30, events: 60, nodes: 60, others: 40 };

    fn half(self) -> Self {
        let Self { sessions, findings, events, nodes, others } = self;
        Self {
            sessions: sessions / 2,
            findings: findings / 2,
            events: events / 2,
            nodes: nodes / 2,
            others: others / 2,
        }
    }
}

/// The report as Markdown for GitHub, below [`MARKDOWN_CHARS_MAX`], with times of `zone`.
pub fn render(report: &Report, zone: &TimeZone) -> String {
    let mut room = Room::ALL;
    loop {
        let text = with(report, zone, room);
        if text.chars().count() < MARKDOWN_CHARS_MAX {
            return text;
        }
        if room.findings == 0 {
            // Not even the heads of it: a profile's texts are bounded, so this is not reached.
            return text.chars().take(MARKDOWN_CHARS_MAX - 1).collect();
        }
        room = room.half();
    }
}

fn with(report: &Report, zone: &TimeZone, room: Room) -> String {
    let mut out = Out(String::new());
    let about = report.recording.project.as_ref().unwrap_or(&report.recording.profile);
    out.line(&format!("# slashtrace report: {}", escape(about)));
    out.line("");
    let verdict = &report.verdict;
    out.line(&format!("**{}** {}", escape(&verdict.headline), escape(&verdict.detail)));
    recording(&mut out, report, zone);
    sessions(&mut out, report, zone, room);
    findings(&mut out, report, zone, room);
    hypotheses(&mut out, report);
    timeline(&mut out, report, zone, room);
    tree(&mut out, report, room);
    actions(&mut out, report, room);
    out.head("What was not seen");
    if report.not_seen.is_empty() {
        out.line("Nothing is known to be missing.");
    }
    out.list(report.not_seen.iter().map(|text| escape(text)), room.others);
    out.head("How to check it");
    out.line(
        "`slashtrace replay evidence.ndjson.gz` judges the recording again, on any machine and \
         without root; `because` numbers are the records' `seq`. `slashtrace report FILE --format \
         html` draws it.",
    );
    out.0
}

fn recording(out: &mut Out, report: &Report, zone: &TimeZone) {
    out.line("");
    out.line("| | |");
    out.line("| --- | --- |");
    for (name, value) in facts::of(report, zone) {
        out.line(&format!("| {name} | {} |", escape(&value)));
    }
}

fn sessions(out: &mut Out, report: &Report, zone: &TimeZone, room: Room) {
    out.head("Sessions");
    if report.sessions.is_empty() {
        out.line("No worker was seen.");
        return;
    }
    out.line(
        "| gateway | session | live | stale | most stale | oldest of them | spawned | exited | MiB | \
         calls | findings |",
    );
    out.line("| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- |");
    // Those with stale workers first: that is what a report is read for.
    let mut sessions: Vec<&Session> = report.sessions.iter().collect();
    sessions.sort_by_key(|session| std::cmp::Reverse((session.most_stale, session.live)));
    for session in sessions.iter().take(room.sessions) {
        let kinds = session.findings.iter().map(|kind| kind.name().to_owned());
        let kinds: Vec<String> =
            kinds.chain(facts::unjudged(session, session.findings.is_empty())).collect();
        let calls = match (report.recording.calls_counted, session.calls_exact) {
            (false, _) => "–".to_owned(),
            (true, true) => session.calls.to_string(),
            (true, false) => format!("≥ {}", session.calls),
        };
        out.line(&format!(
            "| {} | {} | {} | {} | {} | {} | {}{} | {} | {} | {calls} | {} |",
            code(&facts::gateway(session)),
            code(session.session.as_deref().unwrap_or("unknown")),
            session.live,
            session.stale,
            session.most_stale,
            session.oldest_stale.map(|time| facts::time(time, zone)).unwrap_or_default(),
            session.spawned,
            if session.inherited > 0 {
                format!(" ({}*)", session.inherited)
            } else {
                String::new()
            },
            session.exited,
            session.rss_kib.saturating_add(512) / 1024,
            kinds.join(", "),
        ));
    }
    let total = report.total;
    out.line(&format!(
        "| **total** | {} | **{}** | **{}** | **{}** | | {} | {} | {} | | |",
        count(total.sessions, "row"),
        total.live,
        total.stale,
        total.most_stale,
        total.spawned,
        total.exited,
        total.rss_kib.saturating_add(512) / 1024,
    ));
    out.more(sessions.len(), room.sessions, "session");
    if total.inherited > 0 {
        out.line("");
        out.line("*: there before the recording, so who forked it was not seen.");
    }
    out.line("");
    let memory = &report.memory;
    if let (Some(before), Some(after)) = (memory.before, memory.after) {
        out.line(&format!(
            "Memory available: {} before, {} after, of {}; swap used: {} before, {} after. The \
             workers held {} at most.",
            mib(before.available_kib),
            mib(after.available_kib),
            mib(after.total_kib),
            mib(before.swap_total_kib.saturating_sub(before.swap_free_kib)),
            mib(after.swap_total_kib.saturating_sub(after.swap_free_kib)),
            mib(memory.workers_most_kib),
        ));
    }
    if let Some(rate) = facts::growth(memory) {
        out.line("");
        out.line(&rate);
    }
}

fn findings(out: &mut Out, report: &Report, zone: &TimeZone, room: Room) {
    out.head("Findings");
    if report.findings.is_empty() {
        out.line("None.");
    }
    for case in report.findings.iter().take(room.findings) {
        let state = match case.closed_ms {
            Some(closed) => {
                format!("closed after {}", lasted(closed.saturating_sub(case.opened_ms)))
            }
            None => "open at the end".to_owned(),
        };
        out.line("");
        out.line(&format!(
            "**{}** ({}), {} since {}, {state}",
            case.kind,
            case.confidence,
            count(case.workers.len() as u64, "worker"),
            facts::time(case.opened, zone),
        ));
        out.line("");
        out.line(&escape(&case.text));
        out.line("");
        out.line(&format!("- proof: records {}", proof(case)));
        if case.unused > 0 {
            out.line(&format!("- shown to be unused: {}", count(case.unused, "worker")));
        }
        for known in &case.known {
            let fixed = match &known.fixed_in {
                Some(version) => format!("not seen any more in {}", escape(version)),
                None => "not known to be fixed".to_owned(),
            };
            let (issue, title) = (known.issue, escape(&known.title));
            out.line(&format!("- looks like [#{issue}]({}): {title} ({fixed})", url(&known.url)));
        }
    }
    out.more(report.findings.len(), room.findings, "finding");
}

fn proof(case: &Case) -> String {
    const SHOWN: usize = 30;
    let shown: Vec<String> = case.because.iter().take(SHOWN).map(u64::to_string).collect();
    let more = case.because.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn hypotheses(out: &mut Out, report: &Report) {
    if report.hypotheses.is_empty() {
        return;
    }
    out.head("Which code path");
    for judged in &report.hypotheses {
        let says = match judged.says {
            Says::Supports => "**supported**",
            Says::Refutes => "refuted",
            Says::Mixed => "**it happens, but not always**",
            Says::Nothing => "nothing for or against it",
        };
        out.line(&format!("- {}: {says} ({})", escape(&judged.claim), escape(&judged.because)));
        for place in &judged.places {
            out.line(&format!("  - look at {}", code(place)));
        }
    }
}

fn timeline(out: &mut Out, report: &Report, zone: &TimeZone, room: Room) {
    // Single births and ends are many and say little; what ends or is found says all.
    let telling = |kind| !matches!(kind, Happening::Spawn | Happening::Exit);
    let few = report.timeline.len() <= room.events;
    let events: Vec<_> =
        report.timeline.iter().filter(|event| few || telling(event.kind)).collect();
    if events.is_empty() {
        return;
    }
    out.head("Timeline");
    if !few {
        out.line("Without single births and ends of workers.");
    }
    let shown = events.len().min(room.events);
    let lines = events[..shown].iter().map(|event| {
        let session = event.session.as_deref().map(|key| format!(" {}", code(key)));
        format!(
            "{} [{}]{} {}",
            facts::time(event.time, zone),
            event.seq,
            session.unwrap_or_default(),
            escape(&event.text)
        )
    });
    out.list(lines, room.events);
    out.more(events.len(), room.events, "event");
}

fn tree(out: &mut Out, report: &Report, room: Room) {
    let tree = &report.tree;
    if tree.nodes.is_empty() {
        return;
    }
    out.head("Processes when most workers lived");
    out.line("```text");
    for node in tree.nodes.iter().take(room.nodes) {
        let indent = "  ".repeat(node.depth.min(20) as usize);
        let argv = cut(&node.argv.join(" "));
        let rss = node.rss_kib.map(|kib| format!(" [{}]", mib(kib))).unwrap_or_default();
        let role = match node.role {
            Role::Worker => "worker",
            Role::Descendant => "below it",
            Role::Gateway => "gateway",
            Role::Ancestor => "above",
        };
        let line = format!("{indent}{} {} ({role}){rss} {argv}", node.id.pid, node.comm);
        // A fence is closed by a line of its own only.
        out.line(&line.replace("```", "'''"));
    }
    out.line("```");
    out.more(tree.nodes.len() + tree.omitted as usize, room.nodes, "process");
}

fn actions(out: &mut Out, report: &Report, room: Room) {
    if report.actions.is_empty() {
        return;
    }
    out.head("What slashtrace did");
    let lines =
        report.actions.iter().map(|action| format!("[{}] {}", action.seq, escape(&action.text)));
    out.list(lines, room.others);
    out.more(report.actions.len(), room.others, "action");
}

fn lasted(ms: u64) -> String {
    age(ms.saturating_mul(1_000_000))
}

struct Out(String);

impl Out {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn head(&mut self, text: &str) {
        self.line("");
        self.line(&format!("## {text}"));
        self.line("");
    }

    fn list(&mut self, items: impl Iterator<Item = String>, most: usize) {
        for item in items.take(most) {
            self.line(&format!("- {item}"));
        }
    }

    fn more(&mut self, all: usize, shown: usize, noun: &str) {
        if all > shown {
            self.line("");
            let more = count((all - shown) as u64, noun);
            self.line(&format!("… and {more} more: see report.html or the evidence."));
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Text that Markdown shows as it is: nobody is mentioned, nothing is linked, no tag is opened.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in cut(text).chars() {
        match c {
            '<' | '>' | '&' | '@' | '#' => {
                let _ = write!(out, "&#{};", c as u32);
            }
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '!' => {
                out.push('\\');
                out.push(c);
            }
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    // A bare address would become a link.
    out.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")
}

/// Text in a code span, also within a table.
fn code(text: &str) -> String {
    let text = cut(text).replace(['\n', '\r'], " ").replace('`', "'").replace('|', "¦");
    format!("`{text}`")
}

/// An address within parentheses.
fn url(text: &str) -> String {
    text.replace(['(', ')', ' ', '\n', '<', '>', '"'], "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::digest;

    #[test]
    fn what_people_write_stays_text() {
        assert_eq!(
            escape("<img src=x> @bob #1 | `x` https://evil [a](b)"),
            "&#60;img src=x&#62; &#64;bob &#35;1 \\| \\`x\\` https:&#47;&#47;evil \\[a\\](b)"
        );
        assert_eq!(code("a`|\nb"), "`a'¦ b`");
    }

    #[test]
    fn a_leak_as_it_is_pasted() {
        insta::assert_snapshot!(render(&digest(12).report(), &TimeZone::UTC));
    }

    #[test]
    fn however_much_there_is_it_fits_into_an_issue() {
        for workers in [0, 1, 500, 5_000] {
            let text = render(&digest(workers).report(), &TimeZone::UTC);
            assert!(text.chars().count() < MARKDOWN_CHARS_MAX, "{}", text.chars().count());
            assert!(text.contains("## What was not seen"), "{workers}");
        }
    }
}
