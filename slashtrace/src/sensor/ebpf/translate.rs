use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
};

use slashtrace_ebpf::{
    CloneInfo, ParentKnownBy, Role as WireRole, TerminalKey, ThreadAct, Tracked,
};

use super::{
    mistaken::Mistaken,
    wire::{Event, Exec as WireExec, LongArgv, Task, What},
};
use crate::{
    host::proc::{ARGV_BYTES_MAX, IdentityBook, ProcFs},
    model::{
        Body, Exec, Exit, ForkingThread, Identity, Observation, Parent, ParentSource, Process,
        Role, Sender, Signal, Source, Spawn, Terminal, ThreadClone, signal_name,
    },
    profile::{Profile, tokens_of},
    redact,
    sensor::{join::replies::Act, terminal::instance_of},
};

/// Launchers above one another that are looked through.
const LAUNCHERS_MAX: usize = 8;
/// Most bytes of a gateway's argument area that are read for its first token.
const ARGV0_MAX: usize = 4096;
/// Children of gateways whose forkers are remembered until they execute.
const FORKERS_MAX: usize = 256;

/// Of so many tracked processes no room is given back.
const KNOWN_FEW: usize = 1_024;

/// What a record of the kernel programs comes to.
#[derive(Debug)]
pub enum Translated {
    /// Something about a tracked process.
    Observation(Observation),
    /// The master of a terminal was closed. Which terminal that was is known to those that watch
    /// them.
    Terminal {
        /// `super_block.s_dev` of its devpts.
        device: u32,
        /// Its index there.
        index: u32,
        /// Who closed it.
        closer: Process,
        /// When, ns of the boot clock.
        boottime_ns: u64,
    },
    /// A thread of a gateway of a flat tree forked a child.
    ThreadForked {
        /// Thread group id of the gateway.
        gateway: u32,
        /// Thread id.
        tid: u32,
        /// Whom it forked.
        child: Identity,
    },
    /// A gateway of a flat tree, or a thread of it that had forked a worker, did something.
    Act {
        /// Thread group id of the gateway.
        gateway: u32,
        /// What.
        act: Act,
        /// When, ns of the boot clock.
        boottime_ns: u64,
    },
    /// An exec whose arguments are longer than what the kernel searches.
    LongArgv(LongArgv),
    /// Nothing that can be said: a signal of a number that no kernel has, or the end of a process
    /// that is nothing to us.
    Dropped,
}

/// A process that is tracked.
#[derive(Clone, Copy, Debug)]
struct Known {
    role: Role,
    /// A hash of the arguments that it was executed with as a worker.
    arguments: Option<NonZeroU32>,
}

/// Turns records of the kernel programs into observations, and fills in from /proc what they do
/// not carry.
#[derive(Debug)]
pub struct Translator {
    profile: Profile,
    proc: ProcFs,
    count_calls: bool,
    /// What is tracked now.
    known: HashMap<Identity, Known>,
    /// Gateways and ancestors as they were first described; forgotten when they end.
    described: HashMap<Identity, Process>,
    /// Which threads forked children of gateways that have not executed yet, oldest first.
    forkers: VecDeque<((u32, u64), ForkingThread)>,
    /// Who is tracked by mistake.
    mistaken: Mistaken,
    /// Real user id of the process that is being translated: on whose account others are tracked.
    owner: u32,
    /// What the kernel is to know otherwise: a process, and as what it is to be tracked, if at all.
    pub corrections: Vec<(Identity, Option<Tracked>)>,
}

impl Translator {
    /// A translator that knows nothing yet.
    pub fn new(profile: Profile, proc: ProcFs, count_calls: bool) -> Self {
        Self {
            profile,
            proc,
            count_calls,
            known: HashMap::new(),
            described: HashMap::new(),
            forkers: VecDeque::new(),
            mistaken: Mistaken::default(),
            owner: 0,
            corrections: Vec::new(),
        }
    }

    /// What a record says. `book` has the identities of this recording.
    pub fn translate(&mut self, event: Event, book: &mut IdentityBook) -> Translated {
        let boottime_ns = event.boottime_ns;
        let body = match event.what {
            What::Terminal { device, index, closer } => {
                let closer = self.closer(&closer, book);
                return Translated::Terminal { device, index, closer, boottime_ns };
            }
            What::ThreadFork { gateway, child, tid, clones } => {
                self.forked_by(child, tid, &clones);
                // Not by the book, which would keep whoever a gateway forks: most are no workers.
                let child = Identity { pid: child.0, start_ns: child.1 };
                return Translated::ThreadForked { gateway, tid, child };
            }
            What::ThreadAct { tgid, tid, act, port } => {
                let act = match act {
                    ThreadAct::Woke => Act::Woke { tid },
                    ThreadAct::Exited => Act::Exited { tid },
                    ThreadAct::Sent => Act::Sent { port },
                    ThreadAct::Cut => Act::Cut,
                };
                return Translated::Act { gateway: tgid, act, boottime_ns };
            }
            What::LongArgv(long) => return Translated::LongArgv(long),
            What::Exec(exec) => match self.exec(&exec, book) {
                Some(body) => body,
                None => return Translated::Dropped,
            },
            What::Fork { child, parent, worker } => match self.fork(&child, parent, worker, book) {
                Some(body) => body,
                None => return Translated::Dropped,
            },
            What::Exit { tgid, start_ns, role, status, reads } => {
                let identity = book.kernel(tgid, start_ns);
                let role = self.mistaken.role(identity, model_role(role));
                self.forget(identity);
                let Some(role) = role else { return Translated::Dropped };
                let (code, signal) = wait_status(status);
                Body::Exit(Exit {
                    pid: identity.pid,
                    start_ns: identity.start_ns,
                    role,
                    code,
                    signal,
                    reads: (self.count_calls && role == Role::Worker).then_some(reads),
                    source: Source::Kernel,
                })
            }
            What::Signal {
                tgid,
                start_ns,
                role,
                signal,
                si_code,
                result,
                sender,
                parent_ended,
                held,
            } => {
                let identity = book.kernel(tgid, start_ns);
                let role = self.mistaken.role(identity, model_role(role));
                let (Some(role), Ok(number)) = (role, u8::try_from(signal)) else {
                    return Translated::Dropped;
                };
                Body::Signal(Signal {
                    pid: identity.pid,
                    start_ns: identity.start_ns,
                    role,
                    signal: number,
                    name: signal_name(number).into_owned(),
                    si_code,
                    delivered: result == 0,
                    parent_ended,
                    count: held.map(|held| held.count),
                    first_ns: held.map(|held| held.first_ns),
                    last_ns: held.map(|held| held.last_ns),
                    sender: sender.map(|task| {
                        let identity = book.kernel(task.tgid, task.start_ns);
                        Sender {
                            pid: identity.pid,
                            start_ns: identity.start_ns,
                            comm: redact::escape(&task.comm),
                            uid: task.uid,
                        }
                    }),
                })
            }
        };
        Translated::Observation(Observation { boottime_ns, body })
    }

    fn forked_by(&mut self, child: (u32, u64), tid: u32, clones: &[CloneInfo]) {
        let clones = clones.iter().map(|made| ThreadClone {
            by: made.by,
            at_ns: made.at_ns,
            replied_ns: (made.replied_ns != 0).then_some(made.replied_ns),
        });
        self.forkers.push_back((child, ForkingThread { tid, clones: clones.collect() }));
        if self.forkers.len() > FORKERS_MAX {
            self.forkers.pop_front();
        }
    }

    /// A process ended.
    pub fn forget(&mut self, identity: Identity) {
        self.known.remove(&identity);
        self.described.remove(&identity);
        // After a storm there is room for more than will come again soon.
        if self.known.capacity() > KNOWN_FEW && self.known.len() < self.known.capacity() / 8 {
            self.known.shrink_to(2 * self.known.len());
        }
        self.mistaken.forget(identity);
    }

    /// As what a process is tracked now, if at all.
    pub fn role_of(&self, identity: Identity) -> Option<Role> {
        self.known.get(&identity).map(|known| known.role)
    }

    /// What is tracked now.
    pub fn tracked(&self) -> impl Iterator<Item = (Identity, Role)> + '_ {
        self.known.iter().map(|(identity, known)| (*identity, known.role))
    }

    /// A process is known otherwise than from a record.
    pub fn learn(&mut self, identity: Identity, role: Role) -> bool {
        self.mistaken.forget(identity);
        let known = self.known.entry(identity).or_insert(Known { role, arguments: None });
        if known.role != role && role != Role::Worker {
            return false;
        }
        known.role = role;
        true
    }

    /// What an exec comes to; `None` if it is nothing to us.
    fn exec(&mut self, exec: &WireExec, book: &mut IdentityBook) -> Option<Body> {
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

    fn parent(&mut self, exec: &WireExec, book: &mut IdentityBook) -> Option<Parent> {
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
    fn beyond_launchers(
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
    fn closer(&mut self, task: &Task, book: &mut IdentityBook) -> Process {
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
    fn describe(&mut self, task: &Task, book: &mut IdentityBook) -> Process {
        let identity = book.kernel(task.tgid, task.start_ns);
        self.describe_as(identity, &task.comm)
    }

    /// As [`Self::describe`], of a process whose identity is known; an empty `comm` is read.
    fn describe_as(&mut self, identity: Identity, comm: &[u8]) -> Process {
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

    fn is_alive(&self, identity: Identity) -> bool {
        matches!(self.proc.stat(identity.pid), Ok(Some(stat))
            if self.proc.is_same(identity, &stat) && !stat.ended())
    }

    fn fork(
        &mut self,
        child: &Task,
        parent: (u32, u64),
        worker: (u32, u64),
        book: &mut IdentityBook,
    ) -> Option<Body> {
        self.owner = child.uid;
        let identity = book.kernel(child.tgid, child.start_ns);
        let above = book.kernel(parent.0, parent.1);
        let said = self.tracked_identity(worker.0, worker.1, book);
        let Some(worker) = self.mistaken.forked(identity, said) else {
            self.corrections.push((identity, None));
            return None;
        };
        if worker != said {
            let known = self.entry(identity, Role::Descendant, worker);
            self.corrections.push((identity, Some(known)));
        }
        self.known.insert(identity, Known { role: Role::Descendant, arguments: None });
        Some(Body::Spawn(Box::new(Spawn {
            role: Role::Descendant,
            pid: identity.pid,
            start_ns: identity.start_ns,
            source: Source::Kernel,
            inherited: false,
            parent: Some(Parent {
                process: Process {
                    pid: above.pid,
                    start_ns: above.start_ns,
                    // A child has its parent's name until it executes or renames itself.
                    comm: redact::escape(&child.comm),
                    argv0: None,
                    launcher: None,
                },
                how: ParentSource::Fork,
                gone: false,
                reaper: false,
                forker: None,
                forked_only: false,
            }),
            ancestors: Vec::new(),
            opener: None,
            worker: Some(worker),
            comm: redact::escape(&child.comm),
            uid: child.uid,
            sid: child.sid,
            argv: Vec::new(),
            argv_bytes: 0,
            argv_truncated: false,
            session: None,
            model: None,
            terminal: child.terminal.map(place),
            helper: None,
            thread: None,
            rule: None,
        })))
    }

    /// A process as the kernel is to track it.
    fn entry(&self, id: Identity, role: Role, worker: Identity) -> Tracked {
        Tracked {
            start_ns: id.start_ns,
            worker_start_ns: worker.start_ns,
            reads: 0,
            worker: worker.pid,
            role: wire_role(role) as u32,
            owner: self.owner,
            family: 0,
        }
    }

    /// Identity behind a start time that the kernel programs may have been given by us, rounded.
    pub fn tracked_identity(&self, pid: u32, start_ns: u64, book: &mut IdentityBook) -> Identity {
        if start_ns.is_multiple_of(self.proc.tick_ns()) {
            book.proc(pid, start_ns)
        } else {
            book.kernel(pid, start_ns)
        }
    }
}

/// No worker.
const NOBODY: Identity = Identity { pid: 0, start_ns: 0 };

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

fn place(terminal: TerminalKey) -> Terminal {
    let known = (terminal.device != 0).then_some(terminal.device);
    Terminal { instance: known.map(instance_of), index: terminal.index }
}

/// Role in the model.
pub fn model_role(role: WireRole) -> Role {
    match role {
        WireRole::Worker => Role::Worker,
        WireRole::Descendant => Role::Descendant,
        WireRole::Gateway => Role::Gateway,
        WireRole::Ancestor => Role::Ancestor,
    }
}

/// Role in the kernel programs.
pub fn wire_role(role: Role) -> WireRole {
    match role {
        Role::Worker => WireRole::Worker,
        Role::Descendant => WireRole::Descendant,
        Role::Gateway => WireRole::Gateway,
        Role::Ancestor => WireRole::Ancestor,
    }
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

/// Exit code or signal of a wait status (wait(2): signal in bits 0–6, code in bits 8–15).
fn wait_status(status: u32) -> (Option<u8>, Option<u8>) {
    match (status & 0x7f) as u8 {
        0 => (Some((status >> 8) as u8), None),
        signal => (None, Some(signal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_status_is_code_or_signal() {
        assert_eq!(wait_status(0), (Some(0), None));
        assert_eq!(wait_status(3 << 8), (Some(3), None));
        assert_eq!(wait_status(15), (None, Some(15)));
        // With a core dump.
        assert_eq!(wait_status(0x80 | 0x0b), (None, Some(11)));
    }
}
