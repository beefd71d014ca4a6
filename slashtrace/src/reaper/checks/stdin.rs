//! Who can still write to a worker's stdin.

use std::{collections::HashSet, fs, io, path::Path};

use super::{Checks, DEPTH_MAX, No};
use crate::{host::proc::INITIAL_PID_NAMESPACE, model::Kind, reaper::Decision};

impl Checks {
    fn pids(&self) -> Result<Vec<u32>, No> {
        self.proc.pids().map_err(|error| No::unread("the list of processes", &error))
    }

    /// Whether nobody can write to its stdin any more. A gateway that forked twice is gone and
    /// lives on in its child, which holds it.
    pub(super) fn is_not_in_use(&self, decision: &Decision) -> Result<(), No> {
        let pid = decision.worker.pid;
        let stdin = self.proc.fd_pipe(pid, 0).map_err(|error| No::unread("its stdin", &error))?;
        let Some(pipe) = stdin else {
            return self.leads_nowhere(decision);
        };
        let mut found = self.proc.write_ends(&self.pids()?, &HashSet::from([pipe]));
        // A process outside of this pid namespace (of `docker exec`, say) may hold it, unseen.
        let here = fs::read_link(self.root.join("self/ns/pid"));
        found.blind |= here.is_ok_and(|here| here != Path::new(INITIAL_PID_NAMESPACE));
        // With hidepid other users' processes are not even listed; pid 1 is never ours then.
        found.blind |= !matches!(self.stat(1), Ok(Some(_)));
        let own = |holder: u32| {
            // One that was forked twice is below it no more, but was seen to come from it.
            let mut known = decision.descendants.iter().filter(|id| id.pid == holder);
            holder == pid || self.is_below(holder, pid) || known.any(|id| self.lives(*id))
        };
        for &(holder, _) in found.holders.get(&pipe).map_or(&[][..], Vec::as_slice) {
            if !own(holder) && !self.is_fellow(holder, decision)? {
                return Err(No::because(format!("in use: {holder} holds its stdin")));
            }
        }
        if found.blind {
            return Err(No::because(
                "who holds its stdin cannot be seen: not every process may be looked at",
            ));
        }
        Ok(())
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
