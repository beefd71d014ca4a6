//! `abandoned`: an idle worker that no client can ask anything of, because none is connected.
//!
//! Holds for live workers of a gateway that listens and has had no client connection for the
//! client grace, as far as the samples show without interruption, where the worker has done
//! nothing for as long either. One finding for each gateway names all its abandoned workers.
//! A gateway that does not listen is spoken to in another way and is never judged; a look that
//! could not see every socket starts the time anew. An idle session with a client connected is not
//! abandoned, and a client that comes back withdraws the finding.
//!
//! Strong at most: connections are sampled.

use super::{Judgement, Verdict, count, ids, time};
use crate::{
    engine::{table::Table, worker::Worker},
    model::{Confidence, Identity},
};

pub(super) fn judge(table: &Table, id: Identity) -> Judgement {
    let Some(gateway) = table.gateways.get(&id).filter(|gateway| gateway.exit.is_none()) else {
        return Judgement::default();
    };
    let Some(alone) = table.clientless.get(&id) else { return Judgement::default() };
    let due = |worker: &Worker| {
        let worked = worker.activity.newest_rise().map_or(0, |rise| rise.to);
        alone.at.max(worker.birth.at).max(worked).saturating_add(table.rules.client)
    };

    let live = gateway.workers.iter().filter_map(|id| table.workers.get(id));
    let live = live.filter(|worker| worker.is_live());
    let (mut abandoned, waiting): (Vec<&Worker>, Vec<&Worker>) =
        live.partition(|worker| due(worker) <= table.now);
    let deadline = waiting.into_iter().map(due).min();
    if abandoned.is_empty() {
        return Judgement::new(None, deadline);
    }
    abandoned.sort_by_key(|worker| (worker.birth.at, worker.id));
    let name = abandoned[0].link.as_ref().map_or("", |link| link.gateway.comm.as_str());
    let text = format!(
        "gateway {name}({}) listens and has had no client for {} or longer; {} of it did nothing \
         in that time: {}",
        id.pid,
        time(table.rules.client),
        count(abandoned.len(), "worker"),
        ids(&abandoned),
    );
    let verdict =
        Verdict::about(&abandoned, text).at_most(Confidence::Strong).because([alone.seq]).unused();
    Judgement::new(Some(verdict), deadline)
}

#[cfg(test)]
mod tests {
    use super::super::super::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Kind};

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
}
