//! Who forked a worker, how surely that is known, and which of two workers of one session is only
//! the launcher of the other.

use std::sync::Arc;

use super::worker::{Link, Worker};
use crate::model::{Confidence, Identity, ParentSource, Process, Source, Spawn};

/// A group: where one persistent worker is supposed to hold.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct GroupKey {
    pub(crate) gateway: Identity,
    pub(crate) session: Arc<str>,
}

/// The gateway that a spawn names, if it may be called so. The kernel read `fork` and `exec`
/// parents when it happened. A parent read from /proc later is only the current one: it counts
/// while it lives and is no reaper, for a reaper adopts orphans and proves nothing.
pub(crate) fn gateway_of(spawn: &Spawn) -> Option<Link> {
    let parent = spawn.parent.as_ref()?;
    let usable = match parent.how {
        ParentSource::Fork | ParentSource::Exec => true,
        ParentSource::Proc => !parent.reaper && !parent.gone,
    };
    usable.then(|| Link { process: Arc::new(parent.process.clone()), how: parent.how })
}

/// Who uses a worker, as its spawn shows it: the nearest process above it that did not only launch
/// it or pass through.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    pub(crate) gateway: Option<Link>,
    /// What only started it and waits for it (`npm exec`, `sh -c`), nearest first.
    pub(crate) launchers: Vec<Identity>,
    /// Who would be its gateway if it were seen to hold the worker's stdin: a process that never
    /// executed a program of its own, or one that adopts orphans.
    pub(crate) candidate: Option<Link>,
    /// Who forked the gateway in turn.
    pub(crate) forker: Option<Link>,
}

pub(crate) fn origin(spawn: &Spawn) -> Origin {
    let Some(parent) = &spawn.parent else { return Origin::default() };
    let how = parent.how;
    let link = |process: &Process| Link { process: Arc::new(process.clone()), how };
    // Where its forker is known, what is above it is that one: it was reparented since.
    let above: Vec<&Process> = match &parent.forker {
        Some(forker) => vec![forker],
        None if parent.gone => Vec::new(),
        None => spawn.ancestors.iter().collect(),
    };
    let adopts = parent.reaper && how != ParentSource::Fork;
    if adopts {
        return Origin { candidate: Some(link(&parent.process)), ..Origin::default() };
    }
    let mut chain = std::iter::once(&parent.process).chain(above);
    let mut origin = Origin::default();
    if parent.gone || parent.forked_only {
        origin.candidate = (!parent.gone).then(|| link(&parent.process));
        chain.next();
    }
    for process in chain.by_ref() {
        if process.launcher.is_none() {
            origin.gateway = Some(link(process));
            break;
        }
        origin.launchers.push(process.identity());
    }
    origin.forker = chain.find(|process| process.launcher.is_none()).map(link);
    origin
}

/// How surely a finding can hold that rests on this spawn and its parent. A reaper that is the
/// parent at the exec (pid 1 of a container may well be the gateway) may also have adopted a worker
/// whose gateway died just before it.
pub(crate) fn surety(spawn: &Spawn) -> Confidence {
    let forked = spawn.parent.as_ref().is_none_or(|parent| match parent.how {
        ParentSource::Fork => true,
        ParentSource::Exec => !parent.reaper,
        ParentSource::Proc => false,
    });
    if spawn.inherited {
        Confidence::Weak
    } else if spawn.source == Source::Kernel && forked {
        Confidence::Proven
    } else {
        Confidence::Strong
    }
}

/// Whether `parent`, a worker, only launched `child` (`uv run`, a wrapper script): both carry the
/// same session key, and the parent was not another program then.
pub(crate) fn launched(parent: &Worker, child: &Worker) -> bool {
    parent.session.is_some()
        && parent.session == child.session
        && parent.left().is_none_or(|left| left.at > child.birth.at)
        && parent.rare().away.as_ref().is_none_or(|away| !away.contains(&child.birth.at))
}
