use std::collections::BTreeMap;

use slashtrace_ebpf::Counter;

use crate::model::{Gap, GapReason};

/// What the kernel programs have counted, at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// The programs' counters, by [`Counter`].
    pub counters: [u64; Counter::ALL.len()],
    /// Runs that the kernel skipped.
    pub missed_runs: u64,
    /// Processes that the kernel programs track.
    pub tracked: u64,
}

/// Reconciles what the kernel programs say they did with what was read.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Records taken from the ring buffer.
    read: u64,
    /// Records that could not be decoded.
    undecodable: u64,
    reported: BTreeMap<&'static str, u64>,
    last: Counts,
    lost: u64,
    left_out: u64,
}

/// Whether a gap says that there was no place in the tables: another look at /proc finds none either.
pub const fn is_left_out(reason: GapReason) -> bool {
    matches!(reason, GapReason::MapFull | GapReason::ShareFull)
}

impl Ledger {
    /// A record was taken from the ring buffer.
    pub fn read(&mut self, decodable: bool) {
        self.read += 1;
        self.undecodable += u64::from(!decodable);
    }

    /// How many of the records that `counts` has were not given to [`Self::read`] yet.
    pub fn awaited(&self, counts: &Counts) -> u64 {
        counts.counters[Counter::Submitted as usize].saturating_sub(self.read)
    }

    /// What was lost since the last time. `counts` must have been taken *before* the ring buffer
    /// was drained for the last time: every record that they count had to be there. `queued` is
    /// the number of records that were taken from it since, and not given to [`Self::read`] yet.
    pub fn reconcile(&mut self, counts: Counts, queued: u64) -> Vec<Gap> {
        self.last = counts;
        let of = |counter: Counter| counts.counters[counter as usize];
        let unread = of(Counter::Submitted).saturating_sub(self.read + queued);
        let losses = [
            ("ring-full", GapReason::RingFull, of(Counter::RingFull) + of(Counter::RingShare)),
            ("map-full", GapReason::MapFull, of(Counter::MapFull)),
            ("share-full", GapReason::ShareFull, of(Counter::ShareFull)),
            (
                "read-failed",
                GapReason::ReadFailed,
                of(Counter::ArgvUnreadable) + of(Counter::NoScratch),
            ),
            ("program-missed", GapReason::ProgramMissed, counts.missed_runs),
            ("unread", GapReason::Unread, unread),
            ("undecodable", GapReason::Undecodable, self.undecodable),
        ];
        let mut gaps = Vec::new();
        for (name, reason, total) in losses {
            let reported = self.reported.entry(name).or_default();
            if total > *reported {
                let resynced = !is_left_out(reason);
                gaps.push(Gap { reason, lost: total - *reported, resynced, uid: None });
                self.lost += total - *reported;
                *reported = total;
            }
        }
        gaps
    }

    /// There was no place in the tables for so many processes that /proc shows.
    pub fn left_out(&mut self, processes: u64) -> Gap {
        self.lost += processes;
        self.left_out += processes;
        Gap { reason: GapReason::ShareFull, lost: processes, resynced: false, uid: None }
    }

    /// How many execs with more arguments than are searched were not reported one by one.
    pub fn long_argv_unreported(&self) -> u64 {
        self.last.counters[Counter::LongArgvUnreported as usize]
    }

    /// Whether anything was ever lost.
    pub fn complete(&self) -> bool {
        self.lost == 0
    }

    /// The counters by name, for the end of the evidence.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let mut names: BTreeMap<String, u64> = Counter::ALL
            .iter()
            .map(|&counter| (counter.name().to_owned(), self.last.counters[counter as usize]))
            .collect();
        names.insert("read".into(), self.read);
        names.insert("undecodable".into(), self.undecodable);
        names.insert("program-missed".into(), self.last.missed_runs);
        names.insert("left-out".into(), self.left_out);
        names.insert("tracked".into(), self.last.tracked);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(Counter, u64)]) -> Counts {
        let mut counts = Counts::default();
        for (counter, count) in of {
            counts.counters[*counter as usize] = *count;
        }
        counts
    }

    #[test]
    fn each_loss_is_a_gap_once() {
        let mut ledger = Ledger::default();
        ledger.read(true);
        let seen = counts(&[(Counter::Submitted, 1), (Counter::RingFull, 3)]);
        let gaps = ledger.reconcile(seen, 0);
        assert_eq!(gaps, [Gap { reason: GapReason::RingFull, lost: 3, resynced: true, uid: None }]);
        assert!(ledger.reconcile(seen, 0).is_empty());
        let gaps = ledger.reconcile(counts(&[(Counter::Submitted, 1), (Counter::RingFull, 5)]), 0);
        assert_eq!(gaps[0].lost, 2);
        assert!(!ledger.complete());
    }

    #[test]
    fn no_place_in_a_table_is_a_gap_that_no_look_at_proc_heals() {
        let mut ledger = Ledger::default();
        let seen = counts(&[(Counter::ShareFull, 5), (Counter::MapFull, 2)]);
        let gap = |reason, lost| Gap { reason, lost, resynced: false, uid: None };
        let gaps = ledger.reconcile(seen, 0);
        assert_eq!(gaps, [gap(GapReason::MapFull, 2), gap(GapReason::ShareFull, 5)]);
        assert_eq!(ledger.left_out(3), gap(GapReason::ShareFull, 3));
        assert!(ledger.reconcile(seen, 0).is_empty() && !ledger.complete());
        assert_eq!(ledger.by_name()["left-out"], 3);
    }

    #[test]
    fn a_record_that_was_submitted_but_not_read_is_a_gap() {
        let mut ledger = Ledger::default();
        ledger.read(true);
        let gaps = ledger.reconcile(counts(&[(Counter::Submitted, 2)]), 0);
        assert_eq!(gaps, [Gap { reason: GapReason::Unread, lost: 1, resynced: true, uid: None }]);
    }

    #[test]
    fn a_record_that_waits_in_memory_is_no_gap() {
        let mut ledger = Ledger::default();
        ledger.read(true);
        let seen = counts(&[(Counter::Submitted, 4)]);
        assert_eq!(ledger.awaited(&seen), 3);
        assert!(ledger.reconcile(seen, 3).is_empty());
        let gaps = ledger.reconcile(seen, 2);
        assert_eq!(gaps, [Gap { reason: GapReason::Unread, lost: 1, resynced: true, uid: None }]);
    }

    #[test]
    fn a_record_that_cannot_be_decoded_is_a_gap() {
        let mut ledger = Ledger::default();
        ledger.read(false);
        let gaps = ledger.reconcile(counts(&[(Counter::Submitted, 1)]), 0);
        assert_eq!(
            gaps,
            [Gap { reason: GapReason::Undecodable, lost: 1, resynced: true, uid: None }]
        );
    }

    #[test]
    fn long_arguments_of_strangers_are_no_loss() {
        let mut ledger = Ledger::default();
        let seen = [(Counter::ArgvNotSearched, 7), (Counter::LongArgvUnreported, 2)];
        assert!(ledger.reconcile(counts(&seen), 0).is_empty());
        assert_eq!(ledger.long_argv_unreported(), 2);
        assert!(ledger.complete());
    }
}
