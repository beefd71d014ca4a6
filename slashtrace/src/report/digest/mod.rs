//! What a recording comes to, from its records alone: the verdict, a row a session, each worker's
//! life, what speaks for which code path. `report` has the result's types, which every format is
//! made of; `lives` (its results in `rows`), `cases`, `open`, `chart`, `tree`, `timeline` each follow one part of it,
//! `conclusions` draws them.
//! May touch: `model`, `profile`. Memory grows with the sessions of a recording (a row each), with
//! nothing else of its length.

mod cases;
mod chart;
mod conclusions;
mod lives;
mod open;
mod recent;
mod report;
mod rows;
mod timeline;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

pub use lives::WORKERS_MAX;
pub use report::*;

use self::{
    cases::Cases, chart::Chart, lives::Lives, open::Open, rows::Shown, timeline::Timeline,
    tree::Trees,
};
use super::words::{count, plain, reasons, unjudged_count};
use crate::{
    model::{Body, GapReason, Identity, Phase, Program, Record, SensorKind, Start, Stop},
    roster::{Reasons, Roster},
    sink::Sink,
};

/// Takes the records of one recording and makes the [`Report`] of them.
#[derive(Debug, Default)]
pub struct Digest {
    start: Option<Start>,
    /// The last record, and the last one before that `start`.
    newest: u64,
    newest_before: u64,
    began: Option<Moment>,
    last: Option<Moment>,
    lives: Lives,
    cases: Cases,
    open: Open,
    chart: Chart,
    trees: Trees,
    timeline: Timeline,
    /// Events that were lost, by why.
    lost: BTreeMap<&'static str, u64>,
    stop: Option<Stop>,
    acted: Vec<Acted>,
    programs: Vec<Program>,
}

/// The two times of a record.
#[derive(Clone, Copy, Debug)]
struct Moment {
    time: Timestamp,
    boottime_ns: u64,
}

impl Moment {
    /// The wall-clock time of another moment of the boot clock, if no clock was set in between.
    fn wall(self, boottime_ns: u64) -> Option<Timestamp> {
        let ahead = i128::from(boottime_ns) - i128::from(self.boottime_ns);
        self.time.checked_add(SignedDuration::from_nanos(i64::try_from(ahead).ok()?)).ok()
    }
}

/// Actions that are kept.
const ACTIONS_MAX: usize = 2_000;
/// Programs that differ and are kept.
const PROGRAMS_MAX: usize = 64;

impl Digest {
    /// A digest that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// ms since the recording began; what was before it is 0.
    fn ms(&self, boottime_ns: u64) -> u64 {
        let began = self.began.map_or(boottime_ns, |began| began.boottime_ns);
        boottime_ns.saturating_sub(began) / 1_000_000
    }

    /// Takes a record. One that is only `recalled` happened before this recording.
    fn take(&mut self, record: &Record, roster: &Roster, recalled: bool) {
        let moment = Moment { time: record.time, boottime_ns: record.boottime_ns };
        self.began.get_or_insert(moment);
        if self.last.is_none_or(|last| last.boottime_ns <= moment.boottime_ns) {
            self.last = Some(moment);
        }
        let at_ms = self.ms(record.boottime_ns);
        // The tree first: at its worst moment the worker whose end is told here still lives.
        self.trees.take(record, at_ms, &self.lives);
        for merged in self.lives.take(record, at_ms, roster) {
            self.cases.merge(&merged);
            self.open.merge(&merged);
        }
        self.chart.take(record, at_ms, &self.lives);
        if !recalled {
            self.timeline.take(record, at_ms, &self.lives);
        }
        match &record.body {
            Body::Start(start) => {
                self.start = Some((**start).clone());
                self.stop = None;
            }
            Body::Finding(finding) => {
                self.cases.take(record, at_ms, finding, &self.lives);
                self.open.take(finding, &self.lives);
            }
            Body::Gap(gap) => {
                let lost = self.lost.entry(gap.reason.name()).or_default();
                *lost = lost.saturating_add(gap.lost);
            }
            Body::Action(action)
                if action.phase == Phase::After && self.acted.len() < ACTIONS_MAX =>
            {
                self.acted.push(Acted {
                    at_ms,
                    seq: record.seq,
                    worker: action.worker,
                    text: plain(&action.detail).into_owned(),
                });
            }
            Body::Program(program) => {
                let same = |other: &Program| {
                    Program { pid: program.pid, start_ns: program.start_ns, ..other.clone() }
                        == **program
                };
                if self.programs.len() < PROGRAMS_MAX && !self.programs.iter().any(same) {
                    self.programs.push((**program).clone());
                }
            }
            Body::Stop(stop) => self.stop = Some(stop.clone()),
            _ => {}
        }
    }

    /// The report of what was seen so far.
    pub fn report(&self) -> Report {
        let project = self.start.as_ref().and_then(|start| start.profile.project.as_ref());
        let stale = self.cases.stale();
        let shown = Shown {
            cases: &self.cases,
            open: &self.open,
            by_row: self.open.by_row(),
            stale: &stale,
        };
        let now_ns = self.last.map_or(0, |last| last.boottime_ns);
        let sessions = self.lives.sessions(&shown, now_ns);
        let total = self.lives.total(&sessions, &stale, self.cases.most_of_all());
        let mut findings = self.cases.report(&self.lives, project);
        findings.sort_by(|a, b| {
            let key = |case: &Case| (case.open, case.confidence, case.workers.len());
            key(b).cmp(&key(a)).then_with(|| a.opened_ms.cmp(&b.opened_ms))
        });
        let (workers, workers_omitted) = self.lives.report(&findings, &stale);
        let (timeline, timeline_omitted) = self.timeline.report();
        let recording = self.recording();
        let memory = self.memory(&recording, &findings, total);
        let mut unjudged = Reasons::new();
        for (why, workers) in sessions.iter().flat_map(|session| &session.unjudged) {
            *unjudged.entry(*why).or_default() += workers;
        }
        let verdict =
            conclusions::verdict(&recording, &findings, &sessions, total, &memory, &unjudged);
        Report {
            format: REPORT_FORMAT,
            reported_by: env!("CARGO_PKG_VERSION").to_owned(),
            verdict,
            hypotheses: conclusions::hypotheses(project, &findings, &self.lives, &self.cases),
            not_seen: self.not_seen(&recording, total, &unjudged),
            not_judged: unjudged_count(&unjudged, false),
            judged_in_part: unjudged_count(&unjudged, true),
            unjudged,
            recording,
            programs: self.programs.clone(),
            sessions,
            total,
            memory,
            findings,
            open: self.open.report(),
            timeline,
            timeline_omitted,
            tree: self.trees.report(&self.lives),
            workers,
            workers_omitted,
            series: self.chart.report(),
            actions: self.acted.clone(),
        }
    }

    fn recording(&self) -> Recording {
        let start = self.start.as_ref();
        let profile = start.map(|start| &start.profile);
        Recording {
            recorded_by: start.map(|start| plain(&start.version).into_owned()).unwrap_or_default(),
            profile: profile.map(|profile| plain(&profile.name).into_owned()).unwrap_or_default(),
            project: profile
                .and_then(|profile| profile.project.as_ref())
                .map(|project| plain(&project.name).into_owned()),
            began: self.began.map(|began| began.time),
            ended: self.last.map(|last| last.time),
            lasted_ms: self.last.map_or(0, |last| self.ms(last.boottime_ns)),
            reason: self.stop.as_ref().map(|stop| plain(&stop.reason).into_owned()),
            complete: self.stop.as_ref().is_some_and(|stop| stop.complete),
            lost: self.lost(),
            host: start.map(|start| start.host.clone()),
            sensor: start.map(|start| start.sensor),
            capabilities: start.map(|start| start.capabilities.clone()).unwrap_or_default(),
            calls_counted: start.is_some_and(|start| start.calls_counted),
        }
    }

    /// Events that may have been of workers: news hide none.
    fn lost(&self) -> u64 {
        let news = GapReason::QuotaNews.name();
        let lost = self.lost.iter().filter(|(reason, _)| **reason != news);
        lost.fold(0, |sum, (_, lost)| sum.saturating_add(*lost))
    }

    fn memory(&self, recording: &Recording, findings: &[Case], total: Total) -> MemoryChange {
        let before = recording.host.as_ref().map(|host| host.memory);
        let after = self.chart.memory().or(before);
        let growth = self.cases.growth(findings).map(|growth| (growth, "accumulation"));
        let available = after.map(|memory| memory.available_kib);
        let growth = growth.or_else(|| {
            let seen = chart::growth_of(recording.lasted_ms, total, available)?;
            Some((seen, "recording"))
        });
        MemoryChange {
            before,
            after,
            workers_most_kib: self.chart.most_kib(),
            growth: growth.map(|(growth, _)| growth),
            growth_from: growth.map(|(_, from)| from),
        }
    }

    fn not_seen(&self, recording: &Recording, total: Total, unjudged: &Reasons) -> Vec<String> {
        let lost = self.lost.iter();
        let mut said: Vec<String> = lost
            .map(|(reason, lost)| format!("{} lost: {reason}", count(*lost, "event")))
            .collect();
        if recording.reason.is_none() {
            said.push("the recording was cut off: it has no end".to_owned());
        }
        if recording.sensor == Some(SensorKind::Poll) {
            said.push(
                "only /proc was read: workers that came and went between two readings, calls, and \
                 who forked a worker whose parent is gone"
                    .to_owned(),
            );
        }
        let not_judged = unjudged_count(unjudged, false);
        if not_judged > 0 {
            let (workers, why) = (count(not_judged, "worker"), reasons(unjudged, false));
            said.push(format!("whether {workers} leaked: {why}"));
        }
        if total.inherited > 0 {
            said.push(format!(
                "who forked {} that were there before the recording, and what they served until \
                 then",
                count(total.inherited, "worker")
            ));
        }
        if recording.sensor == Some(SensorKind::Ebpf) && !recording.calls_counted {
            said.push(
                "single calls: they were judged by sampled activity (record with --count-calls \
                 to count them)"
                    .to_owned(),
            );
        }
        let cannot = recording.capabilities.iter().filter(|capability| !capability.ok);
        said.extend(cannot.map(|capability| {
            format!("{}: {}", plain(&capability.name), plain(&capability.detail))
        }));
        said
    }
}

impl Sink for Digest {
    fn record(&mut self, record: &Record, roster: &Roster) -> Result<()> {
        if let Body::Start(_) = record.body {
            self.newest_before = self.newest;
        }
        self.newest = self.newest.max(record.seq);
        self.take(record, roster, false);
        Ok(())
    }

    fn recall(&mut self, record: &Record, roster: &Roster) -> Result<()> {
        // After a restart most of it was told before it.
        if record.seq > self.newest_before {
            self.take(record, roster, true);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `python(2800)`.
fn named(comm: &str, id: Identity) -> String {
    format!("{}({})", plain(comm), id.pid)
}
