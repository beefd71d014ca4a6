use std::future::pending;

use anyhow::Result;
use jiff::Timestamp;

use super::{Sink, tally::Tally};
use crate::{
    engine::Engine,
    model::{Body, FORMAT_VERSION, Observation, Record, Tick},
    profile::Profile,
    reaper::Reaper,
    redact::Redaction,
    roster::Roster,
};

/// Gives observations their place in the evidence, has the engine judge them, and hands records
/// and findings to the sinks, and to the reaper where there is one. The same for a live recording
/// and for a replay, which has none.
pub struct Pipeline<'a> {
    redaction: Redaction,
    roster: Roster,
    engine: Engine,
    reaper: Option<Reaper>,
    sinks: Vec<&'a mut dyn Sink>,
    tally: Tally,
    seq: u64,
}

impl<'a> Pipeline<'a> {
    /// A pipeline for one recording; the first record is to be `start`.
    pub fn new(profile: &Profile, sinks: Vec<&'a mut dyn Sink>) -> Self {
        Self {
            redaction: Redaction::default(),
            roster: Roster::new(profile),
            engine: Engine::new(),
            reaper: None,
            sinks,
            tally: Tally::default(),
            seq: 0,
        }
    }

    /// Masks more than secrets.
    #[must_use]
    pub fn redacting(mut self, redaction: Redaction) -> Self {
        self.redaction = redaction;
        self
    }

    /// Has a reaper see every record from now on. What it does comes back as observations from
    /// [`Self::act`], like those of a sensor.
    pub fn reap_with(&mut self, reaper: Reaper) {
        self.reaper = Some(reaper);
    }

    /// The reaper's next step; waits for ever where there is none. What it returns is to be observed
    /// *and written* before this is called again: a step is told of before it is done. Cancel-safe.
    pub async fn act(&mut self) -> Vec<Observation> {
        match &mut self.reaper {
            Some(reaper) => reaper.next(&self.roster).await,
            None => pending().await,
        }
    }

    /// The same without waiting; nothing where there is nothing to do, or no reaper.
    pub fn step(&mut self, now_ns: u64) -> Vec<Observation> {
        let roster = &self.roster;
        self.reaper.as_mut().map_or_else(Vec::new, |reaper| reaper.step(now_ns, roster))
    }

    /// Workers that got SIGTERM and are waited for.
    pub fn under_way(&self) -> usize {
        self.reaper.as_ref().map_or(0, Reaper::under_way)
    }

    /// Takes an observation that happened at wall time `time`; returns the findings it caused.
    pub fn observe(&mut self, observation: Observation, time: Timestamp) -> Result<Vec<Record>> {
        let mut observation = observation;
        self.redaction.apply(&mut observation.body);
        let record = Record {
            v: FORMAT_VERSION,
            seq: self.seq + 1,
            time,
            boottime_ns: observation.boottime_ns,
            body: observation.body,
        };
        self.record(&record)
    }

    /// Takes a record that has its place already (replay); returns the findings it caused.
    pub fn record(&mut self, record: &Record) -> Result<Vec<Record>> {
        self.seq = record.seq;
        self.write(record)?;
        let mut findings = Vec::new();
        for finding in self.engine.observe(record, &self.roster) {
            self.seq += 1;
            let finding = Record {
                v: FORMAT_VERSION,
                seq: self.seq,
                // Those of its cause, so that a replay writes the same.
                time: record.time,
                boottime_ns: record.boottime_ns,
                body: Body::Finding(Box::new(finding)),
            };
            self.write(&finding)?;
            findings.push(finding);
        }
        Ok(findings)
    }

    /// When the engine wants to be told that time has passed, or the roster has much to forget, ns of
    /// the boot clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let both = [self.engine.next_deadline(), self.roster.next_retirement()];
        both.into_iter().flatten().min()
    }

    /// Records the time if anybody wants to know it.
    pub fn tick(&mut self, now_ns: u64, time: Timestamp) -> Result<()> {
        if self.next_deadline().is_some_and(|deadline| deadline <= now_ns) {
            let body = Body::Tick(Tick::default());
            self.observe(Observation { boottime_ns: now_ns, body }, time)?;
        }
        Ok(())
    }

    /// Who lives, whose it is, what it did.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What the recording comes to so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same, for good.
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    /// Makes what was written visible outside.
    pub fn flush(&mut self) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.flush())
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        self.roster.observe(record);
        let roster = &self.roster;
        self.tally.record(record, roster);
        self.sinks.iter_mut().try_for_each(|sink| sink.record(record, roster))?;
        if let Some(reaper) = &mut self.reaper {
            reaper.observe(record, roster);
        }
        Ok(())
    }
}
