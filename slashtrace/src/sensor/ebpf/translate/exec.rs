//! An exec: a worker's spawn, another program of a tracked process, or what only looked like a
//! worker's.

use std::num::NonZeroU32;

use super::{Known, NOBODY, Translator, model_role, place};
use crate::{
    host::proc::{ARGV_BYTES_MAX, IdentityBook},
    model::{Body, Exec, Identity, Process, Role, Source, Spawn, Terminal},
    profile::tokens_of,
    redact,
    sensor::ebpf::wire::Exec as WireExec,
};

impl Translator {
    /// What an exec comes to; `None` if it is nothing to us.
    pub(super) fn exec(&mut self, exec: &WireExec, book: &mut IdentityBook) -> Option<Body> {
        let task = &exec.task;
        self.owner = task.uid;
        let identity = book.kernel(task.tgid, task.start_ns);
        let truncated = exec.argv_bytes > exec.argv.len() as u64;
        let whole =
            if truncated && exec.matched { self.whole_argv(identity, &exec.argv) } else { None };
        let mut tokens = tokens_of(whole.as_deref().unwrap_or(&exec.argv));
        if truncated && whole.is_none() && !exec.argv.ends_with(&[0]) {
            // Half a token is not a token: half a session key is another session's.
            tokens.pop();
        }
        let found = self.profile.match_worker(&tokens);
        let hash = argv_hash(&tokens);
        let role = exec.role_before.map(model_role);
        let role = role.and_then(|role| self.mistaken.role(identity, role));
        // One that a worker starts with its own program and arguments is a part of it (Node.js's cluster).
        let outer = exec.worker_before.map(|(pid, ns)| self.tracked_identity(pid, ns, book));
        let part = role == Some(Role::Descendant)
            && outer.is_some_and(|outer| {
                self.known.get(&outer).is_some_and(|outer| outer.arguments == Some(hash))
                    && self.proc.exe_same(identity.pid, outer.pid) == Some(true)
            });
        if found.is_none() || part || role == Some(Role::Worker) {
            let is_worker = found.is_some();
            if exec.matched && role != Some(Role::Worker) {
                self.mistake(exec, identity, role, book);
            }
            let role = role?;
            if let Some(described) = self.described.get_mut(&identity) {
                described.comm = redact::escape(&task.comm);
                described.argv0 = tokens.first().map(|token| redact::argv0(token));
                described.launcher = self.profile.launcher(&tokens).map(str::to_owned);
            }
            return Some(Body::Exec(Exec {
                pid: identity.pid,
                start_ns: identity.start_ns,
                role,
                is_worker,
                comm: redact::escape(&task.comm),
                argv0: tokens.first().map(|token| redact::argv0(token)),
                helper: self.profile.match_helper(&tokens).map(str::to_owned),
                source: Source::Kernel,
            }));
        }
        let found = found?;
        let session = self.proc.session_key(identity, &found);
        let model = found.model.map(redact::value);
        let rule = self.profile.name_of(found.rule);
        let argv = redact::worker_argv(&self.profile, &tokens);
        let parent = self.parent(exec, book);
        let forker = self.forkers.iter().position(|(it, _)| *it == (task.tgid, task.start_ns));
        let thread = forker.and_then(|at| self.forkers.remove(at)).map(|(_, thread)| thread);
        let above = if exec.reparented { &[][..] } else { exec.chain.get(1..).unwrap_or(&[]) };
        let mut ancestors: Vec<Process> =
            above.iter().map(|task| self.describe(task, book)).collect();
        self.beyond_launchers(parent.as_ref(), &mut ancestors, book);
        let known = Known { role: Role::Worker, arguments: Some(hash) };
        self.known.insert(identity, known);
        if self.mistaken.forget(identity) {
            self.corrections.push((identity, Some(self.entry(identity, Role::Worker, identity))));
        }
        let gateway = parent.as_ref().filter(|it| !it.gone).map(|it| it.process.identity());
        let above = gateway.map(|id| (id, Role::Gateway)).into_iter();
        let above = above.chain(ancestors.iter().map(|it| (it.identity(), Role::Ancestor)));
        for (id, role) in above {
            if self.mistaken.above_worker(id) && self.is_alive(id) {
                self.corrections.push((id, Some(self.entry(id, role, NOBODY))));
            }
        }
        Some(Body::Spawn(Box::new(Spawn {
            role: Role::Worker,
            pid: identity.pid,
            start_ns: identity.start_ns,
            source: Source::Kernel,
            inherited: false,
            parent,
            ancestors,
            opener: None,
            worker: None,
            comm: redact::escape(&task.comm),
            uid: task.uid,
            sid: task.sid,
            argv,
            argv_bytes: exec.argv_bytes,
            argv_truncated: truncated,
            session,
            model,
            terminal: terminal(exec),
            helper: None,
            thread,
            rule,
        })))
    }

    /// The arguments of which the record has only the beginning: the key may stand behind that, or
    /// another one that holds. `None` if the process is gone, or has other arguments by now.
    fn whole_argv(&self, id: Identity, beginning: &[u8]) -> Option<Vec<u8>> {
        let whole = self.proc.cmdline(id.pid, ARGV_BYTES_MAX).ok()??.bytes;
        (whole.starts_with(beginning) && self.is_alive(id)).then_some(whole)
    }

    /// The kernel took an exec for a worker's, and no rule matches it. `role` is what the process is
    /// to us all the same.
    fn mistake(
        &mut self,
        exec: &WireExec,
        id: Identity,
        role: Option<Role>,
        book: &mut IdentityBook,
    ) {
        let outer = exec.worker_before.map(|(pid, ns)| self.tracked_identity(pid, ns, book));
        let before = role.map(|role| (role, outer.filter(|_| role == Role::Descendant)));
        let before = self.mistaken.worker(id, before);
        let known = before.map(|(role, outer)| self.entry(id, role, outer.unwrap_or(NOBODY)));
        self.corrections.push((id, known));
        for task in exec.forker.iter().chain(&exec.chain) {
            let above = book.kernel(task.tgid, task.start_ns);
            if !self.known.contains_key(&above) && !self.described.contains_key(&above) {
                self.mistaken.above(above);
            }
        }
    }
}

/// The worker's terminal, else its parent's, else its parent's session leader's.
fn terminal(exec: &WireExec) -> Option<Terminal> {
    let above = if exec.reparented { None } else { exec.chain.first() };
    let leader = above.and_then(|parent| exec.chain.iter().find(|task| task.tgid == parent.sid));
    let terminal = exec
        .task
        .terminal
        .or_else(|| above.and_then(|parent| parent.terminal))
        .or_else(|| leader.and_then(|leader| leader.terminal))?;
    Some(place(terminal))
}

/// A hash of an argv, of its program only the last part of the path.
pub fn argv_hash(tokens: &[&[u8]]) -> NonZeroU32 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    let mut tokens = tokens.iter();
    let name = tokens.next().and_then(|token| token.rsplit(|&byte| byte == b'/').next());
    name.hash(&mut hasher);
    tokens.for_each(|token| token.hash(&mut hasher));
    NonZeroU32::MIN.saturating_add(hasher.finish() as u32)
}
