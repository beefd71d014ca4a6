//! Who is connected to a worker that may be spoken to by sockets of its own.

use std::{collections::HashSet, io};

use super::{Checks, No};
use crate::{
    host::{net::own_sockets, proc::Cmdline},
    model::{EndKind, Identity},
    profile::Channel,
    reaper::Decision,
};

/// Processes below one worker that are looked through.
const DESCENDANTS_MAX: usize = 64;

/// The sockets of one process.
#[derive(Debug, Default)]
struct Own {
    pid: u32,
    all: HashSet<u64>,
    /// Its stdin, stdout and stderr.
    stdio: HashSet<u64>,
}

impl Checks {
    /// Whether nobody is connected to it: a client may have come since it was last sampled, and may
    /// wait to be accepted. As when it is sampled, of the worker every connection counts, and of what
    /// descends from it those that it accepted; what goes from one process of the tree to another
    /// does not.
    ///
    /// A worker that has no socket costs a look through its descriptors, and its descendants'.
    pub(super) fn has_no_client(&self, decision: &Decision, cmdline: &Cmdline) -> Result<(), No> {
        if !self.may_be_connected_to(cmdline) {
            return Ok(());
        }
        let pid = decision.worker.pid;
        let worker = self.sockets_of(pid).map_err(|error| No::unread("its sockets", &error))?;
        let Some(worker) = worker else { return Err(No::Gone) };
        let mut below: Vec<Own> = Vec::new();
        let live = |id: &&Identity| self.lives(**id);
        let descendants: Vec<&Identity> = decision.descendants.iter().filter(live).collect();
        if descendants.len() > DESCENDANTS_MAX {
            let n = descendants.len();
            return Err(No::because(format!(
                "who is connected to its {n} descendants is not seen"
            )));
        }
        for id in descendants {
            let own = self.sockets_of(id.pid);
            below
                .extend(own.map_err(|error| No::unread("the sockets of its descendants", &error))?);
        }
        let of = |what: fn(&Own) -> &HashSet<u64>| -> HashSet<u64> {
            below.iter().chain([&worker]).flat_map(what).copied().collect()
        };
        let (tree, stdio) = (of(|own| &own.all), of(|own| &own.stdio));
        let own: HashSet<u64> = worker.all.difference(&stdio).copied().collect();
        // What the worker has as well was inherited from it.
        let theirs = tree.iter().filter(|it| !worker.all.contains(it) && !stdio.contains(it));
        let theirs: HashSet<u64> = theirs.copied().collect();
        if own.is_empty() && theirs.is_empty() {
            return Ok(());
        }
        let unseen = || No::because("who is connected to it cannot be seen");
        let mut census = self.census.borrow_mut();
        census.begin_round();
        let folder = self.root.join(pid.to_string());
        // One that waits to be accepted is nobody's socket yet.
        let waiting = census.waiting(&folder, &tree).ok_or_else(unseen)?;
        let seen = census.of(&folder).ok_or_else(unseen)?;
        let (own, theirs) = (seen.find(&own, &tree), seen.find(&theirs, &tree));
        let mut all = below.iter().chain([&worker]);
        let folder = |pid: u32| self.root.join(pid.to_string());
        if !own.complete
            || !theirs.complete
            || all.any(|one| census.misses(&folder(one.pid), &one.all))
        {
            return Err(unseen());
        }
        let connected = own.accepted.len() + own.opened.len() + own.pairs.len();
        match connected + theirs.accepted.len() + waiting {
            0 => Ok(()),
            1 => Err(No::because("in use: somebody is connected to it")),
            n => Err(No::because(format!("in use: it has {n} connections"))),
        }
    }

    /// Whether its profile leaves it open that it is spoken to by sockets.
    fn may_be_connected_to(&self, cmdline: &Cmdline) -> bool {
        match self.profile.match_worker(&cmdline.tokens()) {
            Some(found) => found.rule.channel() != Some(Channel::Stdin),
            // It wrote a title over its arguments: by whatever rule it is a worker.
            None => self.profile.workers.iter().any(|it| it.channel() != Some(Channel::Stdin)),
        }
    }

    /// The sockets of a process; none if it has ended.
    fn sockets_of(&self, pid: u32) -> io::Result<Option<Own>> {
        let all = match own_sockets(&self.proc, pid) {
            Ok((all, _)) => all,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut own = Own { pid, all, ..Own::default() };
        for fd in (0..=2).filter(|_| !own.all.is_empty()) {
            if let Some(end) = self.proc.fd_end(pid, fd)?.filter(|it| it.kind == EndKind::Socket) {
                own.stdio.insert(end.inode);
            }
        }
        Ok(Some(own))
    }
}
