//! The workers by identity. A worker has its own key, so an empty slot of the table costs a pointer:
//! up to half of them are empty.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::Worker;
use crate::model::Identity;

/// Below this capacity nothing is given back.
const SMALL: usize = 64;

/// The workers that are remembered. As an [`Index`](super::index::Index), it is never walked where the
/// order could be seen.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    table: HashTable<Box<Worker>>,
    hasher: RandomState,
}

impl Workers {
    pub(crate) fn get(&self, id: &Identity) -> Option<&Worker> {
        let found = self.table.find(self.hasher.hash_one(id), |worker| worker.id == *id);
        found.map(|worker| &**worker)
    }

    pub(super) fn get_mut(&mut self, id: &Identity) -> Option<&mut Worker> {
        let found = self.table.find_mut(self.hasher.hash_one(id), |worker| worker.id == *id);
        found.map(|worker| &mut **worker)
    }

    pub(super) fn contains_key(&self, id: &Identity) -> bool {
        self.get(id).is_some()
    }

    /// Puts a worker in, in the place of the one that has its identity.
    pub(super) fn insert(&mut self, worker: Worker) {
        if let Some(known) = self.get_mut(&worker.id) {
            *known = worker;
            return;
        }
        let hasher = &self.hasher;
        let hash = hasher.hash_one(worker.id);
        self.table.insert_unique(hash, Box::new(worker), |known| hasher.hash_one(known.id));
    }

    pub(super) fn remove(&mut self, id: &Identity) -> Option<Box<Worker>> {
        let hash = self.hasher.hash_one(id);
        let found = self.table.find_entry(hash, |worker| worker.id == *id).ok()?;
        Some(found.remove().0)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Worker> {
        self.table.iter().map(|worker| &**worker)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// After a storm there is room for more than will come again soon.
    pub(super) fn give_back(&mut self) {
        if self.table.capacity() > SMALL && self.table.len() < self.table.capacity() / 8 {
            let hasher = &self.hasher;
            self.table.shrink_to(self.table.len() * 2, |worker| hasher.hash_one(worker.id));
        }
    }
}
