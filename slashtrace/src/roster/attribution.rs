//! Who forked a worker, how surely that is known, and which of two workers of one session is only
//! the launcher of the other.

use std::sync::Arc;

use super::worker::{Link, Worker};
use crate::model::{Confidence, Identity, ParentSource, Source, Spawn};

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
/// same session key, and the parent had not become another program by then.
pub(crate) fn launched(parent: &Worker, child: &Worker) -> bool {
    parent.session.is_some()
        && parent.session == child.session
        && parent.left.is_none_or(|left| left.at > child.birth.at)
}
