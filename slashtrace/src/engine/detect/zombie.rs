//! `zombie`: a worker exited and its parent does not reap it.
//!
//! Holds when a worker has exited (the kernel saw it, or a sample showed state `Z`) longer than
//! the zombie grace ago and was last sampled in state `Z`. Samples are written on change only, so
//! `Z` stands until `X` (reaped) is sampled: that closes it. Every child is `Z` for a moment; a
//! leader that ended before its other threads shows `Z` as well and has not exited. Strong: the
//! state was sampled.

use super::{Judgement, Verdict, place, time};
use crate::{
    model::{Confidence, Identity},
    roster::Roster,
};

pub(super) fn judge(roster: &Roster, id: Identity) -> Judgement {
    let Some(worker) = roster.worker(id) else { return Judgement::default() };
    let Some(zombie) = worker.zombie else { return Judgement::default() };
    let ended = worker.exit.map_or(zombie.at, |exit| exit.at.min(zombie.at));
    let due = ended.saturating_add(roster.rules.zombie);
    if due > roster.now {
        return Judgement::new(None, Some(due));
    }
    let text = format!(
        "worker {} of {} exited and was not reaped by its parent for {} or longer",
        worker.id.pid,
        place(&[worker]),
        time(roster.rules.zombie),
    );
    let verdict = Verdict::about(&[worker], text)
        .at_most(Confidence::Strong)
        .because([zombie.seq])
        .because(worker.exit.map(|exit| exit.seq));
    Judgement::new(Some(verdict), None)
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Kind};

    #[test]
    fn holds_until_it_is_reaped() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).exit(101).after(S).state(101, 'Z').after(59 * S);
        let finding = history.open(Kind::Zombie).expect("open");
        assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Strong));
        history.after(7_200 * S);
        assert!(history.open(Kind::Zombie).is_some(), "not forgotten while it is one");
        history.state(101, 'X');
        assert!(history.open(Kind::Zombie).is_none());
    }

    #[test]
    fn the_brief_state_of_every_child_is_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).exit(101).state(101, 'Z').after(59 * S);
        history.state(101, 'X').after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn an_exit_alone_says_nothing_about_reaping() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).exit(101).after(600 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_dead_leader_with_live_threads_is_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S);
        history.sample(101, |sample| (sample.state, sample.threads) = ('Z', Some(3)));
        history.after(600 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_zombie_is_no_live_duplicate() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).state(101, 'Z').spawn(102, 100, K).after(30 * S);
        assert!(history.silent());
    }
}
