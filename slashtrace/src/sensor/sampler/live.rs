use super::{PSS_EVERY_NS, moved};
use crate::{
    host::proc::{ProcFs, ProcStat},
    model::{Identity, Sample},
};

/// A worker in which nothing changes is still written that often, so that evidence shows it alive.
const HEARTBEAT_NS: u64 = 60_000_000_000;
/// A new worker is given that long to load before its proportional set is read.
const PSS_FIRST_NS: u64 = 3_000_000_000;
/// Changes of memory below these are noise.
const SIZE_PERCENT: u64 = 5;
const SIZE_KIB: u64 = 1024;

/// What was last said of a live worker.
#[derive(Debug, Default)]
pub(super) struct Live {
    said: Option<Said>,
    pss_due_ns: Option<u64>,
    /// Reading `io` was refused; tried again then.
    io_denied_until_ns: u64,
}

#[derive(Debug)]
struct Said {
    /// The last value of every field.
    sample: Sample,
    at_ns: u64,
}

impl Live {
    /// The sample, if it says something that was not said.
    pub(super) fn changed(&mut self, sample: Sample, now_ns: u64) -> Option<Sample> {
        let news = match &self.said {
            None => true,
            Some(said) => {
                now_ns.saturating_sub(said.at_ns) >= HEARTBEAT_NS || differs(&said.sample, &sample)
            }
        };
        if !news {
            return None;
        }
        let before = self.said.take().map(|said| said.sample);
        let before = before.as_ref();
        let merged = Sample {
            rss_kib: sample.rss_kib.or(before.and_then(|s| s.rss_kib)),
            pss_kib: sample.pss_kib.or(before.and_then(|s| s.pss_kib)),
            threads: sample.threads.or(before.and_then(|s| s.threads)),
            syscr: sample.syscr.or(before.and_then(|s| s.syscr)),
            reads: sample.reads.or(before.and_then(|s| s.reads)),
            stdin: sample.stdin.or(before.and_then(|s| s.stdin)),
            ..sample
        };
        self.said = Some(Said { sample: merged, at_ns: now_ns });
        Some(sample)
    }

    /// Read system calls so far; absent where /proc refuses, which is asked again once a minute.
    pub(super) fn syscr(&mut self, proc: &ProcFs, identity: Identity, now_ns: u64) -> Option<u64> {
        if now_ns < self.io_denied_until_ns {
            return None;
        }
        let read = proc.io_syscr(identity.pid);
        if read.is_err() {
            self.io_denied_until_ns = now_ns + HEARTBEAT_NS;
        }
        read.ok().flatten()
    }

    pub(super) fn pss_due_ns(&mut self, now_ns: u64) -> u64 {
        *self.pss_due_ns.get_or_insert(now_ns + PSS_FIRST_NS)
    }

    pub(super) fn pss_was_read(&mut self, now_ns: u64) {
        self.pss_due_ns = Some(now_ns + PSS_EVERY_NS);
    }
}

/// The state letter to show. A leader that ended before its threads is shown as `Z` in /proc, but
/// the worker runs.
pub(super) fn state(stat: &ProcStat) -> char {
    if stat.state == 'Z' { 'S' } else { stat.state }
}

/// Running, sleeping and waiting for a disk come and go all the time and are one state here.
fn class(state: char) -> char {
    if matches!(state, 'Z' | 'T' | 't' | 'X') { state } else { 'S' }
}

fn differs(said: &Sample, now: &Sample) -> bool {
    /// A value that was not read this time says nothing new.
    fn news<T: PartialEq>(said: Option<&T>, now: Option<&T>) -> bool {
        now.is_some() && now != said
    }
    fn size(said: Option<u64>, now: Option<u64>) -> bool {
        match (said, now) {
            (Some(said), Some(now)) => moved(said, now, SIZE_PERCENT, SIZE_KIB),
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
    class(said.state) != class(now.state)
        || news(said.syscr.as_ref(), now.syscr.as_ref())
        || news(said.reads.as_ref(), now.reads.as_ref())
        || news(said.threads.as_ref(), now.threads.as_ref())
        || news(said.stdin.as_ref(), now.stdin.as_ref())
        || size(said.rss_kib, now.rss_kib)
        || size(said.pss_kib, now.pss_kib)
}
