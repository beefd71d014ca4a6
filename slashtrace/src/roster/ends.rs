//! Ends of processes that the roster has no entry for, or none any more: records may come late.

use std::collections::VecDeque;

use super::{
    index::{Index, give_back},
    worker::Moment,
};
use crate::model::Identity;

/// How long an end is remembered, ns.
const REMEMBERED: u64 = 60_000_000_000;
/// Ends that are remembered at most.
const ENDS_MAX: usize = 16_384;

/// The newest ends.
#[derive(Debug, Default)]
pub(super) struct Ends {
    by_id: Index<Identity, Moment>,
    order: VecDeque<(u64, Identity)>,
}

impl Ends {
    pub(super) fn get(&self, id: Identity) -> Option<Moment> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn remember(&mut self, id: Identity, end: Moment, now: u64) {
        if self.by_id.insert(id, end).is_none() {
            self.order.push_back((now, id));
        }
    }

    /// Forgets those that no record can be late for any more.
    pub(super) fn retire(&mut self, now: u64) {
        let before = self.order.len();
        while let Some(&(since, oldest)) = self.order.front() {
            if self.order.len() <= ENDS_MAX && since.saturating_add(REMEMBERED) > now {
                break;
            }
            self.order.pop_front();
            self.by_id.remove(&oldest);
        }
        if self.order.len() == before {
            return;
        }
        give_back(&mut self.by_id);
        if self.order.capacity() > 64 && self.order.len() < self.order.capacity() / 8 {
            self.order.shrink_to(self.order.len() * 2);
        }
    }

    /// When the oldest is forgotten, ns of the boot clock.
    pub(super) fn next_retirement(&self) -> Option<u64> {
        self.order.front().map(|&(since, _)| since.saturating_add(REMEMBERED))
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.by_id.len(), self.order.len()]
    }
}
