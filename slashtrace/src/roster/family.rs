//! What descends from a worker: the processes that it and its descendants forked.

use std::collections::BTreeSet;

use super::{Roster, Subject, worker::Moment};
use crate::model::Identity;

/// Generations below a worker that are followed.
const LINEAGE_MAX: usize = 64;

/// A live process below a worker.
#[derive(Debug)]
pub(crate) struct Descendant {
    pub(crate) worker: Identity,
    pub(crate) parent: Option<Identity>,
    pub(crate) spawned: Moment,
    pub(crate) helper: Option<String>,
    /// When a process between it and its worker ended.
    pub(crate) detached_at: Option<u64>,
    /// Grace that a helper above it had, which has ended since.
    pub(crate) grace: Option<u64>,
}

impl Roster {
    /// The live processes below a worker.
    pub(crate) fn family(&self, worker: Identity) -> Option<&BTreeSet<Identity>> {
        self.families.get(&worker)
    }

    pub(crate) fn descendant(&self, id: Identity) -> Option<&Descendant> {
        self.descendants.get(&id)
    }

    /// A descendant and the processes above it that descend from the same worker, nearest first.
    pub(crate) fn lineage(
        &self,
        id: Identity,
    ) -> impl Iterator<Item = (Identity, &Descendant)> + '_ {
        let find = |id: Identity| self.descendants.get(&id).map(|one| (id, one));
        std::iter::successors(find(id), move |(_, one)| one.parent.and_then(find)).take(LINEAGE_MAX)
    }

    /// How long a descendant may outlive its worker by the most patient helper that it is or that
    /// started it, ns.
    pub(crate) fn helper_grace_of(&self, id: Identity) -> Option<u64> {
        self.lineage(id)
            .filter_map(|(_, one)| {
                let helper = one.helper.as_deref().and_then(|name| self.rules.helper_grace(name));
                helper.max(one.grace)
            })
            .max()
    }

    pub(super) fn adopt(&mut self, id: Identity, descendant: Descendant) {
        self.families.entry(descendant.worker).or_default().insert(id);
        if let Some(parent) = descendant.parent {
            self.children.entry(parent).or_default().insert(id);
        }
        self.descendants.insert(id, descendant);
    }

    /// What a new worker forked before it was known as one descends from it, not from the worker
    /// above it.
    pub(super) fn rehome(&mut self, above: Identity, id: Identity) {
        if !self.families.contains_key(&above) {
            return;
        }
        let mut moving: Vec<Identity> = Vec::new();
        let mut next = vec![id];
        while let Some(parent) = next.pop() {
            let below = self.children.get(&parent).into_iter().flatten().copied();
            let of_above = |child: &Identity| {
                self.descendants.get(child).is_some_and(|one| one.worker == above)
            };
            let below: Vec<Identity> = below.filter(of_above).collect();
            moving.extend(&below);
            next.extend(below);
        }
        for member in moving {
            if let Some(descendant) = self.descendants.get_mut(&member) {
                descendant.worker = id;
            }
            self.families.entry(id).or_default().insert(member);
            if let Some(family) = self.families.get_mut(&above) {
                family.remove(&member);
            }
        }
        if self.families.get(&above).is_some_and(BTreeSet::is_empty) {
            self.families.remove(&above);
        }
        self.touch(Subject::Worker(above));
        self.touch(Subject::Worker(id));
    }

    /// Takes a descendant out; where it ended, what it had forked is detached from the worker.
    pub(super) fn drop_descendant(&mut self, id: Identity, ended_at: Option<u64>) {
        let Some(gone) = self.descendants.get(&id) else { return };
        let (worker, parent) = (gone.worker, gone.parent);
        let grace = self.helper_grace_of(id);
        self.descendants.remove(&id);
        if let Some(parent) = parent
            && let Some(children) = self.children.get_mut(&parent)
        {
            children.remove(&id);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
        if let Some(at) = ended_at {
            for child in self.children.get(&id).into_iter().flatten() {
                if let Some(child) = self.descendants.get_mut(child)
                    && child.worker == worker
                {
                    child.detached_at = child.detached_at.or(Some(at));
                    child.grace = child.grace.max(grace);
                }
            }
        }
        if let Some(family) = self.families.get_mut(&worker) {
            family.remove(&id);
            if family.is_empty() {
                self.families.remove(&worker);
                self.forget_if_due(worker);
            }
        }
        self.touch(Subject::Worker(worker));
    }
}
