use std::collections::VecDeque;

use crate::model::Identity;

/// A new worker's channels are looked at that long after it was spawned: whoever closes a stdin as
/// soon as the worker runs (a notebook server) has done so by then, and whoever means to use it has
/// not.
pub(super) const FIRST_LOOK_NS: u64 = 300_000_000;
/// First looks are this far apart.
const APART_NS: u64 = 100_000_000;
/// Workers that are looked at in one go. In a storm the others have their turn in the next round.
const AT_ONCE: usize = 64;
/// New workers that are remembered: more in so short a time are a storm.
const MAX: usize = 4_096;

/// New workers that wait for the first look at their channels.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    /// When each was spawned, oldest first, ns of the boot clock.
    waiting: VecDeque<(u64, Identity)>,
    not_before_ns: u64,
}

impl Fresh {
    /// A worker was spawned.
    pub(super) fn push(&mut self, worker: Identity, spawned_ns: u64) {
        if self.waiting.len() < MAX {
            self.waiting.push_back((spawned_ns, worker));
        }
    }

    /// When the next look is due, ns of the boot clock.
    pub(super) fn due_ns(&self) -> Option<u64> {
        let (spawned_ns, _) = self.waiting.front()?;
        Some(spawned_ns.saturating_add(FIRST_LOOK_NS).max(self.not_before_ns))
    }

    /// The workers that are to be looked at now, among those that are `there`.
    pub(super) fn take(&mut self, now_ns: u64, there: impl Fn(Identity) -> bool) -> Vec<Identity> {
        let mut taken = Vec::new();
        if self.due_ns().is_none_or(|due_ns| now_ns < due_ns) {
            return taken;
        }
        while taken.len() < AT_ONCE
            && let Some(&(spawned_ns, worker)) = self.waiting.front()
            && spawned_ns.saturating_add(FIRST_LOOK_NS) <= now_ns
        {
            self.waiting.pop_front();
            if there(worker) {
                taken.push(worker);
            }
        }
        self.not_before_ns = now_ns + APART_NS;
        taken
    }
}
