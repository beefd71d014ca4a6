use super::moved;
use crate::{
    host::proc::{ProcFs, ProcStat},
    model::{
        EndKind, Identity, Maybe, MaybeId, MaybeSmall, OutputPeer, OutputState, Sample, Sockets,
        StdinPeer, StdinState,
    },
};

/// A worker in which nothing changes is still written that often, so that evidence shows it alive.
const HEARTBEAT_NS: u64 = 3 * 3_600_000_000_000;
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

/// What is remembered of a live worker: small, for there are many.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) pulse: Pulse,
    /// Whether it ran before the last round.
    ran: bool,
    written: Option<Written>,
    /// Its CPU time in the last round.
    cpu_ns: Maybe,
    look_due_ns: u64,
    pss_due_ns: Maybe,
    /// Resident set when the proportional one was read, KiB.
    pss_of_rss_kib: MaybeSmall,
    io_denied_until_ns: u64,
}

/// The last value of every field, and when one was written.
#[derive(Debug, Default)]
struct Written {
    state: char,
    threads: MaybeSmall,
    rss_kib: MaybeSmall,
    pss_kib: MaybeSmall,
    syscr: Maybe,
    reads: Maybe,
    stdin: Option<Stdin>,
    output: Option<Output>,
    cpu_ms: Maybe,
    at_ns: u64,
    rare: Option<Box<Rare>>,
}

/// The last values of what few workers have: launchers, descendants, or sockets that matter.
#[derive(Clone, Copy, Debug, Default)]
struct Rare {
    launchers_rss_kib: MaybeSmall,
    sockets: Option<Sockets>,
    syscr_below: Maybe,
}

/// Who has the other end of its stdin, as last written.
type Stdin = (Option<EndKind>, StdinState, MaybeId);
/// Who has the other end of its output.
type Output = (EndKind, OutputState, MaybeId);

fn of_stdin(peer: StdinPeer) -> Stdin {
    (peer.kind, peer.state, peer.holder.into())
}

fn of_output(peer: OutputPeer) -> Output {
    (peer.kind, peer.state, peer.reader.into())
}

impl Written {
    /// Notes a sample that is written now. What was not read for it keeps its last value.
    fn note(&mut self, sample: &Sample, now_ns: u64) {
        self.state = sample.state;
        self.at_ns = now_ns;
        note(&mut self.threads, sample.threads.map(u64::from));
        note(&mut self.rss_kib, sample.rss_kib);
        note(&mut self.pss_kib, sample.pss_kib);
        note(&mut self.syscr, sample.syscr);
        note(&mut self.reads, sample.reads);
        note(&mut self.cpu_ms, sample.cpu_ms);
        self.stdin = sample.stdin.map(of_stdin).or(self.stdin);
        self.output = sample.output.map(of_output).or(self.output);
        let Sample { launchers_rss_kib, sockets, syscr_below, .. } = *sample;
        if launchers_rss_kib.is_some() || sockets.is_some() || syscr_below.is_some() {
            let rare = self.rare.get_or_insert_default();
            note(&mut rare.launchers_rss_kib, launchers_rss_kib);
            note(&mut rare.syscr_below, syscr_below);
            rare.sockets = sockets.or(rare.sockets);
        }
    }

    fn rare(&self) -> Rare {
        self.rare.as_deref().copied().unwrap_or_default()
    }
}

/// Notes a value, if it was read.
fn note<T: From<u64>>(last: &mut T, now: Option<u64>) {
    if let Some(now) = now {
        *last = now.into();
    }
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
        self.cpu_ns.get()
    }

    /// It was looked at whole.
    pub(super) fn looked(&mut self, now_ns: u64) {
        self.look_due_ns = now_ns + if self.ran { LOOK_BUSY_NS } else { LOOK_QUIET_NS };
    }

    /// It is not there any more, or is a zombie: to be looked at in each round.
    pub(super) fn vanished(&mut self) {
        self.cpu_ns = Maybe::NONE;
        self.look_due_ns = 0;
    }

    /// Its state letter as last written; `S` if none was.
    pub(super) fn state(&self) -> char {
        self.written.as_ref().map_or('S', |written| written.state)
    }

    /// Read system calls as last written.
    pub(super) fn last_syscr(&self) -> Option<u64> {
        self.written.as_ref()?.syscr.get()
    }

    /// Whether something else was last written of its stdin, stdout or sockets.
    pub(super) fn is_other(
        &self,
        stdin: Option<StdinPeer>,
        output: Option<OutputPeer>,
        sockets: Option<Sockets>,
    ) -> bool {
        let written = self.written.as_ref();
        let (stdin, output) = (stdin.map(of_stdin), output.map(of_output));
        (stdin.is_some() && stdin != written.and_then(|it| it.stdin))
            || (output.is_some() && output != written.and_then(|it| it.output))
            || (sockets.is_some() && sockets != written.and_then(|it| it.rare().sockets))
    }

    /// The sample, if it says something new.
    pub(super) fn changed(&mut self, mut sample: Sample, now_ns: u64) -> Option<Sample> {
        if !self.written.as_ref().is_none_or(|written| differs(written, &sample, now_ns)) {
            return None;
        }
        let written = self.written.get_or_insert_default();
        // These keep their last values.
        sample.output = sample.output.filter(|now| Some(of_output(*now)) != written.output);
        sample.sockets = sample.sockets.filter(|now| Some(*now) != written.rare().sockets);
        written.note(&sample, now_ns);
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
        let due_ns = self.pss_due_ns.get().unwrap_or(now_ns + PSS_FIRST_NS);
        self.pss_due_ns = due_ns.into();
        let rss_kib = self.written.as_ref().and_then(|written| written.rss_kib.get());
        match (self.pss_of_rss_kib.get(), rss_kib) {
            (Some(then), Some(now)) if !resized(then, now) => due_ns + PSS_QUIET_NS - PSS_EVERY_NS,
            _ => due_ns,
        }
    }

    /// It was read, or cannot be.
    pub(super) fn pss_was_read(&mut self, now_ns: u64) {
        self.pss_due_ns = (now_ns + PSS_EVERY_NS).into();
        self.pss_of_rss_kib = self.written.as_ref().map(|it| it.rss_kib).unwrap_or_default();
    }

    /// Whether it is time to show that it is alive.
    pub(super) fn heartbeat(&self, now_ns: u64) -> bool {
        self.written.as_ref().is_none_or(|it| now_ns.saturating_sub(it.at_ns) >= HEARTBEAT_NS)
    }

    /// Whether it takes room of its own on the heap.
    #[cfg(test)]
    pub(super) fn is_boxed(&self) -> bool {
        self.written.as_ref().is_some_and(|written| written.rare.is_some())
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
    fn size(written: MaybeSmall, now: Option<u64>) -> bool {
        match (written.get(), MaybeSmall::from(now).get()) {
            (Some(written), Some(now)) => resized(written, now),
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
    let rare = written.rare();
    let age_ns = now_ns.saturating_sub(written.at_ns);
    class(written.state) != class(now.state)
        || news(written.syscr.get(), now.syscr)
        || news(written.reads.get(), now.reads)
        || news(written.stdin, now.stdin.map(of_stdin))
        || news(written.output, now.output.map(of_output))
        || news(rare.sockets, now.sockets)
        || news(written.cpu_ms.get(), now.cpu_ms)
        || news(rare.syscr_below.get(), now.syscr_below)
        || now.waits
        || size(written.rss_kib, now.rss_kib)
        || size(rare.launchers_rss_kib, now.launchers_rss_kib)
        || size(written.pss_kib, now.pss_kib)
        || (age_ns >= MINOR_NS && news(written.threads.get(), now.threads.map(u64::from)))
        || age_ns >= HEARTBEAT_NS
}
