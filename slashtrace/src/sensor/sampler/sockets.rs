use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use super::{Descendant, Worker, live::Pulse};
use crate::{
    host::{
        net::{census::CensusTaker, own_sockets},
        proc::ProcFs,
    },
    model::{EndKind, Identity, Sockets},
};

/// A tree of which something runs all the time is looked at so often.
const BUSY_APART_NS: u64 = 8_000_000_000;
/// Least time between two censuses; as much again for so many connections on the machine.
const CENSUS_APART_NS: u64 = 4_000_000_000;
const CONNECTIONS_APART: u64 = 5_000;
/// Descendants of one worker that are looked through.
const DESCENDANTS_MAX: usize = 64;

/// Counts sockets by which workers may be spoken to: of the worker itself those that listen and all
/// connections, of its descendants those that listen and what was accepted on them. What goes from
/// one process of the tree to another does not count, nor what a process has as stdin, stdout or
/// stderr.
///
/// A worker without a socket costs one look through its descriptors, and its descendants', when it
/// is looked at whole. All others share one census of the network namespace.
#[derive(Debug)]
pub(super) struct SocketWatch {
    census: CensusTaker,
    census_due_ns: u64,
}

/// What is known of one worker's sockets. Kept only where workers may be spoken to by these.
#[derive(Debug, Default)]
pub(super) struct Own {
    known: Option<Sockets>,
    /// It was to be looked at, and was not: there was a census a moment ago.
    owed: bool,
    busy_due_ns: u64,
}

/// The sockets of one tree.
#[derive(Debug, Default)]
struct Tree {
    /// All of them.
    all: HashSet<u64>,
    /// The worker's, and its descendants', but for stdin, stdout and stderr.
    own: HashSet<u64>,
    below: HashSet<u64>,
    complete: bool,
}

impl Own {
    /// What can be said of them.
    pub(super) fn answer(&self) -> Option<Sockets> {
        self.known
    }
}

impl SocketWatch {
    pub(super) fn new(proc: &ProcFs) -> Self {
        Self { census: CensusTaker::new(proc.root()), census_due_ns: 0 }
    }

    /// One round: looks at the workers that may have opened or closed a socket.
    pub(super) fn round(
        &mut self,
        proc: &ProcFs,
        workers: &mut BTreeMap<Identity, Box<Worker>>,
        descendants: &BTreeMap<Identity, Descendant>,
        now_ns: u64,
    ) {
        self.census.begin_round();
        let due: HashSet<Identity> = workers
            .iter()
            .filter(|(_, it)| it.is_due_for_sockets(now_ns))
            .map(|(worker, _)| *worker)
            .collect();
        if due.is_empty() {
            return;
        }
        let mut below: HashMap<Identity, Vec<u32>> = HashMap::new();
        for (descendant, it) in descendants.iter().filter(|(_, it)| due.contains(&it.worker)) {
            below.entry(it.worker).or_default().push(descendant.pid);
        }
        // Before the census: what is opened meanwhile shows in the next one.
        let trees: Vec<(Identity, Tree)> = due
            .into_iter()
            .map(|worker| {
                let below = below.get(&worker).map_or(&[][..], Vec::as_slice);
                (worker, Tree::read(proc, worker, below))
            })
            .collect();
        for (worker, tree) in trees {
            let Some(it) = workers.get_mut(&worker) else { continue };
            let own = it.sockets.get_or_insert_default();
            own.busy_due_ns = now_ns + BUSY_APART_NS;
            own.owed = false;
            if tree.own.is_empty() && tree.below.is_empty() {
                let none = Sockets { listening: 0, connected: 0, complete: tree.complete };
                own.known = Some(none);
                continue;
            }
            if now_ns < self.census_due_ns {
                own.owed = true;
                continue;
            }
            own.known = Some(self.count(proc, worker, &tree));
        }
        if let Some(connections) = self.census.connections() {
            let many = connections as u64 / CONNECTIONS_APART;
            self.census_due_ns = now_ns + CENSUS_APART_NS * (1 + many);
        }
    }

    /// How many censuses the last round took.
    #[cfg(test)]
    pub(super) fn censuses(&self) -> usize {
        self.census.connections().into_iter().count()
    }

    fn count(&mut self, proc: &ProcFs, worker: Identity, tree: &Tree) -> Sockets {
        let Some(census) = self.census.of(&proc.path(worker.pid, "")) else {
            return Sockets { listening: 0, connected: 0, complete: false };
        };
        let own = census.find(&tree.own, &tree.all);
        let below = census.find(&tree.below, &tree.all);
        let connected =
            own.accepted.len() + own.opened.len() + own.pairs.len() + below.accepted.len();
        Sockets {
            listening: own.listening + below.listening,
            connected: connected as u32,
            complete: tree.complete && own.complete,
        }
    }
}

impl Worker {
    fn is_due_for_sockets(&self, now_ns: u64) -> bool {
        let there = self.live.pulse != Pulse::Gone;
        let Some(own) = self.sockets.as_deref() else { return there };
        let ran = self.live.pulse == Pulse::Ran || self.work.ran_below();
        let busy = ran && now_ns >= own.busy_due_ns;
        let looked = self.live.pulse == Pulse::Look || own.known.is_none();
        there && (looked || busy || own.owed)
    }
}

impl Tree {
    fn read(proc: &ProcFs, worker: Identity, descendants: &[u32]) -> Self {
        let mut tree = Self { complete: descendants.len() <= DESCENDANTS_MAX, ..Self::default() };
        let mut stdio = HashSet::new();
        let of_worker = own_sockets(proc, worker.pid);
        tree.own = tree.add(proc, worker.pid, of_worker, &mut stdio);
        for &pid in descendants.iter().take(DESCENDANTS_MAX) {
            let of_descendant = own_sockets(proc, pid);
            let below = tree.add(proc, pid, of_descendant, &mut stdio);
            tree.below.extend(below);
        }
        // What the worker has as well was inherited from it.
        tree.below.retain(|inode| !tree.own.contains(inode) && !stdio.contains(inode));
        tree.own.retain(|inode| !stdio.contains(inode));
        tree
    }

    fn add(
        &mut self,
        proc: &ProcFs,
        pid: u32,
        read: io::Result<(HashSet<u64>, usize)>,
        stdio: &mut HashSet<u64>,
    ) -> HashSet<u64> {
        let own = match read {
            Ok((own, _)) => own,
            // It has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return HashSet::new(),
            Err(_) => {
                self.complete = false;
                return HashSet::new();
            }
        };
        if !own.is_empty() {
            self.all.extend(&own);
            for fd in 0..=2 {
                if let Ok(Some(end)) = proc.fd_end(pid, fd)
                    && end.kind == EndKind::Socket
                {
                    stdio.insert(end.inode);
                }
            }
        }
        own
    }
}
