use super::{
    Reads,
    channels::Watched,
    launchers::Launchers,
    live::{self, Live, Pulse},
    sockets::Own,
    waits::Waits,
    work::Work,
};
use crate::{
    host::proc::ProcFs,
    model::{Identity, Sample},
};

/// A worker that is tracked as live. Small, for there may be many: what only few have is boxed.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) live: Live,
    pub(super) channels: Watched,
    pub(super) work: Work,
    /// Its own sockets, where it may be spoken to by these.
    pub(super) sockets: Option<Box<Own>>,
    waits: Waits,
    pub(super) launchers: Launchers,
    /// It was spawned so lately that its channels are not looked at yet.
    pub(super) fresh_until_ns: u64,
}

/// What a look at a worker brought.
pub(super) enum Seen {
    Sample(Box<Sample>),
    NothingNew,
    Vanished,
}

impl Worker {
    /// Reads it, as far as it may have changed.
    pub(super) fn sample(
        &mut self,
        proc: &ProcFs,
        identity: Identity,
        pss_kib: Option<u64>,
        reads: Reads<'_>,
        now_ns: u64,
    ) -> Seen {
        let stdin = self.channels.stdin();
        let output = self.channels.output();
        let sockets = self.sockets.as_deref().and_then(Own::answer);
        let (cpu_ms, syscr_below) = (self.work.cpu_ms(now_ns), self.work.below(now_ns));
        let waits = self.live.pulse == Pulse::Quiet && self.waits.look(proc, identity, now_ns);
        let news = pss_kib.is_some()
            || self.live.is_other(stdin, output, sockets)
            || cpu_ms.is_some()
            || syscr_below.is_some()
            || waits;
        let mut whole = match self.live.pulse {
            Pulse::Gone => return Seen::Vanished,
            Pulse::Look => true,
            Pulse::Ran | Pulse::Quiet => news || self.live.heartbeat(now_ns),
        };
        if !whole && self.live.pulse == Pulse::Quiet {
            return Seen::NothingNew;
        }
        let mut sample = Sample {
            pss_kib,
            stdin,
            output,
            sockets,
            waits,
            over_budget: self.channels.is_unread(),
            cpu_ms,
            syscr_below,
            ..bare(identity, self.live.state())
        };
        sample.syscr = self.live.syscr(proc, identity, now_ns);
        sample.reads = reads(identity);
        // It read something, or that cannot be seen.
        whole |= sample.syscr.is_none() || sample.syscr != self.live.last_syscr();
        whole |= sample.reads.is_some();
        if whole {
            match proc.stat(identity.pid) {
                Ok(Some(stat)) if proc.is_same(identity, &stat) && !stat.ended() => {
                    sample.state = live::state(&stat);
                    sample.rss_kib = Some(stat.rss_kib);
                    sample.threads = Some(stat.threads);
                    sample.launchers_rss_kib = self.launchers.rss_kib(proc, now_ns);
                }
                Ok(_) => return Seen::Vanished,
                // It cannot be seen this time.
                Err(_) => return Seen::NothingNew,
            }
            self.live.looked(now_ns);
        }
        let Some(sample) = self.live.changed(sample, now_ns) else { return Seen::NothingNew };
        self.work.written(cpu_ms, syscr_below, now_ns);
        Seen::Sample(Box::new(sample))
    }
}

/// A sample that says nothing but the state.
pub(super) fn bare(identity: Identity, state: char) -> Sample {
    Sample {
        pid: identity.pid,
        start_ns: identity.start_ns,
        state,
        rss_kib: None,
        launchers_rss_kib: None,
        pss_kib: None,
        threads: None,
        syscr: None,
        reads: None,
        stdin: None,
        output: None,
        sockets: None,
        waits: false,
        over_budget: false,
        cpu_ms: None,
        syscr_below: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one for every live worker, and musl's allocator gives 396 bytes or 492.
    #[test]
    fn what_each_live_worker_takes_stays_small() {
        assert!(size_of::<Worker>() <= 396, "{}", size_of::<Worker>());
    }
}
