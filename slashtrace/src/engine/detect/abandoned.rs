//! `abandoned`: an idle worker that no client can ask anything of, or whose own client left.
//!
//! Holds for live workers of a gateway that listens and has had no client connection for the
//! client grace, as far as the samples show without interruption, where the worker has done
//! nothing for as long either: strongly, for nobody is there who could ask it anything.
//!
//! Holds weakly for a worker whose own client has been gone for as long, while others are connected,
//! or were since. Who its own client was is told by the gateway's reply after the spawn, by which
//! connection spoke right before it, and by the terminal that named the session. However sure that is,
//! it does not show that nobody uses the worker now: a client can resume any session on the connection
//! that it already has, also one that is known to be another session's, and nothing that is observed
//! shows it until the worker is asked something.
//!
//! What contradicts it: the worker was asked something since its client left (then it is somebody's,
//! until nobody is connected); it worked (it has to be idle for the grace again); its client is there
//! again; a client came later that is no other worker's, and may be its own, come back (as long as that
//! one is there); an open terminal shows the session, or a client of another worker of it is connected;
//! it has a connection of its own. Any client that connects withdraws the strong claim.
//!
//! A gateway that does not listen is spoken to in another way and is never judged; a look that could
//! not see every socket starts the time without clients anew. An idle session with a client connected
//! is not abandoned. One finding for each gateway names all its abandoned workers.
//!
//! Strong at most: connections are sampled. Weak where the gateway has opened connections itself, to
//! processes outside its tree: what it is asked may come in by these.

use std::collections::BTreeSet;

use super::{Judgement, Verdict, count, ids, time};
use crate::{
    model::{Confidence, Identity},
    roster::{How, Moment, Roster, Worker},
};

pub(super) fn judge<'a>(roster: &'a Roster, id: Identity) -> Judgement {
    let Some(gateway) = roster.gateway(id).filter(|gateway| gateway.exit.is_none()) else {
        return Judgement::default();
    };
    let alone = roster.clientless_since(id);
    let worked = |worker: &Worker| {
        let asked = worker.activity.newest_rise().map_or(0, |rise| rise.to);
        let work = worker.last_work().filter(|_| roster.rules.sees_use);
        asked.max(work.map_or(0, |work| work.to))
    };
    let due = |worker: &Worker, since: Moment| {
        since.at.max(worker.birth.at).max(worked(worker)).saturating_add(roster.rules.client)
    };

    // Those of whom it is time to say it, and those of whom it will be.
    let split = |all: Vec<(&'a Worker, Moment)>| {
        let (mut now, later): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|&(worker, since)| due(worker, since) <= roster.now);
        now.retain(|(worker, _)| !roster.is_shown(worker));
        (now, later)
    };
    let live = |ids: &'a BTreeSet<Identity>| {
        let live = ids.iter().filter_map(|id| roster.worker(*id));
        live.filter(|worker| worker.used_directly(&roster.rules).is_none())
    };
    let all = alone.into_iter().flat_map(|since| live(&gateway.live).map(move |it| (it, since)));
    let (mut abandoned, mut waiting) = split(all.collect());
    // Until all have been gone for the grace, it is about those whose own client has.
    let alone = alone.filter(|_| !abandoned.is_empty());
    if alone.is_none() {
        let departed = live(&gateway.departed).filter_map(|worker| {
            let left = worker.client.as_ref()?.gone()?;
            let used = worker.used_by_another() || roster.has_another_client(worker);
            (!used).then_some((worker, left))
        });
        let (now, later) = split(departed.collect());
        abandoned = now;
        waiting.extend(later);
    }
    let deadline = waiting.into_iter().map(|(worker, since)| due(worker, since)).min();
    if abandoned.is_empty() {
        return Judgement::new(None, deadline);
    }
    abandoned.sort_by_key(|(worker, _)| (worker.birth.at, worker.id));
    let workers: Vec<&Worker> = abandoned.iter().map(|&(worker, _)| worker).collect();
    let name = workers[0].gateway.as_ref().map_or("", |link| link.process.comm.as_str());
    let (grace, who) = (time(roster.rules.client), ids(&workers));
    let verdict = if let Some(alone) = alone {
        let text = format!(
            "gateway {name}({}) listens and has had no client for {grace} or longer; {} of it did \
             nothing in that time: {who}",
            id.pid,
            count(workers.len(), "worker"),
        );
        // What it is asked may come in by connections that it opened itself.
        let most = if gateway.outbound > 0 { Confidence::Weak } else { Confidence::Strong };
        Verdict::about(&workers, text).at_most(most).because([alone.seq])
    } else {
        let all = |is: fn(How) -> bool| {
            workers.iter().all(|worker| worker.client.as_ref().is_some_and(|it| is(it.how)))
        };
        let place = format!("gateway {name}({})", id.pid);
        let how = if all(How::is_joined) {
            format!("that {place} replied to after")
        } else if all(|how| how == How::Spoke) {
            format!("that spoke to {place} right before")
        } else if all(|how| !how.is_joined()) {
            format!("that connected to {place} right before")
        } else {
            format!("that asked {place} for")
        };
        // They may have taken the session over.
        let others = if roster.clientless_since(id).is_none() {
            "while other clients are connected"
        } else {
            "and other clients were connected since"
        };
        let text = format!(
            "the client {how} the spawn of {} has been gone for {grace} or longer, and the worker did \
             nothing in that time, {others}: {who}",
            if workers.len() == 1 {
                "this worker".to_owned()
            } else {
                format!("each of {}", count(workers.len(), "worker"))
            },
        );
        let seqs = abandoned.iter().flat_map(|(worker, left)| {
            worker.client.iter().flat_map(|client| client.seqs()).chain([left.seq])
        });
        Verdict::about(&workers, text).at_most(Confidence::Weak).because(seqs)
    };
    Judgement::new(Some(verdict.unused()), deadline)
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Connection, Kind};

    const GRACE: u64 = 1_800 * S;

    #[test]
    fn holds_when_no_client_was_connected_for_the_grace() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn(102, 100, "other").clients(100, 1, 1, true).after(60 * S);
        history.clients(100, 1, 0, true).after(GRACE - 1);
        assert!(history.silent());
        history.after(1);
        let finding = history.found(Kind::Abandoned);
        assert_eq!((pids(finding), finding.confidence), (vec![101, 102], Confidence::Strong));
        assert!(finding.workers.iter().all(|worker| worker.unused));
        assert_eq!(
            finding.text,
            "gateway python(100) listens and has had no client for 30 min or longer; 2 workers of \
             it did nothing in that time: 101 and 102"
        );
        history.exit(101);
        assert_eq!(pids(history.found(Kind::Abandoned)), [102]);
        history.clients(100, 1, 1, true);
        assert!(history.open(Kind::Abandoned).is_none());
    }

    #[test]
    fn a_client_that_comes_back_within_the_grace_starts_the_time_anew() {
        let mut history = History::new();
        history.spawn(101, 100, K).clients(100, 1, 0, true).after(GRACE - S);
        history.clients(100, 1, 1, true).after(S).clients(100, 1, 0, true).after(GRACE - 1);
        assert!(history.silent());
        history.after(1);
        assert_eq!(pids(history.found(Kind::Abandoned)), [101]);
    }

    #[test]
    fn an_idle_session_with_a_client_is_not_abandoned() {
        let mut history = History::new();
        history.spawn(101, 100, K).clients(100, 1, 1, true).after(10 * GRACE);
        assert!(history.silent());
    }

    #[test]
    fn a_gateway_that_does_not_listen_is_not_judged() {
        let mut history = History::new();
        history.spawn(101, 100, K).clients(100, 0, 0, true).after(10 * GRACE);
        assert!(history.silent());
    }

    #[test]
    fn a_look_that_did_not_see_all_starts_the_time_anew() {
        let mut history = History::new();
        history.spawn(101, 100, K).clients(100, 1, 0, true).after(GRACE - S);
        history.clients(100, 1, 0, false).after(GRACE);
        assert!(history.silent());
        history.clients(100, 1, 0, true).after(GRACE - 1);
        assert!(history.silent());
        history.after(1);
        assert_eq!(pids(history.found(Kind::Abandoned)), [101]);
    }

    #[test]
    fn a_worker_that_works_without_a_client_is_not_idle() {
        let mut history = History::new();
        history.spawn(101, 100, K).reads(101, 0).clients(100, 1, 0, true).after(GRACE - S);
        history.reads(101, 1).after(S);
        assert!(history.silent());
        history.after(GRACE);
        assert_eq!(pids(history.found(Kind::Abandoned)), [101]);
        history.reads(101, 2);
        assert!(history.open(Kind::Abandoned).is_none());
    }

    #[test]
    fn a_live_parent_of_an_inherited_worker_is_weak() {
        let mut history = History::new().starting_at(100 * S);
        history.inherited(101, 100, K, S).clients(100, 1, 0, true).after(GRACE);
        assert_eq!(history.found(Kind::Abandoned).confidence, Confidence::Weak);
    }

    #[test]
    fn a_gateway_that_exited_has_orphans_instead() {
        let mut history = History::new();
        history.spawn(101, 100, K).clients(100, 1, 0, true).exit_gateway(100).after(2 * GRACE);
        assert!(!history.ever(Kind::Abandoned));
    }

    /// Tabs that open one after the other, each with a worker of its own; connection n of worker n.
    fn tabs(history: &mut History, n: u32) {
        for tab in 1..=n {
            let now = history.now();
            history.spawn(100 + tab, 100, &format!("key-{tab}"));
            // The earlier ones answer pings meanwhile.
            let heard = (1..=tab).map(|tab| (u64::from(tab), Some(now - S / 2)));
            history.clients_are(100, 1, heard, true).after(10 * S);
        }
    }

    fn connected(history: &mut History, tabs: &[u64]) {
        history.clients_are(100, 1, tabs.iter().map(|&tab| (tab, None)), true);
    }

    #[test]
    fn tabs_that_dropped_beside_one_that_is_connected_are_weak() {
        let mut history = History::new();
        tabs(&mut history, 4);
        connected(&mut history, &[4]);
        history.after(GRACE - 1);
        assert!(history.silent());
        history.after(1);
        let finding = history.found(Kind::Abandoned);
        assert_eq!((pids(finding), finding.confidence), (vec![101, 102, 103], Confidence::Weak));
        assert!(finding.workers.iter().all(|worker| worker.unused));
        assert_eq!(
            finding.text,
            "the client that spoke to gateway python(100) right before the spawn of each of 3 \
             workers has been gone for 30 min or longer, and the worker did nothing in that time, \
             while other clients are connected: 101, 102 and 103"
        );
        // The last one goes, too: now it is about all of them, and surer.
        connected(&mut history, &[]);
        history.after(GRACE);
        let finding = history.open(Kind::Abandoned).expect("all are");
        assert_eq!(
            (pids(finding), finding.confidence),
            (vec![101, 102, 103, 104], Confidence::Strong)
        );
    }

    #[test]
    fn a_worker_that_another_client_uses_is_somebodys() {
        let mut history = History::new();
        tabs(&mut history, 2);
        history.reads(101, 0);
        connected(&mut history, &[2]);
        history.after(60 * S).reads(101, 0).after(S).reads(101, 1).after(3 * GRACE);
        assert!(history.silent(), "the session was resumed from the other tab");
    }

    #[test]
    fn a_call_from_another_client_withdraws_it() {
        let mut history = History::new();
        tabs(&mut history, 2);
        history.reads(101, 0);
        connected(&mut history, &[2]);
        history.after(GRACE);
        assert_eq!(pids(history.found(Kind::Abandoned)), [101]);
        history.reads(101, 1);
        assert!(history.open(Kind::Abandoned).is_none());
        history.after(3 * GRACE);
        assert!(history.open(Kind::Abandoned).is_none(), "from now on it is somebody's");
    }

    #[test]
    fn a_page_that_is_loaded_again_is_not_gone() {
        let mut history = History::new();
        tabs(&mut history, 2);
        connected(&mut history, &[2]);
        history.after(S);
        connected(&mut history, &[2, 7]);
        history.after(3 * GRACE);
        assert!(history.silent(), "7 may be 1, come back");
        // A further tab, with a worker of its own, is nobody who came back.
        let now = history.now();
        history.spawn(103, 100, "key-3");
        history.clients_are(100, 1, [(2, None), (7, None), (8, Some(now))], true).after(S);
        connected(&mut history, &[2, 8]);
        history.after(GRACE - 1);
        assert!(history.silent());
        history.after(1);
        assert_eq!(pids(history.found(Kind::Abandoned)), [101]);
    }

    #[test]
    fn a_client_that_cannot_be_told_is_none() {
        let mut history = History::new();
        // Two spoke, and neither is another worker's.
        let now = history.now();
        history.spawn(101, 100, K);
        history.clients_are(100, 1, [(1, Some(now)), (2, Some(now))], true).after(S);
        connected(&mut history, &[3]);
        history.after(2 * GRACE);
        assert!(history.silent());
        // Nobody spoke in the moments before.
        let now = history.now();
        history.spawn(102, 100, "other").clients_are(100, 1, [(3, Some(now - 60 * S))], true);
        connected(&mut history, &[4]);
        history.after(2 * GRACE);
        assert!(history.silent());
        // The first look came too late to tell.
        history.spawn(103, 100, "late").after(10 * S);
        let now = history.now();
        history.clients_are(100, 1, [(5, Some(now))], true).after(S);
        connected(&mut history, &[4]);
        history.after(2 * GRACE);
        assert!(history.silent());
    }

    #[test]
    fn a_client_that_was_overlooked_once_is_not_gone() {
        let mut history = History::new();
        tabs(&mut history, 2);
        connected(&mut history, &[2]);
        history.after(GRACE / 2);
        connected(&mut history, &[1, 2]);
        history.after(2 * GRACE);
        assert!(history.silent());
        history.clients_are(100, 1, [(2, None)], false).after(2 * GRACE);
        assert!(history.silent(), "not everything was seen");
    }

    #[test]
    fn once_another_client_used_it_nothing_is_told_any_more() {
        let mut history = History::new();
        tabs(&mut history, 2);
        history.reads(101, 0);
        connected(&mut history, &[2]);
        history.after(S).reads(101, 0).after(S).reads(101, 1).after(60 * S);
        // Somebody else comes and goes.
        connected(&mut history, &[2, 7]);
        history.after(S);
        connected(&mut history, &[2]);
        history.after(3 * GRACE);
        assert!(history.silent(), "2 uses it");
    }

    #[test]
    fn where_nobody_is_heard_it_is_the_one_that_had_just_connected() {
        let mut history = History::new().starting_at(100 * S);
        let now = history.now();
        history.spawn(101, 100, K).clients_since(100, &[(1, now - 60 * S), (2, now - 4 * S)]);
        history.after(S).clients_since(100, &[(1, now - 60 * S)]).after(GRACE);
        let finding = history.found(Kind::Abandoned);
        assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Weak));
        assert!(finding.text.starts_with("the client that connected to gateway python(100)"));

        for ages in [[4 * S, 4 * S], [60 * S, 60 * S]] {
            let mut history = History::new().starting_at(100 * S);
            let [one, two] = ages.map(|age| history.now() - age);
            history.spawn(101, 100, K).clients_since(100, &[(1, one), (2, two)]).after(S);
            history.clients_since(100, &[(1, one)]).after(2 * GRACE);
            assert!(history.silent(), "{ages:?}");
        }
    }

    #[test]
    fn one_that_is_missing_in_a_list_that_was_cut_may_have_asked() {
        let mut history = History::new().starting_at(100 * S);
        let now = history.now();
        history.spawn(101, 100, K).look(100, |look| {
            look.connections =
                vec![Connection { id: 1, since_ns: None, heard_ns: Some(now), port: None }];
            look.connected = 2;
        });
        history.after(S);
        connected(&mut history, &[3]);
        history.after(2 * GRACE);
        assert!(history.silent());
    }

    #[test]
    fn a_launched_worker_is_for_whom_its_launcher_was_spawned() {
        let mut history = History::new().starting_at(100 * S);
        let now = history.now();
        history.spawn(101, 100, K);
        history.clients_are(100, 1, [(1, Some(now)), (2, Some(now - 60 * S))], true);
        history.after(S).spawn(102, 101, K).after(10 * S);
        connected(&mut history, &[2]);
        history.after(GRACE);
        assert_eq!(pids(history.found(Kind::Abandoned)), [102]);
    }

    #[test]
    fn one_look_for_two_sessions_tells_of_neither_and_for_one_of_both() {
        for (other, named) in [("other", None), (K, Some(vec![101, 102]))] {
            let mut history = History::new().starting_at(100 * S);
            let now = history.now();
            history.spawn(101, 100, K).after(S / 20).spawn(102, 100, other);
            history.clients_are(100, 1, [(1, Some(now)), (2, Some(now - 60 * S))], true).after(S);
            connected(&mut history, &[2]);
            history.after(2 * GRACE);
            assert_eq!(history.open(Kind::Abandoned).map(pids), named, "{other}");
        }
    }

    #[test]
    fn one_that_was_heard_from_only_since_is_not_known_to_have_asked() {
        let mut history = History::new().starting_at(100 * S);
        history.spawn(101, 100, K).after(S);
        let now = history.now();
        history.clients_are(100, 1, [(1, Some(now)), (2, Some(now - 60 * S))], true).after(S);
        connected(&mut history, &[2]);
        history.after(2 * GRACE);
        assert!(history.silent());
    }
}
