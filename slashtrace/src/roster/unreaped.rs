//! Processes below a worker that ended and are not reaped: by the worker, a helper of it, or whoever
//! adopted them.

use std::collections::{BTreeMap, VecDeque};

use super::{Index, Roster, Subject, worker::Moment};
use crate::model::{Identity, Record, Sample, Source};

/// Ended processes that are remembered, in case one turns out to be a zombie.
const ENDED_MAX: usize = 4_096;
/// Zombies that are remembered, of all workers.
const ZOMBIES_MAX: usize = 4_096;
/// A sampler looks within moments; nobody is remembered for longer, ns.
const REMEMBERED: u64 = 60_000_000_000;

/// A process below a worker that ended and was not reaped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zombie {
    pub(crate) exit: Moment,
    /// The first sample that showed it as a zombie.
    pub(crate) seen: Moment,
}

/// Who ended below a worker.
#[derive(Debug, Default)]
pub(super) struct Unreaped {
    /// Who ended a moment ago, below which worker; the newest last.
    ended: VecDeque<(Identity, Identity, Moment)>,
    /// Zombies by worker, and the worker of each.
    zombies: Index<Identity, BTreeMap<Identity, Zombie>>,
    of: Index<Identity, Identity>,
}

impl Roster {
    /// The zombies below a worker.
    pub(crate) fn zombies_below(
        &self,
        worker: Identity,
    ) -> impl Iterator<Item = (Identity, Zombie)> + '_ {
        let zombies = self.unreaped.zombies.get(&worker).into_iter().flatten();
        zombies.map(|(id, zombie)| (*id, *zombie))
    }

    pub(super) fn has_zombies_below(&self, worker: Identity) -> bool {
        self.unreaped.zombies.contains_key(&worker)
    }

    /// A process is about to be taken out of its worker's family because it ended.
    pub(super) fn ended_below(&mut self, id: Identity, end: Moment) {
        let Some(worker) = self.descendant(id).map(|descendant| descendant.worker) else { return };
        let ended = &mut self.unreaped.ended;
        ended.push_back((id, worker, end));
        let oldest = self.now.saturating_sub(REMEMBERED);
        while ended.len() > ENDED_MAX || ended.front().is_some_and(|(_, _, end)| end.at < oldest) {
            ended.pop_front();
        }
    }

    /// A sample of a process that is no worker: of one that has ended.
    pub(super) fn sampled_below(&mut self, record: &Record, sample: &Sample) {
        let id = sample.identity();
        let unreaped = &mut self.unreaped;
        if let Some(worker) = unreaped.of.get(&id).copied() {
            if sample.state == 'Z' {
                return;
            }
            unreaped.of.remove(&id);
            if let Some(zombies) = unreaped.zombies.get_mut(&worker) {
                zombies.remove(&id);
                if zombies.is_empty() {
                    unreaped.zombies.remove(&worker);
                    self.forget_if_due(worker);
                }
            }
            self.touch(Subject::Worker(worker));
        } else if sample.state == 'Z' && unreaped.of.len() < ZOMBIES_MAX {
            let ended = unreaped.ended.iter().rev().find(|(ended, ..)| *ended == id);
            let Some((_, worker, exit)) = ended.copied() else { return };
            let seen = Moment { at: record.boottime_ns, seq: record.seq, source: Source::Proc };
            unreaped.of.insert(id, worker);
            unreaped.zombies.entry(worker).or_default().insert(id, Zombie { exit, seen });
            self.touch(Subject::Worker(worker));
        }
    }
}
