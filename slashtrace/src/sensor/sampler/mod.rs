//! Periodic samples of tracked workers: what the kernel programs cannot push. `live` says when a
//! sample is worth writing, `stdin` finds the other end of a worker's stdin, `exited` watches for
//! zombies, `memory` the machine.
//! May touch: /proc through `proc`, `model`. Never the clock: it is told the time.

mod exited;
mod live;
mod memory;
mod stdin;

use std::collections::{BTreeMap, HashMap};

use crate::{
    host::proc::{IdentityBook, ProcFs, ProcStat},
    model::{Body, Identity, Observation, Role, Sample, StdinPeer, Tick},
};

use exited::Exited;
use live::Live;
use memory::MemoryWatch;
use stdin::StdinWatch;

/// How often the proportional set of a worker is read at most.
const PSS_EVERY_NS: u64 = 30_000_000_000;

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
#[derive(Debug)]
pub struct Sampler {
    proc: ProcFs,
    live: BTreeMap<Identity, Live>,
    /// Worker that each tracked descendant belongs to.
    descendants: HashMap<Identity, Identity>,
    exited: BTreeMap<Identity, Exited>,
    stdin: StdinWatch,
    memory: MemoryWatch,
    last_round_ns: Option<u64>,
}

impl Sampler {
    /// A sampler that tracks nothing yet.
    pub fn new(proc: ProcFs) -> Self {
        Self {
            proc,
            live: BTreeMap::new(),
            descendants: HashMap::new(),
            exited: BTreeMap::new(),
            stdin: StdinWatch::default(),
            memory: MemoryWatch::default(),
            last_round_ns: None,
        }
    }

    /// Tracks a process. `above` is a worker's gateway (where its stdin is looked for first) or a
    /// descendant's worker. Only workers are sampled; descendants are told apart from real holders
    /// of a worker's stdin; other roles are ignored.
    pub fn track(&mut self, identity: Identity, role: Role, above: Option<Identity>) {
        match (role, above) {
            (Role::Worker, gateway) => {
                self.descendants.remove(&identity);
                self.live.entry(identity).or_default();
                self.stdin.track(identity, gateway);
            }
            (Role::Descendant, Some(worker)) if !self.live.contains_key(&identity) => {
                self.descendants.insert(identity, worker);
            }
            _ => {}
        }
    }

    /// Stops tracking a process altogether.
    pub fn untrack(&mut self, identity: Identity) {
        self.live.remove(&identity);
        self.descendants.remove(&identity);
        self.exited.remove(&identity);
        self.stdin.untrack(identity);
    }

    /// A tracked process has ended: a worker is watched from now on for being reaped.
    pub fn exited(&mut self, identity: Identity) {
        let worker = self.live.remove(&identity).is_some();
        self.descendants.remove(&identity);
        self.stdin.untrack(identity);
        if worker {
            self.exited.insert(identity, Exited::default());
        }
    }

    /// Number of workers that are tracked as live.
    pub fn workers(&self) -> usize {
        self.live.len()
    }

    /// Reads every tracked worker once. `now_ns` is the boot clock.
    pub fn sample(&mut self, now_ns: u64, book: &mut IdentityBook, reads: Reads<'_>) -> Round {
        let mut round = Round::default();
        if !self.live.is_empty()
            && let Some(memory) = self.memory.round(&self.proc, now_ns)
        {
            let body = Body::Tick(Tick { memory: Some(memory) });
            round.observations.push(Observation { boottime_ns: now_ns, body });
        }
        let stats = self.stats(&mut round.vanished, book);
        let peers = self.stdin.round(&self.proc, book, &stats, &self.descendants, now_ns);
        let mut pss = self.pss(&stats, now_ns);
        for (identity, stat) in &stats {
            let Some(live) = self.live.get_mut(identity) else {
                continue;
            };
            let sample = Sample {
                rss_kib: Some(stat.rss_kib),
                pss_kib: pss.remove(identity),
                threads: Some(stat.threads),
                syscr: live.syscr(&self.proc, *identity, now_ns),
                reads: reads(*identity),
                stdin: peers.get(identity).copied(),
                ..bare(*identity, live::state(stat))
            };
            if let Some(sample) = live.changed(sample, now_ns) {
                round.observations.push(observation(sample, now_ns));
            }
        }
        let proc = &self.proc;
        self.exited.retain(|identity, exited| {
            let (sample, keep) = exited.round(proc, *identity, now_ns);
            round.observations.extend(sample.map(|sample| observation(sample, now_ns)));
            keep
        });
        self.last_round_ns = Some(now_ns);
        round
    }

    /// State of each live worker. A worker whose state cannot be read this time is left out.
    fn stats(
        &self,
        vanished: &mut Vec<Identity>,
        book: &mut IdentityBook,
    ) -> BTreeMap<Identity, ProcStat> {
        let mut stats = BTreeMap::new();
        for &identity in self.live.keys() {
            match self.proc.stat(identity.pid) {
                Ok(Some(stat)) if self.proc.is_same(identity, &stat) && !stat.ended() => {
                    // Keeps the identity from being dropped from the book while it is in use.
                    book.proc(identity.pid, stat.start_ns);
                    stats.insert(identity, stat);
                }
                Ok(_) => vanished.push(identity),
                Err(_) => {}
            }
        }
        stats
    }

    /// Reads the proportional set of the workers whose turn it is: each every 30 s, an even share
    /// of them in each round.
    fn pss(&mut self, stats: &BTreeMap<Identity, ProcStat>, now_ns: u64) -> HashMap<Identity, u64> {
        let elapsed = self.last_round_ns.map_or(0, |last| now_ns.saturating_sub(last));
        let share = (stats.len() as u64 * elapsed.min(PSS_EVERY_NS)).div_ceil(PSS_EVERY_NS).max(1);
        let mut due: Vec<(u64, Identity)> = self
            .live
            .iter_mut()
            .filter(|(identity, _)| stats.contains_key(identity))
            .map(|(identity, live)| (live.pss_due_ns(now_ns), *identity))
            .filter(|(due, _)| *due <= now_ns)
            .collect();
        due.sort_unstable();
        due.truncate(share as usize);
        let mut read = HashMap::new();
        for (_, identity) in due {
            // Another user's, or gone: the field stays absent.
            if let Ok(Some(kib)) = self.proc.pss_kib(identity.pid) {
                read.insert(identity, kib);
            }
            if let Some(live) = self.live.get_mut(&identity) {
                live.pss_was_read(now_ns);
            }
        }
        read
    }
}

fn bare(identity: Identity, state: char) -> Sample {
    Sample {
        pid: identity.pid,
        start_ns: identity.start_ns,
        state,
        rss_kib: None,
        pss_kib: None,
        threads: None,
        syscr: None,
        reads: None,
        stdin: None::<StdinPeer>,
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
