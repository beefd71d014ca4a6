//! What was told of processes lately, for records that come in another order.

use std::collections::{BTreeMap, VecDeque, btree_map::Entry};

use crate::model::Identity;

/// Processes that are remembered.
const LATE_MAX: usize = 16_384;

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
