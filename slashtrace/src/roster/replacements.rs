//! Which spawns of a group replaced one another without overlap: runs of spawns, kept up to date as
//! workers are spawned, end and are forgotten, so that the longest run is found without a walk.

use std::collections::{BTreeSet, VecDeque};

use crate::model::Identity;

/// Of fewer spawns no runs are kept: most groups have one worker.
pub(super) const FEW: usize = 3;

/// A worker that was seen being spawned.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Spawned {
    /// When, ns of the boot clock.
    pub(crate) birth: u64,
    pub(crate) id: Identity,
}

/// The spawns of a group by birth, cut into runs: within a run each spawn replaced the one before.
///
/// Spawns are numbered as they come; a run is named by the number of its first spawn.
#[derive(Debug, Default)]
pub(crate) struct Replacements {
    spawns: VecDeque<Spawned>,
    /// Number of the first of `spawns`.
    first: u64,
    /// Where a run starts; the number of the first spawn is always there.
    starts: BTreeSet<u64>,
    /// Length and start of each run.
    lengths: BTreeSet<(u64, u64)>,
}

impl Replacements {
    /// A worker was spawned. `replaces(a, b)` says whether `b` replaced `a`.
    pub(super) fn insert(&mut self, one: Spawned, replaces: impl Fn(Identity, Identity) -> bool) {
        let place = self.spawns.partition_point(|it| *it < one);
        if place == self.spawns.len() {
            let linked = self.spawns.back().is_some_and(|last| replaces(last.id, one.id));
            self.spawns.push_back(one);
            if self.spawns.len() == FEW {
                self.rebuild(replaces);
            } else if self.spawns.len() > FEW {
                let number = self.first + place as u64;
                self.add_start(number);
                if linked {
                    self.remove_start(number);
                }
            }
        } else {
            // A record that came late.
            self.spawns.insert(place, one);
            self.rebuild(replaces);
        }
    }

    /// A worker is forgotten, or belongs to another group.
    pub(super) fn remove(&mut self, one: Spawned, replaces: impl Fn(Identity, Identity) -> bool) {
        let Ok(place) = self.spawns.binary_search(&one) else { return };
        if place == 0 && self.spawns.len() > FEW {
            // The first run loses its first spawn, and is gone if that was all of it.
            let (number, second) = (self.first, self.first + 1);
            let length = self.end_of(number) - number;
            self.lengths.remove(&(length, number));
            self.starts.pop_first();
            if length > 1 {
                self.lengths.insert((length - 1, second));
                self.starts.insert(second);
            }
            self.spawns.pop_front();
            self.first = second;
        } else {
            self.spawns.remove(place);
            self.rebuild(replaces);
        }
    }

    /// The end of a worker changed: whether the next one replaced it may have, too.
    pub(super) fn refresh(&mut self, one: Spawned, replaces: impl Fn(Identity, Identity) -> bool) {
        let Ok(place) = self.spawns.binary_search(&one) else { return };
        let Some(next) = self.spawns.get(place + 1).filter(|_| self.spawns.len() >= FEW) else {
            return;
        };
        let number = self.first + place as u64 + 1;
        match (self.starts.contains(&number), replaces(one.id, next.id)) {
            (true, true) => self.remove_start(number),
            (false, false) => self.add_start(number),
            _ => {}
        }
    }

    /// How many spawns there were since `from`, ns of the boot clock.
    pub(crate) fn since(&self, from: u64) -> usize {
        self.spawns.len() - self.spawns.partition_point(|it| it.birth < from)
    }

    /// The birth of the first spawn after `at`; of the first one at all for none.
    pub(crate) fn next_after(&self, at: Option<u64>) -> Option<u64> {
        let place = at.map_or(0, |at| self.spawns.partition_point(|it| it.birth <= at));
        self.spawns.get(place).map(|it| it.birth)
    }

    /// The longest run among the spawns of `from..=until`, ns of the boot clock; the later one of
    /// equals. Empty where there are fewer than three spawns.
    pub(crate) fn longest(&self, from: u64, until: u64) -> Run<'_> {
        let low = self.first + self.spawns.partition_point(|it| it.birth < from) as u64;
        let high = self.first + self.spawns.partition_point(|it| it.birth <= until) as u64;
        let mut best = (0, low);
        // Those that are wholly within come as they are; at most two reach over an edge.
        for &(length, start) in self.lengths.iter().rev() {
            if length < best.0 {
                break;
            }
            let (cut_start, cut_end) = (start.max(low), (start + length).min(high));
            let cut = (cut_end.saturating_sub(cut_start), cut_start);
            best = best.max(cut);
        }
        let (length, start) = best;
        Run { replacements: self, start: (start - self.first) as usize, length: length as usize }
    }

    /// Cuts the run that a spawn is in before it.
    fn add_start(&mut self, number: u64) {
        let end = self.end_of(number);
        if let Some(&before) = self.starts.range(..number).next_back() {
            let length = if self.starts.contains(&number) { number } else { end } - before;
            self.lengths.remove(&(length, before));
            self.lengths.insert((number - before, before));
        }
        if self.starts.insert(number) {
            self.lengths.insert((end - number, number));
        }
    }

    /// Joins a run to the one before.
    fn remove_start(&mut self, number: u64) {
        let end = self.end_of(number);
        let Some(&before) = self.starts.range(..number).next_back() else { return };
        self.starts.remove(&number);
        self.lengths.remove(&(end - number, number));
        self.lengths.remove(&(number - before, before));
        self.lengths.insert((end - before, before));
    }

    /// The end of the run that a spawn is in.
    fn end_of(&self, number: u64) -> u64 {
        let next = self.starts.range(number + 1..).next().copied();
        next.unwrap_or(self.first + self.spawns.len() as u64)
    }

    fn rebuild(&mut self, replaces: impl Fn(Identity, Identity) -> bool) {
        self.starts.clear();
        self.lengths.clear();
        if self.spawns.len() < FEW {
            return;
        }
        let mut start = 0;
        for place in 1..=self.spawns.len() {
            let ends = place == self.spawns.len()
                || !replaces(self.spawns[place - 1].id, self.spawns[place].id);
            if ends {
                self.starts.insert(self.first + start as u64);
                self.lengths.insert(((place - start) as u64, self.first + start as u64));
                start = place;
            }
        }
    }
}

/// A run of replacements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    replacements: &'a Replacements,
    start: usize,
    length: usize,
}

impl Run<'_> {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Its spawns, oldest first.
    pub(crate) fn spawns(&self) -> impl DoubleEndedIterator<Item = Spawned> + '_ {
        self.replacements.spawns.range(self.start..self.start + self.length).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn one(birth: u64) -> Spawned {
        Spawned { birth, id: Identity { pid: birth as u32, start_ns: birth } }
    }

    /// Runs found by walking all spawns.
    fn walked(
        spawns: &BTreeSet<Spawned>,
        linked: &BTreeMap<u64, bool>,
        (from, until): (u64, u64),
    ) -> Vec<Spawned> {
        let (mut longest, mut run) = (Vec::new(), Vec::<Spawned>::new());
        for &it in spawns.iter().filter(|it| (from..=until).contains(&it.birth)) {
            if run.last().is_some_and(|before| !linked[&before.birth]) {
                if run.len() >= longest.len() {
                    longest = std::mem::take(&mut run);
                }
                run.clear();
            }
            run.push(it);
        }
        if run.len() >= longest.len() { run } else { longest }
    }

    proptest! {
        #[test]
        fn the_longest_run_is_the_one_that_a_walk_finds(
            steps in prop::collection::vec((0u8..8, 0u64..40, any::<bool>()), 1..120),
            from in 0u64..40,
            until in 0u64..44,
        ) {
            // Whether the next spawn replaced this one.
            let mut linked: BTreeMap<u64, bool> = (0..40).map(|birth| (birth, true)).collect();
            let mut spawns = BTreeSet::new();
            let mut kept = Replacements::default();
            for (what, birth, link) in steps {
                match what {
                    0 => {
                        if let Some(it) = spawns.pop_first() {
                            kept.remove(it, |a, _| linked[&a.start_ns]);
                        }
                    }
                    1 if spawns.remove(&one(birth)) => {
                        kept.remove(one(birth), |a, _| linked[&a.start_ns]);
                    }
                    2 | 3 => {
                        linked.insert(birth, link);
                        kept.refresh(one(birth), |a, _| linked[&a.start_ns]);
                    }
                    _ => {
                        if spawns.insert(one(birth)) {
                            kept.insert(one(birth), |a, _| linked[&a.start_ns]);
                        }
                    }
                }
                let run: Vec<Spawned> = kept.longest(from, until).spawns().collect();
                if spawns.len() < FEW {
                    prop_assert!(run.is_empty());
                } else {
                    prop_assert_eq!(run, walked(&spawns, &linked, (from, until)));
                }
                let within = spawns.iter().filter(|it| it.birth >= from).count();
                prop_assert_eq!(kept.since(from), within);
            }
        }
    }
}
