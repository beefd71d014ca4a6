use super::moved;
use crate::{
    host::proc::{ProcFs, ProcStat},
    model::{Identity, OutputPeer, Sample, Sockets, StdinPeer},
};

/// A worker in which nothing changes is still written that often, so that evidence shows it alive.
const HEARTBEAT_NS: u64 = 3_600_000_000_000;
/// What alone is no news is written that long after the last sample.
const MINOR_NS: u64 = 60_000_000_000;
/// Changes of memory below these are noise: the kernel itself counts the resident set to some dozen
/// pages for each CPU.
const SIZE_PERCENT: u64 = 5;
const SIZE_KIB: u64 = 512;

/// A worker that runs all the time without reading is looked at whole that often.
const LOOK_BUSY_NS: u64 = 8_000_000_000;
/// One that does not run can change by what others do: its memory is reclaimed, or a process with
/// which it shares its descriptors closes one.
const LOOK_QUIET_NS: u64 = 60_000_000_000;
/// Reading `io` was refused: it is tried again then.
const DENIED_NS: u64 = 60_000_000_000;

/// A new worker is given that long to load before its proportional set is read.
const PSS_FIRST_NS: u64 = 3_000_000_000;
/// How often it is read at most.
pub(super) const PSS_EVERY_NS: u64 = 30_000_000_000;
/// How often it is read while the resident set stays what it was.
const PSS_QUIET_NS: u64 = 3_600_000_000_000;

/// What a worker did since the last round.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Pulse {
    /// It ran for the first time in a while, or for the last, or was not looked at for long, or it
    /// cannot be seen whether it ran: all of it may have changed.
    #[default]
    Look,
    /// It runs all the time.
    Ran,
    /// It has not run, so nothing that it does itself has changed.
    Quiet,
    /// There is no process of that pid.
    Gone,
}

/// What is remembered of a live worker.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) pulse: Pulse,
    written: Option<Written>,
    /// Its CPU time in the last round.
    cpu_ns: Option<u64>,
    /// Whether it ran before the last round.
    ran: bool,
    look_due_ns: u64,
    pss_due_ns: Option<u64>,
    /// Resident set when the proportional one was read, KiB.
    pss_of_rss_kib: Option<u64>,
    io_denied_until_ns: u64,
}

/// The last value of every field, and when one was written.
#[derive(Clone, Copy, Debug)]
struct Written {
    state: char,
    rss_kib: Option<u64>,
    launchers_rss_kib: Option<u64>,
    pss_kib: Option<u64>,
    threads: Option<u32>,
    syscr: Option<u64>,
    reads: Option<u64>,
    stdin: Option<StdinPeer>,
    output: Option<OutputPeer>,
    sockets: Option<Sockets>,
    cpu_ms: Option<u64>,
    syscr_below: Option<u64>,
    at_ns: u64,
}

impl Live {
    /// Notes what it did since the last round.
    pub(super) fn feel(&mut self, proc: &ProcFs, identity: Identity, now_ns: u64) {
        let cpu_ns = match proc.cpu_ns(identity.pid) {
            Ok(Some(cpu_ns)) => cpu_ns,
            Ok(None) => {
                self.pulse = Pulse::Gone;
                return;
            }
            Err(_) => {
                self.pulse = Pulse::Look;
                return;
            }
        };
        let ran = self.cpu_ns.replace(cpu_ns) != Some(cpu_ns);
        let began_or_ended = std::mem::replace(&mut self.ran, ran) != ran;
        self.pulse = match ran {
            _ if began_or_ended || now_ns >= self.look_due_ns => Pulse::Look,
            true => Pulse::Ran,
            false => Pulse::Quiet,
        };
    }

    /// CPU time that it has used so far, if that is known.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        self.cpu_ns
    }

    /// It was looked at whole.
    pub(super) fn looked(&mut self, now_ns: u64) {
        self.look_due_ns = now_ns + if self.ran { LOOK_BUSY_NS } else { LOOK_QUIET_NS };
    }

    /// It is not there any more, or is a zombie: to be looked at in each round.
    pub(super) fn vanished(&mut self) {
        self.cpu_ns = None;
        self.look_due_ns = 0;
    }

    /// Its state letter as last written; `S` if none was.
    pub(super) fn state(&self) -> char {
        self.written.map_or('S', |written| written.state)
    }

    /// Read system calls as last written.
    pub(super) fn last_syscr(&self) -> Option<u64> {
        self.written?.syscr
    }

    /// Whether something else was last written of its stdin, stdout or sockets.
    pub(super) fn is_other(
        &self,
        stdin: Option<StdinPeer>,
        output: Option<OutputPeer>,
        sockets: Option<Sockets>,
    ) -> bool {
        let written = self.written;
        (stdin.is_some() && stdin != written.and_then(|it| it.stdin))
            || (output.is_some() && output != written.and_then(|it| it.output))
            || (sockets.is_some() && sockets != written.and_then(|it| it.sockets))
    }

    /// The sample, if it says something new.
    pub(super) fn changed(&mut self, mut sample: Sample, now_ns: u64) -> Option<Sample> {
        if !self.written.is_none_or(|written| differs(&written, &sample, now_ns)) {
            return None;
        }
        let before = self.written;
        let before = before.as_ref();
        self.written = Some(Written {
            state: sample.state,
            rss_kib: sample.rss_kib.or(before.and_then(|s| s.rss_kib)),
            launchers_rss_kib: sample
                .launchers_rss_kib
                .or(before.and_then(|s| s.launchers_rss_kib)),
            pss_kib: sample.pss_kib.or(before.and_then(|s| s.pss_kib)),
            threads: sample.threads.or(before.and_then(|s| s.threads)),
            syscr: sample.syscr.or(before.and_then(|s| s.syscr)),
            reads: sample.reads.or(before.and_then(|s| s.reads)),
            stdin: sample.stdin.or(before.and_then(|s| s.stdin)),
            output: sample.output.or(before.and_then(|s| s.output)),
            sockets: sample.sockets.or(before.and_then(|s| s.sockets)),
            cpu_ms: sample.cpu_ms.or(before.and_then(|s| s.cpu_ms)),
            syscr_below: sample.syscr_below.or(before.and_then(|s| s.syscr_below)),
            at_ns: now_ns,
        });
        // These keep their last values.
        sample.output = sample.output.filter(|_| sample.output != before.and_then(|s| s.output));
        sample.sockets =
            sample.sockets.filter(|_| sample.sockets != before.and_then(|s| s.sockets));
        Some(sample)
    }

    /// Read system calls so far; absent where /proc refuses, which is asked again once a minute.
    pub(super) fn syscr(&mut self, proc: &ProcFs, identity: Identity, now_ns: u64) -> Option<u64> {
        if now_ns < self.io_denied_until_ns {
            return None;
        }
        let read = proc.io_syscr(identity.pid);
        if read.is_err() {
            self.io_denied_until_ns = now_ns + DENIED_NS;
        }
        read.ok().flatten()
    }

    /// When its proportional set is to be read.
    pub(super) fn pss_due_ns(&mut self, now_ns: u64) -> u64 {
        let due_ns = *self.pss_due_ns.get_or_insert(now_ns + PSS_FIRST_NS);
        let rss_kib = self.written.and_then(|written| written.rss_kib);
        match (self.pss_of_rss_kib, rss_kib) {
            (Some(then), Some(now)) if !resized(then, now) => due_ns + PSS_QUIET_NS - PSS_EVERY_NS,
            _ => due_ns,
        }
    }

    /// It was read, or cannot be.
    pub(super) fn pss_was_read(&mut self, now_ns: u64) {
        self.pss_due_ns = Some(now_ns + PSS_EVERY_NS);
        self.pss_of_rss_kib = self.written.and_then(|written| written.rss_kib);
    }

    /// Whether it is time to show that it is alive.
    pub(super) fn heartbeat(&self, now_ns: u64) -> bool {
        self.written.is_none_or(|written| now_ns.saturating_sub(written.at_ns) >= HEARTBEAT_NS)
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

/// Whether a resident or proportional set has another size, KiB.
fn resized(old: u64, new: u64) -> bool {
    old.abs_diff(new) >= SIZE_KIB && moved(old, new, SIZE_PERCENT, u64::MAX)
}

fn differs(written: &Written, now: &Sample, now_ns: u64) -> bool {
    /// A value that was not read this time says nothing new.
    fn news<T: Copy + PartialEq>(written: Option<T>, now: Option<T>) -> bool {
        now.is_some() && now != written
    }
    fn size(written: Option<u64>, now: Option<u64>) -> bool {
        match (written, now) {
            (Some(written), Some(now)) => resized(written, now),
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
    let age_ns = now_ns.saturating_sub(written.at_ns);
    class(written.state) != class(now.state)
        || news(written.syscr, now.syscr)
        || news(written.reads, now.reads)
        || news(written.stdin, now.stdin)
        || news(written.output, now.output)
        || news(written.sockets, now.sockets)
        || news(written.cpu_ms, now.cpu_ms)
        || news(written.syscr_below, now.syscr_below)
        || now.waits
        || size(written.rss_kib, now.rss_kib)
        || size(written.launchers_rss_kib, now.launchers_rss_kib)
        || size(written.pss_kib, now.pss_kib)
        || (age_ns >= MINOR_NS && news(written.threads, now.threads))
        || age_ns >= HEARTBEAT_NS
}
