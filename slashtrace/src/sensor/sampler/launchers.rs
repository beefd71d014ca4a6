//! What only launched a worker (`npm exec`, `sh -c`, `uv run`) and waits for it: it and the worker are
//! one, and so is their memory.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    num::NonZeroU64,
};

use crate::{
    host::proc::ProcFs,
    model::{Identity, Process, Spawn},
};

/// How often their memory is read: they wait, so that it hardly changes.
const EVERY_NS: u64 = 60_000_000_000;

/// The launchers of one worker.
#[derive(Debug, Default)]
pub(super) struct Launchers {
    /// Of the session key of the worker: a worker above it that has the same launched it.
    session: Option<NonZeroU64>,
    all: Option<Box<Few>>,
}

/// Those of one of the few workers that have some.
#[derive(Debug)]
struct Few {
    ids: Box<[Identity]>,
    due_ns: u64,
}

impl Launchers {
    /// Those that a spawn names: what the profile knows as launchers, nearest first, or a worker of
    /// the same session and its launchers. `known` are those of workers that are tracked.
    pub(super) fn of<'a>(spawn: &Spawn, known: impl Fn(Identity) -> Option<&'a Self>) -> Self {
        let session = spawn.session.as_deref().map(hash);
        let none = Self { session, all: None };
        let Some(parent) = spawn.parent.as_ref().filter(|it| !it.gone && !it.reaper) else {
            return none;
        };
        let id = parent.process.identity();
        let ids: Box<[Identity]> = if let Some(above) = known(id).filter(|_| session.is_some())
            && above.session == session
        {
            std::iter::once(id).chain(above.ids().iter().copied()).collect()
        } else {
            let above: &[Process] = if parent.forker.is_some() { &[] } else { &spawn.ancestors };
            let chain = std::iter::once(&parent.process).chain(above);
            let launchers = chain.take_while(|process| process.launcher.is_some());
            launchers.map(Process::identity).collect()
        };
        Self { all: (!ids.is_empty()).then(|| Box::new(Few { ids, due_ns: 0 })), ..none }
    }

    fn ids(&self) -> &[Identity] {
        self.all.as_deref().map_or(&[], |all| &all.ids)
    }

    /// The resident sets of those that are there, KiB, when it is time to read them; none where there
    /// are no launchers. A worker without one costs nothing.
    pub(super) fn rss_kib(&mut self, proc: &ProcFs, now_ns: u64) -> Option<u64> {
        let all = self.all.as_deref_mut().filter(|all| now_ns >= all.due_ns)?;
        all.due_ns = now_ns.saturating_add(EVERY_NS);
        let rss = |id: &Identity| match proc.stat(id.pid) {
            Ok(Some(stat)) if proc.is_same(*id, &stat) && !stat.ended() => Ok(stat.rss_kib),
            Ok(_) => Ok(0),
            Err(error) => Err(error),
        };
        all.ids.iter().map(rss).sum::<Result<u64, _>>().ok()
    }
}

fn hash(session: &str) -> NonZeroU64 {
    let mut hasher = DefaultHasher::new();
    session.hash(&mut hasher);
    NonZeroU64::MIN.saturating_add(hasher.finish() >> 1)
}
