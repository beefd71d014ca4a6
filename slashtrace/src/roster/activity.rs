//! Which calls a worker served, as far as its samples show it.
//!
//! *Counted* (`reads`): the exact number, for a worker that was watched from its spawn.
//! *Sampled* (`syscr`): a rise of the process's read system calls. Start-up reads too, so rises
//! are taken in runs: rises less than [`Rules::settle`] apart are one run. The first run is
//! start-up, each later one is a *burst*: at least one call. A start may come in several parts, with
//! waits for others in between. Where the end of a start can be seen (the worker waits for its
//! stdin), all before that is start-up, however many parts it has; where it is not seen, the second
//! run is taken for a part of the start, too.

use std::collections::VecDeque;

use super::rules::Rules;
use crate::model::Maybe;

/// Rises that are kept; more than three are within the settle time only in made-up recordings.
const RISES_KEPT: usize = 8;

/// Calls a worker was seen to serve.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Served {
    /// How many.
    pub(crate) calls: u64,
    /// Whether that is the number of calls over its whole life, rather than of bursts seen.
    pub(crate) exact: bool,
}

/// A moment at which a worker served: somewhere in `from..=to`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rise {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) seq: u64,
}

/// A counter as last sampled.
#[derive(Clone, Copy, Debug)]
struct Reading {
    value: u64,
    /// When it was last given.
    at: u64,
    /// When it last was another than before.
    changed_at: u64,
    /// The record that gave this value first.
    seq: u64,
    /// Of calls that were counted, rather than of the process's read system calls.
    counted: bool,
}

/// The last rises of a worker, oldest first; most that live have none.
#[derive(Clone, Debug, Default)]
#[expect(clippy::box_collection, reason = "a quarter of the room where there are none")]
struct Rises(Option<Box<VecDeque<Rise>>>);

impl Rises {
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Rise> {
        self.0.iter().flat_map(|rises| rises.iter())
    }
}

/// What the samples of one worker say about its calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity {
    /// Once calls are counted, system calls tell nothing more.
    reading: Option<Reading>,
    bursts: u32,
    /// First time that it was seen waiting for its stdin.
    waiting: Maybe,
    /// Later runs that are taken for start-up because it was not.
    parts: u8,
    /// It read while nobody counted its calls.
    uncounted: bool,
    /// Oldest first.
    rises: Rises,
}

impl Activity {
    /// Takes a counted number of calls. `since` is when the worker was spawned, if the count runs
    /// from there. Returns whether something that is judged by changed.
    pub(crate) fn counted(
        &mut self,
        value: u64,
        (at, seq): (u64, u64),
        since: Option<u64>,
        rules: &Rules,
    ) -> bool {
        let reading = |value, at| Reading { value, at, changed_at: at, seq, counted: true };
        let last = self.counter();
        let first = last.is_none();
        if first {
            self.rises.0 = None;
        }
        let Some(before) = last.or(since.map(|born| reading(0, born))) else {
            self.reading = Some(reading(value, at));
            return true;
        };
        let at = at.max(before.at);
        if value > before.value {
            self.rose(before.at, at, seq, rules);
            self.reading = Some(reading(value, at));
            true
        } else {
            self.reading = Some(Reading { at, ..before });
            first
        }
    }

    /// Takes the read system calls of the whole process so far.
    pub(crate) fn sampled(&mut self, value: u64, (at, seq): (u64, u64), rules: &Rules) -> bool {
        if self.counter().is_some() {
            return false;
        }
        let reading = |at| Reading { value, at, changed_at: at, seq, counted: false };
        let Some(before) = self.reading else {
            self.reading = Some(reading(at));
            return true;
        };
        let at = at.max(before.at);
        if value <= before.value {
            self.reading = Some(Reading { at, ..before });
            return false;
        }
        let apart = at.saturating_sub(before.changed_at) >= rules.settle();
        match self.waiting.get() {
            Some(waiting) if apart || before.changed_at <= waiting => self.burst(),
            None if apart && rules.sees_use && self.parts == 0 => self.parts = 1,
            None if apart => self.burst(),
            _ => {}
        }
        if self.bursts > 0 {
            self.rose(before.at, at, seq, rules);
        }
        self.reading = Some(reading(at));
        true
    }

    /// It read something while nobody counted: a call, for all that can be told.
    pub(crate) fn went_uncounted(&mut self, (at, seq): (u64, u64), rules: &Rules) {
        if let Some(counter) = self.counter() {
            self.uncounted = true;
            self.rose(counter.at, at.max(counter.at), seq, rules);
        }
    }

    /// It was seen waiting for its stdin: its start is over.
    pub(crate) fn waits(&mut self, at: u64) {
        if self.waiting.get().is_none() {
            self.waiting = at.into();
            if self.counter().is_none() {
                self.bursts = 0;
                self.rises.0 = None;
            }
        }
    }

    fn burst(&mut self) {
        self.bursts = self.bursts.saturating_add(1);
    }

    fn rose(&mut self, looked_at: u64, to: u64, seq: u64, rules: &Rules) {
        let from = looked_at.max(to.saturating_sub(rules.look_back()));
        let rises = self.rises.0.get_or_insert_default();
        rises.push_back(Rise { from, to, seq });
        while rises.len() > RISES_KEPT
            || rises.get(1).is_some_and(|rise| rise.to.saturating_add(rules.settle()) <= to)
        {
            rises.pop_front();
        }
    }

    /// Calls served by `now`; none while that is unknown: never sampled, or still starting up.
    /// `whole_life` is false for a worker that was there before the count began.
    pub(crate) fn served(&self, now: u64, whole_life: bool, rules: &Rules) -> Option<Served> {
        if let Some(reads) = self.counter() {
            let calls = reads.value.saturating_add(self.uncounted.into());
            return Some(Served { calls, exact: whole_life && !self.uncounted });
        }
        let syscr = self.reading?;
        let started = self.bursts > 0 || self.waiting.get().is_some();
        let settled = started || now >= syscr.changed_at.saturating_add(rules.settle());
        settled.then_some(Served { calls: self.bursts.into(), exact: false })
    }

    /// When start-up is over if nothing changes until then.
    pub(crate) fn settles_at(&self, rules: &Rules) -> Option<u64> {
        match self.reading {
            Some(syscr) if !syscr.counted && self.bursts == 0 && self.waiting.get().is_none() => {
                Some(syscr.changed_at.saturating_add(rules.settle()))
            }
            _ => None,
        }
    }

    /// The newest rise behind which every other worker was looked at too, so that of two workers
    /// that served in one round of the sampler neither is taken for the lost one.
    pub(crate) fn last_rise(&self, now: u64, rules: &Rules) -> Option<Rise> {
        self.rises.iter().rev().find(|rise| rise.to.saturating_add(rules.settle()) <= now).copied()
    }

    /// The newest rise, whoever else was looked at since.
    pub(crate) fn newest_rise(&self) -> Option<Rise> {
        self.rises.iter().next_back().copied()
    }

    /// The records that gave the rises that are kept.
    pub(super) fn rise_seqs(&self) -> impl Iterator<Item = u64> + '_ {
        self.rises.iter().map(|rise| rise.seq)
    }

    /// When the next rise becomes one that [`Self::last_rise`] gives.
    pub(crate) fn rise_confirmed_at(&self, now: u64, rules: &Rules) -> Option<u64> {
        self.rises.iter().map(|rise| rise.to.saturating_add(rules.settle())).find(|&at| at > now)
    }

    /// The exact number of calls, where they are counted.
    pub(crate) fn reads(&self) -> Option<u64> {
        self.counter().map(|reads| reads.value)
    }

    /// The record that gave the counter in use its value.
    pub(crate) fn seq(&self) -> Option<u64> {
        self.reading.map(|reading| reading.seq)
    }

    fn counter(&self) -> Option<Reading> {
        self.reading.filter(|reading| reading.counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    const S: u64 = 1_000_000_000;

    fn rules() -> Rules {
        Rules::new(&Profile::hermes())
    }

    fn calls(activity: &Activity, now: u64) -> Option<u64> {
        activity.served(now, true, &rules()).map(|served| served.calls)
    }

    #[test]
    fn start_up_reads_are_no_call() {
        let mut activity = Activity::default();
        for (at, value) in [(S, 200), (3 * S, 900), (5 * S, 950)] {
            activity.sampled(value, (at, at), &rules());
        }
        assert_eq!(calls(&activity, 6 * S), None, "still rising: unknown");
        assert_eq!(calls(&activity, 9 * S), Some(0), "unchanged since 5 s");
        assert_eq!(activity.settles_at(&rules()), Some(8_500_000_000));
    }

    #[test]
    fn a_run_of_rises_behind_start_up_is_one_burst() {
        let mut activity = Activity::default();
        for (at, value) in [(S, 200), (11 * S, 203), (13 * S, 206), (30 * S, 209)] {
            activity.sampled(value, (at, at), &rules());
        }
        assert_eq!(calls(&activity, 30 * S), Some(2));
        assert_eq!(activity.last_rise(30 * S, &rules()).map(|rise| rise.to), Some(13 * S));
        assert_eq!(activity.last_rise(40 * S, &rules()).map(|rise| rise.to), Some(30 * S));
    }

    #[test]
    fn a_start_in_parts_is_no_call() {
        let mut rules = rules();
        rules.sees_use = true;
        let start = [(S, 200), (11 * S, 250), (30 * S, 300)];
        // Where it is seen waiting for its stdin, all before that is its start.
        let mut activity = Activity::default();
        for (at, value) in start {
            activity.sampled(value, (at, at), &rules);
        }
        activity.waits(34 * S);
        assert_eq!(activity.served(35 * S, true, &rules).map(|served| served.calls), Some(0));
        assert_eq!(activity.newest_rise(), None);
        activity.sampled(303, (36 * S, 36), &rules);
        assert_eq!(activity.served(36 * S, true, &rules).map(|served| served.calls), Some(1));
        activity.sampled(306, (37 * S, 37), &rules);
        assert_eq!(activity.served(37 * S, true, &rules).map(|served| served.calls), Some(1));
        // Where it is not, the second part is.
        let mut activity = Activity::default();
        for (at, value) in &start[..2] {
            activity.sampled(*value, (*at, *at), &rules);
        }
        assert_eq!(activity.served(15 * S, true, &rules).map(|served| served.calls), Some(0));
        activity.sampled(300, (30 * S, 3), &rules);
        assert_eq!(activity.served(30 * S, true, &rules).map(|served| served.calls), Some(1));
    }

    #[test]
    fn counted_calls_win_over_sampled_ones() {
        let mut activity = Activity::default();
        activity.sampled(10, (S, 1), &rules());
        activity.sampled(20, (20 * S, 2), &rules());
        activity.counted(0, (21 * S, 3), Some(0), &rules());
        activity.sampled(30, (40 * S, 4), &rules());
        assert_eq!(activity.served(50 * S, true, &rules()), Some(Served { calls: 0, exact: true }));
        assert_eq!(activity.newest_rise(), None);
    }

    #[test]
    fn a_count_that_began_late_is_no_count_of_its_life() {
        let mut activity = Activity::default();
        activity.counted(4, (S, 1), None, &rules());
        assert_eq!(activity.newest_rise(), None, "served before it was watched");
        assert_eq!(activity.served(S, false, &rules()), Some(Served { calls: 4, exact: false }));
    }

    #[test]
    fn rises_stay_few_when_a_worker_is_always_busy() {
        let mut activity = Activity::default();
        for round in 0..1_000 {
            activity.counted(round, (round * 2 * S, round), Some(0), &rules());
        }
        assert!(activity.rises.iter().count() <= 3, "{:?}", activity.rises);
        assert!(activity.last_rise(2_000 * S, &rules()).is_some());
    }
}
