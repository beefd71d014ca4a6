use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Moment, named, recent::Recent};
use crate::{
    model::{
        Body, Exec, Exit, Identity, ParentSource, Process, Record, Role, Sample, Signal, Spawn,
    },
    report::{
        ending::{Sent, UNKNOWN, ending},
        words::{is_gateway, plain},
    },
    roster::{Reasons, Roster, Subject, Unjudged},
};

/// Workers whose lives are kept; of more, ended ones are counted in their sessions alone.
pub const WORKERS_MAX: usize = 20_000;
/// Calls of one worker that are kept: the last ones.
const CALLS_MAX: usize = 100;
/// Gateway and session.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Key {
    pub(super) gateway: Option<Identity>,
    pub(super) session: Option<String>,
}

/// A row that turned out to be another one's: its workers were launched, not spawned, by the
/// process that it has for a gateway.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) from: Key,
    pub(super) into: Key,
}

/// A worker, alive or not.
#[derive(Debug)]
pub(super) struct Worker {
    /// Its row, as the roster said last.
    pub(super) key: Key,
    /// It is counted in that row.
    counted: bool,
    pub(super) from_ms: u64,
    pub(super) to_ms: Option<u64>,
    pub(super) inherited: bool,
    /// It is gone for good; one with `to_ms` that is not may come back (as a worker, by an exec).
    pub(super) ended: bool,
    /// How it ended, in words.
    pub(super) end: Option<String>,
    /// What was told last of an end.
    told: Option<String>,
    /// Calls that its exit told of.
    last_reads: Option<u64>,
    pub(super) calls_ms: VecDeque<u64>,
    pub(super) reads: Option<u64>,
    syscr: Option<u64>,
    pub(super) rss_kib: Option<u64>,
    pub(super) terminal: Option<u32>,
    signal: Option<Sent>,
    pub(super) argv: Vec<String>,
    pub(super) comm: String,
    pub(super) above: Vec<Process>,
    /// Why it could not be judged, as the roster said last.
    pub(super) unjudged: Option<Unjudged>,
}

#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) spawned: u64,
    pub(super) inherited: u64,
    pub(super) live: u64,
    pub(super) most_live: u64,
    /// Calls of workers that ended, and whether one of these was not counted whole.
    pub(super) calls: u64,
    pub(super) inexact: bool,
    /// Workers that are not kept any more and could not be judged.
    pub(super) unjudged: Reasons,
}

/// The end of a worker whose birth was not reported yet.
#[derive(Debug)]
struct Early {
    at_ms: u64,
    reads: Option<u64>,
    how: String,
}

/// Every worker and session.
#[derive(Debug, Default)]
pub(super) struct Lives {
    pub(super) workers: BTreeMap<Identity, Worker>,
    /// Ended ones in the order of their ends: they make room.
    ended: VecDeque<Identity>,
    pub(super) omitted: u64,
    pub(super) rows: BTreeMap<Key, Row>,
    pub(super) gateways: BTreeMap<Identity, Known>,
    early: Recent<Early>,
    live: BTreeSet<Identity>,
    pub(super) most_live: u64,
    rss_kib: u64,
    /// A moment of both clocks.
    pub(super) clock: Option<Moment>,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) comm: String,
    pub(super) presumed: bool,
    pub(super) gone: bool,
}

impl Lives {
    /// Takes what a record tells of workers, and follows the roster in whose they are and whether
    /// they live. Returns rows that are another one's now.
    pub(super) fn take(&mut self, record: &Record, at_ms: u64, roster: &Roster) -> Vec<Merged> {
        let moment = Moment { time: record.time, boottime_ns: record.boottime_ns };
        self.clock.get_or_insert(moment);
        match &record.body {
            Body::Spawn(spawn)
                if roster.worker(spawn.identity()).is_some_and(crate::roster::Worker::counts) =>
            {
                self.spawned(spawn, at_ms);
            }
            Body::Exec(exec) => self.executed(exec),
            Body::Exit(exit) => self.exited(exit, at_ms, record.boottime_ns),
            Body::Signal(signal) => self.signalled(record, signal),
            Body::Sample(sample) => self.sampled(sample, at_ms, roster),
            // Time alone makes a difference, too.
            Body::Stop(_) => {
                for (id, worker) in self.workers.iter_mut().filter(|(_, worker)| !worker.ended) {
                    worker.unjudged = roster.unjudged(*id);
                }
            }
            _ => {}
        }
        for subject in roster.changed() {
            if let Subject::Gateway(id) = subject
                && let Some(known) = self.gateways.get_mut(id)
            {
                known.gone |= roster.gateway(*id).is_some_and(|gateway| gateway.exit.is_some());
            }
        }
        roster.changed_workers().filter_map(|id| self.refresh(id, at_ms, roster)).collect()
    }

    /// A worker by its identity.
    pub(super) fn worker(&self, id: &Identity) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// Every worker that is kept.
    pub(super) fn workers(&self) -> impl Iterator<Item = (&Identity, &Worker)> {
        self.workers.iter()
    }

    /// Workers that live now.
    pub(super) fn live(&self) -> &BTreeSet<Identity> {
        &self.live
    }

    /// Their memory, KiB.
    pub(super) fn rss_kib(&self) -> u64 {
        self.rss_kib
    }

    /// `python(2800)`, for a gateway that is known.
    pub(super) fn gateway(&self, id: Identity) -> Option<String> {
        self.gateways.get(&id).map(|known| named(&known.comm, id))
    }

    fn spawned(&mut self, spawn: &Spawn, at_ms: u64) {
        let id = spawn.identity();
        if self.workers.contains_key(&id) {
            return;
        }
        self.make_room();
        let parent = spawn.parent.as_ref().filter(|parent| is_gateway(parent));
        let parent = parent.map(|parent| parent.process.clone()).into_iter();
        let mut above: Vec<Process> = parent.chain(spawn.ancestors.iter().cloned()).collect();
        if let Some(opener) = &spawn.opener
            && above.iter().all(|process| process.identity() != opener.identity())
        {
            above.push(opener.clone());
        }
        let early = self.early.take(&id);
        self.workers.insert(
            id,
            Worker {
                key: Key { gateway: None, session: None },
                counted: false,
                from_ms: at_ms,
                // Until the roster says that it lives.
                to_ms: Some(early.as_ref().map_or(at_ms, |early| early.at_ms)),
                inherited: spawn.inherited,
                ended: false,
                end: None,
                last_reads: early.as_ref().and_then(|early| early.reads),
                told: early.map(|early| early.how),
                calls_ms: VecDeque::new(),
                reads: None,
                syscr: None,
                rss_kib: None,
                terminal: spawn.terminal.map(|terminal| terminal.index),
                signal: None,
                argv: spawn.argv.clone(),
                comm: spawn.comm.clone(),
                above,
                unjudged: None,
            },
        );
    }

    /// One that ended is worth less than one that lives.
    fn make_room(&mut self) {
        if self.workers.len() < WORKERS_MAX {
            return;
        }
        while let Some(id) = self.ended.pop_front() {
            if let Some(worker) = self.workers.remove(&id) {
                self.omitted += 1;
                if let (Some(why), Some(row)) = (worker.unjudged, self.rows.get_mut(&worker.key)) {
                    *row.unjudged.entry(why).or_default() += 1;
                }
                return;
            }
        }
    }

    /// Brings what is kept of a worker to what the roster says of it.
    fn refresh(&mut self, id: Identity, at_ms: u64, roster: &Roster) -> Option<Merged> {
        let now = roster.worker(id)?;
        if !self.workers.contains_key(&id) {
            return None;
        }
        if !now.counts() {
            // A launcher is one with the worker that it launched.
            self.leave(id, at_ms, false);
            self.unlist(id);
            self.workers.remove(&id);
            return None;
        }
        let key =
            Key { gateway: now.gateway_id(), session: now.session.as_deref().map(str::to_owned) };
        if let (Some(gateway), Some(link)) = (key.gateway, &now.gateway) {
            let presumed = link.how == ParentSource::Proc;
            let gone = roster.gateway(gateway).is_some_and(|gateway| gateway.exit.is_some());
            let known = self.gateways.entry(gateway).or_insert_with(|| Known {
                comm: link.process.comm.clone(),
                presumed,
                gone,
            });
            known.presumed &= presumed;
            known.gone |= gone;
        }
        let merged = self.list(id, key);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.unjudged = roster.unjudged(id);
        }
        if now.is_live() {
            self.revive(id);
        } else {
            self.leave(id, at_ms, now.left().is_some());
        }
        if now.exit().is_some() {
            self.end(id);
        }
        merged
    }

    /// Counts a worker in its row, where it was in none or in another.
    fn list(&mut self, id: Identity, key: Key) -> Option<Merged> {
        let worker = self.workers.get(&id)?;
        if worker.counted && worker.key == key {
            return None;
        }
        let before = worker.counted.then(|| worker.key.clone());
        let most_live = before.as_ref().and_then(|key| self.rows.get(key)).map(|row| row.most_live);
        self.unlist(id);
        let worker = self.workers.get_mut(&id)?;
        worker.key.clone_from(&key);
        worker.counted = true;
        let row = self.rows.entry(key.clone()).or_default();
        row.spawned += 1;
        row.inherited += u64::from(worker.inherited);
        row.live += u64::from(worker.to_ms.is_none());
        row.most_live = row.most_live.max(row.live).max(most_live.unwrap_or(0));
        if worker.ended {
            row.add_ended(worker);
        }
        let from = before.filter(|before| !self.rows.contains_key(before))?;
        Some(Merged { from, into: key })
    }

    /// Takes a worker out of its row, and a row away in which nobody is left.
    fn unlist(&mut self, id: Identity) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !std::mem::take(&mut worker.counted) {
            return;
        }
        let Some(row) = self.rows.get_mut(&worker.key) else { return };
        row.spawned -= 1;
        row.inherited -= u64::from(worker.inherited);
        row.live -= u64::from(worker.to_ms.is_none());
        if worker.ended {
            row.calls -= worker.reads.unwrap_or(0);
        }
        if row.spawned == 0 {
            self.rows.remove(&worker.key);
        }
    }

    fn executed(&mut self, exec: &Exec) {
        if !exec.is_worker
            && let Some(worker) = self.workers.get_mut(&exec.identity())
        {
            worker.told = Some(format!("became {}, no worker any more", plain(&exec.comm)));
        }
    }

    /// It lives as a worker.
    fn revive(&mut self, id: Identity) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.ended || worker.to_ms.take().is_none() {
            return;
        }
        worker.end = None;
        self.live.insert(id);
        self.most_live = self.most_live.max(self.live.len() as u64);
        self.rss_kib = self.rss_kib.saturating_add(worker.rss_kib.unwrap_or(0));
        if let Some(row) = self.rows.get_mut(&worker.key) {
            row.live += 1;
            row.most_live = row.most_live.max(row.live);
        }
    }

    /// It lives as a worker no more, though the process may.
    fn leave(&mut self, id: Identity, at_ms: u64, became_another: bool) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.to_ms.is_some() {
            return;
        }
        worker.to_ms = Some(at_ms);
        worker.end = if became_another { worker.told.take() } else { None };
        self.live.remove(&id);
        self.rss_kib = self.rss_kib.saturating_sub(worker.rss_kib.unwrap_or(0));
        if let Some(row) = self.rows.get_mut(&worker.key) {
            row.live = row.live.saturating_sub(1);
        }
    }

    fn exited(&mut self, exit: &Exit, at_ms: u64, boottime_ns: u64) {
        let id = exit.identity();
        if let Some(gateway) = self.gateways.get_mut(&id) {
            gateway.gone = true;
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.told = Some(ending(exit, boottime_ns, worker.signal.as_ref()));
            worker.last_reads = exit.reads.or(worker.last_reads);
        } else if exit.role == Role::Worker {
            let how = ending(exit, boottime_ns, None);
            self.early.note(id, Early { at_ms, reads: exit.reads, how });
        }
    }

    /// It is gone for good.
    fn end(&mut self, id: Identity) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if std::mem::replace(&mut worker.ended, true) {
            return;
        }
        let told = worker.told.take().unwrap_or_else(|| UNKNOWN.to_owned());
        worker.end.get_or_insert(told);
        // Without a last count, what was sampled is the least it can be.
        worker.reads = worker.last_reads.or(worker.reads);
        if let Some(row) = self.rows.get_mut(&worker.key) {
            row.add_ended(worker);
        }
        self.ended.push_back(id);
    }

    fn signalled(&mut self, record: &Record, signal: &Signal) {
        if let Some(sent) = Sent::of(record, signal)
            && let Some(worker) = self.workers.get_mut(&signal.identity())
        {
            worker.signal = Some(sent);
        }
    }

    fn sampled(&mut self, sample: &Sample, at_ms: u64, roster: &Roster) {
        let id = sample.identity();
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.ended) else { return };
        if sample.state == 'X' {
            return;
        }
        let live = worker.to_ms.is_none();
        // That of another program is none of the worker's.
        let kib = roster.worker(id).and_then(crate::roster::Worker::rss_kib);
        if let Some(kib) = kib.filter(|_| live) {
            let before = worker.rss_kib.replace(kib).unwrap_or(0);
            self.rss_kib = self.rss_kib.saturating_sub(before) + kib;
        }
        let rose = |now: Option<u64>, before: Option<u64>| {
            now.is_some_and(|now| before.is_some_and(|before| now > before))
        };
        let served = match (sample.reads, sample.syscr) {
            (Some(reads), _) => reads > worker.reads.unwrap_or(0),
            // Its start reads a lot, too.
            (None, syscr) => rose(syscr, worker.syscr) && at_ms > worker.from_ms + 5_000,
        };
        if served && live {
            if worker.calls_ms.len() >= CALLS_MAX {
                worker.calls_ms.pop_front();
            }
            worker.calls_ms.push_back(at_ms);
        }
        worker.reads = sample.reads.or(worker.reads);
        worker.syscr = sample.syscr.or(worker.syscr);
    }
}

impl Row {
    fn add_ended(&mut self, worker: &Worker) {
        self.calls = self.calls.saturating_add(worker.reads.unwrap_or(0));
        self.inexact |= worker.last_reads.is_none() || worker.inherited;
    }
}
