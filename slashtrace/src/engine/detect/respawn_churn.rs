//! `respawn-churn`: workers of a group replaced again and again. A cost, not a leak.
//!
//! Holds when three or more spawns of a group within the churn window follow one another without
//! overlap past the overlap grace, each with the model of the one before. A switch of the model is
//! a restart that the user asked for and ends the run. Inherited workers were not seen being
//! spawned and do not count. Closes when fewer than three are left in the window.

use super::{GroupView, Holds, Judgement, Verdict, count, place, size, time};
use crate::{
    engine::{
        growth::LAG,
        ledger::{Renewal, Said},
    },
    model::{Confidence, Source},
    roster::Worker,
};

const LEAST: usize = 3;
/// Workers named at most, the newest.
const NAMED: usize = 64;

pub(super) fn judge(view: &GroupView, said: Option<Said>) -> Judgement {
    let replacements = view.group.and_then(|group| group.replacements());
    let Some(replacements) = replacements else { return Judgement::default() };
    let from = view.now.saturating_sub(view.rules.churn);
    if replacements.since(from) < LEAST {
        return Judgement::default();
    }
    // A launcher needs a moment to hand over to the worker that it launched.
    let until = view.now.checked_sub(LAG);
    let young = replacements.next_after(until).map(|birth| birth.saturating_add(LAG));
    let Some(until) = until else { return Judgement::new(None, young) };
    let run = replacements.longest(from, until);
    if run.len() < LEAST {
        return Judgement::new(None, young);
    }
    let now = Renewal::Size(run.len() as u64);
    // Many workers are looked at only when there may be something to say.
    let renewed = said.is_none_or(|said| said.renewal.differs(now));
    // It is said again, or is over, once so many of the oldest have left the window.
    let before = said.filter(|_| !renewed).map_or(now, |said| said.renewal);
    let is_news = |left: usize| left < LEAST || before.differs(Renewal::Size(left as u64));
    let left = (0..run.len()).rev().find(|left| is_news(*left)).unwrap_or(0);
    let last = run.spawns().rev().nth(left);
    let shrunk =
        last.map_or(u64::MAX, |last| last.birth.saturating_add(view.rules.churn).saturating_add(1));
    let deadline = Some(young.map_or(shrunk, |young| young.min(shrunk)));
    if !renewed {
        return Judgement { holds: Holds::AsSaid, deadline };
    }
    let workers: Vec<&Worker> =
        run.spawns().filter_map(|spawned| view.roster.worker(spawned.id)).collect();
    Judgement::new(Some(verdict(&workers)), deadline)
}

fn verdict(run: &[&Worker]) -> Verdict {
    let named = &run[run.len().saturating_sub(NAMED)..];
    let first = run.first().map_or(0, |worker| worker.birth.at);
    let last = run.last().map_or(0, |worker| worker.birth.at);
    let rss = run.iter().filter_map(|worker| worker.rss_kib()).max();
    let grown = rss.map_or_else(String::new, |kib| format!(" of up to {}", size(kib)));
    let text = format!(
        "the worker of {} was replaced {} within {} without overlap: no leak, but each time a \
         start of a process{grown}",
        place(named),
        count(run.len() - 1, "time"),
        time(last.saturating_sub(first)),
    );
    let ends: Vec<_> = run.iter().filter_map(|worker| worker.end()).collect();
    let seen = ends.iter().all(|end| end.source == Source::Kernel);
    let mut verdict = Verdict::about(named, text)
        .at_most(if seen { Confidence::Proven } else { Confidence::Strong })
        .because(ends.iter().map(|end| end.seq));
    verdict.renewal = Renewal::Size(run.len() as u64);
    verdict
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Kind, testing::tick};

    fn replaced(models: &[&str]) -> History {
        let mut history = History::new();
        for (pid, &model) in (101..).zip(models) {
            history.spawn_with(pid, 100, |spawn| spawn.model = Some(model.to_owned()));
            history.after(20 * S).exit(pid).after(S);
        }
        history
    }

    #[test]
    fn holds_for_three_in_a_row_and_closes_when_they_are_past() {
        let mut history = replaced(&["m", "m", "m"]);
        let finding = history.open(Kind::RespawnChurn).expect("open");
        assert_eq!((pids(finding), finding.confidence), (vec![101, 102, 103], Confidence::Proven));
        assert_eq!(
            finding.text,
            "the worker of session K under gateway python(100) was replaced 2 times within 42 s \
             without overlap: no leak, but each time a start of a process"
        );
        history.after(600 * S);
        assert!(history.open(Kind::RespawnChurn).is_none());
        assert_eq!(history.states(Kind::RespawnChurn).len(), 2);
    }

    #[test]
    fn two_are_none() {
        assert!(replaced(&["m", "m"]).silent());
    }

    #[test]
    fn slow_replacement_is_none() {
        let mut history = History::new();
        for pid in 101..110 {
            history.spawn(pid, 100, K).after(301 * S).exit(pid);
        }
        assert!(history.silent());
    }

    #[test]
    fn a_switch_of_the_model_is_wanted() {
        assert!(replaced(&["a", "b", "c", "d"]).silent());
        assert!(replaced(&["a", "a", "b", "b"]).silent());
        assert!(!replaced(&["a", "b", "b", "b"]).silent());
    }

    #[test]
    fn a_short_overlap_is_part_of_a_restart() {
        let mut history = History::new();
        for pid in 101..105 {
            history.spawn(pid, 100, K).after(S);
            if pid > 101 {
                history.exit(pid - 1);
            }
            history.after(20 * S);
        }
        assert!(history.open(Kind::RespawnChurn).is_some());
        assert!(!history.ever(Kind::DuplicateWorker));
    }

    #[test]
    fn a_long_overlap_is_a_duplicate_instead() {
        let mut history = History::new();
        for pid in 101..105 {
            history.spawn(pid, 100, K).after(10 * S);
            if pid > 101 {
                history.exit(pid - 1);
            }
            history.after(20 * S);
        }
        assert!(!history.ever(Kind::RespawnChurn));
        assert!(history.ever(Kind::DuplicateWorker));
    }

    #[test]
    fn inherited_workers_were_not_seen_being_spawned() {
        let mut history = History::new().starting_at(100 * S);
        history.inherited(101, 100, K, 90 * S).after(S).exit(101);
        history.spawn(102, 100, K).after(S).exit(102).spawn(103, 100, K).after(S).exit(103);
        assert!(history.silent());
    }

    #[test]
    fn that_a_run_shrank_is_said_when_its_oldest_leave_the_window_whatever_else_happens() {
        let said = |often: bool| {
            let mut history = replaced(&["m"; 25]);
            for _ in 0..700 {
                history.after(S);
                if often {
                    history.tell(tick(None));
                }
            }
            history.states(Kind::RespawnChurn).len()
        };
        assert_eq!(said(true), said(false));
    }

    #[test]
    fn a_long_run_is_said_only_when_it_grew() {
        let mut history = replaced(&["m"; 25]);
        let said = history.states(Kind::RespawnChurn).len();
        assert!(said < 13, "{said}");
        history.after(S);
        assert_eq!(history.states(Kind::RespawnChurn).len(), said);
    }
}
