use std::collections::BTreeMap;

use super::{Descendant, Worker};
use crate::{
    host::proc::ProcFs,
    model::{Identity, Maybe},
};

/// Of a tree that is busy all the time so often is written.
const EVERY_NS: u64 = 4_000_000_000;
/// CPU time below this part of the time that passed is upkeep.
const UPKEEP_PART: u64 = 200;
/// Reading `io` of a descendant was refused: it is tried again then.
const DENIED_NS: u64 = 60_000_000_000;

/// What a worker and all that descends from it have done so far. Only ever rises: what one did that
/// has ended stays counted, as far as it was seen in a round.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The worker's own CPU time; none while it is not known.
    own_ns: Maybe,
    /// When the tree was looked at last, and what its CPU time was then.
    last_ns: Maybe,
    last_cpu_ns: u64,
    /// More than upkeep was seen since it was written.
    rose: bool,
    cpu_written_ns: Maybe,
    below: Option<Box<Below>>,
}

/// What the descendants of a worker have done: few workers have some.
#[derive(Debug, Default)]
struct Below {
    /// One of them ran since the last round.
    ran: bool,
    /// CPU time; none while nobody's is known.
    cpu_ns: Maybe,
    /// Read system calls.
    syscr: u64,
    syscr_written: u64,
    written_ns: Maybe,
}

impl Work {
    /// The worker's own CPU time so far.
    pub(super) fn own(&mut self, cpu_ns: u64) {
        self.own_ns = cpu_ns.max(self.own_ns.get().unwrap_or(0)).into();
    }

    /// CPU time of the tree; `None` while nobody's is known.
    fn cpu_ns(&self) -> Option<u64> {
        let below = self.below.as_ref().and_then(|below| below.cpu_ns.get());
        self.own_ns.get().into_iter().chain(below).reduce(|own, below| own + below)
    }

    fn below_mut(&mut self) -> &mut Below {
        self.below.get_or_insert_default()
    }

    /// All of the tree was looked at.
    fn looked(&mut self, now_ns: u64) {
        let Some(cpu_ns) = self.cpu_ns() else { return };
        let before_ns = std::mem::replace(&mut self.last_cpu_ns, cpu_ns);
        if let Some(at_ns) = self.last_ns.replace(now_ns) {
            let rose_by = cpu_ns.saturating_sub(before_ns).saturating_mul(UPKEEP_PART);
            self.rose |= rose_by > now_ns.saturating_sub(at_ns);
        }
    }

    /// CPU time of the tree, ms, if that is to be written.
    pub(super) fn cpu_ms(&self, now_ns: u64) -> Option<u64> {
        let due = match self.cpu_written_ns.get() {
            None => true,
            Some(at_ns) => self.rose && now_ns.saturating_sub(at_ns) >= EVERY_NS,
        };
        self.cpu_ns().filter(|_| due).map(|ns| ns / 1_000_000)
    }

    /// Read system calls below the worker, if these are to be written.
    pub(super) fn below(&self, now_ns: u64) -> Option<u64> {
        let below = self.below.as_deref()?;
        let due = below.written_ns.get().is_none_or(|at| now_ns.saturating_sub(at) >= EVERY_NS);
        (due && below.syscr != below.syscr_written).then_some(below.syscr)
    }

    /// Whether something below the worker ran since the last round.
    pub(super) fn ran_below(&self) -> bool {
        self.below.as_ref().is_some_and(|below| below.ran)
    }

    /// These were written.
    pub(super) fn written(&mut self, cpu_ms: Option<u64>, syscr_below: Option<u64>, now_ns: u64) {
        if cpu_ms.is_some() {
            self.cpu_written_ns = now_ns.into();
            self.rose = false;
        }
        if let Some(syscr) = syscr_below {
            let below = self.below_mut();
            below.syscr_written = syscr;
            below.written_ns = now_ns.into();
        }
    }

    /// Whether it takes room of its own on the heap.
    #[cfg(test)]
    pub(super) fn is_boxed(&self) -> bool {
        self.below.is_some()
    }
}

impl Below {
    fn add_cpu(&mut self, more: u64) {
        self.cpu_ns = (self.cpu_ns.get().unwrap_or(0) + more).into();
    }
}

/// One round: what each tree has done since the last one. A descendant that has not run costs one
/// system call.
pub(super) fn round(
    proc: &ProcFs,
    workers: &mut BTreeMap<Identity, Box<Worker>>,
    descendants: &mut BTreeMap<Identity, Descendant>,
    now_ns: u64,
) {
    for worker in workers.values_mut() {
        if let Some(below) = &mut worker.work.below {
            below.ran = false;
        }
    }
    for (identity, descendant) in descendants {
        let Some(worker) = workers.get_mut(&descendant.worker) else { continue };
        descendant.look(proc, *identity, &mut worker.work, now_ns);
    }
    for worker in workers.values_mut() {
        if let Some(cpu_ns) = worker.live.cpu_ns() {
            worker.work.own(cpu_ns);
        }
        worker.work.looked(now_ns);
    }
}

impl Descendant {
    pub(super) fn new(worker: Identity) -> Self {
        Self { worker, cpu_ns: None, syscr: 0, denied_until_ns: 0 }
    }

    fn look(&mut self, proc: &ProcFs, identity: Identity, work: &mut Work, now_ns: u64) {
        let cpu_ns = proc.cpu_ns(identity.pid);
        let known = cpu_ns.as_ref().ok().copied().flatten();
        match cpu_ns {
            // Gone, or it has not run.
            Ok(None) => return,
            Ok(known) if known == self.cpu_ns => return,
            _ => {}
        }
        match proc.stat(identity.pid) {
            Ok(Some(stat)) if proc.is_same(identity, &stat) => {}
            _ => return,
        }
        let below = work.below_mut();
        below.ran = true;
        if let Some(cpu_ns) = known {
            below.add_cpu(cpu_ns.saturating_sub(self.cpu_ns.replace(cpu_ns).unwrap_or(0)));
        }
        if now_ns < self.denied_until_ns {
            return;
        }
        match proc.io_syscr(identity.pid) {
            Ok(Some(syscr)) => {
                let more = syscr.saturating_sub(self.syscr);
                self.syscr += more;
                below.syscr += more;
            }
            Ok(None) => {}
            Err(_) => self.denied_until_ns = now_ns + DENIED_NS,
        }
    }

    /// It has ended: what it did since the last round, if it is still there to be asked (a zombie).
    pub(super) fn ended(&self, proc: &ProcFs, identity: Identity, work: &mut Work) {
        let (Some(before), Ok(Some(cpu_ns))) = (self.cpu_ns, proc.cpu_ns(identity.pid)) else {
            return;
        };
        // Less is another process's, that has its pid by now.
        let more = cpu_ns.saturating_sub(before);
        let stat = if more > 0 { proc.stat(identity.pid).ok().flatten() } else { None };
        if stat.is_some_and(|stat| proc.is_same(identity, &stat)) {
            work.below_mut().add_cpu(more);
        }
    }
}
