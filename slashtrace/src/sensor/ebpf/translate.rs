mod above;
mod exec;

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
};

use slashtrace_ebpf::{CloneInfo, Role as WireRole, TerminalKey, ThreadAct, Tracked};

use super::{
    mistaken::Mistaken,
    wire::{Event, LongArgv, Task, What},
};
use crate::{
    host::proc::{IdentityBook, ProcFs},
    model::{
        Body, Exit, ForkingThread, Identity, Observation, Parent, ParentSource, Process, Role,
        Sender, Signal, Source, Spawn, Terminal, ThreadClone, signal_name,
    },
    profile::Profile,
    redact,
    sensor::{join::replies::Act, terminal::instance_of},
};

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
