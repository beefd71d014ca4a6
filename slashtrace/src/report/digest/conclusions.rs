use std::collections::BTreeSet;

use super::{
    Case, Judged, Level, MemoryChange, Recording, Says, Session, Total, Verdict,
    cases::{Cases, signs, surest},
    lives::Lives,
};
use crate::{
    model::{Confidence, Kind},
    profile::{Hypothesis, Project, Sign},
    report::words::{self, age, count, list, mib, unjudged_count},
    roster::Reasons,
};

/// What was seen, and what follows from it.
pub(super) fn verdict(
    recording: &Recording,
    findings: &[Case],
    sessions: &[Session],
    total: Total,
    memory: &MemoryChange,
    unjudged: &Reasons,
) -> Verdict {
    let leaks: Vec<&Case> = findings.iter().filter(|case| case.kind.is_leak()).collect();
    let level = if !leaks.is_empty() {
        Level::Leak
    } else if findings.iter().any(|case| case.kind == Kind::RespawnChurn) {
        Level::Cost
    } else if unjudged_count(unjudged, false) > 0 {
        Level::NotJudged
    } else if total.spawned > 0 {
        Level::Healthy
    } else {
        Level::Nothing
    };
    let lasted = age(recording.lasted_ms.saturating_mul(1_000_000));
    let seen = format!(
        "{} for {} in {lasted}",
        count(total.spawned, "worker"),
        count(total.sessions, "session")
    );
    let most = format!("At most {} lived at once.", count(total.most_live, "worker"));
    let cost = "Each replacement costs the start of a process; see the findings.";
    let all = unjudged.is_empty();
    let (mut headline, mut detail) = match level {
        Level::Leak => (leak(&leaks, sessions, total), grows(memory)),
        Level::Cost if all => (
            format!("No worker leaks, but workers are replaced again and again ({seen})."),
            cost.to_owned(),
        ),
        Level::Cost => (
            format!("Workers are replaced again and again ({seen}). {}", judged(total, unjudged)),
            cost.to_owned(),
        ),
        Level::Healthy if all => (format!("No leak was seen: {seen}."), most),
        Level::Healthy | Level::NotJudged => {
            (judged(total, unjudged), format!("Seen: {seen}. {most}"))
        }
        Level::Nothing => (
            format!("No worker was seen in {lasted}."),
            "Record while the program is used, or check the profile with `slashtrace ps`."
                .to_owned(),
        ),
    };
    let not_judged = unjudged_count(unjudged, false);
    if level == Level::Leak && not_judged > 0 {
        let (workers, why) = (count(total.spawned, "worker"), words::reasons(unjudged, false));
        headline = format!("{headline} Of {workers}, {not_judged} could not be judged: {why}.");
    }
    if !recording.complete {
        detail.push_str(" The recording is incomplete: more may have happened than is told here.");
    }
    Verdict { level, headline, detail }
}

/// What of the workers no leak was seen of, where not all of them could be judged.
fn judged(total: Total, unjudged: &Reasons) -> String {
    let workers = count(total.spawned, "worker");
    let judged = total.spawned.saturating_sub(unjudged.values().sum());
    let not_judged = words::not_judged(unjudged).unwrap_or_default();
    let since = unjudged_count(unjudged, false) == 0;
    match judged {
        0 if since => {
            format!("No leak was seen since the recording began, of {workers}; {not_judged}.")
        }
        0 => format!("None of {workers} could be judged in full: {not_judged}."),
        judged => format!("No leak was seen in {judged} of {workers}; {not_judged}."),
    }
}

fn leak(leaks: &[&Case], sessions: &[Session], total: Total) -> String {
    let kinds: BTreeSet<Kind> = leaks.iter().map(|case| case.kind).collect();
    let mut named: Vec<String> = Vec::new();
    for kind in kinds {
        let of_kind: Vec<&Case> = leaks.iter().copied().filter(|case| case.kind == kind).collect();
        if let Some(confidence) = surest(&of_kind) {
            named.push(format!("{kind} ({confidence})"));
        }
    }
    let named = list(&named);
    let left = sessions.iter().filter(|session| session.stale > 0).count() as u64;
    if total.stale > 0 {
        let hold = mib(total.stale_rss_kib);
        return format!(
            "{} of {} that live now {} unused, in {}, and hold {hold}: {named}.",
            total.stale,
            count(total.live, "worker"),
            if total.stale == 1 { "is" } else { "are" },
            count(left, "session"),
        );
    }
    if total.most_stale > 0 {
        let had = sessions.iter().filter(|session| session.most_stale > 0).count() as u64;
        return format!(
            "{} of {} had become unused, in {}, and held {}: {named}; none of them is left.",
            total.most_stale,
            count(total.spawned, "worker"),
            count(had, "session"),
            mib(total.most_stale_rss_kib),
        );
    }
    let surest = surest(leaks).unwrap_or(Confidence::Weak);
    let open = leaks.iter().filter(|case| case.open).count() as u64;
    let still = match open {
        0 => "none of it lasted to the end of the recording".to_owned(),
        n => format!("{} open at its end", count(n, "finding")),
    };
    format!("Workers leak, as is {surest}: {named}; {still}.")
}

fn grows(memory: &MemoryChange) -> String {
    let Some(growth) = memory.growth else {
        return "How fast they become more cannot be said from this recording.".to_owned();
    };
    let rate = format!(
        "Growing by {} ({}) an hour",
        count(growth.workers_per_hour, "worker"),
        mib(growth.kib_per_hour)
    );
    match growth.exhausted_in_s {
        Some(s) => format!(
            "{rate}; the memory that is available now is used up in {}.",
            age(s.saturating_mul(1_000_000_000))
        ),
        None => format!("{rate}."),
    }
}

/// What the recording says of each hypothesis of the profile.
pub(super) fn hypotheses(
    project: Option<&Project>,
    findings: &[Case],
    lives: &Lives,
    cases: &Cases,
) -> Vec<Judged> {
    let Some(project) = project else { return Vec::new() };
    let mut shown: BTreeSet<Sign> = findings.iter().flat_map(|case| signs(case, lives)).collect();
    let reused = lives.workers().any(|(_, worker)| worker.reads.is_some_and(|reads| reads >= 2));
    if reused {
        shown.insert(Sign::WorkerReused);
    }
    let judged = project.hypotheses.iter().map(|hypothesis| judge(hypothesis, &shown));
    let mut judged: Vec<Judged> = judged.collect();
    if cases.omitted() > 0 {
        for it in &mut judged {
            it.because.push_str("; not every finding was looked at");
        }
    }
    judged
}

fn judge(hypothesis: &Hypothesis, shown: &BTreeSet<Sign>) -> Judged {
    let of = |signs: &[Sign]| -> Vec<String> {
        let seen = signs.iter().filter(|sign| shown.contains(sign));
        seen.map(|sign| sign.words().to_owned()).collect()
    };
    let (pro, contra) = (of(&hypothesis.supported_by), of(&hypothesis.refuted_by));
    let (says, because) = match (pro.is_empty(), contra.is_empty()) {
        (false, true) => (Says::Supports, format!("seen: {}", list(&pro))),
        (true, false) => (Says::Refutes, format!("seen: {}", list(&contra))),
        (false, false) => {
            (Says::Mixed, format!("seen: {}; but also: {}", list(&pro), list(&contra)))
        }
        (true, true) => {
            let signs = hypothesis.supported_by.iter().map(|sign| sign.words().to_owned());
            let signs: Vec<String> = signs.collect();
            (Says::Nothing, format!("not seen: {}", list(&signs)))
        }
    };
    let places = if matches!(says, Says::Supports | Says::Mixed) {
        hypothesis.places.clone()
    } else {
        Vec::new()
    };
    Judged { claim: hypothesis.claim.clone(), says, because, places }
}
