//! `unreachable`: a worker that nobody can talk to any more.
//!
//! Holds for a live worker that nobody can use (`Worker::reach`) and that, with all that descends
//! from it, has not worked for the grace since. By its stdin that is: it was seen held, every process
//! was looked at, none outside the worker's own tree holds the other end any more, and nobody reads
//! its output. Unless the profile says that workers are spoken to by their stdin alone, no socket of
//! its own may be open either. A task is in use while it works and is not judged here. One finding
//! for each worker, because each is a pipe of its own. A look that could not see everything changes
//! nothing.
//!
//! Strong at most: a look at /proc is not atomic. That holds of a worker that was there before, too,
//! where every process can be seen: who forked it does not matter then. Weak where other workers
//! hold its stdin by inheritance, or where it was never seen held.

use super::{Judgement, Verdict, place, time};
use crate::{
    model::{Confidence, Identity},
    roster::{Reach, Roster},
};

pub(super) fn judge(roster: &Roster, id: Identity) -> Judgement {
    let Some(worker) = roster.worker(id).filter(|worker| worker.is_live()) else {
        return Judgement::default();
    };
    let rules = &roster.rules;
    let Reach::Nobody { since, doubt } = worker.reach(rules) else { return Judgement::default() };
    if worker.is_task() {
        return Judgement::default();
    }
    let due = worker.quiet_at(since.at, rules.unreachable, rules);
    if due > roster.now {
        return Judgement::new(None, Some(due));
    }
    let what = if worker.is_asked_by_socket() {
        "it listens nowhere and has had no connection"
    } else {
        "no other process has held the write end of its stdin"
    };
    let text = format!(
        "worker {} of {}: {what} for {} or longer",
        worker.id.pid,
        place(&[worker]),
        time(rules.unreachable),
    );
    let mut verdict =
        Verdict::about(&[worker], text).unused().at_most(Confidence::Strong).because([since.seq]);
    if rules.sees_all {
        verdict.confidence = Confidence::Strong;
    }
    if doubt.is_some() {
        verdict.confidence = Confidence::Weak;
    }
    Judgement::new(Some(verdict), None)
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::evidence::samples;
    use crate::model::{
        Body, Confidence, EndKind, Kind, OutputPeer, OutputState, Sample,
        StdinState::{Held, Unheld, Unknown},
    };

    #[test]
    fn holds_when_nobody_has_its_stdin() {
        let mut history = History::new();
        history.spawn(101, 100, K).stdin(101, Held).after(60 * S).stdin(101, Unheld).after(10 * S);
        let finding = history.open(Kind::Unreachable).expect("open");
        assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Strong));
        assert_eq!(finding.session.as_deref(), Some("K"));
        assert!(finding.because.len() == 2, "its spawn and the look: {:?}", finding.because);
        history.exit(101);
        assert!(history.open(Kind::Unreachable).is_none());
    }

    #[test]
    fn a_worker_that_was_there_before_is_as_surely_unreachable_where_all_can_be_seen() {
        for (start, confidence) in [(true, Confidence::Strong), (false, Confidence::Weak)] {
            let mut history = History::new().starting_at(100 * S);
            if start {
                history.tell(Body::Start(Box::new(samples::start())));
            }
            history.inherited_with(101, 1, K, S, |spawn| {
                spawn.parent.as_mut().expect("it has one").reaper = true;
            });
            history.stdin(101, Unheld).after(10 * S);
            assert_eq!(history.found(Kind::Unreachable).confidence, confidence);
        }
    }

    #[test]
    fn a_worker_that_reads_end_of_file_in_time_is_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).stdin(101, Unheld).after(9 * S).exit(101).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_holder_that_was_only_overlooked_is_found_again() {
        let mut history = History::new();
        history.spawn(101, 100, K).stdin(101, Unheld).after(4 * S).stdin(101, Held).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn where_readers_were_not_looked_at_for_want_of_budget_nothing_is_proven() {
        let mut history = History::new();
        history.spawn(101, 100, K).stdin(101, Held).after(60 * S);
        let output = |over_budget| {
            move |it: &mut Sample| {
                let (kind, state) = (EndKind::Pipe, OutputState::Unknown);
                it.output = Some(OutputPeer { kind, state, reader: None });
                it.over_budget = over_budget;
            }
        };
        history.stdin(101, Unheld).sample(101, output(true)).after(60 * S);
        assert!(history.open(Kind::Unreachable).is_none());
        // It is the gateway's own, say.
        history.sample(101, output(false)).after(60 * S);
        assert_eq!(pids(history.open(Kind::Unreachable).expect("open")), [101]);
    }

    #[test]
    fn a_look_that_could_not_see_everything_proves_nothing() {
        let mut history = History::new();
        history.spawn(101, 100, K).stdin(101, Unknown).after(60 * S);
        assert!(history.silent());
        history.stdin(101, Unheld).after(4 * S).stdin(101, Unknown).after(6 * S);
        assert!(history.open(Kind::Unreachable).is_some(), "nor does it take anything back");
    }
}
