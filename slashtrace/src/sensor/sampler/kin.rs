use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Worker;
use crate::{
    host::proc::ProcFs,
    model::Identity,
    sensor::sampler::{Descendant, live::Pulse},
};

/// Processes above one that are looked at at most.
const DEPTH_MAX: usize = 64;

/// What a process that holds an end is to the worker whose end it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kinship {
    /// The worker, or below it: it does not count.
    Own,
    /// Another worker, or below one, and not above this one: it inherited the end.
    Fellow,
    /// Anybody else, its gateway and whoever is above it among them.
    Outside,
}

/// Says who belongs to which worker, in one search of every process.
#[derive(Debug)]
pub(super) struct Kin {
    proc: ProcFs,
    /// Those that were there when the search began.
    workers: BTreeSet<Identity>,
    /// And who descended from them, each with its worker.
    descendants: BTreeMap<Identity, Identity>,
    /// Pids above each process that was asked for, nearest first.
    chains: HashMap<u32, Vec<u32>>,
}

impl Kin {
    pub(super) fn new(
        proc: &ProcFs,
        workers: &BTreeMap<Identity, Box<Worker>>,
        descendants: &BTreeMap<Identity, Descendant>,
    ) -> Self {
        let there = workers.iter().filter(|(_, it)| it.live.pulse != Pulse::Gone);
        Self {
            proc: proc.clone(),
            workers: there.map(|(worker, _)| *worker).collect(),
            descendants: descendants.iter().map(|(id, it)| (*id, it.worker)).collect(),
            chains: HashMap::new(),
        }
    }

    /// What the process is to the worker, whose gateway that is.
    pub(super) fn of(&mut self, pid: u32, worker: Identity, gateway: Option<Identity>) -> Kinship {
        if pid == worker.pid {
            return Kinship::Own;
        }
        if gateway.is_some_and(|gateway| gateway.pid == pid) {
            return Kinship::Outside;
        }
        let descends = self.worker_above(pid);
        if descends == Some(worker) || self.is_above(worker.pid, pid) {
            return Kinship::Own;
        }
        if (descends.is_some() || self.is_worker(pid)) && !self.is_above(pid, worker.pid) {
            return Kinship::Fellow;
        }
        Kinship::Outside
    }

    /// Whether it is a worker or below one.
    pub(super) fn is_tracked(&self, pid: u32) -> bool {
        self.is_worker(pid) || self.worker_above(pid).is_some()
    }

    fn is_worker(&self, pid: u32) -> bool {
        self.workers.range(all(pid)).next().is_some()
    }

    fn worker_above(&self, pid: u32) -> Option<Identity> {
        self.descendants.range(all(pid)).next_back().map(|(_, worker)| *worker)
    }

    fn is_above(&mut self, above: u32, pid: u32) -> bool {
        let proc = &self.proc;
        let chain = self.chains.entry(pid).or_insert_with(|| {
            let parent = |pid: &u32| Some(proc.stat(*pid).ok()??.ppid).filter(|pid| *pid > 1);
            std::iter::successors(parent(&pid), parent).take(DEPTH_MAX).collect()
        });
        chain.contains(&above)
    }
}

fn all(pid: u32) -> std::ops::RangeInclusive<Identity> {
    Identity { pid, start_ns: 0 }..=Identity { pid, start_ns: u64::MAX }
}
