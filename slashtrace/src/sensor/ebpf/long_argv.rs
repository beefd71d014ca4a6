//! Workers whose tokens stand behind more arguments than the kernel programs search. The programs
//! report each exec with so many, up to a number at a time, and the rest of its arguments is read
//! from /proc at once. Where there were more, all of /proc is searched soon after.

use std::time::Duration;

use anyhow::{Context as _, Result};
use slashtrace_ebpf::ParentKnownBy;
use tokio::time::Instant;

use super::{EbpfSensor, wire::LongArgv};
use crate::{
    host::{
        clock::boottime_ns,
        proc::{self, ARGV_BYTES_MAX, ProcStat, Scan, Seen},
    },
    model::{
        Body, Gap, GapReason, Identity, Observation, Parent, ParentSource, Process, Role, Source,
        Spawn,
    },
};

/// How long after an exec that was not reported by itself /proc is searched.
const SEARCH_AFTER: Duration = Duration::from_millis(200);
/// How often it is searched at most: less than a second with the above.
const SEARCH_EVERY: Duration = Duration::from_millis(700);

/// What is left to look at, and what could not be.
#[derive(Debug, Default)]
pub struct LongArgvWatch {
    due: Option<Instant>,
    searched: Option<Instant>,
    /// Processes that were gone before their arguments were read.
    gone: u64,
    /// Workers that were found in /proc alone.
    found: u64,
}

/// What the arguments of a process that was reported come to.
enum Looked {
    /// It is a worker.
    Worker(Box<Spawn>),
    /// It is none.
    Other,
    /// It was gone before they were read.
    Gone,
}

impl LongArgvWatch {
    /// When /proc is to be searched, if it is.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether /proc is to be searched now.
    pub fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Whether /proc is to be searched now or later.
    pub fn is_pending(&self) -> bool {
        self.due.is_some()
    }

    /// How many processes may have been workers and could not be looked at. `unreported` is how many
    /// the kernel programs did not report by themselves.
    pub fn missed(&self, unreported: u64) -> u64 {
        self.gone + unreported.saturating_sub(self.found)
    }

    /// Whether nothing was missed, or seen late.
    pub fn complete(&self, unreported: u64) -> bool {
        self.gone == 0 && unreported == 0
    }

    /// Others may have been left unreported.
    fn search(&mut self) {
        let soon = Instant::now() + SEARCH_AFTER;
        let at = self.searched.map_or(soon, |last| soon.max(last + SEARCH_EVERY));
        self.due.get_or_insert(at);
    }
}

impl EbpfSensor {
    /// Looks at the arguments of a process that were not searched to their end.
    pub(super) fn long_argv(&mut self, long: LongArgv, batch: &mut Vec<Observation>) {
        if long.is_last {
            self.long.search();
        }
        let id = self.surroundings.book.kernel(long.tgid, long.start_ns);
        match self.look_at(id, &long) {
            Looked::Worker(spawn) => {
                let fits = self.adopt_into(*spawn, batch);
                self.left_out(u64::from(!fits));
            }
            Looked::Other => {}
            Looked::Gone => self.long.gone += 1,
        }
    }

    fn look_at(&mut self, id: Identity, long: &LongArgv) -> Looked {
        let there = |stat: ProcStat| self.proc.is_same(id, &stat) && !stat.ended();
        // All of them: the kernel's filters came to no end, or found something there.
        let Ok(Some(cmdline)) = self.proc.cmdline(id.pid, ARGV_BYTES_MAX) else {
            return Looked::Gone;
        };
        let stat = self.proc.stat(id.pid).ok().flatten().filter(|stat| there(stat.clone()));
        let Some(stat) = stat.filter(|_| !cmdline.bytes.is_empty()) else { return Looked::Gone };
        if self.profile.match_worker(&cmdline.tokens()).is_none() {
            return Looked::Other;
        }
        let seen = Seen { stat, cmdline };
        let mut scan = Scan::new(&self.proc, &self.profile, &mut self.surroundings.book);
        let Some(mut spawn) = scan.worker(&seen, Source::Kernel, false) else {
            return Looked::Gone;
        };
        let (pid, start_ns) = long.forker;
        let forker = self.surroundings.book.kernel(pid, start_ns);
        let how = match long.parent_known_by {
            ParentKnownBy::Fork => ParentSource::Fork,
            ParentKnownBy::RealParent => ParentSource::Exec,
        };
        match &mut spawn.parent {
            Some(parent) if parent.process.identity() == forker => parent.how = how,
            // It has another parent by now: what is above that says nothing of who forked it.
            _ => {
                let gone = !self.is_alive(forker);
                let process =
                    Process { pid, start_ns, comm: String::new(), argv0: None, launcher: None };
                spawn.parent = Some(Parent {
                    process,
                    how,
                    gone,
                    reaper: false,
                    forker: None,
                    forked_only: false,
                });
                spawn.ancestors.clear();
            }
        }
        Looked::Worker(Box::new(spawn))
    }

    /// Searches /proc for workers that were not reported by themselves.
    pub(super) fn search_long_argv(&mut self) -> Result<()> {
        self.long.due = None;
        self.long.searched = Some(Instant::now());
        let found = proc::snapshot(&self.proc, &self.profile, &mut self.surroundings.book)
            .context("cannot read /proc")?;
        let new: Vec<Spawn> = found
            .into_iter()
            .filter(|spawn| self.translator.role_of(spawn.identity()).is_none())
            .collect();
        let workers = new.iter().filter(|spawn| spawn.role == Role::Worker).count() as u64;
        self.long.found += workers;
        if workers > 0 {
            let reason = GapReason::ArgvNotSearched;
            self.pending.push_back(Observation {
                boottime_ns: boottime_ns(),
                body: Body::Gap(Gap { reason, lost: workers, resynced: true, uid: None }),
            });
        }
        let left_out = self.adopt_all(new);
        self.left_out(left_out);
        Ok(())
    }
}
