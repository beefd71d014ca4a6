//! What a search does not know where it left out the processes of users that are over their budgets
//! (`budget`), and whom that concerns.
//!
//! A search asks who has the other end of a worker's pipe. With the processes of user A unread, "I
//! found nobody" is not yet "nobody has it". But it is for a worker of user B, unless A can have got
//! that end, and there are three ways to one:
//!
//! 1. *It was made there.* The ends are made by the gateway and given to the worker; whoever has one
//!    without anybody's help runs as the worker's user, or as that of its gateway or of a process
//!    above these. So those users' processes have to be read: a worker of A's own is not judged.
//! 2. *By inheritance.* Who forks has to have had it, and an unprivileged process does not become
//!    another user. So the way from B to A leads through a program that is set-uid, or through root:
//!    `sudo -u A`, or a gateway that runs as root and starts processes for several users. These
//!    descend from the gateway, or from the worker: an unread process below one of them concerns
//!    the worker. (One that was forked twice, and lost its gateway, is not recognised.)
//! 3. *As a gift.* A descriptor passes through a Unix socket only if somebody who has it sends it;
//!    to take it, or to open it by way of /proc, one must be allowed to trace its holder, which
//!    another user is not (`ptrace_may_access`, kernel/ptrace.c). To be given an end takes B's (or
//!    root's) doing. Where a process of A was once seen to hold it, A is the worker's *lender* to
//!    be, and has to be read.
//!
//! Nothing else that A does leads to an end of B's. Otherwise A, who can be over the budget at will,
//! would decide that nobody's workers are judged. And hiding an end gains A nothing: whoever has
//! one can as well close it, and so make the worker unused. What is left is an A that was given an
//! end by a third process and never seen with it before its budget was over; it may find its
//! worker ended. Root may have been given anything: with its processes unread nobody is judged,
//! which is why its budget is larger, and why nobody else can spend it.
//!
//! That somebody *was* found to hold an end is true whatever else was not read.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{ProcFs, budget::ROOT};

/// Processes above one that are looked at.
const DEPTH_MAX: usize = 64;
/// Unread processes whose parents are looked at.
const RELATED_MAX: usize = 4_096;

/// What a search for holders could not look at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unseen {
    /// Descriptors of some process may not be read, so that any holder may be missed.
    pub blind: bool,
    /// Those whose users are over their budgets.
    pub unread: Unread,
}

/// Processes that were not read, or not to the end, by the real user ids that they run as.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unread {
    of: BTreeMap<u32, Vec<u32>>,
}

impl Unread {
    pub(super) fn add(&mut self, uid: u32, pid: u32) {
        self.of.entry(uid).or_default().push(pid);
    }

    /// Whether all were read.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Whether a user's processes are among them.
    pub fn has(&self, uid: u32) -> bool {
        self.of.contains_key(&uid)
    }
}

/// Whom it concerns that processes were not read. Made once for a search.
#[derive(Debug)]
pub struct Concern<'a> {
    proc: &'a ProcFs,
    unread: &'a Unread,
    /// Processes above unread ones: the user of one of these.
    above: HashMap<u32, u32>,
    /// Real user ids of processes that were asked for.
    uids: HashMap<u32, Option<u32>>,
}

impl<'a> Concern<'a> {
    /// Looks at what is above the unread processes, if there are any.
    pub fn new(proc: &'a ProcFs, unread: &'a Unread) -> Self {
        let mut above = HashMap::new();
        // Where root is among them all workers are concerned.
        let of_users = unread.of.iter().filter(|_| !unread.has(ROOT));
        let mut seen = HashSet::new();
        for (uid, pid) in
            of_users.flat_map(|(uid, pids)| pids.iter().map(|pid| (*uid, *pid))).take(RELATED_MAX)
        {
            for pid in parents(proc, pid) {
                above.entry(pid).or_insert(uid);
                if !seen.insert(pid) {
                    break;
                }
            }
        }
        Self { proc, unread, above, uids: HashMap::new() }
    }

    /// The user because of whom it is not known that nobody has an end of a worker's; `None` if that
    /// is known. `gateways` are those of who may have made it, `lender` is another user of whom a
    /// process was seen with it.
    pub fn about(
        &mut self,
        worker: u32,
        gateways: impl IntoIterator<Item = u32>,
        lender: Option<u32>,
    ) -> Option<u32> {
        if self.unread.is_empty() {
            return None;
        }
        if let Some(uid) =
            [Some(ROOT), lender].into_iter().flatten().find(|it| self.unread.has(*it))
        {
            return Some(uid);
        }
        let mut pids: Vec<u32> = gateways.into_iter().chain([worker]).collect();
        if let Some(uid) = pids.iter().find_map(|pid| self.above.get(pid)) {
            return Some(*uid);
        }
        let above: Vec<u32> = pids.iter().flat_map(|pid| parents(self.proc, *pid)).collect();
        pids.extend(above);
        let unread = self.unread;
        pids.into_iter().filter_map(|pid| self.uid(pid)).find(|uid| unread.has(*uid))
    }

    fn uid(&mut self, pid: u32) -> Option<u32> {
        let proc = self.proc;
        *self.uids.entry(pid).or_insert_with(|| Some(proc.ids(pid).ok()??.uid))
    }
}

/// The processes above one, nearest first, without the first one of all.
fn parents(proc: &ProcFs, pid: u32) -> impl Iterator<Item = u32> {
    let parent = move |pid: &u32| Some(proc.stat(*pid).ok()??.ppid).filter(|pid| *pid > 1);
    std::iter::successors(parent(&pid), parent).take(DEPTH_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::proc::fake::{Fake, FakeProc};

    /// A, who is over the budget, B whose worker it is, and root.
    const A: u32 = 1001;
    const B: u32 = 1002;

    /// 10 is B's gateway, below a shell of B's, 20 its worker; 30 is a process of A's.
    fn machine() -> FakeProc {
        let fake = FakeProc::new();
        for (pid, ppid, uid) in [(5, 1, B), (10, 5, B), (20, 10, B), (29, 1, A), (30, 29, A)] {
            fake.put(&Fake { pid, ppid, ..Fake::default() });
            fake.owned_by(pid, uid);
        }
        fake
    }

    fn unread(of: &[(u32, u32)]) -> Unread {
        let mut unread = Unread::default();
        for (uid, pid) in of {
            unread.add(*uid, *pid);
        }
        unread
    }

    fn about(fake: &FakeProc, unread: &Unread, lender: Option<u32>) -> Option<u32> {
        Concern::new(&fake.proc(), unread).about(20, [10], lender)
    }

    #[test]
    fn who_is_over_the_budget_conceals_his_own_workers_alone() {
        let fake = machine();
        let of_a = unread(&[(A, 29), (A, 30)]);
        assert_eq!(about(&fake, &of_a, None), None);
        assert_eq!(about(&fake, &Unread::default(), None), None);
        assert_eq!(Concern::new(&fake.proc(), &of_a).about(30, [29], None), Some(A));
        // Its gateway has ended.
        assert_eq!(Concern::new(&fake.proc(), &of_a).about(30, [], None), Some(A));
        assert_eq!(Concern::new(&fake.proc(), &of_a).about(30, [77], None), Some(A));
    }

    #[test]
    fn root_s_processes_concern_everybody() {
        assert_eq!(about(&machine(), &unread(&[(A, 30), (ROOT, 2)]), None), Some(ROOT));
    }

    #[test]
    fn who_was_seen_to_hold_it_has_to_be_read() {
        assert_eq!(about(&machine(), &unread(&[(A, 30)]), Some(A)), Some(A));
        assert_eq!(about(&machine(), &unread(&[(A, 30)]), Some(B)), None);
    }

    #[test]
    fn who_descends_from_the_gateway_or_is_above_it_has_to_be_read() {
        let fake = machine();
        // `sudo -u A` below the gateway.
        fake.put(&Fake { pid: 40, ppid: 10, ..Fake::default() });
        fake.put(&Fake { pid: 41, ppid: 40, ..Fake::default() });
        for pid in [40, 41] {
            assert_eq!(about(&fake, &unread(&[(A, 30), (A, pid)]), None), Some(A), "{pid}");
        }
        // A shell of A's started the gateway as B.
        fake.owned_by(5, A);
        assert_eq!(about(&fake, &unread(&[(A, 30)]), None), Some(A));
        // The same processes, of whom none is over the budget.
        assert_eq!(about(&fake, &unread(&[(1003, 77)]), None), None);
    }
}
