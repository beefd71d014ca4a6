//! The pure state machine: records in, findings out. No clock, no /proc, no async, no locks, so a
//! recording judged again gives the very same findings.
//! May touch: `model` and `profile`.
//!
//! `table` is what is known of each process, `apply` what a record changes in it, `detect`
//! one rule a file, `ledger` what was said already. A record marks the groups, gateways and
//! workers that it bears on; only those are judged again, and those whose deadline has come.

mod activity;
mod apply;
mod attribution;
mod client;
mod detect;
mod growth;
mod ledger;
mod rules;
mod table;
mod terminal;
mod worker;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{Body, Finding, Record},
    profile::Profile,
};

use ledger::Ledger;
use rules::Rules;
use table::{Subject, Table};

/// Judges a recording, record by record.
#[derive(Debug)]
pub struct Engine {
    table: Table,
    ledger: Ledger,
    deadlines: Deadlines,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(profile: Profile) -> Self {
        Self {
            table: Table::new(Rules::new(profile)),
            ledger: Ledger::default(),
            deadlines: Deadlines::default(),
        }
    }

    /// Takes one record and returns the findings that it opened, updated or closed, in order.
    /// Records that are not observations (findings, the stop) change nothing.
    ///
    /// Time is the latest `boottime_ns` of any record: a record that is slightly late is judged
    /// by its own moment, and never turns time back.
    pub fn observe(&mut self, record: &Record) -> Vec<Finding> {
        if matches!(record.body, Body::Finding(_) | Body::Stop(_)) {
            return Vec::new();
        }
        let now = self.table.now.max(record.boottime_ns);
        self.table.now = now;
        self.table.apply(record);
        self.table.retire();
        for subject in self.deadlines.due(now) {
            self.table.touch(subject);
        }
        let mut findings = Vec::new();
        while let Some(subject) = self.table.next_touched() {
            let deadline = self.judge(&subject, (now, record.seq), &mut findings);
            self.deadlines.set(subject, deadline.filter(|&at| at < u64::MAX));
        }
        findings.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        findings
    }

    /// The earliest moment (ns of the boot clock) at which the mere passing of time may change a
    /// finding. Whoever drives the engine gives it a `tick` record then, and need not before.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first()
    }

    /// Judges one subject; returns when time alone may change that judgement.
    fn judge(
        &mut self,
        subject: &Subject,
        at: (u64, u64),
        findings: &mut Vec<Finding>,
    ) -> Option<u64> {
        let mut deadline: Option<u64> = None;
        let ledger = &self.ledger;
        let judged = detect::judge(&mut self.table, subject, |kind| ledger.said(subject, kind));
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
}

/// When each subject is to be judged again although no record is about it.
#[derive(Debug, Default)]
struct Deadlines {
    queue: BTreeSet<(u64, Subject)>,
    by_subject: BTreeMap<Subject, u64>,
}

impl Deadlines {
    fn first(&self) -> Option<u64> {
        self.queue.first().map(|&(at, _)| at)
    }

    fn set(&mut self, subject: Subject, at: Option<u64>) {
        if let Some(before) = self.by_subject.remove(&subject) {
            self.queue.remove(&(before, subject.clone()));
        }
        if let Some(at) = at {
            self.by_subject.insert(subject.clone(), at);
            self.queue.insert((at, subject));
        }
    }

    /// Takes out the subjects whose moment has come.
    fn due(&mut self, now: u64) -> Vec<Subject> {
        let mut due = Vec::new();
        while self.queue.first().is_some_and(|&(at, _)| at <= now) {
            if let Some((_, subject)) = self.queue.pop_first() {
                self.by_subject.remove(&subject);
                due.push(subject);
            }
        }
        due
    }
}
