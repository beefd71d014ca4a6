//! `gateway-orphan`: a worker that outlives its gateway.
//!
//! Holds for live workers whose gateway has exited longer than the orphan grace ago. One finding
//! for each gateway names all its orphans. The gateway is who forked the worker, or, for one that
//! was there before, a parent that lived and was no reaper when it was first seen; `ppid == 1`
//! alone proves nothing. Closes when all of them have ended.
//!
//! Proven if the kernel saw the fork and the gateway's exit. That it outlived its gateway does not
//! make a worker unused: it may have been meant to. It is shown to be unused only if nobody can use
//! it (`Worker::reach`) and it has been quiet since, with all that descends from it.

use super::{Judgement, Verdict, count, ids, time};
use crate::{
    model::{Confidence, Identity, Source},
    roster::{Doubt, Reach, Roster, Worker},
};

pub(super) fn judge(roster: &Roster, id: Identity) -> Judgement {
    let Some(gateway) = roster.gateway(id) else { return Judgement::default() };
    let Some(exit) = gateway.exit else { return Judgement::default() };
    let due = |worker: &Worker| exit.at.max(worker.birth.at).saturating_add(roster.rules.orphan);

    let live = gateway.live.iter().filter_map(|id| roster.worker(*id));
    let (mut orphans, waiting): (Vec<&Worker>, Vec<&Worker>) =
        live.partition(|worker| due(worker) <= roster.now);
    let deadline = waiting.into_iter().map(due).min();
    if orphans.is_empty() {
        return Judgement::new(None, deadline);
    }
    orphans.sort_by_key(|worker| (worker.birth.at, worker.id));
    let quiet_at = |worker: &Worker| {
        let rules = &roster.rules;
        let event = exit.at.max(worker.birth.at);
        match worker.reach(rules) {
            // What was recorded without a look at its stdin was judged without one.
            Reach::Unknown(_) if !rules.sees_use => Some(event.saturating_add(rules.orphan)),
            // That its stdin was held is no question: its gateway forked it and is gone.
            Reach::Nobody { doubt, .. } if doubt != Some(Doubt::Siblings) => {
                Some(worker.quiet_at(event, rules.orphan, rules))
            }
            _ => None,
        }
    };
    let unused: Vec<bool> =
        orphans.iter().map(|it| quiet_at(it).is_some_and(|at| at <= roster.now)).collect();
    let quieter = orphans.iter().filter_map(|it| quiet_at(it)).filter(|&at| at > roster.now);
    let deadline = deadline.into_iter().chain(quieter).min();
    let name = orphans[0].gateway.as_ref().map_or("", |link| link.process.comm.as_str());
    let text = format!(
        "gateway {name}({}) exited; {} of it outlived it by {} or longer: {}",
        id.pid,
        count(orphans.len(), "worker"),
        time(roster.rules.orphan),
        ids(&orphans),
    );
    let seen = exit.source == Source::Kernel;
    let verdict = Verdict::about(&orphans, text)
        .at_most(if seen { Confidence::Proven } else { Confidence::Strong })
        .unused_where(&unused)
        .because([exit.seq]);
    Judgement::new(Some(verdict), deadline)
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Kind, ParentSource, Role, Source};

    #[test]
    fn holds_for_a_worker_that_outlives_its_gateway() {
        let mut history = History::new();
        history.spawn(101, 100, K).spawn(102, 100, "other").after(60 * S).exit_gateway(100);
        history.after(10 * S - 1);
        assert!(history.silent());
        history.after(1);
        let finding = history.open(Kind::GatewayOrphan).expect("open");
        assert_eq!((pids(finding), finding.confidence), (vec![101, 102], Confidence::Proven));
        assert_eq!((finding.gateway.as_ref().expect("known").pid, &finding.session), (100, &None));
        assert_eq!(
            finding.text,
            "gateway python(100) exited; 2 workers of it outlived it by 10 s or longer: 101 and 102"
        );
        history.exit(101);
        assert_eq!(pids(history.found(Kind::GatewayOrphan)), [102]);
        history.exit(102);
        assert!(history.open(Kind::GatewayOrphan).is_none());
    }

    #[test]
    fn a_worker_that_finishes_its_call_within_the_grace_is_none() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(60 * S).exit_gateway(100).after(5 * S).exit(101);
        history.after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_gateway_whose_exit_comes_first_is_remembered() {
        let mut history = History::new();
        history.exit_gateway(100).spawn(101, 100, K).after(10 * S);
        assert_eq!(pids(history.found(Kind::GatewayOrphan)), [101]);
    }

    #[test]
    fn a_gateway_that_was_gone_at_the_exec_is_known_to_be_gone() {
        let mut history = History::new();
        history
            .spawn_with(101, 100, |spawn| spawn.parent.as_mut().expect("it has one").gone = true);
        history.after(10 * S);
        assert_eq!(history.found(Kind::GatewayOrphan).confidence, Confidence::Proven);
    }

    #[test]
    fn a_parent_that_adopts_is_no_gateway() {
        let mut history = History::new().starting_at(100 * S);
        history.inherited_with(101, 1, K, S, |spawn| {
            spawn.parent.as_mut().expect("it has one").reaper = true;
        });
        history.exit_gateway(1).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_live_parent_of_an_inherited_worker_is_weak() {
        let mut history = History::new().starting_at(100 * S);
        history.inherited(101, 100, K, S).exit_gateway(100).after(60 * S);
        let finding = history.open(Kind::GatewayOrphan).expect("open");
        assert_eq!(finding.confidence, Confidence::Weak);
        assert_eq!(finding.gateway.as_ref().expect("known").how, ParentSource::Proc);
    }

    #[test]
    fn an_exit_that_was_only_missed_is_strong() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(S).exit_as(100, Role::Gateway, Source::Proc).after(60 * S);
        assert_eq!(history.found(Kind::GatewayOrphan).confidence, Confidence::Strong);
    }

    #[test]
    fn an_ancestor_that_exits_is_not_its_gateway() {
        let mut history = History::new();
        history.spawn(101, 100, K).after(S).exit_as(50, Role::Ancestor, Source::Kernel);
        history.after(60 * S);
        assert!(history.silent());
    }
}
