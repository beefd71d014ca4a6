//! JUnit XML, for what shows test results: one test case per session, failed where it leaks, skipped
//! where workers of it could not be judged.
//!
//! By hand: `quick-junit` 0.8 has room for one failure a test case where a session may have several
//! findings, lets U+FFFE and U+FFFF through, which XML 1.0 does not have and a session key may, and
//! adds ten crates and 150 KB for what is sixty lines here.

use std::fmt::Write as _;

use super::{
    digest::{Case, Level, Report},
    facts,
    words::reasons,
};

/// The report as JUnit XML.
pub fn render(report: &Report) -> String {
    let seconds = report.recording.lasted_ms / 1_000;
    let mut cases = String::new();
    let mut failures = 0;
    let mut skipped = 0;
    let mut tests = 0;
    for session in &report.sessions {
        let gateway = session.gateway.as_ref().map(|gateway| gateway.id);
        let about = |case: &&Case| {
            case.kind.is_leak()
                && case.gateway == gateway
                && (case.session.is_none() || case.session == session.session)
        };
        let leaks: Vec<&Case> = report.findings.iter().filter(about).collect();
        tests += 1;
        failures += usize::from(!leaks.is_empty());
        let not_judged = reasons(&session.unjudged, false);
        let not_judged = (leaks.is_empty() && !not_judged.is_empty()).then_some(not_judged);
        skipped += usize::from(not_judged.is_some());
        let name = format!("session {}", session.session.as_deref().unwrap_or("unknown"));
        test(&mut cases, &facts::gateway(session), &name, &leaks, not_judged.as_deref());
    }
    // Findings of nobody's session (what a worker left behind, for one) are not to get lost.
    let placed = |case: &&Case| {
        report.sessions.iter().any(|session| {
            session.gateway.as_ref().map(|gateway| gateway.id) == case.gateway
                && (case.session.is_none() || case.session == session.session)
        })
    };
    let others: Vec<&Case> =
        report.findings.iter().filter(|case| case.kind.is_leak() && !placed(case)).collect();
    tests += 2;
    failures += usize::from(!others.is_empty()) + usize::from(!report.recording.complete);
    test(&mut cases, "slashtrace", "other findings", &others, None);
    let _ = write!(cases, "    <testcase classname=\"slashtrace\" name=\"recording is complete\"");
    if report.recording.complete {
        cases.push_str("/>\n");
    } else {
        let why = escape(&report.not_seen.join("; "));
        let _ = write!(
            cases,
            ">\n      <failure type=\"incomplete\" message=\"{why}\"/>\n    </testcase>\n"
        );
    }
    let level = match report.verdict.level {
        Level::Leak => "leak",
        Level::Cost => "cost",
        Level::Healthy => "healthy",
        Level::NotJudged => "not-judged",
        Level::Nothing => "nothing",
    };
    let verdict = format!("{} {}", report.verdict.headline, report.verdict.detail);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"{tests}\" \
         failures=\"{failures}\" skipped=\"{skipped}\">\n  <testsuite name=\"slashtrace\" tests=\"{tests}\" \
         failures=\"{failures}\" skipped=\"{skipped}\" time=\"{seconds}\">\n    <properties>\n      <property \
         name=\"verdict\" value=\"{level}\"/>\n    </properties>\n{cases}    <system-out>{}\
         </system-out>\n  </testsuite>\n</testsuites>\n",
        escape(&verdict)
    )
}

/// A test case: failed where something leaks, skipped where nothing can be said for this reason.
fn test(out: &mut String, class: &str, name: &str, leaks: &[&Case], not_judged: Option<&str>) {
    let head = format!("    <testcase classname=\"{}\" name=\"{}\"", escape(class), escape(name));
    if let Some(why) = not_judged {
        let why = escape(why);
        let _ = writeln!(
            out,
            "{head}>\n      <skipped message=\"not judged: {why}\"/>\n    </testcase>"
        );
        return;
    }
    if leaks.is_empty() {
        let _ = writeln!(out, "{head}/>");
        return;
    }
    let _ = writeln!(out, "{head}>");
    for case in leaks {
        let because: Vec<String> = case.because.iter().map(u64::to_string).collect();
        let _ = writeln!(
            out,
            "      <failure type=\"{}\" message=\"{} ({})\">{} (records {})</failure>",
            case.kind,
            case.kind,
            case.confidence,
            escape(&case.text),
            because.join(", ")
        );
    }
    out.push_str("    </testcase>\n");
}

/// Text in XML 1.0, which has no control characters, not even escaped.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::digest;

    #[test]
    fn a_session_that_leaks_has_failed() {
        insta::assert_snapshot!(render(&digest(3).report()));
    }

    #[test]
    fn each_finding_of_a_session_is_a_failure_of_its_own() {
        let mut report = digest(3).report();
        let mut second = report.findings[0].clone();
        second.kind = crate::model::Kind::DuplicateWorker;
        report.findings.push(second);
        let xml = render(&report);
        let case = xml.split("name=\"session K0\"").nth(1).unwrap().split("</testcase>").next();
        assert_eq!(case.unwrap().matches("<failure ").count(), 2, "{xml}");
        assert!(xml.contains("failures=\"1\""), "{xml}");
    }

    #[test]
    fn a_session_that_could_not_be_judged_is_skipped() {
        let mut report = digest(0).report();
        report.sessions[0].unjudged = [(crate::roster::Unjudged::NoGateway, 1)].into();
        let xml = render(&report);
        assert!(xml.contains("<skipped message=\"not judged: no gateway known (1)\"/>"), "{xml}");
        assert!(xml.contains("failures=\"0\" skipped=\"1\""), "{xml}");
    }

    #[test]
    fn nothing_can_break_out_of_a_text() {
        assert_eq!(
            escape("<a href=\"x\">&\u{1b}\u{ffff}"),
            "&lt;a href=&quot;x&quot;&gt;&amp;\u{fffd}\u{fffd}"
        );
    }
}
