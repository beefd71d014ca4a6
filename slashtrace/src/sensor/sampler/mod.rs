//! Periodic samples of tracked workers: what the kernel programs cannot push. `live` says when a
//! sample is worth writing, `channels` finds the other ends of a worker's stdin and stdout (each a
//! `side`; `search` looks through every process, `kin` says who belongs to whom, `holders` whether they are there, `unix` what the kernel
//! says of sockets, `fresh` when to look first), `work` what its tree
//! did, `launchers` what started it, `sockets` which it has of its own, `waits` whether it waits for its stdin, `exited` watches for zombies, `memory` the machine.
//! May touch: /proc through `proc`, sock_diag(7), `model`. Never the clock: it is told the time.

mod channels;
mod exited;
mod fresh;
mod holders;
mod kin;
mod launchers;
mod live;
mod memory;
mod search;
mod side;
mod sockets;
mod waits;
mod work;
mod worker;

use std::collections::BTreeMap;

use crate::{
    host::proc::{IdentityBook, ProcFs},
    model::{Body, Identity, Observation, Role, Sample, Spawn, StdinPeer, StdinState, Tick},
};

use channels::{ChannelWatch, World};
use exited::Exited;
use fresh::{FIRST_LOOK_NS, Fresh};
use launchers::Launchers;
use live::{PSS_EVERY_NS, Pulse};
use memory::MemoryWatch;
use sockets::SocketWatch;
use worker::{Seen, Worker, bare};

/// Costly reads of all workers are spread over this long at least.
const PSS_SPREAD_NS: u64 = 4 * PSS_EVERY_NS;

/// Ended processes that are watched at most when one more ends below a worker.
const EXITED_BELOW_MAX: usize = 4_096;

/// Counted reads of a worker's stdin, if somebody counts them.
pub type Reads<'a> = &'a dyn Fn(Identity) -> Option<u64>;

/// What one round of sampling brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Samples of workers in which something changed, and the machine's memory if that did.
    pub observations: Vec<Observation>,
    /// Workers that are tracked as live and are not there any more. Said again in each round until
    /// [`Sampler::exited`] or [`Sampler::untrack`] is called: a sensor may know of the exit already
    /// and have it on its way.
    pub vanished: Vec<Identity>,
}

/// Reads tracked workers, and only these. Every read checks that the pid is still the same process.
///
/// A worker that has not run since the last round is not read: a system call says so
/// ([`ProcFs::cpu_ns`]). So the cost of a round goes with the workers that do something.
#[derive(Debug)]
pub struct Sampler {
    proc: ProcFs,
    workers: BTreeMap<Identity, Box<Worker>>,
    descendants: BTreeMap<Identity, Descendant>,
    exited: BTreeMap<Identity, Exited>,
    channels: ChannelWatch,
    fresh: Fresh,
    /// Only where workers may be spoken to by sockets of their own.
    sockets: Option<SocketWatch>,
    memory: MemoryWatch,
    last_round_ns: Option<u64>,
}

/// A process below a worker.
#[derive(Debug)]
struct Descendant {
    worker: Identity,
    /// Its CPU time in the last round in which it had run.
    cpu_ns: Option<u64>,
    /// Its read system calls then.
    syscr: u64,
    denied_until_ns: u64,
}

impl Sampler {
    /// A sampler that tracks nothing yet.
    pub fn new(proc: ProcFs) -> Self {
        Self {
            proc,
            workers: BTreeMap::new(),
            descendants: BTreeMap::new(),
            exited: BTreeMap::new(),
            channels: ChannelWatch::default(),
            fresh: Fresh::default(),
            sockets: None,
            memory: MemoryWatch::default(),
            last_round_ns: None,
        }
    }

    /// Looks at the workers' own sockets too: they may be spoken to by these.
    #[must_use]
    pub fn with_sockets(mut self) -> Self {
        self.sockets = Some(SocketWatch::new(&self.proc));
        self
    }

    /// Tracks a process. `above` is a worker's gateway (where its stdin is looked for first) or a
    /// descendant's worker. Only workers are sampled; descendants are told apart from real holders
    /// of a worker's stdin; other roles are ignored.
    pub fn track(&mut self, identity: Identity, role: Role, above: Option<Identity>) {
        match (role, above) {
            (Role::Worker, gateway) => {
                self.descendants.remove(&identity);
                self.workers.entry(identity).or_default().channels.gateway = gateway.into();
            }
            (Role::Descendant, Some(worker)) if !self.workers.contains_key(&identity) => {
                self.descendants
                    .entry(identity)
                    .or_insert_with(|| Descendant::new(worker))
                    .worker = worker;
            }
            _ => {}
        }
    }

    /// How a worker that is tracked came to be: what only launched it is one with it, and its memory
    /// is the worker's.
    pub fn launched(&mut self, spawn: &Spawn) {
        let above = |id: Identity| self.workers.get(&id).map(|it| &it.launchers);
        let launchers = Launchers::of(spawn, above);
        if let Some(it) = self.workers.get_mut(&spawn.identity()) {
            it.launchers = launchers;
        }
    }

    /// A worker that is tracked was spawned at that moment, ns of the boot clock: its channels are
    /// looked at for the first time a moment later, by [`Self::first_look`].
    pub fn spawned(&mut self, worker: Identity, at_ns: u64) {
        if let Some(it) = self.workers.get_mut(&worker) {
            it.fresh_until_ns = at_ns.saturating_add(FIRST_LOOK_NS);
            self.fresh.push(worker, at_ns);
        }
    }

    /// When [`Self::first_look`] is to be called, ns of the boot clock.
    pub fn first_look_due_ns(&self) -> Option<u64> {
        self.fresh.due_ns()
    }

    /// Looks at the channels of workers that were spawned a moment ago, if that is due: a gateway
    /// may close them before the next round. Samples of those that were found to be held.
    pub fn first_look(&mut self, now_ns: u64, book: &mut IdentityBook) -> Vec<Observation> {
        let workers = &mut self.workers;
        let there = |worker| workers.get(&worker).is_some_and(|it| !it.channels.is_looked_at());
        let fresh = self.fresh.take(now_ns, there);
        if fresh.is_empty() {
            return Vec::new();
        }
        let (proc, descendants) = (&self.proc, &self.descendants);
        self.channels.first_look(&mut World { proc, book, workers, descendants }, &fresh);
        let mut samples = Vec::new();
        for identity in fresh {
            let Some(worker) = self.workers.get_mut(&identity) else { continue };
            let held = |stdin: &StdinPeer| stdin.state == StdinState::Held;
            if let Some(stdin) = worker.channels.stdin().filter(held) {
                let output = worker.channels.output();
                let sample = Sample { stdin: Some(stdin), output, ..bare(identity, 'S') };
                samples.extend(worker.live.changed(sample, now_ns));
            }
        }
        samples.into_iter().map(|sample| observation(sample, now_ns)).collect()
    }

    /// Stops tracking a process altogether.
    pub fn untrack(&mut self, identity: Identity) {
        self.workers.remove(&identity);
        self.descendants.remove(&identity);
        self.exited.remove(&identity);
    }

    /// A tracked process has ended: it is watched from now on for being reaped, unless it is one of
    /// very many below workers.
    pub fn exited(&mut self, identity: Identity) {
        let mut watched = false;
        if let Some(descendant) = self.descendants.remove(&identity) {
            if let Some(worker) = self.workers.get_mut(&descendant.worker) {
                descendant.ended(&self.proc, identity, &mut worker.work);
            }
            watched = self.exited.len() < EXITED_BELOW_MAX;
        }
        if self.workers.remove(&identity).is_some() || watched {
            self.exited.insert(identity, Exited::default());
        }
    }

    /// One that had ended before this recording, and is watched for being reaped.
    pub fn was_zombie(&mut self, identity: Identity) {
        if self.exited.len() < EXITED_BELOW_MAX {
            self.exited.insert(identity, Exited::default());
        }
    }

    /// Number of workers that are tracked as live.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Reads every tracked worker that may have changed. `now_ns` is the boot clock.
    pub fn sample(&mut self, now_ns: u64, book: &mut IdentityBook, reads: Reads<'_>) -> Round {
        let mut round = Round::default();
        if !self.workers.is_empty()
            && let Some(memory) = self.memory.round(&self.proc, now_ns)
        {
            let body = Body::Tick(Tick { memory: Some(memory) });
            round.observations.push(Observation { boottime_ns: now_ns, body });
        }
        // Before anything is read: what a worker does meanwhile shows in the next round.
        for (identity, worker) in &mut self.workers {
            worker.live.feel(&self.proc, *identity, now_ns);
            // Keeps the identity from being dropped from the book while it is in use.
            book.keep(*identity);
        }
        work::round(&self.proc, &mut self.workers, &mut self.descendants, now_ns);
        let (proc, workers, descendants) = (&self.proc, &mut self.workers, &self.descendants);
        self.channels.round(&mut World { proc, book, workers, descendants }, now_ns);
        if let Some(sockets) = &mut self.sockets {
            sockets.round(&self.proc, &mut self.workers, &self.descendants, now_ns);
        }
        let mut pss = self.pss(now_ns);
        for (identity, worker) in &mut self.workers {
            let pss_kib = pss.remove(identity);
            match worker.sample(&self.proc, *identity, pss_kib, reads, now_ns) {
                Seen::Sample(sample) => round.observations.push(observation(*sample, now_ns)),
                Seen::NothingNew => {}
                Seen::Vanished => {
                    worker.live.vanished();
                    round.vanished.push(*identity);
                }
            }
        }
        let proc = &self.proc;
        self.exited.retain(|identity, exited| {
            let (sample, keep) = exited.round(proc, *identity, now_ns);
            round.observations.extend(sample.map(|sample| observation(sample, now_ns)));
            keep
        });
        book.sweep(|pid| matches!(proc.cpu_ns(pid), Ok(None)));
        self.last_round_ns = Some(now_ns);
        round
    }

    /// Reads the proportional set of the workers whose turn it is, a share of them in each round.
    fn pss(&mut self, now_ns: u64) -> BTreeMap<Identity, u64> {
        let elapsed = self.last_round_ns.map_or(0, |last| now_ns.saturating_sub(last));
        let workers = self.workers.len() as u64;
        let share = (workers * elapsed.min(PSS_SPREAD_NS)).div_ceil(PSS_SPREAD_NS).max(1);
        let there = self.workers.iter_mut().filter(|(_, it)| it.live.pulse != Pulse::Gone);
        let mut due: Vec<(u64, Identity)> = there
            .map(|(identity, worker)| (worker.live.pss_due_ns(now_ns), *identity))
            .filter(|(due, _)| *due <= now_ns)
            .collect();
        due.sort_unstable();
        due.truncate(share as usize);
        let mut read = BTreeMap::new();
        for (_, identity) in due {
            // Another user's, or gone: the field stays absent.
            if let Ok(Some(kib)) = self.proc.pss_kib(identity.pid) {
                read.insert(identity, kib);
            }
            if let Some(worker) = self.workers.get_mut(&identity) {
                worker.live.pss_was_read(now_ns);
            }
        }
        read
    }
}

fn observation(sample: Sample, now_ns: u64) -> Observation {
    Observation { boottime_ns: now_ns, body: Body::Sample(sample) }
}

/// Whether a size moved by `percent` or by `kib`.
fn moved(old: u64, new: u64, percent: u64, kib: u64) -> bool {
    let by = old.abs_diff(new);
    by > 0 && (by >= kib || by.saturating_mul(100) >= old.saturating_mul(percent))
}

#[cfg(test)]
mod tests;
