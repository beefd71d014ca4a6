//! What only launched a worker (`npm exec`, `sh -c`, `uv run`) and waits for it: it and the worker are
//! one, and so is their memory.

use crate::{
    host::proc::ProcFs,
    model::{Identity, Process, Spawn},
};

/// How often their memory is read: they wait, so that it hardly changes.
const EVERY_NS: u64 = 60_000_000_000;

/// The launchers of one worker.
#[derive(Debug, Default)]
pub(super) struct Launchers {
    all: Box<[Identity]>,
    /// The session key of the worker: a worker above it that has the same launched it.
    session: Option<Box<str>>,
    due_ns: u64,
}

impl Launchers {
    /// Those that a spawn names: what the profile knows as launchers, nearest first, or a worker of
    /// the same session and its launchers. `known` are those of workers that are tracked.
    pub(super) fn of<'a>(spawn: &Spawn, known: impl Fn(Identity) -> Option<&'a Self>) -> Self {
        let session: Option<Box<str>> = spawn.session.as_deref().map(Box::from);
        let none = Self { all: Box::default(), session: session.clone(), due_ns: 0 };
        let Some(parent) = spawn.parent.as_ref().filter(|it| !it.gone && !it.reaper) else {
            return none;
        };
        let id = parent.process.identity();
        if let Some(above) = known(id).filter(|_| session.is_some())
            && above.session == session
        {
            let all = std::iter::once(id).chain(above.all.iter().copied()).collect();
            return Self { all, ..none };
        }
        let above: &[Process] = if parent.forker.is_some() { &[] } else { &spawn.ancestors };
        let chain = std::iter::once(&parent.process).chain(above);
        let launchers = chain.take_while(|process| process.launcher.is_some());
        Self { all: launchers.map(Process::identity).collect(), ..none }
    }

    /// The resident sets of those that are there, KiB, when it is time to read them; none where there
    /// are no launchers. A worker without one costs nothing.
    pub(super) fn rss_kib(&mut self, proc: &ProcFs, now_ns: u64) -> Option<u64> {
        if self.all.is_empty() || now_ns < self.due_ns {
            return None;
        }
        self.due_ns = now_ns.saturating_add(EVERY_NS);
        let rss = |id: &Identity| match proc.stat(id.pid) {
            Ok(Some(stat)) if proc.is_same(*id, &stat) && !stat.ended() => Ok(stat.rss_kib),
            Ok(_) => Ok(0),
            Err(error) => Err(error),
        };
        self.all.iter().map(rss).sum::<Result<u64, _>>().ok()
    }
}
