//! `lost-at-close`: what a race left behind when its session was closed.
//!
//! Holds for a live worker that is alone in its group, if another one of its session was born at most
//! 3 s before it or 15 s after it, the two lived side by side for less than the overlap grace (so that
//! they were never duplicates), their gateway ended the other one, and nothing was spawned for the
//! session since, nor was this one asked anything, for the orphan grace. The gateway closed the session with the worker
//! that it knew; this one it does not know.
//!
//! It is none if the one that ended was born later and ended within a second, before it was ready: a
//! gateway that notices its race closes the second one at once. Nor if the two are of different models (a switch),
//! or were born further apart (a restart).
//!
//! Weak: a gateway that notices its race late does the same, and then the session goes on with the
//! one that stays. Strong where calls were counted, the one that ended came later and served one,
//! and this one has served none: the session was with the other. A later one that stays may be a
//! replacement that nobody has asked yet. Its session's terminal or client being
//! gone is what `terminal-orphan` and `abandoned` say.

use super::{GroupView, Judgement, Verdict, place, time};
use crate::model::Confidence;

pub(super) fn judge(view: &GroupView) -> Judgement {
    let [stays] = view.live.as_slice() else { return Judgement::default() };
    let Some(survived) = stays.rare().survived else { return Judgement::default() };
    let end = survived.end;
    let asked = stays.activity.newest_rise().is_some_and(|rise| rise.from >= end.at);
    if asked || stays.birth.at > end.at || stays.used_directly(view.rules).is_some() {
        return Judgement::default();
    }
    let due = stays.quiet_at(end.at, view.rules.orphan, view.rules);
    if due > view.now {
        return Judgement::new(None, Some(due));
    }
    let served = stays.served(view.now, view.rules);
    let never = served.is_some_and(|served| served.exact && served.calls == 0);
    let sure = survived.preferred && never;
    let surer = if sure {
        ""
    } else {
        "; counted calls would show which of the two the session used (--count-calls)"
    };
    let text = format!(
        "worker {} of {} was asked nothing for {} or longer since its gateway ended {}, which was \
         spawned with it{surer}",
        stays.id.pid,
        place(&[stays]),
        time(view.rules.orphan),
        survived.id.pid,
    );
    let verdict = Verdict::about(&[stays], text)
        .at_most(if sure { Confidence::Strong } else { Confidence::Weak })
        .because([survived.spawn_seq, end.seq])
        .unused();
    Judgement::new(Some(verdict), None)
}

#[cfg(test)]
mod tests {
    use crate::{
        engine::testing::scenario::{History, K, S, pids},
        model::{Confidence, Kind},
    };

    /// Two workers 100 ms apart; the gateway ends `ended` after `beside`.
    fn pair(ended: u32, beside: u64) -> History {
        let mut history = History::new();
        history.spawn(101, 100, K).after(S / 10).spawn(102, 100, K).after(beside);
        history.terminated(ended, 100);
        history
    }

    #[test]
    fn the_one_that_stays_is_named_whichever_it_is() {
        for (ended, stays) in [(101, 102), (102, 101)] {
            let mut history = pair(ended, 3 * S);
            history.after(10 * S - 1);
            assert!(history.silent(), "{:?}", history.findings());
            history.after(1);
            let finding = history.found(Kind::LostAtClose);
            assert_eq!((pids(finding), finding.confidence), (vec![stays], Confidence::Weak));
            assert!(!history.ever(Kind::DuplicateWorker));
            history.exit(stays);
            assert!(history.open(Kind::LostAtClose).is_none());
        }
    }

    #[test]
    fn a_race_that_the_gateway_notices_is_none() {
        let mut history = pair(102, S / 2);
        history.after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn the_session_s_own_worker_may_come_as_late_as_an_agent_is_built() {
        // hermes-agent 0.19.0 on an idle machine and on a busy one: apart, and the later one's life.
        for (apart, life) in
            [(37 * S / 10, 13 * S / 10), (45 * S / 10, 26 * S / 10), (114 * S / 10, 35 * S / 10)]
        {
            let mut history = History::new();
            history.spawn(101, 100, K).after(apart).spawn(102, 100, K).after(life);
            history.terminated(102, 100).after(10 * S);
            assert_eq!(pids(history.found(Kind::LostAtClose)), [101]);

            // The other way round it is a restart.
            let mut history = History::new();
            history.spawn(101, 100, K).after(apart).spawn(102, 100, K).after(life);
            history.terminated(101, 100).after(60 * S);
            assert!(history.silent(), "{:?}", history.findings());
        }
    }

    #[test]
    fn a_rolling_restart_and_a_model_switch_are_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).spawn(102, 100, K).after(3 * S);
        history.terminated(101, 100).after(60 * S);
        assert!(history.silent());

        let mut history = History::new();
        history.spawn(101, 100, K).after(S).spawn_with(102, 100, |spawn| {
            spawn.session = Some(K.to_owned());
            spawn.model = Some("another".to_owned());
        });
        history.after(3 * S).terminated(101, 100).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn one_that_is_asked_again_is_somebodys() {
        let mut history = pair(101, 3 * S);
        history.reads(102, 0).after(10 * S);
        assert!(history.open(Kind::LostAtClose).is_some());
        history.reads(102, 1);
        assert!(history.open(Kind::LostAtClose).is_none());
    }

    #[test]
    fn a_new_worker_of_the_session_makes_them_duplicates() {
        let mut history = pair(101, 3 * S);
        history.after(10 * S).spawn(103, 100, K).after(5 * S);
        assert!(history.open(Kind::LostAtClose).is_none());
        assert_eq!(pids(history.found(Kind::DuplicateWorker)), [102, 103]);
    }

    #[test]
    fn who_else_ended_the_other_one_closed_no_session() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(S / 10).spawn(102, 100, K).after(3 * S);
        history.terminated(101, 7).after(60 * S);
        assert!(history.silent());
        let mut history = History::new();
        history.spawn(101, 100, K).after(S / 10).spawn(102, 100, K).after(3 * S);
        history.exit(101).after(60 * S);
        assert!(history.ever(Kind::LostAtClose), "it exited by itself: its stdin was closed");
    }

    #[test]
    fn calls_before_the_other_was_there_tell_nothing_of_the_two() {
        let mut history = History::new();
        history.spawn(101, 100, K).reads(101, 0).after(S).reads(101, 1).after(S / 10);
        history.spawn(102, 100, K).reads(102, 0).after(3 * S).exit(101).after(60 * S);
        let finding = history.found(Kind::LostAtClose);
        assert_eq!((pids(finding), finding.confidence), (vec![102], Confidence::Weak));
    }

    #[test]
    fn ends_at_once_have_no_order() {
        let found = |first: u32, second: u32| {
            let mut history = History::new();
            history.spawn(101, 100, K).after(S / 10).spawn(102, 100, K);
            history.after(S / 10).spawn(103, 100, K).after(3 * S);
            history.terminated(first, 100).after(S / 100).terminated(second, 100).after(60 * S);
            pids(history.found(Kind::LostAtClose))
        };
        assert_eq!((found(101, 102), found(102, 101)), (vec![103], vec![103]));
    }

    #[test]
    fn one_that_becomes_something_else_at_once_is_another_end() {
        let found = |leaves_first: bool| {
            let mut history = History::new();
            history.spawn(101, 100, K).after(S / 10).spawn(102, 100, K);
            history.after(S / 10).spawn(103, 100, K).after(3 * S);
            if leaves_first {
                history.exec(101, false).after(S / 100).terminated(102, 100);
            } else {
                history.terminated(102, 100).after(S / 100).exec(101, false);
            }
            history.after(60 * S);
            pids(history.found(Kind::LostAtClose))
        };
        assert_eq!((found(true), found(false)), (vec![103], vec![103]));
    }

    #[test]
    fn what_was_spawned_and_ended_since_is_another_race() {
        let mut history = pair(101, 3 * S);
        history.after(S).spawn(103, 100, K).after(S / 2).exit(103).after(60 * S);
        assert!(!history.ever(Kind::LostAtClose), "{:?}", history.findings());
    }

    #[test]
    fn counted_calls_make_it_strong() {
        for (ended, stays, sure) in [(102, 101, Confidence::Strong), (101, 102, Confidence::Weak)] {
            let mut history = History::new();
            history.spawn(101, 100, K).after(S / 10).spawn(102, 100, K).reads(102, 0);
            history.reads(101, 0).after(S).reads(ended, 1).after(2 * S);
            history.terminated(ended, 100).after(10 * S);
            let finding = history.found(Kind::LostAtClose);
            assert_eq!((pids(finding), finding.confidence), (vec![stays], sure));
            assert!(finding.workers[0].unused);
        }
    }
}
