use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Case, Gateway, Life, Moment, Session, Total, cases::Cases, named};
use crate::{
    model::{
        Body, Exec, Exit, Identity, ParentSource, Process, Record, Role, Sample, Signal, Spawn,
    },
    report::{
        ending::{Sent, UNKNOWN, ending},
        words::{is_gateway, plain},
    },
};

/// Workers whose lives are kept; later ones are counted in their sessions alone.
pub const WORKERS_MAX: usize = 20_000;
/// Calls of one worker that are kept: the last ones.
const CALLS_MAX: usize = 100;
/// Gateways whose names are kept.
const GATEWAYS_MAX: usize = 4_096;

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
    from_ms: u64,
    to_ms: Option<u64>,
    inherited: bool,
    /// How it ended, in words.
    pub(super) end: Option<String>,
    calls_ms: VecDeque<u64>,
    pub(super) reads: Option<u64>,
    syscr: Option<u64>,
    pub(super) rss_kib: Option<u64>,
    terminal: Option<u32>,
    signal: Option<Sent>,
    pub(super) argv: Vec<String>,
    pub(super) comm: String,
    pub(super) above: Vec<Process>,
}

#[derive(Debug, Default)]
struct Row {
    spawned: u64,
    inherited: u64,
    exited: u64,
    live: u64,
    most_live: u64,
    /// Calls of workers that ended, and whether each was counted whole.
    calls: u64,
    inexact: bool,
}

/// Every worker and session.
#[derive(Debug, Default)]
pub(super) struct Lives {
    workers: BTreeMap<Identity, Worker>,
    /// In order of their birth: ended ones make room.
    omitted: u64,
    rows: BTreeMap<Key, Row>,
    gateways: BTreeMap<Identity, Known>,
    live: BTreeSet<Identity>,
    most_live: u64,
    rss_kib: u64,
    /// A moment of both clocks.
    clock: Option<Moment>,
}

#[derive(Debug)]
struct Known {
    comm: String,
    presumed: bool,
    gone: bool,
}

impl Lives {
    pub(super) fn take(&mut self, record: &Record, at_ms: u64) {
        let moment = Moment { time: record.time, boottime_ns: record.boottime_ns };
        self.clock.get_or_insert(moment);
        match &record.body {
            Body::Spawn(spawn) if spawn.role == Role::Worker => self.spawned(spawn, at_ms),
            Body::Exec(exec) => self.executed(exec, at_ms),
            Body::Exit(exit) => self.exited(exit, at_ms, record.boottime_ns),
            Body::Signal(signal) => self.signalled(record, signal),
            Body::Sample(sample) => self.sampled(sample, at_ms),
            _ => {}
        }
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
        let parent = spawn.parent.as_ref().filter(|parent| is_gateway(parent));
        if let Some(parent) = parent
            && (self.gateways.len() < GATEWAYS_MAX
                || self.gateways.contains_key(&parent.process.identity()))
        {
            let presumed = parent.how == ParentSource::Proc;
            let known = self.gateways.entry(parent.process.identity()).or_insert_with(|| Known {
                comm: parent.process.comm.clone(),
                presumed,
                gone: false,
            });
            known.presumed &= presumed;
            known.gone |= parent.gone;
        }
        // A worker that a worker of the same session started is the same worker: a launcher.
        let launcher = parent.and_then(|parent| {
            let above = self.workers.get(&parent.process.identity())?;
            let same = above.key.session.is_some() && above.key.session == spawn.session;
            same.then(|| (parent.process.identity(), above.key.clone()))
        });
        let key = match &launcher {
            Some((_, key)) => key.clone(),
            None => Key {
                gateway: parent.map(|parent| parent.process.identity()),
                session: spawn.session.clone(),
            },
        };
        if let Some((launcher, _)) = launcher {
            self.forget(launcher);
        }
        let row = self.rows.entry(key.clone()).or_default();
        row.spawned += 1;
        row.inherited += u64::from(spawn.inherited);
        row.live += 1;
        row.most_live = row.most_live.max(row.live);
        self.live.insert(id);
        self.most_live = self.most_live.max(self.live.len() as u64);
        if self.workers.len() >= WORKERS_MAX {
            // One that ended is worth less than one that lives.
            let ended = self.workers.iter().find(|(_, worker)| worker.to_ms.is_some());
            if let Some(id) = ended.map(|(id, _)| *id) {
                self.workers.remove(&id);
            }
            self.omitted += 1;
        }
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
                key,
                from_ms: at_ms,
                to_ms: None,
                inherited: spawn.inherited,
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
    }

    /// A launcher is no worker of its own.
    fn forget(&mut self, id: Identity) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.live.remove(&id);
        self.rss_kib = self.rss_kib.saturating_sub(worker.rss_kib.unwrap_or(0));
        if let Some(row) = self.rows.get_mut(&worker.key) {
            row.spawned -= 1;
            row.live -= u64::from(worker.to_ms.is_none());
            row.inherited -= u64::from(worker.inherited);
        }
    }

    fn executed(&mut self, exec: &Exec, at_ms: u64) {
        if !exec.is_worker && exec.role == Role::Worker {
            let end = format!("became {}, no worker any more", plain(&exec.comm));
            self.end(exec.identity(), at_ms, None, end);
        }
    }

    fn exited(&mut self, exit: &Exit, at_ms: u64, boottime_ns: u64) {
        let id = exit.identity();
        if let Some(gateway) = self.gateways.get_mut(&id) {
            gateway.gone = true;
        }
        let Some(worker) = self.workers.get(&id) else { return };
        let end = ending(exit, boottime_ns, worker.signal.as_ref());
        self.end(id, at_ms, exit.reads, end);
    }

    fn end(&mut self, id: Identity, at_ms: u64, reads: Option<u64>, how: String) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.to_ms.is_some() {
            return;
        }
        let counted = reads.is_some() && !worker.inherited;
        worker.reads = reads.or(worker.reads);
        worker.to_ms = Some(at_ms);
        worker.end = Some(how);
        self.live.remove(&id);
        self.rss_kib = self.rss_kib.saturating_sub(worker.rss_kib.unwrap_or(0));
        if let Some(row) = self.rows.get_mut(&worker.key) {
            row.live = row.live.saturating_sub(1);
            row.exited += 1;
            row.calls += worker.reads.unwrap_or(0);
            row.inexact |= !counted;
        }
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
        let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.to_ms.is_none()) else {
            return;
        };
        if let Some(kib) = sample.rss_kib {
            self.rss_kib = self.rss_kib.saturating_sub(worker.rss_kib.unwrap_or(0)) + kib;
            worker.rss_kib = Some(kib);
        }
        let rose = |now: Option<u64>, before: Option<u64>| {
            now.is_some_and(|now| before.is_some_and(|before| now > before))
        };
        let served = match (sample.reads, sample.syscr) {
            (Some(reads), _) => reads > worker.reads.unwrap_or(0),
            // Its start reads a lot, too.
            (None, syscr) => rose(syscr, worker.syscr) && at_ms > worker.from_ms + 5_000,
        };
        if served {
            if worker.calls_ms.len() >= CALLS_MAX {
                worker.calls_ms.pop_front();
            }
            worker.calls_ms.push_back(at_ms);
        }
        worker.reads = sample.reads.or(worker.reads);
        worker.syscr = sample.syscr.or(worker.syscr);
    }

    pub(super) fn sessions(&self, stale: &BTreeSet<Identity>, cases: &Cases) -> Vec<Session> {
        let mut keys: Vec<&Key> = self.rows.keys().collect();
        keys.sort_by_key(|key| (key.gateway.is_none(), key.gateway, key.session.is_none()));
        let mut live: BTreeMap<&Key, Vec<(&Identity, &Worker)>> = BTreeMap::new();
        for id in &self.live {
            if let Some(worker) = self.workers.get(id) {
                live.entry(&worker.key).or_default().push((id, worker));
            }
        }
        let live_of = |key| live.get(key).map_or(&[][..], Vec::as_slice);
        keys.into_iter().map(|key| self.session(key, live_of(key), stale, cases)).collect()
    }

    fn session(
        &self,
        key: &Key,
        live: &[(&Identity, &Worker)],
        stale: &BTreeSet<Identity>,
        cases: &Cases,
    ) -> Session {
        let row = &self.rows[key];
        let of_live = || live.iter().map(|(_, worker)| worker);
        let oldest_ns = live.iter().map(|(id, _)| id.start_ns).min();
        let born = |start_ns: u64| self.clock.and_then(|clock| clock.wall(start_ns));
        let most = cases.most(key);
        let counted = of_live().all(|worker| worker.reads.is_some() && !worker.inherited);
        Session {
            gateway: key.gateway.and_then(|id| self.named(id)),
            session: key.session.as_deref().map(|key| plain(key).into_owned()),
            live: row.live,
            stale: live.iter().filter(|(id, _)| stale.contains(id)).count() as u64,
            most_stale: most.map_or(0, |most| most.workers),
            most_live: row.most_live,
            spawned: row.spawned,
            inherited: row.inherited,
            exited: row.exited,
            oldest: oldest_ns.and_then(born),
            oldest_stale: most.and_then(|most| born(most.oldest_ns)),
            rss_kib: of_live().filter_map(|worker| worker.rss_kib).sum(),
            calls: row.calls + of_live().filter_map(|worker| worker.reads).sum::<u64>(),
            calls_exact: counted && !row.inexact,
            findings: cases.kinds_of(key),
        }
    }

    fn named(&self, id: Identity) -> Option<Gateway> {
        let known = self.gateways.get(&id)?;
        Some(Gateway {
            id,
            comm: plain(&known.comm).into_owned(),
            presumed: known.presumed,
            gone: known.gone,
        })
    }

    pub(super) fn total(
        &self,
        sessions: &[Session],
        stale: &BTreeSet<Identity>,
        (most_stale, most_stale_rss_kib): (u64, u64),
    ) -> Total {
        let sum = |of: fn(&Session) -> u64| sessions.iter().map(of).sum();
        let stale = self.live.iter().filter(|id| stale.contains(id));
        Total {
            sessions: sessions.len() as u64,
            live: sum(|session| session.live),
            stale: sum(|session| session.stale),
            spawned: sum(|session| session.spawned),
            inherited: sum(|session| session.inherited),
            exited: sum(|session| session.exited),
            most_live: self.most_live,
            rss_kib: sum(|session| session.rss_kib),
            most_stale,
            most_stale_rss_kib,
            stale_rss_kib: stale.filter_map(|id| self.workers.get(id)?.rss_kib).sum(),
        }
    }

    /// Every life, and how many are missing.
    pub(super) fn report(
        &self,
        sessions: &[Session],
        findings: &[Case],
        stale: &BTreeSet<Identity>,
    ) -> (Vec<Life>, u64) {
        let mut named: BTreeMap<Identity, Vec<usize>> = BTreeMap::new();
        for (index, case) in findings.iter().enumerate() {
            for id in &case.workers {
                named.entry(*id).or_default().push(index);
            }
        }
        let rows: BTreeMap<(Option<Identity>, Option<&str>), usize> = sessions
            .iter()
            .enumerate()
            .map(|(row, it)| ((it.gateway.as_ref().map(|at| at.id), it.session.as_deref()), row))
            .collect();
        let mut lives: Vec<Life> = self
            .workers
            .iter()
            .filter_map(|(id, worker)| {
                let session = worker.key.session.as_deref().map(plain);
                let gateway = worker.key.gateway.filter(|id| self.gateways.contains_key(id));
                let row = *rows.get(&(gateway, session.as_deref()))?;
                Some(Life {
                    id: *id,
                    row,
                    from_ms: worker.from_ms,
                    to_ms: worker.to_ms,
                    inherited: worker.inherited,
                    end: worker.end.clone(),
                    calls_ms: worker.calls_ms.iter().copied().collect(),
                    calls: worker.reads,
                    rss_kib: worker.rss_kib,
                    terminal: worker.terminal,
                    findings: named.get(id).cloned().unwrap_or_default(),
                    stale: stale.contains(id) && worker.to_ms.is_none(),
                })
            })
            .collect();
        lives.sort_by_key(|life| (life.row, life.id.start_ns, life.id.pid));
        (lives, self.omitted)
    }
}
