use std::collections::{BTreeMap, BTreeSet};

use super::{Node, Tree, lives::Lives};
use crate::{
    model::{Body, Identity, Process, Record, Role},
    report::words::plain,
};

/// Processes of the tree that are shown.
const NODES_MAX: usize = 400;
/// Descendants of workers that are followed.
const FOLLOWED_MAX: usize = 20_000;

/// Remembers who lived when most workers did.
#[derive(Debug, Default)]
pub(super) struct Trees {
    below: BTreeMap<Identity, Below>,
    /// Most workers that lived at once, when, and which.
    worst: Option<Worst>,
}

#[derive(Clone, Debug)]
struct Below {
    parent: Identity,
    comm: String,
    argv0: Option<String>,
    rss_kib: Option<u64>,
}

#[derive(Debug)]
struct Worst {
    at_ms: u64,
    workers: BTreeSet<Identity>,
    below: BTreeMap<Identity, Below>,
}

impl Trees {
    /// Takes a record that `lives` has not seen yet: who ends by it still lives there.
    pub(super) fn take(&mut self, record: &Record, at_ms: u64, lives: &Lives) {
        // A snapshot for each step up would be quadratic: one when it has become a tenth more, and
        // one before the first end.
        let live = lives.live().len();
        let worst = self.worst.as_ref().map_or(0, |worst| worst.workers.len());
        if live > worst + worst / 10 || (live > worst && ends_worker(&record.body)) {
            self.snap(at_ms, lives);
        }
        match &record.body {
            Body::Spawn(spawn) if spawn.role == Role::Descendant => {
                if let Some(parent) = &spawn.parent
                    && self.below.len() < FOLLOWED_MAX
                {
                    self.below.insert(
                        spawn.identity(),
                        Below {
                            parent: parent.process.identity(),
                            comm: spawn.comm.clone(),
                            argv0: spawn.argv.first().cloned(),
                            rss_kib: None,
                        },
                    );
                }
            }
            Body::Exec(exec) => {
                if let Some(below) = self.below.get_mut(&exec.identity()) {
                    below.comm.clone_from(&exec.comm);
                    below.argv0.clone_from(&exec.argv0);
                }
            }
            Body::Sample(sample) => {
                if let Some(below) = self.below.get_mut(&sample.identity()) {
                    below.rss_kib = sample.rss_kib.or(below.rss_kib);
                }
            }
            Body::Exit(exit) => {
                self.below.remove(&exit.identity());
            }
            _ => {}
        }
    }

    fn snap(&mut self, at_ms: u64, lives: &Lives) {
        self.worst =
            Some(Worst { at_ms, workers: lives.live().clone(), below: self.below.clone() });
    }

    pub(super) fn report(&self, lives: &Lives) -> Tree {
        let now = Worst { at_ms: 0, workers: lives.live().clone(), below: self.below.clone() };
        let (at_ms, worst) = match &self.worst {
            Some(worst) if worst.workers.len() >= now.workers.len() => (worst.at_ms, worst),
            // What lives at the end is more than what was ever noted.
            other => (other.as_ref().map_or(0, |worst| worst.at_ms), &now),
        };
        let mut tree = Grown::default();
        for id in &worst.workers {
            let Some(worker) = lives.worker(id) else { continue };
            let mut child = *id;
            tree.nodes.insert(
                *id,
                Node {
                    depth: 0,
                    id: *id,
                    role: Role::Worker,
                    comm: plain(&worker.comm).into_owned(),
                    argv: worker.argv.iter().map(|token| plain(token).into_owned()).collect(),
                    session: worker.key.session.as_deref().map(|key| plain(key).into_owned()),
                    rss_kib: worker.rss_kib,
                },
            );
            for (step, process) in worker.above.iter().enumerate() {
                let role = if step == 0 { Role::Gateway } else { Role::Ancestor };
                let above = process.identity();
                tree.children.entry(above).or_default().insert(child);
                tree.nodes.entry(above).or_insert_with(|| ancestor(process, role));
                tree.above.insert(child);
                child = above;
            }
        }
        for (id, below) in &worst.below {
            let known =
                worst.workers.contains(&below.parent) || worst.below.contains_key(&below.parent);
            if known {
                tree.children.entry(below.parent).or_default().insert(*id);
                tree.above.insert(*id);
                tree.nodes.insert(
                    *id,
                    Node {
                        depth: 0,
                        id: *id,
                        role: Role::Descendant,
                        comm: plain(&below.comm).into_owned(),
                        argv: below.argv0.iter().map(|token| plain(token).into_owned()).collect(),
                        session: None,
                        rss_kib: below.rss_kib,
                    },
                );
            }
        }
        tree.flatten(at_ms)
    }
}

/// Whether this may be the end of a worker.
fn ends_worker(body: &Body) -> bool {
    match body {
        Body::Exit(exit) => exit.role == Role::Worker,
        Body::Exec(exec) => exec.role == Role::Worker && !exec.is_worker,
        Body::Sample(sample) => matches!(sample.state, 'X' | 'Z'),
        _ => false,
    }
}

fn ancestor(process: &Process, role: Role) -> Node {
    Node {
        depth: 0,
        id: process.identity(),
        role,
        comm: plain(&process.comm).into_owned(),
        argv: process.argv0.iter().map(|token| plain(token).into_owned()).collect(),
        session: None,
        rss_kib: None,
    }
}

#[derive(Debug, Default)]
struct Grown {
    nodes: BTreeMap<Identity, Node>,
    children: BTreeMap<Identity, BTreeSet<Identity>>,
    /// Those that have a parent here.
    above: BTreeSet<Identity>,
}

impl Grown {
    fn flatten(mut self, at_ms: u64) -> Tree {
        let roots: Vec<Identity> =
            self.nodes.keys().filter(|id| !self.above.contains(id)).copied().collect();
        let mut stack: Vec<(Identity, u32)> = roots.into_iter().rev().map(|id| (id, 0)).collect();
        let mut tree = Tree { at_ms, ..Tree::default() };
        while let Some((id, depth)) = stack.pop() {
            let Some(mut node) = self.nodes.remove(&id) else { continue };
            node.depth = depth;
            if tree.nodes.len() < NODES_MAX {
                tree.nodes.push(node);
            } else {
                tree.omitted += 1;
            }
            let below = self.children.remove(&id).unwrap_or_default();
            stack.extend(below.into_iter().rev().map(|id| (id, depth + 1)));
        }
        tree
    }
}
