//! The pure judge: reads the roster after each record, says findings. No clock, no /proc, no async,
//! no locks, so a recording judged again gives the very same findings.
//! May touch: `model`, `roster` and `profile`.
//!
//! `detect` is one rule a file, `surplus` how the workers that a gateway has too many develop,
//! `ledger` what was said already. A record marks the groups, gateways and workers that it bears
//! on; only those are judged again, and those whose deadline has come.

mod deadlines;
mod detect;
mod growth;
mod ledger;
mod surplus;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeSet;

use crate::{
    model::{Body, Finding, Record},
    roster::{Roster, Subject},
};

use deadlines::Deadlines;
use ledger::Ledger;
use surplus::Surpluses;

/// Judges a recording, record by record.
#[derive(Debug, Default)]
pub struct Engine {
    ledger: Ledger,
    deadlines: Deadlines,
    surpluses: Surpluses,
    /// What is to be judged again.
    due: BTreeSet<Subject>,
    memory_known: bool,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges what a record changed, which the roster has just folded in. Returns the findings that
    /// it opened, updated or closed, in order. Records that are not observations (findings, the
    /// stop) change nothing.
    pub fn observe(&mut self, record: &Record, roster: &Roster) -> Vec<Finding> {
        if matches!(record.body, Body::Finding(_) | Body::Stop(_)) {
            return Vec::new();
        }
        let now = roster.now;
        self.due.extend(roster.changed().iter().cloned());
        if !self.memory_known && roster.memory().is_some() {
            self.memory_known = true;
            self.due.extend(self.surpluses.gateways().map(Subject::Gateway));
        }
        self.deadlines.due(now, &mut self.due);
        let mut findings = Vec::new();
        while let Some(subject) = self.due.pop_first() {
            if self.is_over(&subject, roster) {
                self.deadlines.set(subject, None);
                continue;
            }
            let deadline = self.judge(&subject, roster, (now, record.seq), &mut findings);
            self.deadlines.set(subject, deadline.filter(|&at| at < u64::MAX));
        }
        findings.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        findings
    }

    /// Takes what a record of a checkpoint changed, to be judged once all of them are known.
    pub fn recall(&mut self, record: &Record, roster: &Roster) {
        match &record.body {
            Body::Finding(finding) => {
                self.due.extend(self.ledger.restore(finding, record.boottime_ns, roster));
            }
            Body::Stop(_) => {}
            _ => self.due.extend(roster.changed().iter().cloned()),
        }
    }

    /// The earliest moment (ns of the boot clock) at which the mere passing of time may change a
    /// finding. Whoever drives the engine gives it a `tick` record then, and need not before.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first()
    }

    /// Whether a subject is forgotten and nothing that was said of it is open: no rule holds of it.
    fn is_over(&self, subject: &Subject, roster: &Roster) -> bool {
        match subject {
            Subject::Worker(id) => roster.worker(*id).is_none() && !self.ledger.is_open(subject),
            Subject::Group(key) => {
                roster.group(key).is_none()
                    && self.surpluses.of_group(key) == 0
                    && !self.ledger.is_open(subject)
            }
            Subject::Gateway(_) => false,
            Subject::Reaper(uid) => {
                roster.reaper_stopped(*uid).is_none() && !self.ledger.is_open(subject)
            }
        }
    }

    /// Judges one subject; returns when time alone may change that judgement.
    fn judge(
        &mut self,
        subject: &Subject,
        roster: &Roster,
        at: (u64, u64),
        findings: &mut Vec<Finding>,
    ) -> Option<u64> {
        let mut deadline: Option<u64> = None;
        let ledger = &self.ledger;
        let judged =
            detect::judge(roster, &mut self.surpluses, subject, |kind| ledger.said(subject, kind));
        if let Subject::Group(key) = subject
            && self.surpluses.take_changed()
        {
            self.due.insert(Subject::Gateway(key.gateway));
        }
        for (kind, judgement) in judged {
            let settled = self.ledger.settle(subject, kind, judgement.holds, at);
            findings.extend(settled.finding);
            deadline = [deadline, judgement.deadline, settled.deadline]
                .into_iter()
                .flatten()
                .filter(|&due| due > at.0)
                .min();
        }
        deadline
    }

    /// How many entries of each sort there are.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> Vec<usize> {
        [self.deadlines.sizes(), self.surpluses.sizes()].concat()
    }
}
