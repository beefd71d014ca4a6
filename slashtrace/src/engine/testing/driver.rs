//! Drives an engine in tests as the daemon does: a tick is given when, and only when, a deadline has
//! come. Whatever is true of any finding is checked on the way.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::engine::Engine;
use crate::{
    model::{Body, FORMAT_VERSION, Finding, FindingState, Record, Tick},
    profile::Profile,
    roster::{Roster, condense::Condenser},
};

/// An engine, driven like the daemon drives it, with everything it was told and said.
#[derive(Debug)]
pub(in crate::engine) struct Driver {
    engine: Engine,
    pub(in crate::engine) roster: Roster,
    pub(in crate::engine) records: Vec<Record>,
    pub(in crate::engine) said: Vec<Finding>,
    pub(in crate::engine) open: BTreeMap<String, Finding>,
    seq: u64,
    /// The last record before it went on where another one ended.
    resumed: u64,
    profile: Profile,
}

impl Driver {
    pub(in crate::engine) fn new() -> Self {
        Self::of(&Profile::hermes())
    }

    /// One for the workers of another profile.
    pub(in crate::engine) fn of(profile: &Profile) -> Self {
        Self {
            engine: Engine::new(),
            roster: Roster::new(profile),
            records: Vec::new(),
            said: Vec::new(),
            open: BTreeMap::new(),
            seq: 0,
            resumed: 0,
            profile: profile.clone(),
        }
    }

    /// One that knows only what a checkpoint tells: slashtrace was started again.
    pub(in crate::engine) fn resume(&self) -> Self {
        let mut condenser = Condenser::new(&self.profile);
        self.records.iter().for_each(|record| condenser.take(record));
        let chosen = condenser.chosen();
        let mut next = Self::of(&self.profile);
        (next.seq, next.resumed) = (self.seq, self.seq);
        for record in self.records.iter().filter(|record| chosen.contains(&record.seq)) {
            next.roster.observe(record);
            next.engine.recall(record, &next.roster);
            if let Body::Finding(finding) = &record.body {
                next.open.insert(finding.id.clone(), (**finding).clone());
            }
            next.records.push(record.clone());
        }
        next
    }

    /// Lets time pass up to `until`, ticking at each deadline; at most `most` times.
    pub(in crate::engine) fn pass(&mut self, until: u64, most: usize) {
        for _ in 0..most {
            let Some(due) = self.engine.next_deadline().filter(|&due| due <= until) else { return };
            self.feed(due, Body::Tick(Tick::default()));
            let next = self.engine.next_deadline();
            assert!(next.is_none_or(|next| next > due), "{next:?} is not behind {due}");
        }
        panic!("more than {most} ticks until {until}");
    }

    /// Gives a record its place and the engine the record; what it says follows as records.
    pub(in crate::engine) fn feed(&mut self, boottime_ns: u64, body: Body) {
        self.seq += 1;
        let record =
            Record { v: FORMAT_VERSION, seq: self.seq, time: wall(boottime_ns), boottime_ns, body };
        self.roster.observe(&record);
        let findings = self.engine.observe(&record, &self.roster);
        self.records.push(record);
        for finding in findings {
            self.check(&finding);
            self.seq += 1;
            let record = Record {
                v: FORMAT_VERSION,
                seq: self.seq,
                time: wall(boottime_ns),
                boottime_ns,
                body: Body::Finding(Box::new(finding.clone())),
            };
            self.roster.observe(&record);
            assert!(
                self.engine.observe(&record, &self.roster).is_empty(),
                "findings are no observations"
            );
            self.records.push(record);
            self.said.push(finding);
        }
    }

    /// When the engine wants to be told the time.
    pub(in crate::engine) fn next_deadline(&self) -> Option<u64> {
        self.engine.next_deadline()
    }

    /// How many entries of each sort the engine holds.
    pub(in crate::engine) fn sizes(&self) -> Vec<usize> {
        [self.roster.sizes(), self.engine.sizes()].concat()
    }

    fn check(&mut self, finding: &Finding) {
        let was_open = self.open.contains_key(&finding.id);
        match finding.state {
            FindingState::Opened => assert!(!was_open, "opened twice: {}", finding.id),
            FindingState::Updated | FindingState::Closed => {
                assert!(was_open, "{:?} but not open: {}", finding.state, finding.id);
            }
        }
        assert!(finding.because.len() <= 64 && !finding.because.is_empty());
        assert!(finding.because.is_sorted_by(|a, b| a < b), "{:?}", finding.because);
        for &seq in finding.because.iter().filter(|seq| **seq > self.resumed) {
            let record = self.records.iter().find(|record| record.seq == seq);
            let record = record.unwrap_or_else(|| panic!("{seq} is no record before this one"));
            assert!(!matches!(record.body, Body::Finding(_)), "{seq} is no observation");
        }
        assert!(finding.id.starts_with(finding.kind.name()));
        assert!(!finding.text.contains('\n') && !finding.text.is_empty());
        if finding.state == FindingState::Closed {
            self.open.remove(&finding.id);
        } else {
            self.open.insert(finding.id.clone(), finding.clone());
        }
    }
}

/// Wall-clock time of a moment of the boot clock, in these histories.
pub(in crate::engine) fn wall(boottime_ns: u64) -> Timestamp {
    let boot = Timestamp::from_second(1_793_000_000).expect("a moment in 2026");
    let since = i64::try_from(boottime_ns).unwrap_or(i64::MAX);
    boot.checked_add(SignedDuration::from_nanos(since)).unwrap_or(Timestamp::MAX)
}
