//! `lost-worker`: a duplicate that nobody talks to.
//!
//! Holds for a live worker that has served nothing since its spawn, although a sibling of its
//! group served while both lived, and both lived side by side for longer than the overlap grace.
//! Either of the two may be the lost one: in real races it is often the one that was spawned
//! first. Once that was seen it holds until the worker serves, ends, or leaves; the end of the
//! sibling changes nothing, for that is the very leak: closing the session ends the sibling only.
//!
//! A worker is not accused while it is younger than the grace, before it has settled (sampled
//! activity), or before it had its turn in the round of samples that showed the sibling's call. Nor
//! is one that worked since the sibling did, it or anything that descends from it, nor one that has
//! a connection of its own.
//! Proven where the calls of both are counted; strong where activity was sampled.

use super::{GroupView, Judgement, Verdict, count, ids, pids, place};
use crate::{
    engine::ledger::weakest,
    model::{Confidence, Identity},
    roster::{Rise, Witness, Worker, witness},
};

pub(super) fn judge(view: &GroupView) -> Judgement {
    let mut lost: Vec<&Worker> = Vec::new();
    let mut witnesses: Vec<Witness> = Vec::new();
    let mut exact = true;
    for worker in &view.live {
        let Some(served) = worker.served(view.now, view.rules) else { continue };
        if served.calls > 0 {
            continue;
        }
        if let Some(found) = worker.rare().witness.or_else(|| newest_witness(view, worker)) {
            let worked = |work: Rise| work.to >= found.from;
            if worker.used_directly(view.rules).is_some()
                || (view.rules.sees_use && worker.last_work().is_some_and(worked))
            {
                continue;
            }
            exact &= served.exact;
            lost.push(worker);
            witnesses.push(found);
        }
    }
    Judgement::new(verdict(&lost, &witnesses, exact), deadline(view))
}

/// The sibling that served last, as far as is settled by now, while both lived.
fn newest_witness(view: &GroupView, worker: &Worker) -> Option<Witness> {
    let mut newest: Option<((u64, Identity), Witness)> = None;
    for (from, id) in view.group?.risen_since(worker.birth.at) {
        // What a sibling served that is settled is not newer than the newest that it served.
        if newest.as_ref().is_some_and(|((known, _), _)| from < *known) {
            break;
        }
        let Some(sibling) = view.roster.worker(id) else { continue };
        let Some(rise) = sibling.activity.last_rise(view.now, view.rules) else { continue };
        let better = newest.as_ref().is_none_or(|(known, _)| (rise.from, id) > *known);
        if better && let Some(found) = witness(worker, sibling, rise, view.now, view.rules) {
            newest = Some(((rise.from, id), found));
        }
    }
    newest.map(|(_, witness)| witness)
}

fn verdict(lost: &[&Worker], witnesses: &[Witness], exact: bool) -> Option<Verdict> {
    if lost.is_empty() {
        return None;
    }
    let exact = exact && witnesses.iter().all(|witness| witness.exact);
    let mut siblings: Vec<Identity> = witnesses.iter().map(|witness| witness.id).collect();
    siblings.sort_unstable();
    siblings.dedup();
    let text = format!(
        "{} of {} ({}) {} while its sibling {} served",
        count(lost.len(), "live worker"),
        place(lost),
        ids(lost),
        if exact { "served no call since spawn" } else { "showed no activity since start-up" },
        pids(siblings),
    );
    let seqs = witnesses.iter().flat_map(|witness| [witness.spawn_seq, witness.rise_seq]);
    let counters = lost.iter().filter_map(|worker| worker.activity.seq());
    Some(
        Verdict::about(lost, text)
            .unused()
            .at_most(weakest(witnesses.iter().map(|witness| witness.surety)))
            .at_most(if exact { Confidence::Proven } else { Confidence::Strong })
            .because(seqs)
            .because(counters),
    )
}

/// Time alone makes workers settle, calls certain and (with `duplicate-worker`) overlaps long.
fn deadline(view: &GroupView) -> Option<u64> {
    let (now, rules) = (view.now, view.rules);
    let group = view.group?;
    group.risen_since(0).next()?;
    // A rise is settled for a while after it; its beginning is a look back before it at most.
    let since = now.saturating_sub(rules.settle()).saturating_sub(rules.look_back());
    let risen = group.risen_since(since).filter_map(|(_, id)| view.roster.worker(id));
    let calls = risen.filter_map(|worker| worker.activity.rise_confirmed_at(now, rules));
    let settling = view.live.iter().filter_map(|worker| worker.activity.settles_at(rules));
    calls.chain(settling).filter(|&at| at > now).min()
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Body, Confidence, Gap, GapReason, Kind};

    /// Two workers 50 ms apart, as a race between two requests makes them; both are sampled.
    fn race() -> History {
        let mut history = History::new();
        history.spawn(101, 100, K).after(S / 20).spawn(102, 100, K).after(S);
        history.reads(101, 0).reads(102, 0);
        history
    }

    #[test]
    fn the_first_one_may_be_the_lost_one() {
        let mut history = race();
        history.after(10 * S).reads(102, 1).after(10 * S);
        let finding = history.open(Kind::LostWorker).expect("open");
        assert_eq!(pids(finding), [101]);
        assert_eq!(finding.confidence, Confidence::Proven);
        assert_eq!(
            finding.text,
            "1 live worker of session K under gateway python(100) (101) served no call since spawn \
             while its sibling 102 served"
        );
    }

    #[test]
    fn what_it_read_while_nobody_watched_may_have_been_a_call() {
        let gap = || {
            let reason = GapReason::NotWatched;
            Body::Gap(Gap { reason, lost: 0, uid: None, resynced: true })
        };
        let mut history = race();
        history.after(S).sample(101, |it| (it.reads, it.syscr) = (Some(0), Some(40)));
        history.after(10 * S).reads(102, 1).after(10 * S);
        assert_eq!(history.open(Kind::LostWorker).expect("open").confidence, Confidence::Proven);
        // That it is still so was not seen for a while.
        history.tell(gap());
        assert_eq!(history.open(Kind::LostWorker).expect("open").confidence, Confidence::Strong);
        history.after(S).sample(101, |it| (it.reads, it.syscr) = (Some(0), Some(40))).after(S);
        assert_eq!(pids(history.open(Kind::LostWorker).expect("open")), [101]);
        history.tell(gap()).after(S).sample(101, |it| {
            (it.reads, it.syscr) = (Some(0), Some(41));
        });
        history.after(S);
        assert!(history.open(Kind::LostWorker).is_none());
    }

    #[test]
    fn the_second_one_may_be_it_too() {
        let mut history = race();
        history.after(10 * S).reads(101, 1).after(10 * S);
        assert_eq!(pids(history.found(Kind::LostWorker)), [102]);
    }

    #[test]
    fn it_stays_lost_when_the_sibling_ends_and_long_after() {
        let mut history = race();
        history.after(10 * S).reads(102, 3).after(10 * S).exit(102).after(7_200 * S);
        history.spawn(900, 800, "other").after(S);
        assert_eq!(pids(history.found(Kind::LostWorker)), [101]);
        assert!(history.open(Kind::DuplicateWorker).is_none());
        assert_eq!(history.states(Kind::LostWorker).len(), 1, "said once");
        history.exit(101);
        assert!(history.open(Kind::LostWorker).is_none());
    }

    #[test]
    fn it_is_lost_no_more_when_it_serves() {
        let mut history = race();
        history.after(10 * S).reads(102, 1).after(10 * S).reads(101, 1);
        assert!(history.open(Kind::LostWorker).is_none());
        assert!(history.open(Kind::DuplicateWorker).is_some());
    }

    #[test]
    fn two_that_serve_in_one_round_of_samples_are_both_in_use() {
        let mut history = race();
        history.after(10 * S).reads(102, 1).reads(101, 1).after(10 * S);
        assert!(!history.ever(Kind::LostWorker));
    }

    #[test]
    fn a_call_from_before_both_lived_says_nothing() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(S).reads(101, 0).after(10 * S).reads(101, 1).after(S);
        history.spawn(102, 100, K).after(S).reads(102, 0).after(60 * S);
        assert!(history.open(Kind::DuplicateWorker).is_some());
        assert!(!history.ever(Kind::LostWorker), "nobody called since 102 came");
        history.reads(101, 2).after(10 * S);
        assert_eq!(pids(history.found(Kind::LostWorker)), [102]);
    }

    #[test]
    fn two_that_overlap_for_a_moment_are_for_lost_at_close() {
        let mut history = race();
        history.after(S).reads(102, 1).after(S).exit(102).after(60 * S);
        assert!(!history.ever(Kind::LostWorker), "{:?}", history.findings());
        assert_eq!(pids(history.found(Kind::LostAtClose)), [101]);
    }

    #[test]
    fn sampled_activity_is_strong_and_only_of_settled_workers() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn(102, 100, K).after(S).syscr(101, 900).syscr(102, 900);
        history.after(9 * S).syscr(102, 903).after(10 * S);
        let finding = history.open(Kind::LostWorker).expect("open");
        assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Strong));
        assert!(finding.text.contains("showed no activity since start-up"), "{}", finding.text);
    }

    #[test]
    fn a_worker_that_still_starts_up_is_not_accused() {
        let mut history = History::new();
        history.spawn(102, 100, K).after(S).syscr(102, 900).after(9 * S);
        history.spawn(101, 100, K).after(S);
        for round in 1..=10 {
            history.syscr(101, 100 * round).syscr(102, 900 + 3 * (round % 2 + round)).after(2 * S);
        }
        assert!(!history.ever(Kind::LostWorker), "101 was rising all the time");
        history.after(10 * S).syscr(102, 990).after(10 * S);
        assert_eq!(pids(history.found(Kind::LostWorker)), [101]);
    }

    #[test]
    fn a_worker_that_was_never_sampled_is_unknown() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn(102, 100, K).after(S).reads(102, 0).after(9 * S);
        history.reads(102, 1).after(10 * S);
        assert!(!history.ever(Kind::LostWorker));
    }

    #[test]
    fn a_busy_sibling_is_a_witness_too() {
        let mut history = race();
        for calls in 1..30 {
            history.after(2 * S).reads(102, calls);
        }
        assert_eq!(pids(history.found(Kind::LostWorker)), [101]);
    }

    /// Another user's process can be adopted by the first process of a container, execute with
    /// somebody else's session key, and read as much as it likes.
    #[test]
    fn another_users_worker_of_the_same_name_is_no_sibling() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn_with(666, 100, |spawn| spawn.uid = 65_534);
        history.after(S).syscr(101, 900).syscr(666, 900).after(10 * S);
        for call in 1..4 {
            history.syscr(666, 900 + 3 * call).after(10 * S);
        }
        assert!(!history.ever(Kind::LostWorker), "{:?}", history.findings());
        history.exit(666).after(3_600 * S);
        assert!(!history.ever(Kind::LostWorker), "{:?}", history.findings());
    }
}
