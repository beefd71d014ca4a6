//! Who can still use a worker: write to its stdin, or read its output.
//!
//! That is asked while everything else waits, so the processes of one user are read for no longer than
//! a moment; whether those that were not read may hold an end, `host::proc::unread` says.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use super::{Checks, DEPTH_MAX, No};
use crate::{
    host::{
        proc::{Concern, FdEnd, INITIAL_PID_NAMESPACE, Target},
        unix::UnixEnd,
    },
    model::{EndKind, Kind},
    reaper::Decision,
};

impl Checks {
    fn pids(&self) -> Result<Vec<u32>, No> {
        self.proc.pids().map_err(|error| No::unread("the list of processes", &error))
    }

    /// Whether it has read nothing since it was last sampled: what was asked of it since then is no
    /// record yet.
    pub(super) fn has_been_quiet(&self, decision: &Decision) -> Result<(), No> {
        let pid = decision.worker.pid;
        let Some(then) = decision.syscr else { return Ok(()) };
        let held = self.prepared.files(pid).and_then(|held| held.io_syscr());
        let now = match held {
            Some(now) => Some(now),
            // It may be refused, as it was to the sampler at times.
            None => self.proc.io_syscr(pid).ok().flatten(),
        };
        match now {
            Some(now) if now > then => {
                Err(No::because("in use: it has read something since it was last looked at"))
            }
            _ => Ok(()),
        }
    }

    /// Whether nobody can write to its stdin any more, nor reads its output. A gateway that forked
    /// twice is gone and lives on in its child, which holds them.
    pub(super) fn is_not_in_use(&self, decision: &Decision) -> Result<(), No> {
        let pid = decision.worker.pid;
        let end = |fd, what| self.proc.fd_end(pid, fd).map_err(|error| No::unread(what, &error));
        let mut wanted: HashMap<Target, &str> = HashMap::new();
        match end(0, "its stdin")? {
            Some(FdEnd { kind: EndKind::Pipe, inode }) => {
                wanted.insert(Target::Writer(inode), "holds its stdin");
            }
            Some(FdEnd { kind: EndKind::Socket, inode }) => {
                let peer = self.other_end(inode, "its stdin", |end| end.mute)?;
                wanted.extend(peer.map(|peer| (Target::Socket(peer), "holds its stdin")));
            }
            _ => self.leads_nowhere(decision)?,
        }
        if decision.output_unread {
            match end(1, "its output")? {
                Some(FdEnd { kind: EndKind::Pipe, inode }) => {
                    wanted.insert(Target::Reader(inode), "reads its output");
                }
                Some(FdEnd { kind: EndKind::Socket, inode }) => {
                    let peer = self.other_end(inode, "its output", |end| end.deaf)?;
                    wanted.extend(peer.map(|peer| (Target::Socket(peer), "reads its output")));
                }
                _ => {}
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut who: Result<Option<(u32, &str)>, No> = Ok(None);
        let mut targets: HashSet<Target> = wanted.keys().copied().collect();
        let unseen = self.proc.search_holders(&self.pids()?, &mut targets, &mut |target, it| {
            if self.is_own(it.pid, decision) {
                return true;
            }
            match self.is_fellow(it.pid, decision) {
                Ok(true) => return true,
                Ok(false) if who.is_ok() => who = Ok(Some((it.pid, wanted[&target]))),
                Ok(false) => {}
                Err(error) => who = Err(error),
            }
            false
        });
        if let Some((holder, does)) = who? {
            return Err(No::because(format!("in use: {holder} {does}")));
        }
        let gateway = decision.gateway.map(|gateway| gateway.pid);
        if let Some(uid) = Concern::new(&self.proc, &unseen.unread).about(pid, gateway, None) {
            return Err(No::because(format!(
                "who holds its stdin is not known: the processes of user {uid} take too long to read"
            )));
        }
        let mut blind = unseen.blind;
        // A process outside of this pid namespace (of `docker exec`, say) may hold it, unseen.
        let here = fs::read_link(self.root.join("self/ns/pid"));
        blind |= here.is_ok_and(|here| here != Path::new(INITIAL_PID_NAMESPACE));
        // With hidepid other users' processes are not even listed; pid 1 is never ours then.
        blind |= !matches!(self.stat(1), Ok(Some(_)));
        if blind {
            return Err(No::because(
                "who holds its stdin cannot be seen: not every process may be looked at",
            ));
        }
        Ok(())
    }

    /// The socket at the other end of one of the worker's, if anything can come of it.
    fn other_end(
        &self,
        inode: u64,
        what: &str,
        is_over: impl Fn(&UnixEnd) -> bool,
    ) -> Result<Option<u64>, No> {
        let mut unix = self.unix.borrow_mut();
        unix.begin_round();
        match unix.of(&self.proc, inode) {
            Some(end) if is_over(&end) => Ok(None),
            Some(UnixEnd { peer: Some(peer), .. }) => Ok(Some(peer)),
            _ => Err(No::because(format!("the other end of {what} cannot be seen"))),
        }
    }

    /// Whether a process is in the worker's own tree.
    fn is_own(&self, holder: u32, decision: &Decision) -> bool {
        let pid = decision.worker.pid;
        // One that was forked twice is below it no more, but was seen to come from it.
        let mut known = decision.descendants.iter().filter(|id| id.pid == holder);
        holder == pid || self.is_below(holder, pid) || known.any(|id| self.lives(*id))
    }

    /// For a stdin that is no pipe: nothing, and /dev/null, are written to by nobody. Of anything
    /// else (a terminal, a socket, a named pipe) it cannot be seen.
    fn leads_nowhere(&self, decision: &Decision) -> Result<(), No> {
        if decision.kind == Kind::Unreachable {
            return Err(No::because("its stdin is no pipe by now"));
        }
        let link = self.root.join(decision.worker.pid.to_string()).join("fd/0");
        match fs::read_link(link) {
            Ok(target) if target == Path::new("/dev/null") => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Ok(_) => Err(No::because("its stdin is no pipe: who writes to it cannot be seen")),
            Err(error) => Err(No::unread("its stdin", &error)),
        }
    }

    /// Another worker got hold of the pipe when their gateway forked it, and does not know it. A
    /// launcher, which is above the worker, knows it.
    fn is_fellow(&self, holder: u32, decision: &Decision) -> Result<bool, No> {
        let forked_it = decision.gateway.is_some_and(|gateway| gateway.pid == holder)
            || self.is_below(decision.worker.pid, holder);
        Ok(decision.kind == Kind::GatewayOrphan && !forked_it && self.is_worker(holder)?)
    }

    fn is_below(&self, pid: u32, worker: u32) -> bool {
        let mut at = pid;
        for _ in 0..DEPTH_MAX {
            match self.stat(at) {
                Ok(Some(stat)) if stat.ppid == worker => return true,
                Ok(Some(stat)) if stat.ppid > 1 => at = stat.ppid,
                _ => return false,
            }
        }
        false
    }
}
