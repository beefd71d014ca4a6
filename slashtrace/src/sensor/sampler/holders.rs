use std::collections::HashMap;

use crate::{host::proc::ProcFs, model::Identity};

/// That the CPU time of a process cannot be known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unclear;

/// Holders, each looked at once a round.
pub(super) struct Holders<'a> {
    pub(super) proc: &'a ProcFs,
    cpu_ns: HashMap<Identity, Result<Option<u64>, Unclear>>,
    there: HashMap<Identity, bool>,
}

impl<'a> Holders<'a> {
    pub(super) fn new(proc: &'a ProcFs) -> Self {
        Self { proc, cpu_ns: HashMap::new(), there: HashMap::new() }
    }

    /// CPU time of whoever has the pid, where that can be known; `None` if nobody has it.
    pub(super) fn cpu_ns(&mut self, identity: Identity) -> Result<Option<u64>, Unclear> {
        let proc = self.proc;
        let read = || proc.cpu_ns(identity.pid).map_err(|_| Unclear);
        *self.cpu_ns.entry(identity).or_insert_with(read)
    }

    /// Whether the pid is still the process it was.
    pub(super) fn is_there(&mut self, identity: Identity) -> bool {
        let proc = self.proc;
        *self.there.entry(identity).or_insert_with(|| is_still(proc, identity))
    }
}

/// Whether the pid is the process with this identity.
pub(super) fn is_still(proc: &ProcFs, identity: Identity) -> bool {
    matches!(proc.stat(identity.pid), Ok(Some(stat)) if proc.is_same(identity, &stat))
}
