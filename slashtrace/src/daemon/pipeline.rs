use std::{future::pending, mem};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use super::{
    Sink,
    quota::{Bounds, Quota},
    tally::Tally,
};
use crate::{
    engine::Engine,
    host::proc::Subordinates,
    model::{Body, Checkpoint, FORMAT_VERSION, Gap, GapReason, Observation, Record, Tick},
    profile::Profile,
    reaper::Reaper,
    redact::Redaction,
    roster::Roster,
    sink::Standing,
};

/// Gives observations their place in the evidence, has the engine judge them, and hands records
/// and findings to the sinks, and to the reaper where there is one. The same for a live recording
/// and for a replay, which has none.
pub struct Pipeline<'a> {
    redaction: Redaction,
    /// None in a replay: what was left out is not there.
    quota: Option<Quota>,
    /// What the quota lets pass, while it is recorded.
    passing: Vec<Observation>,
    roster: Roster,
    engine: Engine,
    reaper: Option<Reaper>,
    sinks: Vec<&'a mut dyn Sink>,
    tally: Tally,
    seq: u64,
    /// What was written last is not out yet: the reaper does nothing until it is.
    uncommitted: bool,
    /// Records that were not written and are told of by gaps.
    missed: u64,
}

impl<'a> Pipeline<'a> {
    /// A pipeline for one recording; the first record is to be `start`.
    pub fn new(profile: &Profile, sinks: Vec<&'a mut dyn Sink>) -> Self {
        Self {
            redaction: Redaction::default(),
            quota: None,
            passing: Vec::new(),
            roster: Roster::new(profile),
            engine: Engine::new(),
            reaper: None,
            sinks,
            tally: Tally::default(),
            seq: 0,
            uncommitted: false,
            missed: 0,
        }
    }

    /// Masks more than secrets.
    #[must_use]
    pub fn redacting(mut self, redaction: Redaction) -> Self {
        self.redaction = redaction;
        self
    }

    /// Leaves out what goes beyond these bounds, and tells of it.
    #[must_use]
    pub fn bounded(mut self, bounds: Bounds) -> Self {
        self.quota = Some(Quota::new(bounds).sharing(Subordinates::of_this_machine()));
        self
    }

    /// Has a reaper see every record from now on. What it does comes back as observations from
    /// [`Self::act`], like those of a sensor.
    pub fn reap_with(&mut self, reaper: Reaper) {
        self.reaper = Some(reaper);
    }

    /// The reaper's next step; waits for ever where there is none. What it returns is to be observed
    /// *and written* before this is called again: a step is told of before it is done. Cancel-safe.
    ///
    /// While nothing can be written the reaper pauses ([`Self::commit`], [`Self::standing`]).
    pub async fn act(&mut self) -> Vec<Observation> {
        match &mut self.reaper {
            Some(reaper) if !self.uncommitted => reaper.next(&self.roster).await,
            _ => pending().await,
        }
    }

    /// The same without waiting; nothing where there is nothing to do, or no reaper.
    pub fn step(&mut self, now_ns: u64) -> Vec<Observation> {
        let roster = &self.roster;
        match &mut self.reaper {
            Some(reaper) if !self.uncommitted => reaper.step(now_ns, roster),
            _ => Vec::new(),
        }
    }

    /// Whether the reaper pauses because what it does cannot be written.
    pub fn pauses(&self) -> bool {
        self.uncommitted && self.reaper.is_some()
    }

    /// Whether there is a reaper.
    pub fn reaps(&self) -> bool {
        self.reaper.is_some()
    }

    /// Workers that got SIGTERM and are waited for.
    pub fn under_way(&self) -> usize {
        self.reaper.as_ref().map_or(0, Reaper::under_way)
    }

    /// Goes on where an earlier recording ended: its last record had this `seq`.
    pub fn resume_after(&mut self, seq: u64) {
        self.seq = seq;
    }

    /// Takes an observation that happened at wall time `time`; returns the findings it caused.
    pub fn observe(&mut self, observation: Observation, time: Timestamp) -> Result<Vec<Record>> {
        let mut observation = observation;
        self.redaction.apply(&mut observation.body);
        let Some(quota) = &mut self.quota else { return self.place(observation, time) };
        let now_ns = observation.boottime_ns;
        let mut passing = mem::take(&mut self.passing);
        quota.pass(observation, &self.roster, &mut passing);
        let mut findings = Vec::new();
        for observation in passing.drain(..) {
            // One that waited was made earlier.
            let ago = i128::from(now_ns) - i128::from(observation.boottime_ns);
            let ago = SignedDuration::from_nanos(i64::try_from(ago).unwrap_or(0));
            let made = time.checked_sub(ago).unwrap_or(time);
            findings.extend(self.place(observation, made)?);
        }
        self.passing = passing;
        if let Some(quota) = &mut self.quota {
            for record in &findings {
                if let Body::Finding(finding) = &record.body {
                    quota.charge(finding, &record.body, &self.roster);
                }
            }
        }
        Ok(findings)
    }

    /// Gives an observation the next place.
    fn place(&mut self, observation: Observation, time: Timestamp) -> Result<Vec<Record>> {
        let record = Record {
            v: FORMAT_VERSION,
            // A checkpoint belongs to the `start` before it.
            seq: self.seq + u64::from(!matches!(observation.body, Body::Checkpoint(_))),
            time,
            boottime_ns: observation.boottime_ns,
            body: observation.body,
        };
        self.record(&record)
    }

    /// Takes a record that has its place already (replay); returns the findings it caused.
    pub fn record(&mut self, record: &Record) -> Result<Vec<Record>> {
        self.seq = record.seq;
        if let Body::Checkpoint(checkpoint) = &record.body {
            self.sinks.iter_mut().try_for_each(|sink| sink.record(record, &self.roster))?;
            self.recall(checkpoint, true)?;
            if checkpoint.more {
                return Ok(Vec::new());
            }
            self.roster.observe(record);
        } else {
            self.write(record)?;
        }
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

    /// Takes a record, be it a finding, without judging (replay, where what it rests on is missing).
    pub fn take(&mut self, record: &Record) -> Result<()> {
        self.seq = record.seq;
        if let Body::Checkpoint(checkpoint) = &record.body {
            self.sinks.iter_mut().try_for_each(|sink| sink.record(record, &self.roster))?;
            return self.recall(checkpoint, false);
        }
        self.write(record)
    }

    /// Takes what happened before this recording, each record at its own time. Nothing is judged
    /// meanwhile: not all of it is known yet.
    fn recall(&mut self, checkpoint: &Checkpoint, judges: bool) -> Result<()> {
        for record in &checkpoint.records {
            self.roster.observe(record);
            let roster = &self.roster;
            self.tally.record(record, roster);
            self.sinks.iter_mut().try_for_each(|sink| sink.recall(record, roster))?;
            if judges {
                self.engine.recall(record, roster);
            }
            if let Some(reaper) = &mut self.reaper {
                reaper.observe(record, roster);
            }
        }
        Ok(())
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

    /// Has everything written that there is, without waiting for long. Where that does not succeed,
    /// the reaper pauses until [`Self::standing`] finds it written.
    pub fn commit(&mut self) -> Result<()> {
        let mut written = true;
        for sink in &mut self.sinks {
            written &= sink.commit()?;
        }
        self.uncommitted = !written;
        Ok(())
    }

    /// Whether a sink has something new to say ([`Self::standing`]).
    pub fn has_news(&self) -> bool {
        self.sinks.iter().any(|sink| sink.has_news())
    }

    /// How the writing is going: all sinks together.
    pub fn standing(&mut self) -> Result<Standing> {
        let mut all = Standing::default();
        for sink in &mut self.sinks {
            let one = sink.standing()?;
            all.behind |= one.behind;
            all.waiting |= one.waiting;
            all.missed = all.missed.max(one.missed);
            all.trouble = all.trouble.or(one.trouble);
            all.notes.extend(one.notes);
        }
        // A step that was told of is done once that is written.
        self.uncommitted = all.behind || (self.uncommitted && all.waiting);
        Ok(all)
    }

    /// Tells of records that were not written: [`Standing::missed`]. What the reaper has announced may
    /// have been among them, and is announced again.
    pub fn tell_of_missed(&mut self, lost: u64, now_ns: u64, time: Timestamp) -> Result<()> {
        self.missed += lost;
        let gap = Gap { reason: GapReason::NotWritten, lost, resynced: false, uid: None };
        self.observe(Observation { boottime_ns: now_ns, body: Body::Gap(gap) }, time)?;
        let again = self.reaper.as_mut().map(|reaper| reaper.announce_again(now_ns));
        for observation in again.into_iter().flatten() {
            self.observe(observation, time)?;
        }
        self.commit()
    }

    /// Records that were not written.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether records were left out that findings need.
    pub fn left_out(&self) -> bool {
        self.quota.as_ref().is_some_and(Quota::left_out)
    }

    /// Has files opened anew.
    pub fn reopen(&mut self) {
        self.sinks.iter_mut().for_each(|sink| sink.reopen());
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
