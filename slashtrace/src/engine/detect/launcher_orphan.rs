//! `launcher-orphan`: a worker that outlives what launched it.
//!
//! Holds for a live worker when a launcher of it (`npm exec`, `uv run`, `sh -c`: it starts the worker
//! and waits for it) has ended for longer than the orphan grace, while the gateway above lives. Who
//! ended the launcher meant the worker, too. One that ended in the moments after it started the
//! worker did not wait for it, and is no launcher. Where the gateway has exited, `gateway-orphan`
//! says more.
//!
//! Proven if the kernel saw the launcher's end. The worker is shown to be unused only if nobody can
//! use it any more (`Worker::reach`) and it has been quiet since: its stdin was often handed down by
//! the launcher, and its gateway may still hold it.

use super::{Judgement, Verdict, place, time};
use crate::{
    model::{Confidence, Identity, Source},
    roster::{Reach, Roster},
};

pub(super) fn judge(roster: &Roster, id: Identity) -> Judgement {
    let rules = &roster.rules;
    let worker = roster.worker(id).filter(|worker| worker.is_live() && worker.counts());
    let Some(worker) = worker else { return Judgement::default() };
    let Some(end) = worker.rare().launcher_exit else { return Judgement::default() };
    let gateway = worker.gateway_id().and_then(|id| roster.gateway(id));
    if gateway.is_some_and(|gateway| gateway.exit.is_some()) {
        return Judgement::default();
    }
    let event = end.at.max(worker.birth.at);
    let due = event.saturating_add(rules.orphan);
    if due > roster.now {
        return Judgement::new(None, Some(due));
    }
    let quiet_at = match worker.reach(rules) {
        Reach::Nobody { doubt: None, .. } => Some(worker.quiet_at(event, rules.orphan, rules)),
        _ => None,
    };
    let unused = quiet_at.is_some_and(|at| at <= roster.now);
    let text = format!(
        "what launched worker {} of {} ended; the worker outlived it by {} or longer",
        id.pid,
        place(&[worker]),
        time(rules.orphan),
    );
    let seen = end.source == Source::Kernel;
    let verdict = Verdict::about(&[worker], text)
        .at_most(if seen { Confidence::Proven } else { Confidence::Strong })
        .unused_where(&[unused])
        .because([end.seq]);
    Judgement::new(Some(verdict), quiet_at.filter(|&at| at > roster.now))
}
