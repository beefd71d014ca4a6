//! A process that forked workers.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use super::{
    Roster,
    timeline::Timeline,
    worker::{Link, Moment, Worker},
};
use crate::model::{Identity, Process};

/// A gateway: the thread group that forked workers.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// As the first spawn that named it described it.
    pub(crate) process: Arc<Process>,
    /// The processes above its newest worker, and that one's model: most have the same.
    newest: (Arc<[Identity]>, Option<Arc<str>>),
    pub(crate) exit: Option<Moment>,
    /// Its live workers, launchers left out.
    pub(crate) live: BTreeSet<Identity>,
    /// Those that ended and are remembered, by when.
    pub(crate) ended: Timeline,
    /// All of these, by birth.
    pub(super) births: Timeline,
    /// Who forked it, in case that it only passed through.
    pub(super) forker: Option<Link>,
    /// Connections that it opened itself, when it was last looked at.
    pub(crate) outbound: u32,
    /// Those of the live ones whose own client is gone.
    pub(crate) departed: BTreeSet<Identity>,
}

impl Gateway {
    /// Workers that were born within a span of time, ns of the boot clock.
    pub(super) fn born_within(&self, span: Range<u64>) -> impl Iterator<Item = Identity> + '_ {
        self.births.within(span).map(|(_, id)| id)
    }

    pub(super) fn put(&mut self, id: Identity, end: Option<u64>) {
        match end {
            None => drop(self.live.insert(id)),
            Some(end) => self.ended.insert(end, id),
        }
    }

    pub(super) fn take(&mut self, id: Identity, end: Option<u64>) {
        match end {
            None => drop(self.live.remove(&id)),
            Some(end) => self.ended.remove(end, id),
        }
    }
}

impl Roster {
    /// Makes sure that there is an entry for a gateway; one that is known to have ended already
    /// gets that end.
    pub(super) fn ensure_gateway(&mut self, process: &Arc<Process>, gone: Option<Moment>) {
        let id = process.identity();
        let exit = self.ends.get(id).or(gone);
        let gateway = self.gateways.entry(id).or_insert_with(|| Gateway {
            process: Arc::clone(process),
            newest: (Arc::default(), None),
            exit: None,
            live: BTreeSet::new(),
            ended: Timeline::default(),
            births: Timeline::default(),
            forker: None,
            outbound: 0,
            departed: BTreeSet::new(),
        });
        gateway.exit = gateway.exit.or(exit);
        self.refresh_left_behind(id);
    }

    /// The entry of a gateway that is known, so that its workers share it.
    pub(super) fn shared(&self, process: Arc<Process>) -> Arc<Process> {
        match self.gateways.get(&process.identity()) {
            Some(known) if known.process == process => Arc::clone(&known.process),
            _ => process,
        }
    }

    /// Has a worker share with its gateway's newest what is the same.
    pub(super) fn share(&mut self, worker: &mut Worker) {
        let Some(gateway) = worker.gateway_id().and_then(|id| self.gateways.get_mut(&id)) else {
            return;
        };
        let (above, model) = &mut gateway.newest;
        if *above == worker.above {
            worker.above = Arc::clone(above);
        } else {
            *above = Arc::clone(&worker.above);
        }
        if *model == worker.model {
            worker.model.clone_from(model);
        } else {
            model.clone_from(&worker.model);
        }
    }

    /// Counts again how many workers of a gateway live although it exited.
    pub(super) fn refresh_left_behind(&mut self, id: Identity) {
        let gone = self.gateways.get(&id).filter(|at| at.exit.is_some());
        let now = gone.map_or(0, |gateway| gateway.live.len());
        let (of_gateway, all) = &mut self.left_behind;
        let before = match now {
            0 => of_gateway.remove(&id),
            now => of_gateway.insert(id, now),
        };
        *all = *all - before.unwrap_or(0) + now;
    }

    /// Live workers that a process forked: as their gateway, or as the launcher of one.
    pub(crate) fn forked_by(&self, id: Identity) -> Vec<Identity> {
        let below = self.gateways.get(&id).into_iter().flat_map(|gateway| &gateway.live);
        let session = self.workers.get(&id).and_then(|worker| worker.session.as_ref());
        let same = session.and_then(|session| self.by_session.get(session)).into_iter().flatten();
        let launched = same.filter(|other| {
            let other = self.workers.get(other).filter(|other| other.is_live());
            other.is_some_and(|other| other.above.first() == Some(&id))
        });
        let all: BTreeSet<Identity> = below.chain(launched).copied().collect();
        all.into_iter().filter(|other| *other != id).collect()
    }

    /// How many live workers a gateway had too many at a moment that is not long past: those past
    /// the overlap grace, less one for each session that had any.
    pub(crate) fn surplus_at(&self, gateway: Identity, at: u64) -> u64 {
        let Some(gateway) = self.gateways.get(&gateway) else { return 0 };
        let ended = gateway.ended.within(at.saturating_add(1)..).map(|(_, id)| id);
        let mut sessions: BTreeMap<&str, u64> = BTreeMap::new();
        for worker in gateway.live.iter().copied().chain(ended).filter_map(|id| self.worker(id)) {
            if let Some(session) = worker.session.as_deref()
                && worker.matures_at(&self.rules) <= at
            {
                *sessions.entry(session).or_default() += 1;
            }
        }
        sessions.values().map(|workers| workers - 1).sum()
    }
}
