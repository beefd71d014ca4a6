//! What is forgotten, and when: what has ended leaves when no window needs it, and only its totals
//! stay.

use std::collections::VecDeque;

use super::{Roster, give_back, timeline::Timeline};
use crate::model::Identity;

/// The least time that an ended worker is kept for samples of its zombie, ns.
const REMEMBERED: u64 = 60_000_000_000;
/// Ended workers of one group that are kept at most.
const ENDED_PER_GROUP: usize = 256;
/// Ended workers that are kept at most: in a storm the windows are cut short.
pub(super) const ENDED_MAX: usize = 8_192;
/// Time alone makes the roster forget if at least this many are remembered; fewer wait for the next
/// record, for their memory is not worth one.
const WORTH_A_TICK: usize = 512;
/// What is due within this time is forgotten at once, ns.
const TOGETHER: u64 = 10_000_000_000;

/// After so many have been forgotten it is looked whether there is room to give back.
const GIVE_BACK_EVERY: u64 = 64;

/// Who is forgotten next.
#[derive(Debug, Default)]
pub(super) struct Retiring {
    /// Ended workers, by until when they are kept.
    workers: Timeline,
    /// Gateways that the last worker was taken from.
    idle: VecDeque<Identity>,
    /// How many were forgotten so far.
    forgotten: u64,
}

impl Retiring {
    pub(super) fn idle(&mut self, gateway: Identity) {
        self.idle.push_back(gateway);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }
}

impl Roster {
    /// Forgets what has ended long enough ago, and gateways without workers.
    pub(super) fn retire(&mut self) {
        while let Some((until, id)) = self.retiring.workers.first() {
            if until >= self.now && self.retiring.workers.len() <= ENDED_MAX {
                break;
            }
            self.retiring.workers.pop_first();
            self.forget(id);
            self.retiring.forgotten += 1;
            if self.retiring.forgotten.is_multiple_of(GIVE_BACK_EVERY)
                || self.retiring.workers.is_empty()
            {
                self.give_back();
            }
        }
        while let Some(id) = self.retiring.idle.pop_front() {
            let empty = |at: &super::Gateway| at.live.is_empty() && at.ended.is_empty();
            if self.gateways.get(&id).is_some_and(empty) {
                self.gateways.remove(&id);
                self.joins.remove(&id);
                self.refresh_left_behind(id);
                self.touch(super::Subject::Gateway(id));
            }
        }
        self.ends.retire(self.now);
        self.retire_terminals();
    }

    /// Keeps a worker that has ended for as long as something may be judged by it.
    pub(super) fn keep_for_now(&mut self, id: Identity) {
        let until = self.now.saturating_add(self.rules.churn.max(REMEMBERED));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let before = worker.keep_until(until);
        let key = worker.key().filter(|_| worker.counts());
        self.retiring.workers.remove(before, id);
        self.retiring.workers.insert(until, id);
        let group = key.and_then(|key| self.groups.get(&key));
        if let Some(group) = group.filter(|group| group.ended.len() > ENDED_PER_GROUP)
            && let Some((_, oldest)) = group.ended.first()
        {
            self.forget(oldest);
        }
    }

    /// Forgets an ended worker whose time is over, or sees to it that it is forgotten then: in a storm
    /// it may have been passed over early, because descendants outlived it.
    pub(super) fn forget_if_due(&mut self, id: Identity) {
        let Some(worker) = self.workers.get(&id).filter(|worker| !worker.is_live()) else { return };
        let until = worker.kept_until();
        if until < self.now {
            self.forget(id);
        } else {
            self.retiring.workers.insert(until, id);
        }
    }

    /// Forgets a worker that has ended, unless something may yet be found about it: not reaped, or
    /// outlived by descendants, or by zombies below it. Those that outlive it ask again when they end.
    fn forget(&mut self, id: Identity) {
        let Some(worker) = self.workers.get(&id) else { return };
        let reaped = worker.zombie().is_none();
        let ended = worker.end().is_some();
        let until = worker.kept_until();
        let below = self.families.contains_key(&id) || self.has_zombies_below(id);
        if !ended || !reaped || below {
            return;
        }
        self.keep_witness(id);
        self.keep_unjudged(id);
        self.dismiss(id, true);
        self.forget_launchers(id);
        self.workers.remove(&id);
        self.retiring.workers.remove(until, id);
    }

    /// When time alone makes the roster forget, ns of the boot clock: whoever drives it gives it a
    /// `tick` record then, so that a replay forgets at the same record. Never for the sake of few.
    pub(crate) fn next_retirement(&self) -> Option<u64> {
        let workers = self.retiring.workers.first().map(|(until, _)| until.saturating_add(1));
        let workers = workers.filter(|_| self.retiring.workers.len() >= WORTH_A_TICK);
        let ends = self.ends.next_retirement().filter(|_| self.ends.len() >= WORTH_A_TICK);
        let first = workers.into_iter().chain(ends).min();
        first.map(|at| at.saturating_add(TOGETHER))
    }

    /// Gives back the room that a storm has left.
    fn give_back(&mut self) {
        self.workers.give_back();
        give_back(&mut self.descendants);
        give_back(&mut self.families);
        give_back(&mut self.children);
        give_back(&mut self.groups);
        give_back(&mut self.gateways);
        give_back(&mut self.clientless);
        give_back(&mut self.by_session);
        give_back(&mut self.by_tty);
        give_back(&mut self.left_behind.0);
    }

    /// How many entries of each sort there are.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![
            self.workers.len(),
            self.descendants.len(),
            self.families.len(),
            self.children.len(),
            self.groups.len(),
            self.gateways.len(),
            self.clientless.len(),
            self.retiring.len(),
            self.terminals.len(),
            self.joins.len(),
            self.by_session.len(),
            self.by_tty.len(),
            self.left_behind.0.len(),
            self.launched.len(),
        ];
        sizes.extend(self.ends.sizes());
        sizes
    }
}
