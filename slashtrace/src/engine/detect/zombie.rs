//! `zombie`: a worker, or a process below one, exited and its parent does not reap it.
//!
//! Holds when it has exited (the kernel saw it, or a sample showed state `Z`) longer than the zombie
//! grace ago and was last sampled in state `Z`. Samples are written on change only, so `Z` stands
//! until `X` (reaped) is sampled: that closes it. Every child is `Z` for a moment; a leader that
//! ended before its other threads shows `Z` as well and has not exited. Below a worker that is
//! whatever descends from it, also a helper that somebody else adopted. One finding for each worker;
//! it lists the processes below it. Strong: the state was sampled.

use super::{Judgement, Verdict, count, pids, place, time};
use crate::{
    engine::ledger::Said,
    model::{Confidence, Identity},
    roster::Roster,
};

pub(super) fn judge(roster: &Roster, id: Identity, said: Option<Said>) -> Judgement {
    let Some(worker) = roster.worker(id) else { return Judgement::default() };
    let grace = roster.rules.zombie;
    let own = worker.zombie().map(|zombie| {
        let ended = worker.exit().map_or(zombie.at, |exit| exit.at.min(zombie.at));
        (zombie, ended.saturating_add(grace))
    });
    let below: Vec<_> = roster
        .zombies_below(id)
        .map(|(id, zombie)| (id, zombie, zombie.exit.at.saturating_add(grace)))
        .collect();
    let dues = own.iter().map(|(_, due)| *due).chain(below.iter().map(|(_, _, due)| *due));
    let deadline = dues.filter(|&due| due > roster.now).min();
    let own = own.filter(|(_, due)| *due <= roster.now).map(|(zombie, _)| zombie);
    let below: Vec<_> = below.into_iter().filter(|(_, _, due)| *due <= roster.now).collect();

    if (own.is_some() || !below.is_empty())
        && let Some(paced) = Judgement::paced(said, roster.now)
    {
        return paced;
    }

    let processes: Vec<Identity> = below.iter().map(|(id, ..)| *id).collect();
    let (place, grace) = (place(&[worker]), time(grace));
    let (many, which) = (count(below.len(), "process"), pids(processes.iter().copied()));
    let text = match (own, processes.as_slice()) {
        (None, []) => return Judgement::new(None, deadline),
        (Some(_), []) => format!(
            "worker {} of {place} exited and was not reaped by its parent for {grace} or longer",
            id.pid,
        ),
        (Some(_), _) => format!(
            "worker {} of {place} exited and was not reaped by its parent for {grace} or longer; \
             nor {} {many} below it: {which}",
            id.pid,
            if below.len() == 1 { "was" } else { "were" },
        ),
        (None, _) => format!(
            "{many} below worker {} of {place} exited and {} not reaped for {grace} or longer: \
             {which}",
            id.pid,
            if below.len() == 1 { "was" } else { "were" },
        ),
    };
    let mut verdict = Verdict::about(&[worker], text)
        .at_most(Confidence::Strong)
        .because(own.map(|zombie| zombie.seq))
        .because(own.and(worker.exit()).map(|exit| exit.seq))
        .because(below.iter().flat_map(|(_, zombie, _)| [zombie.seen.seq, zombie.exit.seq]));
    verdict.processes = processes;
    Judgement::new(Some(verdict), deadline)
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Kind, Role, Source};

    /// A process below a worker exits, and is a zombie a second later.
    fn left(history: &mut History, pid: u32) {
        history.exit_as(pid, Role::Descendant, Source::Kernel).after(S).state(pid, 'Z');
    }

    fn processes(history: &History) -> Vec<u32> {
        let finding = history.open(Kind::Zombie).expect("open");
        finding.processes.iter().map(|process| process.pid).collect()
    }

    #[test]
    fn one_finding_lists_what_the_worker_did_not_reap() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(110, 101, 101).child(111, 110, 101).after(60 * S);
        left(&mut history, 110);
        history.after(58 * S);
        assert!(history.silent());
        history.after(S);
        let finding = history.open(Kind::Zombie).expect("open");
        assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Strong));
        assert_eq!(
            finding.text,
            "1 process below worker 101 of session K under gateway python(100) exited and was not \
             reaped for 60 s or longer: 110"
        );
        assert!(!finding.workers[0].unused);
        // One that was adopted when its parent ended.
        left(&mut history, 111);
        history.after(60 * S);
        assert_eq!(processes(&history), [110, 111]);
        history.state(110, 'X').after(600 * S);
        assert_eq!(processes(&history), [111]);
        history.state(111, 'X');
        assert!(history.open(Kind::Zombie).is_none());
    }

    #[test]
    fn it_is_found_after_its_worker_has_ended() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(110, 101, 101).after(60 * S);
        left(&mut history, 110);
        history.exit(101).after(7_200 * S);
        assert_eq!(processes(&history), [110]);
        history.state(110, 'X').after(S);
        assert!(history.open(Kind::Zombie).is_none());
    }

    #[test]
    fn a_child_that_is_reaped_is_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).child(110, 101, 101).after(60 * S);
        left(&mut history, 110);
        history.after(S).state(110, 'X').after(600 * S);
        assert!(history.silent());
        // Nobody knows whose zombie this was.
        history.state(999, 'Z').after(600 * S);
        assert!(history.silent());
    }

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
