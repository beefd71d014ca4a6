//! `duplicate-worker`: two or more live workers where one is supposed to be.
//!
//! Holds when two workers of a group live and both have lived longer than the overlap grace: a
//! restart starts the new one a moment before the old one is gone. It names every live worker of
//! the group that is older than the grace; a new one joins when it is. The same session key under
//! two gateways is two groups, and nothing. Closes when fewer than two are left.
//!
//! Proven if the kernel saw each of them being spawned.

use super::{GroupView, Judgement, Verdict, count, ids, place, time};

pub(super) fn judge(view: &GroupView) -> Judgement {
    let deadline = if view.live.len() < 2 { None } else { view.next_mature() };
    Judgement::new(verdict(view), deadline)
}

fn verdict(view: &GroupView) -> Option<Verdict> {
    let workers = &view.mature;
    if workers.len() < 2 {
        return None;
    }
    let text = format!(
        "{} for {}, side by side for {} or longer: {}",
        count(workers.len(), "live worker"),
        place(workers),
        time(view.rules.overlap),
        ids(workers),
    );
    Some(Verdict::about(workers, text))
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, FindingState, Kind, ParentSource};

    #[test]
    fn holds_for_two_past_the_grace_and_follows_the_set() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(S).spawn(102, 100, K).after(5 * S);
        let finding = history.open(Kind::DuplicateWorker).expect("open");
        assert_eq!(pids(finding), [101, 102]);
        assert_eq!(finding.confidence, Confidence::Proven);
        assert_eq!(finding.id, "duplicate-worker/100-1000000100/K");
        assert_eq!(
            finding.text,
            "2 live workers for session K under gateway python(100), side by side for 5 s or \
             longer: 101 and 102"
        );

        history.spawn(103, 100, K);
        assert_eq!(pids(history.found(Kind::DuplicateWorker)), [101, 102], "103 is young");
        history.after(5 * S);
        assert_eq!(pids(history.found(Kind::DuplicateWorker)), [101, 102, 103]);
        assert_eq!(history.last(Kind::DuplicateWorker).state, FindingState::Updated);

        history.exit(101).exit(103);
        assert!(history.open(Kind::DuplicateWorker).is_none());
        assert_eq!(history.states(Kind::DuplicateWorker).len(), 4, "no repetitions");
    }

    #[test]
    fn opens_at_the_very_moment_and_not_before() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).spawn(102, 100, K).after(5 * S - 1);
        assert!(!history.ever(Kind::DuplicateWorker));
        history.after(1);
        assert!(history.open(Kind::DuplicateWorker).is_some());
    }

    #[test]
    fn a_restart_that_overlaps_for_a_moment_is_none() {
        let mut history = History::new();
        history
            .spawn(101, 100, K)
            .after(60 * S)
            .spawn(102, 100, K)
            .after(S)
            .exit(101)
            .after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn one_key_under_two_gateways_is_two_groups() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn(202, 200, K).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn workers_without_a_session_are_in_no_group() {
        let mut history = History::new();
        history.spawn_with(101, 100, |spawn| spawn.session = None);
        history.spawn_with(102, 100, |spawn| spawn.session = None).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_launcher_and_its_worker_are_one() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn(102, 101, K).after(60 * S);
        assert!(history.silent());

        history.spawn(103, 100, K).spawn(104, 103, K).after(60 * S);
        assert_eq!(pids(history.found(Kind::DuplicateWorker)), [102, 104]);
        let gateway = history.found(Kind::DuplicateWorker).gateway.clone();
        assert_eq!(gateway.expect("known").pid, 100, "the launcher's gateway");
    }

    #[test]
    fn a_worker_reported_before_its_launcher_is_one_with_it_too() {
        let mut history = History::new();
        history.spawn(102, 101, K).spawn(101, 100, K).after(60 * S);
        assert!(history.silent());
        history.spawn(103, 100, K).after(60 * S);
        assert_eq!(pids(history.found(Kind::DuplicateWorker)), [102, 103]);
    }

    #[test]
    fn a_fork_of_a_launcher_becomes_a_worker_by_its_exec() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(102, 101, 101).spawn(102, 101, K).after(60 * S);
        history.exit(101).after(60 * S);
        assert!(history.silent(), "102 is no leftover of its launcher: {:?}", history.findings());
    }

    #[test]
    fn what_executes_something_else_is_no_worker_any_more() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn(102, 100, K).exec(102, false).after(60 * S);
        assert!(history.silent());
        history.exec(102, true).after(60 * S);
        assert_eq!(pids(history.found(Kind::DuplicateWorker)), [101, 102]);
    }

    #[test]
    fn an_exec_of_the_same_worker_is_no_second_one() {
        let mut history = History::new();
        history.spawn(101, 100, K).exec(101, true).spawn(101, 100, K).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn inherited_ones_are_weak_and_polled_ones_strong() {
        let mut history = History::new().starting_at(3_600 * S);
        history.inherited(101, 100, K, 1_000 * S).inherited(102, 100, K, 2_000 * S);
        let finding = history.open(Kind::DuplicateWorker).expect("old enough at once");
        assert_eq!(finding.confidence, Confidence::Weak);
        assert_eq!(finding.workers[1].spawned_at, history.wall(2_000 * S));

        let mut history = History::new();
        history.polled(101, 100, K).polled(102, 100, K).after(10 * S);
        assert_eq!(history.found(Kind::DuplicateWorker).confidence, Confidence::Strong);
    }

    #[test]
    fn workers_that_a_reaper_adopted_have_no_known_gateway() {
        let mut history = History::new().starting_at(3_600 * S);
        for pid in [101, 102] {
            history.inherited_with(pid, 1, K, S, |spawn| {
                spawn.parent.as_mut().expect("it has one").reaper = true;
            });
        }
        history.after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_reaper_at_the_exec_may_be_the_gateway_and_may_have_adopted() {
        let mut history = History::new();
        for pid in [101, 102] {
            history.spawn_with(pid, 1, |spawn| {
                let parent = spawn.parent.as_mut().expect("it has one");
                (parent.how, parent.reaper) = (ParentSource::Exec, true);
            });
        }
        history.after(10 * S);
        assert_eq!(history.found(Kind::DuplicateWorker).confidence, Confidence::Strong);
    }

    #[test]
    fn a_resync_counts_nobody_twice_and_the_kernel_refines_it() {
        let mut history = History::new().starting_at(3_600 * S);
        history.spawn(101, 100, K).inherited(101, 100, K, 3_600 * S).after(60 * S);
        assert!(history.silent());

        history.inherited(102, 100, K, 3_660 * S).spawn(102, 100, K).after(10 * S);
        assert_eq!(history.found(Kind::DuplicateWorker).confidence, Confidence::Proven);
    }

    #[test]
    fn many_workers_do_not_flood_the_evidence() {
        let mut history = History::new();
        for pid in 1_000..1_200 {
            history.spawn(pid, 100, K).after(S / 10);
        }
        history.after(60 * S);
        assert_eq!(history.found(Kind::DuplicateWorker).workers.len(), 200);
        let said = history.states(Kind::DuplicateWorker).len();
        assert!(said < 50, "{said} findings for 200 workers");
    }
}
