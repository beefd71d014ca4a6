//! The table of the bug report: one row a gateway and session, what is live, spawned and gone,
//! and the verdict; below it each finding that is still open. Made from records alone, so that a
//! replay shows the same one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, Write},
    os::fd::AsFd,
};

use anyhow::Result;

use super::words::is_gateway;
use crate::{
    model::{
        Body, Confidence, Exec, Exit, Finding, FindingState, Identity, Kind, Parent, ParentSource,
        Record, Role, Sample, Spawn,
    },
    roster::Roster,
    sink::Sink,
};

mod render;
#[cfg(test)]
mod tests;

/// Ended workers that are remembered at most, for records that come late.
const ENDED_MAX: usize = 65_536;

/// What the records say of each gateway and session. Grows with the number of sessions and of live
/// workers, not with time.
#[derive(Clone, Debug, Default)]
pub struct Table {
    width: Option<u16>,
    calls_counted: bool,
    /// Latest moment of any record, ns of the boot clock.
    now: u64,
    rows: BTreeMap<Key, Row>,
    gateways: BTreeMap<Identity, Gateway>,
    /// Row of each live worker.
    at: BTreeMap<Identity, Key>,
    /// Workers that only launched the real one, and the row it is in.
    launchers: BTreeMap<Identity, Key>,
    ended: Ended,
    open: BTreeMap<String, Open>,
    /// Events that were not seen.
    lost: u64,
    /// The recording says itself that it is incomplete.
    incomplete: bool,
}

/// Gateway and session; none where it is unknown.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    gateway: Option<Identity>,
    session: Option<String>,
}

#[derive(Clone, Debug)]
struct Gateway {
    comm: String,
    /// Known only as the parent of now.
    presumed: bool,
    gone: bool,
}

#[derive(Clone, Debug, Default)]
struct Row {
    live: BTreeMap<Identity, Worker>,
    /// Workers ever, those that were there before included.
    spawned: u64,
    inherited: u64,
    /// Calls of those that ended.
    calls: Calls,
    /// Findings that were open and are not.
    was: BTreeSet<Kind>,
}

#[derive(Clone, Debug)]
struct Worker {
    start_ns: u64,
    inherited: bool,
    /// It executed something that is no worker, or is a zombie.
    left: bool,
    rss_kib: Option<u64>,
    reads: Option<u64>,
}

impl Worker {
    fn calls(&self) -> Calls {
        // What it read before it was watched was not counted.
        Calls { sum: self.reads.unwrap_or(0), exact: self.reads.is_some() && !self.inherited }
    }
}

/// A number of calls, or the least that it can be.
#[derive(Clone, Copy, Debug)]
struct Calls {
    sum: u64,
    exact: bool,
}

impl Default for Calls {
    fn default() -> Self {
        Self { sum: 0, exact: true }
    }
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.sum = self.sum.saturating_add(other.sum);
        self.exact &= other.exact;
    }
}

/// A finding that is open, and the rows that it is about.
#[derive(Clone, Debug)]
struct Open {
    finding: Finding,
    rows: BTreeSet<Key>,
}

/// Workers whose end was reported, the newest of them.
#[derive(Clone, Debug, Default)]
struct Ended {
    by_id: BTreeMap<Identity, End>,
    order: VecDeque<Identity>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    reads: Option<u64>,
    /// It is in its row; the end of a worker may be reported before its birth.
    counted: bool,
}

impl Ended {
    fn remember(&mut self, id: Identity, reads: Option<u64>, counted: bool) {
        let end = self.by_id.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            End { reads, counted }
        });
        end.counted |= counted;
        if self.order.len() > ENDED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }
}

/// Columns of the terminal that a descriptor is open on; none if it is no terminal.
pub fn terminal_width(fd: impl AsFd) -> Option<u16> {
    rustix::termios::tcgetwinsize(fd).ok().map(|size| size.ws_col).filter(|&columns| columns > 0)
}

impl Table {
    /// An empty table, as wide as the terminal that standard error is on.
    pub fn new() -> Self {
        Self { width: terminal_width(io::stderr()), ..Self::default() }
    }

    /// The same for another width in columns; none for as wide as it needs to be. A table for
    /// standard output wants `terminal_width(io::stdout())`.
    #[must_use]
    pub fn with_width(mut self, width: Option<u16>) -> Self {
        self.width = width;
        self
    }

    /// Writes the table, and the sentence of each finding that is still open.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn render(&self, out: &mut dyn Write, color: bool) -> io::Result<()> {
        render::render(self, out, color)
    }

    fn apply(&mut self, record: &Record) {
        self.now = self.now.max(record.boottime_ns);
        match &record.body {
            Body::Start(start) => self.calls_counted = start.calls_counted,
            Body::Spawn(spawn) if spawn.role == Role::Worker => self.spawned(spawn),
            Body::Exec(exec) => self.executed(exec),
            Body::Exit(exit) => self.exited(exit),
            Body::Sample(sample) => self.sampled(sample),
            Body::Gap(gap) => self.lost = self.lost.saturating_add(gap.lost),
            Body::Finding(finding) => self.found(finding),
            Body::Stop(stop) => self.incomplete = !stop.complete,
            Body::Spawn(_)
            | Body::Signal(_)
            | Body::Terminal(_)
            | Body::Clients(_)
            | Body::Program(_)
            | Body::Action(_)
            | Body::Tick(_) => {}
        }
    }

    fn spawned(&mut self, spawn: &Spawn) {
        let id = spawn.identity();
        if let Some(worker) = self.worker_mut(id) {
            // It had become something else and is a worker again.
            worker.left = false;
            return;
        }
        let end = self.ended.by_id.get(&id).copied();
        if self.launchers.contains_key(&id) || end.is_some_and(|end| end.counted) {
            return;
        }
        let parent = spawn.parent.as_ref();
        let key = match parent.and_then(|parent| self.launch(parent, spawn.session.as_deref())) {
            Some(key) => key,
            None => Key {
                gateway: parent.and_then(|parent| self.gateway(parent)),
                session: spawn.session.clone(),
            },
        };
        let worker = Worker {
            start_ns: spawn.start_ns,
            inherited: spawn.inherited,
            left: false,
            rss_kib: None,
            reads: None,
        };
        let row = self.rows.entry(key.clone()).or_default();
        row.spawned += 1;
        row.inherited += u64::from(spawn.inherited);
        row.live.insert(id, worker);
        self.at.insert(id, key);
        self.take_over(id, spawn.session.as_deref());
        if let Some(end) = end {
            self.end(id, end.reads);
        }
    }

    /// Where a worker's parent is a worker of the same session, that one only launched it (`uv
    /// run`, a wrapper script) and is not counted. Returns the row of both.
    fn launch(&mut self, parent: &Parent, session: Option<&str>) -> Option<Key> {
        let parent = parent.process.identity();
        if let Some(key) = self.launchers.get(&parent) {
            return (key.session.as_deref() == session).then(|| key.clone());
        }
        let key = self.at.get(&parent)?.clone();
        if session.is_none() || key.session.as_deref() != session {
            return None;
        }
        self.step_back(parent);
        Some(key)
    }

    fn step_back(&mut self, launcher: Identity) {
        let Some(key) = self.at.remove(&launcher) else { return };
        if let Some(row) = self.rows.get_mut(&key)
            && let Some(worker) = row.live.remove(&launcher)
        {
            row.spawned -= 1;
            row.inherited -= u64::from(worker.inherited);
        }
        self.launchers.insert(launcher, key);
    }

    /// The same where the launched worker was reported first: it stands below its launcher as if
    /// that were its gateway.
    fn take_over(&mut self, launcher: Identity, session: Option<&str>) {
        let below = Key { gateway: Some(launcher), session: session.map(str::to_owned) };
        let (Some(_), Some(key)) = (session, self.at.get(&launcher).cloned()) else { return };
        let Some(row) = self.rows.remove(&below) else { return };
        self.step_back(launcher);
        for id in row.live.keys() {
            self.at.insert(*id, key.clone());
        }
        for open in self.open.values_mut() {
            if open.rows.remove(&below) {
                open.rows.insert(key.clone());
            }
        }
        let into = self.rows.entry(key).or_default();
        into.live.extend(row.live);
        into.spawned += row.spawned;
        into.inherited += row.inherited;
        into.calls.add(row.calls);
        into.was.extend(row.was);
    }

    fn gateway(&mut self, parent: &Parent) -> Option<Identity> {
        if !is_gateway(parent) {
            return None;
        }
        let id = parent.process.identity();
        let presumed = parent.how == ParentSource::Proc;
        let gateway = self.gateways.entry(id).or_insert_with(|| Gateway {
            comm: parent.process.comm.clone(),
            presumed,
            gone: false,
        });
        gateway.presumed &= presumed;
        gateway.gone |= parent.gone;
        Some(id)
    }

    fn worker_mut(&mut self, id: Identity) -> Option<&mut Worker> {
        self.rows.get_mut(self.at.get(&id)?)?.live.get_mut(&id)
    }

    fn executed(&mut self, exec: &Exec) {
        if let Some(worker) = self.worker_mut(exec.identity()) {
            worker.left = !exec.is_worker;
        }
    }

    fn exited(&mut self, exit: &Exit) {
        let id = exit.identity();
        if let Some(gateway) = self.gateways.get_mut(&id) {
            gateway.gone = true;
        }
        if self.launchers.remove(&id).is_none() && exit.role == Role::Worker {
            self.end(id, exit.reads);
        }
    }

    fn end(&mut self, id: Identity, reads: Option<u64>) {
        let key = self.at.remove(&id);
        self.ended.remember(id, reads, key.is_some());
        let Some(key) = key else { return };
        let Some(row) = self.rows.get_mut(&key) else { return };
        if let Some(mut worker) = row.live.remove(&id) {
            // Without a last count, what was sampled is the least it can be.
            let counted = reads.is_some();
            worker.reads = reads.or(worker.reads);
            row.calls.add(worker.calls());
            row.calls.exact &= counted;
        }
    }

    fn sampled(&mut self, sample: &Sample) {
        let id = sample.identity();
        if sample.state == 'X' {
            self.end(id, None);
            return;
        }
        if let Some(worker) = self.worker_mut(id) {
            worker.rss_kib = sample.rss_kib.or(worker.rss_kib);
            worker.reads = sample.reads.or(worker.reads);
            // A leader that ended before its other threads is shown as Z too, and lives on.
            if sample.state == 'Z' && sample.threads.is_none_or(|threads| threads <= 1) {
                worker.left = true;
            }
        }
    }

    fn found(&mut self, finding: &Finding) {
        let rows = self.rows_of(finding);
        let before = self.open.remove(&finding.id).map(|open| open.rows).unwrap_or_default();
        let closed = finding.state == FindingState::Closed;
        for key in before.iter().filter(|key| closed || !rows.contains(key)) {
            if let Some(row) = self.rows.get_mut(key) {
                row.was.insert(finding.kind);
            }
        }
        if !closed {
            self.open.insert(finding.id.clone(), Open { finding: finding.clone(), rows });
        }
    }

    /// The rows that a finding is about: those of its workers, and its group's.
    fn rows_of(&self, finding: &Finding) -> BTreeSet<Key> {
        let workers = finding.workers.iter();
        let mut rows: BTreeSet<Key> =
            workers.filter_map(|worker| self.at.get(&worker.identity())).cloned().collect();
        let gateway = finding.gateway.as_ref();
        let gateway = gateway.map(|at| Identity { pid: at.pid, start_ns: at.start_ns });
        let group = Key { gateway, session: finding.session.clone() };
        if self.rows.contains_key(&group) {
            rows.insert(group);
        }
        rows
    }

    /// Kinds of the findings that are open in a row, each with its surest confidence and how
    /// often.
    fn open_in(&self, key: &Key) -> BTreeMap<Kind, (Confidence, u64)> {
        let mut kinds: BTreeMap<Kind, (Confidence, u64)> = BTreeMap::new();
        for open in self.open.values().filter(|open| open.rows.contains(key)) {
            let confidence = open.finding.confidence;
            let (surest, count) = kinds.entry(open.finding.kind).or_insert((confidence, 0));
            *surest = confidence.max(*surest);
            *count += 1;
        }
        kinds
    }
}

impl Sink for Table {
    fn record(&mut self, record: &Record, _roster: &Roster) -> Result<()> {
        self.apply(record);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
