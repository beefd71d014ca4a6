//! `spawn-per-call`: a new worker for each call, while the earlier ones stay.
//!
//! Holds when three or more live workers of a group are older than the overlap grace, none of them
//! has served more than one call, and all but at most one have served exactly one. Workers that
//! served nothing are duplicates, not this: several resumes of one session make them. A crash and
//! restart is not this either, for the earlier worker is dead.
//!
//! Proven only with counted calls; from sampled bursts it is strong at most. It closes when one of
//! them serves a second call: then workers are reused.

use super::{GroupView, Judgement, Verdict, count, counted, place};
use crate::model::Confidence;

const LEAST: usize = 3;

pub(super) fn judge(view: &GroupView) -> Judgement {
    // Calls come with records, and overlaps grow long by the deadlines of `duplicate-worker`.
    Judgement::new(verdict(view), None)
}

fn verdict(view: &GroupView) -> Option<Verdict> {
    let workers = &view.mature;
    if workers.len() < LEAST {
        return None;
    }
    let mut calls = Vec::with_capacity(workers.len());
    let mut idle = 0;
    for worker in workers {
        let served = worker.served(view.now, view.rules)?.calls;
        idle += usize::from(served == 0);
        if served > 1 || idle > 1 {
            return None;
        }
        calls.push(served);
    }
    let exact = counted(workers, view);
    let list = calls.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let text = format!(
        "{} for {}: each {} ({list})",
        count(workers.len(), "live worker"),
        place(workers),
        if exact { "served at most one call" } else { "was active at most once since start-up" },
    );
    let seqs = workers.iter().filter_map(|worker| worker.activity.seq());
    let confidence = if exact { Confidence::Proven } else { Confidence::Strong };
    Some(Verdict::about(workers, text).at_most(confidence).because(seqs))
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S};
    use crate::model::{Confidence, FindingState, Kind};

    /// Workers 101, 102, … of one group, ten seconds apart, with these calls counted.
    fn served(calls: &[u64]) -> History {
        let mut history = History::new();
        for (pid, &calls) in (101..).zip(calls) {
            history.spawn(pid, 100, K).after(S).reads(pid, calls).after(9 * S);
        }
        history
    }

    #[test]
    fn holds_when_each_call_got_a_worker_of_its_own() {
        let mut history = served(&[1, 1, 1, 0]);
        let finding = history.open(Kind::SpawnPerCall).expect("open");
        assert_eq!(finding.confidence, Confidence::Proven);
        assert_eq!(
            finding.text,
            "4 live workers for session K under gateway python(100): each served at most one call \
             (1, 1, 1, 0)"
        );
        assert_eq!(
            finding.workers.iter().map(|w| w.reads).collect::<Vec<_>>(),
            [Some(1), Some(1), Some(1), Some(0)]
        );

        history.reads(102, 2);
        assert!(history.open(Kind::SpawnPerCall).is_none(), "102 was reused");
        assert_eq!(history.last(Kind::SpawnPerCall).state, FindingState::Closed);
    }

    #[test]
    fn sampled_bursts_make_it_strong() {
        let mut history = History::new();
        for pid in 101..=103 {
            history.spawn(pid, 100, K).after(S).syscr(pid, 900).after(9 * S);
            history.syscr(pid, 910).after(10 * S);
        }
        let finding = history.open(Kind::SpawnPerCall).expect("open");
        assert_eq!(finding.confidence, Confidence::Strong);
        assert_eq!(finding.workers[0].reads, None, "a burst is no count");
    }

    #[test]
    fn two_workers_are_too_few() {
        assert!(served(&[1, 1]).open(Kind::SpawnPerCall).is_none());
    }

    #[test]
    fn workers_that_serve_nothing_are_only_duplicates() {
        let history = served(&[0, 0, 0]);
        assert!(history.open(Kind::SpawnPerCall).is_none());
        assert!(history.open(Kind::DuplicateWorker).is_some());
    }

    #[test]
    fn a_reused_worker_among_them_is_another_story() {
        assert!(served(&[5, 1, 1, 1]).open(Kind::SpawnPerCall).is_none());
    }

    #[test]
    fn unknown_activity_is_not_one_call() {
        let mut history = History::new();
        for pid in 101..=104 {
            history.spawn(pid, 100, K).after(10 * S);
        }
        assert!(history.open(Kind::SpawnPerCall).is_none());
    }

    #[test]
    fn a_restart_for_each_call_leaves_none_behind() {
        let mut history = History::new();
        for pid in 101..=104 {
            history.spawn(pid, 100, K).after(S).reads(pid, 1).after(9 * S).exit(pid);
        }
        assert!(!history.ever(Kind::SpawnPerCall));
    }
}
