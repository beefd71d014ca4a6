use std::{collections::HashMap, io, rc::Rc};

use super::{ARGV_SEARCHED_BYTES, Cmdline, IdentityBook, ProcFs, ProcStat};
use crate::{
    model::{Identity, Parent, ParentSource, Process, Role, Source, Spawn, Terminal},
    profile::Profile,
    redact,
};

/// Processes above a gateway that are named at most.
const ANCESTORS_MAX: usize = 64;

/// Programs that ask for orphans to be given to them (`PR_SET_CHILD_SUBREAPER`, prctl(2)), by comm.
/// /proc does not show that flag, so the usual ones are known by name: `systemd --user`, and what
/// runs containers (`containerd-shim-runc-v2`: the kernel cuts comm at 15 bytes).
const SUBREAPERS: [&[u8]; 3] = [b"systemd", b"containerd-shim", b"conmon"];

/// One process as it was at one moment.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its state.
    pub stat: ProcStat,
    /// Its arguments.
    pub cmdline: Cmdline,
}

/// One look at /proc: reads each process at most once, and describes processes as observations.
#[derive(Debug)]
pub struct Scan<'a> {
    proc: &'a ProcFs,
    profile: &'a Profile,
    book: &'a mut IdentityBook,
    seen: HashMap<u32, Option<Rc<Seen>>>,
}

impl<'a> Scan<'a> {
    /// A look in which nothing was read yet.
    pub fn new(proc: &'a ProcFs, profile: &'a Profile, book: &'a mut IdentityBook) -> Self {
        Self { proc, profile, book, seen: HashMap::new() }
    }

    /// A process, read now or earlier in this look; `None` if it is gone or may not be read.
    pub fn seen(&mut self, pid: u32) -> Option<Rc<Seen>> {
        if let Some(seen) = self.seen.get(&pid) {
            return seen.clone();
        }
        let seen = self.read(pid).ok().flatten().map(Rc::new);
        self.seen.insert(pid, seen.clone());
        seen
    }

    /// Arguments and state of one and the same process, although the pid may change hands between
    /// two reads.
    fn read(&self, pid: u32) -> io::Result<Option<Seen>> {
        let Some(before) = self.proc.stat(pid)? else {
            return Ok(None);
        };
        let Some(cmdline) = self.proc.cmdline(pid, ARGV_SEARCHED_BYTES)? else {
            return Ok(None);
        };
        let Some(stat) = self.proc.stat(pid)? else {
            return Ok(None);
        };
        Ok((stat.start_ns == before.start_ns).then_some(Seen { stat, cmdline }))
    }

    /// The identity of a process that was seen.
    pub fn identity(&mut self, stat: &ProcStat) -> Identity {
        self.book.proc(stat.pid, stat.start_ns)
    }

    /// Whether the process has a worker's arguments only because it was forked from `parent` and
    /// has not executed anything yet.
    ///
    /// exec puts the argument area at another address and fork keeps it, so where the reader may
    /// see the addresses they decide. Else the same arguments and the same executable do.
    pub fn is_unexecuted_fork(&self, child: &Seen, parent: &Seen) -> bool {
        child.cmdline.bytes == parent.cmdline.bytes
            && if child.stat.arg_start != 0 && parent.stat.arg_start != 0 {
                child.stat.arg_start == parent.stat.arg_start
            } else {
                self.proc.exe_same(child.stat.pid, parent.stat.pid) != Some(false)
            }
    }

    /// Whether a process is a part of the worker that forked it: a fork that has not executed, or one
    /// that executed the same program with the very same arguments (Node.js's
    /// cluster). Of the program only the last part
    /// of its path is compared.
    pub fn is_part(&self, child: &Seen, parent: &Seen) -> bool {
        self.is_unexecuted_fork(child, parent)
            || (same_arguments(&child.cmdline.tokens(), &parent.cmdline.tokens())
                && self.proc.exe_same(child.stat.pid, parent.stat.pid) == Some(true))
    }

    /// Describes a worker, with its parent and the processes above that; `None` if it is gone.
    pub fn worker(&mut self, seen: &Seen, source: Source, inherited: bool) -> Option<Spawn> {
        let mut spawn = self.spawn(seen, source, inherited)?;
        let tokens = seen.cmdline.tokens();
        if let Some(found) = self.profile.match_worker(&tokens) {
            spawn.session = self.proc.session_key(spawn.identity(), &found);
            spawn.model = found.model.map(redact::value);
            spawn.rule = self.profile.name_of(found.rule);
        }
        spawn.argv = redact::worker_argv(self.profile, &tokens);
        spawn.argv_truncated = seen.cmdline.truncated;
        if let Some(parent) = &spawn.parent {
            spawn.ancestors = self.ancestors(parent.process.pid);
        }
        Some(spawn)
    }

    /// Describes a process below a worker; `None` if it is gone. Of its arguments only the first is
    /// shown: what a worker starts (an MCP server) has secrets in its arguments. One that has not
    /// executed yet has its parent's, and none of its own.
    pub fn descendant(
        &mut self,
        seen: &Seen,
        worker: Identity,
        source: Source,
        inherited: bool,
    ) -> Option<Spawn> {
        let mut spawn = self.spawn(seen, source, inherited)?;
        spawn.role = Role::Descendant;
        spawn.worker = Some(worker);
        let parent = self.seen(seen.stat.ppid);
        if parent.is_some_and(|parent| self.is_unexecuted_fork(seen, &parent)) {
            spawn.argv_bytes = 0;
            return Some(spawn);
        }
        let tokens = seen.cmdline.tokens();
        spawn.helper = self.profile.match_helper(&tokens).map(str::to_owned);
        spawn.argv = tokens.first().map(|token| redact::argv0(token)).into_iter().collect();
        spawn.argv_truncated = tokens.len() > 1 || seen.cmdline.truncated;
        Some(spawn)
    }

    fn spawn(&mut self, seen: &Seen, source: Source, inherited: bool) -> Option<Spawn> {
        let stat = &seen.stat;
        let identity = self.identity(stat);
        let uid = self.proc.ids(stat.pid).ok()??.uid;
        let argv_bytes = if seen.cmdline.truncated {
            self.proc.cmdline_bytes(stat.pid).ok()??
        } else {
            seen.cmdline.bytes.len() as u64
        };
        let parent = self.parent(stat);
        let terminal = stat.terminal.or_else(|| self.terminal_above(parent.as_ref()?));
        Some(Spawn {
            role: Role::Worker,
            pid: identity.pid,
            start_ns: identity.start_ns,
            source,
            inherited,
            parent,
            ancestors: Vec::new(),
            opener: None,
            worker: None,
            comm: redact::escape(&stat.comm),
            uid,
            sid: stat.sid,
            argv: Vec::new(),
            argv_bytes,
            argv_truncated: false,
            session: None,
            model: None,
            terminal,
            helper: None,
            thread: None,
            rule: None,
        })
    }

    /// The current parent. It may end while it is looked at; then the process has another one.
    fn parent(&mut self, stat: &ProcStat) -> Option<Parent> {
        let mut ppid = stat.ppid;
        for _ in 0..3 {
            // 0: the parent is outside of this pid namespace.
            if ppid == 0 {
                return None;
            }
            // Whoever is younger than its child got the pid of the parent that was read before.
            if let Some(seen) = self.seen(ppid).filter(|seen| seen.stat.start_ns <= stat.start_ns) {
                let reaper = self.is_reaper(&seen.stat);
                let process = self.process(&seen);
                return Some(Parent {
                    process,
                    how: ParentSource::Proc,
                    gone: false,
                    reaper,
                    forker: None,
                    forked_only: false,
                });
            }
            ppid = self.proc.stat(stat.pid).ok()??.ppid;
        }
        None
    }

    fn is_reaper(&self, stat: &ProcStat) -> bool {
        SUBREAPERS.contains(&stat.comm.as_slice())
            || self.proc.ids(stat.pid).ok().flatten().is_some_and(|ids| ids.namespace_init)
    }

    /// Processes above `pid`, up to its session leader; only those that are in its session.
    fn ancestors(&mut self, pid: u32) -> Vec<Process> {
        let mut above = Vec::new();
        let Some(mut below) = self.seen(pid) else {
            return above;
        };
        let sid = below.stat.sid;
        while below.stat.pid != sid && below.stat.ppid != 0 && above.len() < ANCESTORS_MAX {
            let Some(next) = self.seen(below.stat.ppid) else {
                break;
            };
            if next.stat.sid != sid || next.stat.start_ns > below.stat.start_ns {
                break;
            }
            above.push(self.process(&next));
            below = next;
        }
        above
    }

    /// Controlling terminal of a parent, or else of its session leader.
    fn terminal_above(&mut self, parent: &Parent) -> Option<Terminal> {
        let parent = self.seen(parent.process.pid)?;
        parent.stat.terminal.or_else(|| self.seen(parent.stat.sid)?.stat.terminal)
    }

    fn process(&mut self, seen: &Seen) -> Process {
        let identity = self.identity(&seen.stat);
        let tokens = seen.cmdline.tokens();
        Process {
            pid: identity.pid,
            start_ns: identity.start_ns,
            comm: redact::escape(&seen.stat.comm),
            argv0: tokens.first().map(|token| redact::argv0(token)),
            launcher: self.profile.launcher(&tokens).map(str::to_owned),
        }
    }
}

/// Whether two argvs are the same but for the path of the program.
fn same_arguments(one: &[&[u8]], other: &[&[u8]]) -> bool {
    let name = |argv: &[&[u8]]| {
        argv.first().and_then(|token| token.rsplit(|&byte| byte == b'/').next()).map(<[u8]>::to_vec)
    };
    one.len() == other.len() && one.get(1..) == other.get(1..) && name(one) == name(other)
}
