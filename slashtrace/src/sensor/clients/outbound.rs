use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use crate::{
    host::{
        net::census::CensusTaker,
        proc::{ProcFs, Target},
    },
    model::{Body, EndKind, Identity, MaybeId, Role},
};

/// Least time between two looks at one gateway's outbound connections; as much again for so many
/// connections on the machine.
const APART_NS: u64 = 10_000_000_000;
const CONNECTIONS_APART: u64 = 5_000;
/// Processes below a gateway that are searched for the other end of a connection. One that is below
/// it and is not found counts as outside.
const SEARCHED_MAX: usize = 256;

/// Counts connections that gateways opened themselves, to processes outside of their own trees.
#[derive(Debug)]
pub(super) struct OutboundWatch {
    census: CensusTaker,
    /// The gateway of each worker, and of each process below one.
    tree: BTreeMap<MaybeId, MaybeId>,
}

/// What is remembered of one gateway.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Connections to processes outside of its tree, when it was looked at last.
    pub(super) count: u32,
    due_ns: u64,
    /// It ran since then.
    ran: bool,
    /// Whether the other end of each connection is outside of its tree.
    outside: HashMap<u64, bool>,
}

impl Outbound {
    /// Whether it is to be looked at, given whether it ran.
    pub(super) fn is_due(&mut self, ran: bool, now_ns: u64) -> bool {
        self.ran |= ran;
        self.ran && now_ns >= self.due_ns
    }
}

impl OutboundWatch {
    pub(super) fn new(root: &Path) -> Self {
        Self { census: CensusTaker::new(root), tree: BTreeMap::new() }
    }

    /// Learns from what was observed who is below whom.
    pub(super) fn see(&mut self, body: &Body) {
        match body {
            Body::Spawn(spawn) => {
                let above = match (spawn.role, &spawn.worker) {
                    (Role::Worker, _) => spawn.parent.as_ref().map(|it| it.process.identity()),
                    (_, Some(worker)) => {
                        self.tree.get(&MaybeId::from(*worker)).and_then(|it| it.get())
                    }
                    _ => None,
                };
                if let Some(gateway) = above {
                    self.tree.insert(spawn.identity().into(), gateway.into());
                }
            }
            Body::Exit(exit) => {
                self.tree.remove(&exit.identity().into());
            }
            _ => {}
        }
    }

    pub(super) fn begin_round(&mut self) {
        self.census.begin_round();
    }

    /// Looks at a gateway, of which `own` are the sockets. Its stdin, stdout and stderr do not
    /// count: who started it gave it these.
    pub(super) fn look(
        &mut self,
        proc: &ProcFs,
        gateway: Identity,
        own: &HashSet<u64>,
        known: &mut Outbound,
        now_ns: u64,
    ) {
        let mut opened = own.clone();
        for fd in 0..=2 {
            if let Ok(Some(end)) = proc.fd_end(gateway.pid, fd)
                && end.kind == EndKind::Socket
            {
                opened.remove(&end.inode);
            }
        }
        known.due_ns = now_ns + APART_NS;
        if opened.is_empty() {
            (known.count, known.ran) = (0, false);
            known.outside.clear();
            return;
        }
        let Some(census) = self.census.of(&proc.path(gateway.pid, "")) else { return };
        known.due_ns += APART_NS * (census.connections() as u64 / CONNECTIONS_APART);
        known.ran = false;
        let found = census.find(&opened, own);
        let present: HashMap<u64, Option<u64>> = found.opened.into_iter().collect();
        known.outside.retain(|inode, _| present.contains_key(inode));
        let new: Vec<(u64, Option<u64>)> =
            present.into_iter().filter(|(inode, _)| !known.outside.contains_key(inode)).collect();
        let mut wanted: HashSet<Target> =
            new.iter().filter_map(|(_, end)| end.map(Target::Socket)).collect();
        let mut inside = HashSet::new();
        if !wanted.is_empty() {
            let gateway = MaybeId::from(gateway);
            let below = self.tree.iter().filter(|(_, above)| **above == gateway);
            let below = below.filter_map(|(id, _)| id.get());
            let pids: Vec<u32> = below.map(|id| id.pid).take(SEARCHED_MAX).collect();
            proc.search_holders(&pids, &mut wanted, &mut |target, _| {
                inside.insert(target);
                false
            });
        }
        for (inode, end) in new {
            let is_inside = end.is_some_and(|end| inside.contains(&Target::Socket(end)));
            known.outside.insert(inode, !is_inside);
        }
        known.count = known.outside.values().filter(|outside| **outside).count() as u32;
    }
}
