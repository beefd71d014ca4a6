use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::process::{Resource, getrlimit};

use super::Policy;
use crate::{
    host::proc::{Held, ProcFs},
    model::{Body, Identity, Mode, Record, Role, Spawn},
};

/// Descriptors of all that is prepared, at most; and at most half of what this process may have.
const DESCRIPTORS_MAX: usize = 1024;
/// A worker younger than this is not prepared: many a worker of a storm ends sooner.
const SETTLED: Duration = Duration::from_millis(100);
/// How long before it is old enough to be ended a worker is prepared.
const AHEAD: Duration = Duration::from_secs(1);

/// What can be opened before a worker is to be ended: its pidfd, and the files in /proc of the
/// worker, its gateway and the leader of that one's session.
///
/// Nothing is known from it: each check reads anew at the moment of acting, from a descriptor
/// instead of a path. A worker that is not prepared (too young, no descriptor left) is checked by
/// paths. In `observe` nothing is prepared.
#[derive(Debug)]
pub(super) struct Prepared {
    proc: ProcFs,
    /// The age at which a worker is prepared, ns; none in `observe`.
    age_ns: Option<u64>,
    descriptors_max: usize,
    /// What is open for a worker, itself first.
    ready: BTreeMap<Identity, Vec<Arc<Held>>>,
    /// Those to come: when, on the boot clock.
    waiting: BTreeMap<Identity, u64>,
    queue: BTreeSet<(u64, Identity)>,
    gateways: BTreeMap<Identity, Identity>,
    /// By pid. Shared: many workers have one gateway, and some are the gateway of others.
    held: HashMap<u32, Weak<Held>>,
}

impl Prepared {
    pub(super) fn new(proc: ProcFs, policy: &Policy) -> Self {
        let age = SETTLED.max(policy.min_age.saturating_sub(AHEAD));
        let acts = policy.mode != Mode::Observe;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let half = usize::try_from(limit / 2).unwrap_or(usize::MAX);
        Self {
            proc,
            age_ns: acts.then(|| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
            descriptors_max: DESCRIPTORS_MAX.min(half),
            ready: BTreeMap::new(),
            waiting: BTreeMap::new(),
            queue: BTreeSet::new(),
            gateways: BTreeMap::new(),
            held: HashMap::new(),
        }
    }

    /// Tracks who lives; all records are to be given, in order. Opens nothing.
    pub(super) fn observe(&mut self, record: &Record) {
        let Some(age_ns) = self.age_ns else { return };
        match &record.body {
            Body::Spawn(spawn) if spawn.role == Role::Worker => {
                let at = record.boottime_ns.max(spawn.start_ns);
                let born_ns = if spawn.inherited { spawn.start_ns } else { at };
                self.expect(spawn, born_ns.saturating_add(age_ns));
            }
            Body::Exec(exec) if exec.role == Role::Worker && !exec.is_worker => {
                self.forget(&exec.identity());
            }
            Body::Exit(exit) => self.forget(&exit.identity()),
            Body::Sample(sample) if sample.state == 'X' => self.forget(&sample.identity()),
            _ => {}
        }
    }

    fn expect(&mut self, spawn: &Spawn, due_ns: u64) {
        let id = spawn.identity();
        if self.ready.contains_key(&id) || self.waiting.contains_key(&id) {
            return;
        }
        if let Some(parent) = spawn.parent.as_ref().filter(|parent| !parent.reaper) {
            self.gateways.insert(id, parent.process.identity());
        }
        self.waiting.insert(id, due_ns);
        self.queue.insert((due_ns, id));
    }

    fn forget(&mut self, id: &Identity) {
        if let Some(due_ns) = self.waiting.remove(id) {
            self.queue.remove(&(due_ns, *id));
        }
        self.gateways.remove(id);
        if self.ready.remove(id).is_some() {
            self.let_go();
        }
    }

    /// When there is a worker to prepare, ns of the boot clock, as long as there is room for it.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.queue.first().filter(|_| self.has_room()).map(|(due_ns, _)| *due_ns)
    }

    /// Prepares one worker, if one is due: whether one was.
    pub(super) fn prepare(&mut self, now_ns: u64) -> bool {
        if self.next_due().is_none_or(|due_ns| due_ns > now_ns) {
            return false;
        }
        let Some((_, id)) = self.queue.pop_first() else { return false };
        self.waiting.remove(&id);
        let gateway = self.gateways.remove(&id);
        match self.open(id, gateway) {
            Ok(Some(files)) => drop(self.ready.insert(id, files)),
            // It is checked by paths, which say why.
            Ok(None) | Err(_) => self.let_go(),
        }
        true
    }

    /// Forgets files that nobody holds any more.
    fn let_go(&mut self) {
        self.held.retain(|_, held| held.strong_count() > 0);
    }

    fn open(
        &mut self,
        id: Identity,
        gateway: Option<Identity>,
    ) -> io::Result<Option<Vec<Arc<Held>>>> {
        let Some(worker) = self.hold(id.pid)?.filter(|held| held.is(&self.proc, id)) else {
            return Ok(None);
        };
        let mut files = vec![worker];
        // Without these it is only a little slower.
        if let Some(gateway) = gateway
            && let Ok(Some(held)) = self.hold(gateway.pid)
            && let Ok(Some(stat)) = held.stat(&self.proc)
            && self.proc.is_same(gateway, &stat)
        {
            files.push(held);
            files.extend(self.hold(stat.sid).ok().flatten());
        }
        Ok(Some(files))
    }

    /// The files of whoever has a pid now, opened or open already.
    fn hold(&mut self, pid: u32) -> io::Result<Option<Arc<Held>>> {
        if let Some(held) = self.files(pid)
            && held.stat(&self.proc)?.is_some()
        {
            return Ok(Some(held));
        }
        let Some(held) = Held::open(&self.proc, pid)?.map(Arc::new) else { return Ok(None) };
        self.held.insert(pid, Arc::downgrade(&held));
        Ok(Some(held))
    }

    fn has_room(&self) -> bool {
        // A worker, its gateway and a leader.
        self.descriptors() + 3 * Held::DESCRIPTORS <= self.descriptors_max
    }

    /// How many descriptors are open, at most.
    fn descriptors(&self) -> usize {
        self.held.len() * Held::DESCRIPTORS
    }

    /// Files that are held of a process of this pid: the one that has it, or one that had it and
    /// was reaped, and then they say so.
    pub(super) fn files(&self, pid: u32) -> Option<Arc<Held>> {
        self.held.get(&pid)?.upgrade()
    }

    /// The pidfd of a worker, if it was prepared.
    pub(super) fn pidfd(&self, worker: &Identity) -> Option<Arc<OwnedFd>> {
        self.ready.get(worker)?.first().map(|held| held.pidfd())
    }
}

#[cfg(test)]
mod tests;
