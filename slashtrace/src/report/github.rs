//! What GitHub Actions shows of a run: annotations (workflow commands) from a step's output, and
//! the step's summary.

use std::fmt::Write as _;

use super::{
    digest::Report,
    words::{count, reasons},
};
use crate::model::Confidence;

/// Annotations that GitHub shows of one step.
const ANNOTATIONS_MAX: usize = 10;

/// A workflow command a finding, one a line: errors for leaks that are at least strong, else
/// warnings; a cost is a notice.
pub fn annotations(report: &Report) -> String {
    let mut out = String::new();
    for case in report.findings.iter().take(ANNOTATIONS_MAX) {
        let level = match case.confidence {
            _ if !case.kind.is_leak() => "notice",
            Confidence::Weak => "warning",
            Confidence::Strong | Confidence::Proven => "error",
        };
        let title = property(&format!("{} ({})", case.kind, case.confidence));
        let _ = writeln!(out, "::{level} title={title}::{}", data(&case.text));
    }
    if report.not_judged > 0 {
        let workers = count(report.not_judged, "worker");
        let text = data(&format!("{workers}: {}", reasons(&report.unjudged, false)));
        let _ = writeln!(out, "::warning title=slashtrace could not judge every worker::{text}");
    }
    if !report.recording.complete {
        let text = data(&report.not_seen.join("; "));
        let _ = writeln!(out, "::warning title=slashtrace missed something::{text}");
    }
    out
}

/// The message of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::digest;

    #[test]
    fn a_message_cannot_become_a_command() {
        assert_eq!(data("a\n::error::b%"), "a%0A::error::b%25");
        assert_eq!(property("a:b,c"), "a%3Ab%2Cc");
        let text = annotations(&digest(3).report());
        assert!(text.starts_with("::error title="), "{text}");
        assert!(text.lines().all(|line| line.starts_with("::")), "{text}");
        let mut report = digest(0).report();
        assert_eq!(annotations(&report), "");
        report.not_judged = 1;
        report.unjudged = [(crate::roster::Unjudged::NoSession, 1)].into();
        let text = annotations(&report);
        assert!(text.ends_with("every worker::1 worker: no session key (1)\n"), "{text}");
    }
}
