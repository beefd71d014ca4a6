//! Who is above a worker: its forker, its gateway, their ancestors, as they are described and tracked.

use slashtrace_ebpf::ParentKnownBy;

use super::{Known, NOBODY, Translator};
use crate::{
    host::proc::IdentityBook,
    model::{Identity, Parent, ParentSource, Process, Role},
    redact,
    sensor::ebpf::wire::{Exec as WireExec, Task},
};

/// Launchers above one another that are looked through.
const LAUNCHERS_MAX: usize = 8;
/// Most bytes of a gateway's argument area that are read for its first token.
const ARGV0_MAX: usize = 4096;

impl Translator {
    pub(super) fn parent(&mut self, exec: &WireExec, book: &mut IdentityBook) -> Option<Parent> {
        let forker = exec.forker.as_ref()?;
        let how = match exec.parent_known_by? {
            ParentKnownBy::Fork => ParentSource::Fork,
            ParentKnownBy::RealParent => ParentSource::Exec,
        };
        let identity = book.kernel(forker.tgid, forker.start_ns);
        let process = self.describe(forker, book);
        // It is no longer the parent, so it ended, unless the child was cloned as its sibling
        // (CLONE_PARENT): then it is still there.
        let gone = exec.forker_gone || (exec.reparented && !self.is_alive(identity));
        if gone {
            self.described.remove(&identity);
        } else {
            self.known.entry(identity).or_insert(Known { role: Role::Gateway, arguments: None });
        }
        let reaper = how == ParentSource::Exec && forker.tgid == 1;
        // Where it is still there, the first above it is who forked it.
        let above = exec.above.filter(|_| gone || exec.reparented || exec.chain.len() < 2);
        let forker = above.and_then(|(tgid, start_ns)| self.forker_above(tgid, start_ns, book));
        Some(Parent { process, how, gone, reaper, forker, forked_only: exec.forked_only })
    }

    /// Who forked the forker of a worker, if it lives: it may be the gateway, and its end is to be
    /// seen.
    fn forker_above(
        &mut self,
        tgid: u32,
        start_ns: u64,
        book: &mut IdentityBook,
    ) -> Option<Process> {
        let id = book.kernel(tgid, start_ns);
        let task = Task { tgid, start_ns, ..Task::default() };
        let process = self.describe(&task, book);
        self.described.contains_key(&id).then(|| {
            self.track_above(id);
            process
        })
    }

    /// Has the kernel track a process above a worker that it did not find itself.
    fn track_above(&mut self, id: Identity) {
        if id.pid > 1 && self.learn_above(id) {
            self.corrections.push((id, Some(self.entry(id, Role::Ancestor, NOBODY))));
        }
    }

    fn learn_above(&mut self, id: Identity) -> bool {
        if self.known.contains_key(&id) {
            return false;
        }
        self.learn(id, Role::Ancestor)
    }

    /// Where all that is known to be above a worker only launched it, the gateway is further up: the
    /// nearest launcher may lead a session of its own.
    pub(super) fn beyond_launchers(
        &mut self,
        parent: Option<&Parent>,
        ancestors: &mut Vec<Process>,
        book: &mut IdentityBook,
    ) {
        let Some(parent) = parent.filter(|parent| !parent.gone && !parent.reaper) else { return };
        if parent.forker.is_some() {
            return;
        }
        for _ in 0..LAUNCHERS_MAX {
            let last = ancestors.last().unwrap_or(&parent.process);
            if last.launcher.is_none() || parent.process.launcher.is_none() {
                return;
            }
            let Ok(Some(stat)) = self.proc.stat(last.pid) else { return };
            let same = self.proc.is_same(last.identity(), &stat);
            let Ok(Some(above)) = self.proc.stat(stat.ppid) else { return };
            if !same || stat.ppid == 0 || above.start_ns > stat.start_ns {
                return;
            }
            let id = book.proc(stat.ppid, above.start_ns);
            // Not as the kernel's: that start is rounded, and the kernel's own is still to come.
            let process = self.describe_as(id, &[]);
            self.track_above(id);
            ancestors.push(process);
        }
    }

    /// Describes who closed a terminal. Its end will not be told if it is not tracked.
    pub(super) fn closer(&mut self, task: &Task, book: &mut IdentityBook) -> Process {
        let identity = book.kernel(task.tgid, task.start_ns);
        let known = self.described.contains_key(&identity);
        let process = self.describe(task, book);
        if !known {
            self.described.remove(&identity);
        }
        process
    }

    /// Describes a process above a worker, or one that closed a terminal, as it may be shown: it is
    /// read once, when it is first seen.
    pub(super) fn describe(&mut self, task: &Task, book: &mut IdentityBook) -> Process {
        let identity = book.kernel(task.tgid, task.start_ns);
        self.describe_as(identity, &task.comm)
    }

    /// As [`Self::describe`], of a process whose identity is known; an empty `comm` is read.
    pub(super) fn describe_as(&mut self, identity: Identity, comm: &[u8]) -> Process {
        if let Some(described) = self.described.get(&identity) {
            return described.clone();
        }
        let alive = self.is_alive(identity);
        let mut process = Process {
            pid: identity.pid,
            start_ns: identity.start_ns,
            comm: redact::escape(comm),
            argv0: None,
            launcher: None,
        };
        if alive {
            if process.comm.is_empty()
                && let Ok(Some(stat)) = self.proc.stat(identity.pid)
            {
                process.comm = redact::escape(&stat.comm);
            }
            if let Ok(Some(cmdline)) = self.proc.cmdline(identity.pid, ARGV0_MAX)
                && self.is_alive(identity)
            {
                let tokens = cmdline.tokens();
                process.argv0 = tokens.first().map(|token| redact::argv0(token));
                process.launcher = self.profile.launcher(&tokens).map(str::to_owned);
            }
            self.described.insert(identity, process.clone());
        }
        process
    }

    pub(super) fn is_alive(&self, identity: Identity) -> bool {
        matches!(self.proc.stat(identity.pid), Ok(Some(stat))
            if self.proc.is_same(identity, &stat) && !stat.ended())
    }
}
