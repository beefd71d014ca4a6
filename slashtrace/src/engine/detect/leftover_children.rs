//! `leftover-children`: what a worker started outlives it.
//!
//! Holds when a worker has exited and processes below it still live longer than the orphan grace
//! after that; a helper that the profile names, and what that helper started, has the helper's own
//! grace. One finding for each worker lists those processes.
//!
//! A process was detached if one between it and the worker ended before the worker did: a double
//! fork, usually on purpose. If nothing but detached ones is left the finding is weak. Otherwise it
//! is proven if the kernel saw their forks and the worker's exit.

use super::{Judgement, Verdict, count, pids, place};
use crate::{
    engine::ledger::{Said, weakest},
    model::{Confidence, Identity, Source},
    roster::{Descendant, Moment, Roster},
};

pub(super) fn judge(roster: &Roster, id: Identity, said: Option<Said>) -> Judgement {
    let worker = roster.worker(id);
    let Some((worker, exit)) = worker.and_then(|worker| Some((worker, worker.exit()?))) else {
        return Judgement::default();
    };
    let Some(family) = roster.family(id) else { return Judgement::default() };
    if let Some(paced) = Judgement::paced(said, roster.now) {
        return paced;
    }

    let mut deadline: Option<u64> = None;
    let mut left: Vec<(Identity, &Descendant)> = Vec::new();
    for member in family {
        let Some(descendant) = roster.descendant(*member) else { continue };
        let grace = roster.helper_grace_of(*member).unwrap_or(roster.rules.orphan);
        let due = exit.at.max(descendant.spawned.at).saturating_add(grace);
        if due <= roster.now {
            left.push((*member, descendant));
        } else {
            deadline = Some(deadline.map_or(due, |before| before.min(due)));
        }
    }
    if left.is_empty() {
        return Judgement::new(None, deadline);
    }
    let detached = left.iter().filter(|(member, _)| is_detached(roster, *member, exit)).count();
    let aside = if detached == 0 {
        String::new()
    } else {
        format!("; {detached} of them detached from it before it ended")
    };
    let text = format!(
        "worker {id} of {} exited, {} below it still live: {}{aside}",
        place(&[worker]),
        count(left.len(), "process"),
        pids(left.iter().map(|&(member, _)| member)),
    );
    let mut verdict = Verdict::about(&[worker], text)
        .because([exit.seq])
        .because(left.iter().map(|(_, descendant)| descendant.spawned.seq));
    let kernel = exit.source == Source::Kernel
        && left.iter().all(|(_, descendant)| descendant.spawned.source == Source::Kernel);
    verdict.confidence = if detached == left.len() {
        Confidence::Weak
    } else {
        weakest([if kernel { Confidence::Proven } else { Confidence::Strong }])
    };
    verdict.processes = left.into_iter().map(|(member, _)| member).collect();
    Judgement::new(Some(verdict), deadline)
}

fn is_detached(roster: &Roster, id: Identity, exit: Moment) -> bool {
    roster.lineage(id).any(|(_, one)| one.detached_at.is_some_and(|at| at < exit.at))
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Kind, Role, Source};

    fn processes(history: &History) -> Vec<u32> {
        let finding = history.open(Kind::LeftoverChildren).expect("open");
        finding.processes.iter().map(|process| process.pid).collect()
    }

    #[test]
    fn holds_for_a_child_that_outlives_its_worker() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(110, 101, 101).child(111, 110, 101).after(60 * S);
        history.exit(101).after(10 * S);
        let finding = history.open(Kind::LeftoverChildren).expect("open");
        assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Proven));
        assert_eq!(processes(&history), [110, 111]);
        assert_eq!(
            finding.text,
            "worker 101 of session K under gateway python(100) exited, 2 processes below it still \
             live: 110 and 111"
        );
        history.exit_as(110, Role::Descendant, Source::Kernel);
        assert_eq!(processes(&history), [111]);
        history.after(7_200 * S).exit_as(111, Role::Descendant, Source::Kernel);
        assert!(history.open(Kind::LeftoverChildren).is_none());
    }

    #[test]
    fn children_that_end_within_the_grace_are_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(110, 101, 101).after(60 * S).exit(101).after(9 * S);
        history.exit_as(110, Role::Descendant, Source::Kernel).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn ten_thousand_children_that_end_one_by_one_are_few_lines() {
        const CHILDREN: u32 = 10_000;
        let mut history = History::new();
        history.spawn(101, 100, K);
        for n in 0..CHILDREN {
            history.child(20_000 + n, 101, 101);
        }
        history.after(60 * S).exit(101).after(10 * S);
        let finding = history.open(Kind::LeftoverChildren).expect("open");
        assert_eq!((finding.processes.len(), finding.processes_total), (256, Some(10_000)));
        assert!(finding.text.contains("10000 processes below it still live"), "{}", finding.text);
        for n in 0..CHILDREN {
            history.exit_as(20_000 + n, Role::Descendant, Source::Kernel).after(S / 1_000);
        }
        let said = history.states(Kind::LeftoverChildren).len();
        assert!(said <= 4, "{said}");
        assert!(history.open(Kind::LeftoverChildren).is_none());
    }

    #[test]
    fn a_known_helper_and_what_it_started_have_its_grace() {
        let mut history = History::new();
        history.spawn(101, 100, K).helper(110, 101, 101, "mcp-watchdog").child(111, 110, 101);
        history.after(60 * S).exit(101).after(29 * S);
        assert!(history.silent());
        history.after(S);
        assert_eq!(processes(&history), [110, 111]);
    }

    #[test]
    fn what_a_watchdog_leaves_behind_keeps_its_grace() {
        let mut history = History::new();
        history.spawn(101, 100, K).helper(110, 101, 101, "mcp-watchdog").child(111, 110, 101);
        history.after(60 * S).exit(101).after(5 * S);
        history.exit_as(110, Role::Descendant, Source::Kernel).after(24 * S);
        assert!(history.silent());
        history.after(S);
        assert_eq!(processes(&history), [111]);
        let finding = history.found(Kind::LeftoverChildren);
        assert_eq!(finding.confidence, Confidence::Proven, "the watchdog outlived the worker");
    }

    #[test]
    fn a_double_fork_is_weak() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(110, 101, 101).child(111, 110, 101).child(112, 111, 101);
        history.exit_as(110, Role::Descendant, Source::Kernel).after(60 * S);
        history.exit(101).after(10 * S);
        let finding = history.open(Kind::LeftoverChildren).expect("open");
        assert_eq!((processes(&history), finding.confidence), (vec![111, 112], Confidence::Weak));
        assert!(finding.text.ends_with("; 2 of them detached from it before it ended"));
    }

    #[test]
    fn a_worker_without_children_leaves_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).exit(101).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn children_of_a_live_worker_are_its_own_affair() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(110, 101, 101).after(7_200 * S);
        assert!(history.silent());
    }
}
