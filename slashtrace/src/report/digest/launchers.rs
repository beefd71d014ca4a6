//! Workers that only launched another of the same session (`uv run`, a wrapper script): a launcher
//! and what it launched are one worker.

use std::collections::{BTreeMap, VecDeque, btree_map::Entry};

use super::lives::{Key, Lives};
use crate::model::{Identity, Parent};

/// Processes that are remembered after their exit, for records that are late.
const LATE_MAX: usize = 16_384;

/// A row that turned out to be another one's: its workers were launched, not spawned, by the
/// process that it has for a gateway.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) from: Key,
    pub(super) into: Key,
}

/// What is known of the last [`LATE_MAX`] processes that it was noted of.
#[derive(Debug)]
pub(super) struct Recent<T> {
    by_id: BTreeMap<Identity, T>,
    order: VecDeque<Identity>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<T> Recent<T> {
    /// Notes it, unless something is known already.
    pub(super) fn note(&mut self, id: Identity, what: T) {
        if let Entry::Vacant(entry) = self.by_id.entry(id) {
            entry.insert(what);
            self.order.push_back(id);
        }
        if self.order.len() > LATE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    /// Takes out what is known.
    pub(super) fn take(&mut self, id: &Identity) -> Option<T> {
        self.by_id.remove(id)
    }
}

/// The launchers, each with the row of what it launched.
#[derive(Debug, Default)]
pub(super) struct Launchers {
    by_id: BTreeMap<Identity, Key>,
    exited: Recent<Key>,
}

impl Launchers {
    /// The row of what this process launched, if it is known as a launcher.
    pub(super) fn row(&self, id: &Identity) -> Option<&Key> {
        self.by_id.get(id).or_else(|| self.exited.by_id.get(id))
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut Key> {
        self.by_id.values_mut().chain(self.exited.by_id.values_mut())
    }

    /// Notes an exit; false if it is no launcher's.
    pub(super) fn exited(&mut self, id: Identity) -> bool {
        let known = self.by_id.remove(&id);
        known.is_some_and(|key| {
            self.exited.note(id, key);
            true
        })
    }
}

impl Lives {
    /// Where a worker's parent is a worker of the same session, that one only launched it (`uv
    /// run`, a wrapper script) and is not counted; unless it had become another program before
    /// `at_ns`. Returns the row of both.
    pub(super) fn launched(
        &mut self,
        parent: &Parent,
        session: Option<&str>,
        at_ns: u64,
    ) -> Option<Key> {
        let parent = parent.process.identity();
        let same = |key: &Key| key.session.is_some() && key.session.as_deref() == session;
        if let Some(key) = self.launchers.row(&parent) {
            return same(key).then(|| key.clone());
        }
        let worker = self.workers.get(&parent)?;
        let key = worker.key.clone();
        if !same(&key) || worker.away_ns.is_some_and(|away_ns| away_ns <= at_ns) {
            return None;
        }
        self.step_back(parent);
        Some(key)
    }

    /// A launcher is no worker of its own.
    fn step_back(&mut self, launcher: Identity) {
        self.leave(launcher, 0, None);
        let Some(worker) = self.workers.remove(&launcher) else { return };
        if let Some(row) = self.rows.get_mut(&worker.key) {
            row.spawned -= 1;
            row.inherited -= u64::from(worker.inherited);
        }
        self.launchers.by_id.insert(launcher, worker.key);
    }

    /// The same where the launched worker was reported first: it stands below its launcher as if
    /// that were its gateway.
    pub(super) fn take_over(
        &mut self,
        launcher: Identity,
        session: Option<&str>,
    ) -> Option<Merged> {
        let from = Key { gateway: Some(launcher), session: Some(session?.to_owned()) };
        let into = self.workers.get(&launcher)?.key.clone();
        // Nobody is their own parent, but a file may say so.
        let row = (into != from).then(|| self.rows.remove(&from))??;
        self.step_back(launcher);
        for key in self.workers.values_mut().map(|worker| &mut worker.key) {
            if *key == from {
                key.clone_from(&into);
            }
        }
        for key in self.launchers.rows_mut().filter(|key| **key == from) {
            key.clone_from(&into);
        }
        let both = self.rows.entry(into.clone()).or_default();
        both.spawned += row.spawned;
        both.inherited += row.inherited;
        both.live += row.live;
        both.most_live = both.most_live.max(row.most_live).max(both.live);
        both.calls += row.calls;
        both.inexact |= row.inexact;
        Some(Merged { from, into })
    }
}
