use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Moment,
    launchers::{Launchers, Merged, Recent},
    named,
};
use crate::{
    model::{
        Body, Exec, Exit, Identity, Parent, ParentSource, Process, Record, Role, Sample, Signal,
        Spawn,
    },
    report::{
        ending::{Sent, UNKNOWN, ending},
        words::{is_gateway, plain},
    },
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

/// A worker, alive or not.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) key: Key,
    pub(super) from_ms: u64,
    pub(super) to_ms: Option<u64>,
    pub(super) inherited: bool,
    /// It is gone for good; one with `to_ms` that is not may come back (as a worker, by an exec).
    pub(super) ended: bool,
    zombie: bool,
    /// When it executed something that is no worker, ns of the boot clock, if it did not come back.
    pub(super) away_ns: Option<u64>,
    /// How it ended, in words.
    pub(super) end: Option<String>,
    pub(super) calls_ms: VecDeque<u64>,
    pub(super) reads: Option<u64>,
    syscr: Option<u64>,
    pub(super) rss_kib: Option<u64>,
    pub(super) terminal: Option<u32>,
    signal: Option<Sent>,
    pub(super) argv: Vec<String>,
    pub(super) comm: String,
    pub(super) above: Vec<Process>,
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
    pub(super) launchers: Launchers,
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
    pub(super) fn take(&mut self, record: &Record, at_ms: u64) -> Option<Merged> {
        let moment = Moment { time: record.time, boottime_ns: record.boottime_ns };
        self.clock.get_or_insert(moment);
        match &record.body {
            Body::Spawn(spawn) if spawn.role == Role::Worker => {
                return self.spawned(spawn, at_ms, record.boottime_ns);
            }
            Body::Exec(exec) => self.executed(exec, at_ms, record.boottime_ns),
            Body::Exit(exit) => self.exited(exit, at_ms, record.boottime_ns),
            Body::Signal(signal) => self.signalled(record, signal),
            Body::Sample(sample) => self.sampled(sample, at_ms),
            _ => {}
        }
        None
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

    fn spawned(&mut self, spawn: &Spawn, at_ms: u64, at_ns: u64) -> Option<Merged> {
        let id = spawn.identity();
        if self.workers.contains_key(&id) {
            // It had become something else and is a worker again.
            self.come_back(id);
            return None;
        }
        if self.launchers.row(&id).is_some() {
            return None;
        }
        let parent = spawn.parent.as_ref();
        let session = spawn.session.as_deref();
        let key = match parent.and_then(|parent| self.launched(parent, session, at_ns)) {
            Some(key) => key,
            None => Key {
                gateway: parent.and_then(|parent| self.know(parent)),
                session: spawn.session.clone(),
            },
        };
        let row = self.rows.entry(key.clone()).or_default();
        row.spawned += 1;
        row.inherited += u64::from(spawn.inherited);
        self.make_room();
        let parent = parent.filter(|parent| is_gateway(parent));
        let parent = parent.map(|parent| parent.process.clone()).into_iter();
        let mut above: Vec<Process> = parent.chain(spawn.ancestors.iter().cloned()).collect();
        if let Some(opener) = &spawn.opener
            && above.iter().all(|process| process.identity() != opener.identity())
        {
            above.push(opener.clone());
        }
        self.workers.insert(
            id,
            Worker {
                key: key.clone(),
                from_ms: at_ms,
                // Until `revive`.
                to_ms: Some(at_ms),
                inherited: spawn.inherited,
                ended: false,
                zombie: false,
                away_ns: None,
                end: None,
                calls_ms: VecDeque::new(),
                reads: None,
                syscr: None,
                rss_kib: None,
                terminal: spawn.terminal.map(|terminal| terminal.index),
                signal: None,
                argv: spawn.argv.clone(),
                comm: spawn.comm.clone(),
                above,
            },
        );
        let early = self.early.take(&id);
        let merged = self.take_over(id, session);
        match early {
            Some(Early { at_ms, reads, how }) => self.end(id, at_ms, reads, how),
            None => self.revive(id),
        }
        merged
    }

    /// The gateway that a parent is, if it may be called so.
    fn know(&mut self, parent: &Parent) -> Option<Identity> {
        if !is_gateway(parent) {
            return None;
        }
        let id = parent.process.identity();
        let presumed = parent.how == ParentSource::Proc;
        let known = self.gateways.entry(id).or_insert_with(|| Known {
            comm: parent.process.comm.clone(),
            presumed,
            gone: false,
        });
        known.presumed &= presumed;
        known.gone |= parent.gone;
        Some(id)
    }

    /// One that ended is worth less than one that lives.
    fn make_room(&mut self) {
        if self.workers.len() < WORKERS_MAX {
            return;
        }
        while let Some(id) = self.ended.pop_front() {
            if self.workers.remove(&id).is_some() {
                self.omitted += 1;
                return;
            }
        }
    }

    fn executed(&mut self, exec: &Exec, at_ms: u64, at_ns: u64) {
        let id = exec.identity();
        if exec.is_worker {
            self.come_back(id);
        } else if let Some(worker) = self.workers.get_mut(&id) {
            worker.away_ns.get_or_insert(at_ns);
            let end = format!("became {}, no worker any more", plain(&exec.comm));
            self.leave(id, at_ms, Some(end));
        }
    }

    fn come_back(&mut self, id: Identity) {
        if let Some(worker) = self.workers.get_mut(&id) {
            (worker.away_ns, worker.zombie) = (None, false);
            self.revive(id);
        }
    }

    /// It lives as a worker, unless something says otherwise.
    fn revive(&mut self, id: Identity) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let dead = worker.ended || worker.zombie || worker.away_ns.is_some();
        if dead || worker.to_ms.take().is_none() {
            return;
        }
        worker.end = None;
        self.live.insert(id);
        self.most_live = self.most_live.max(self.live.len() as u64);
        self.rss_kib += worker.rss_kib.unwrap_or(0);
        let row = self.rows.entry(worker.key.clone()).or_default();
        row.live += 1;
        row.most_live = row.most_live.max(row.live);
    }

    /// It lives as a worker no more, though the process may.
    pub(super) fn leave(&mut self, id: Identity, at_ms: u64, how: Option<String>) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.to_ms.is_some() {
            return;
        }
        worker.to_ms = Some(at_ms);
        worker.end = how;
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
        if self.launchers.exited(id) {
            return;
        }
        let worker = self.workers.get(&id);
        if worker.is_some() || exit.role == Role::Worker {
            let sent = worker.and_then(|worker| worker.signal.as_ref());
            self.end(id, at_ms, exit.reads, ending(exit, boottime_ns, sent));
        }
    }

    fn end(&mut self, id: Identity, at_ms: u64, reads: Option<u64>, how: String) {
        self.leave(id, at_ms, None);
        let Some(worker) = self.workers.get_mut(&id) else {
            if self.launchers.row(&id).is_none() {
                self.early.note(id, Early { at_ms, reads, how });
            }
            return;
        };
        if std::mem::replace(&mut worker.ended, true) {
            return;
        }
        worker.end.get_or_insert(how);
        // Without a last count, what was sampled is the least it can be.
        let counted = reads.is_some() && !worker.inherited;
        worker.reads = reads.or(worker.reads);
        if let Some(row) = self.rows.get_mut(&worker.key) {
            row.calls += worker.reads.unwrap_or(0);
            row.inexact |= !counted;
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

    fn sampled(&mut self, sample: &Sample, at_ms: u64) {
        let id = sample.identity();
        if sample.state == 'X' {
            self.end(id, at_ms, None, UNKNOWN.to_owned());
            return;
        }
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.ended) else { return };
        let live = worker.to_ms.is_none();
        // That of another program is none of the worker's.
        if let Some(kib) = sample.rss_kib.filter(|_| live) {
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
        // A leader that ended before its other threads is shown as Z too, and lives on.
        let zombie = sample.state == 'Z' && sample.threads.is_none_or(|threads| threads <= 1);
        let was = std::mem::replace(&mut worker.zombie, zombie);
        if zombie {
            self.leave(id, at_ms, None);
        } else if was {
            self.revive(id);
        }
    }
}
