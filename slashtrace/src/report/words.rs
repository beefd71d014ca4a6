//! Words that all formats for people share.

use std::borrow::Cow;

use crate::{
    model::{Parent, ParentSource},
    roster::Reasons,
};

/// Text of a record, without anything that a terminal would obey: sensors escape what they read,
/// but a file that is replayed may have been written by anybody.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    // Bidirectional controls reorder what stands around them (Unicode TR 36).
    let obeyed =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A length of time in ns, short: `350ms`, `42s`, `5m07s`, `3h12m`, `2d03h`.
pub(super) fn age(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0 => format!("{}ms", ns / 1_000_000),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{minutes}m{:02}s", seconds % 60),
        3_600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `1 call`, `3 calls`.
pub(super) fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(items: &[String]) -> String {
    match items {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Why workers could not be judged, and how many: `no session key (2), no gateway known (1)`. Those
/// that were judged in part, or those that were not judged at all.
pub(super) fn reasons(unjudged: &Reasons, in_part: bool) -> String {
    let such = unjudged.iter().filter(|(why, _)| why.in_part() == in_part);
    let such: Vec<String> = such.map(|(why, n)| format!("{} ({n})", why.words())).collect();
    such.join(", ")
}

/// How many workers that is.
pub(super) fn unjudged_count(unjudged: &Reasons, in_part: bool) -> u64 {
    unjudged.iter().filter(|(why, _)| why.in_part() == in_part).map(|(_, n)| n).sum()
}

/// Which workers could not be judged, as clauses: `2 could not be judged: no session key (2); 1 could
/// be judged only in part: there before the recording (1)`. None if all were.
pub(crate) fn not_judged(unjudged: &Reasons) -> Option<String> {
    let clause = |in_part: bool, how: &str| {
        let n = unjudged_count(unjudged, in_part);
        (n > 0).then(|| format!("{n} could {how}: {}", reasons(unjudged, in_part)))
    };
    let clauses = [clause(false, "not be judged"), clause(true, "be judged only in part")];
    let clauses: Vec<String> = clauses.into_iter().flatten().collect();
    (!clauses.is_empty()).then(|| clauses.join("; "))
}

/// An amount of memory: `95 MiB`, `11.9 GiB`.
pub(super) fn mib(kib: u64) -> String {
    match kib {
        0..1024 => format!("{kib} KiB"),
        1024..10_485_760 => format!("{} MiB", (kib + 512) / 1024),
        _ => format!("{:.1} GiB", kib as f64 / 1_048_576.0),
    }
}

/// Whether this parent may be called the gateway. One that was read from /proc later is only the
/// current parent; a reaper adopts orphans, so that as such it says nothing.
pub(super) fn is_gateway(parent: &Parent) -> bool {
    parent.how != ParentSource::Proc || !(parent.reaper || parent.gone)
}

/// How many events were lost, where that is known.
pub(super) fn lost(events: u64) -> String {
    if events == 0 { "some events".to_owned() } else { count(events, "event") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        const S: u64 = 1_000_000_000;
        let ages = [S / 3, 59 * S, 307 * S, 11_520 * S, 183_600 * S].map(age);
        assert_eq!(ages, ["333ms", "59s", "5m07s", "3h12m", "2d03h"]);
    }

    #[test]
    fn a_terminal_finds_nothing_to_obey() {
        assert_eq!(plain("K\x1b[2J\u{202e}\n"), "K\\u{1b}[2J\\u{202e}\\n");
        assert!(matches!(plain("Käse \\x1b"), Cow::Borrowed(_)));
    }
}
