//! What is known of every process that matters, keyed by [`Identity`]. What has ended is kept only
//! as long as something may still be judged by it, so that months of watching need no more memory
//! than the present does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    attribution::GroupKey,
    growth::Growth,
    rules::Rules,
    terminal::Terminals,
    worker::{Moment, Worker, witness},
};
use crate::model::{Identity, Memory};

/// How long an end is remembered for records that come late, and the least time that an ended
/// worker is kept for samples of its zombie.
const REMEMBERED: u64 = 60_000_000_000;
/// Ends that are remembered at most.
const ENDS_MAX: usize = 65_536;
/// Ended workers of one group that are kept at most.
const ENDED_PER_GROUP: usize = 256;
/// Generations below a worker that are followed.
const LINEAGE_MAX: usize = 64;

/// A live process below a worker.
#[derive(Debug)]
pub(super) struct Descendant {
    pub(super) worker: Identity,
    pub(super) parent: Option<Identity>,
    pub(super) spawned: Moment,
    pub(super) helper: Option<String>,
    /// When a process between it and its worker ended.
    pub(super) detached_at: Option<u64>,
    /// Grace that a helper above it had, which has ended since.
    pub(super) grace: Option<u64>,
}

/// The members of a group, ended ones included.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By birth.
    pub(super) members: BTreeSet<(u64, Identity)>,
    /// Those that have ended, by when.
    pub(super) ended: BTreeSet<(u64, Identity)>,
    /// Live workers past the overlap grace, less one.
    pub(super) surplus: u64,
}

/// A process that forked workers.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) exit: Option<Moment>,
    pub(super) workers: BTreeSet<Identity>,
    /// Sum over its groups.
    pub(super) surplus: u64,
    pub(super) growth: Growth,
}

/// What is judged as one.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Subject {
    /// Judged first: a gateway's surplus is the sum of its groups'.
    Group(GroupKey),
    Gateway(Identity),
    Worker(Identity),
    /// slashtrace's own reaper.
    Reaper,
}

/// Ends of processes that no entry was there for, or none is any more.
#[derive(Debug, Default)]
pub(super) struct Ends {
    by_id: BTreeMap<Identity, Moment>,
    order: VecDeque<(u64, Identity)>,
}

impl Ends {
    pub(super) fn get(&self, id: Identity) -> Option<Moment> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn remember(&mut self, id: Identity, end: Moment, now: u64) {
        if self.by_id.insert(id, end).is_none() {
            self.order.push_back((now, id));
        }
        while let Some(&(since, oldest)) = self.order.front() {
            if self.order.len() <= ENDS_MAX && since.saturating_add(REMEMBERED) > now {
                break;
            }
            self.order.pop_front();
            self.by_id.remove(&oldest);
        }
    }
}

/// The table itself, and which of its subjects have to be judged again.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) rules: Rules,
    /// Latest moment seen; records may be slightly out of order.
    pub(super) now: u64,
    pub(super) workers: BTreeMap<Identity, Worker>,
    pub(super) descendants: BTreeMap<Identity, Descendant>,
    /// Live descendants by worker.
    pub(super) families: BTreeMap<Identity, BTreeSet<Identity>>,
    pub(super) groups: BTreeMap<GroupKey, Group>,
    pub(super) gateways: BTreeMap<Identity, Gateway>,
    pub(super) ends: Ends,
    /// Gateways that listen and have had no client without interruption: the first look at that.
    pub(super) clientless: BTreeMap<Identity, Moment>,
    pub(super) terminals: Terminals,
    /// That the reaper's circuit breaker opened: the record that says so, and what it says.
    pub(super) reaper_stopped: Option<(u64, String)>,
    /// The machine's memory and the record that gave it.
    pub(super) memory: Option<(Memory, u64)>,
    dirty: BTreeSet<Subject>,
    retiring: BTreeSet<(u64, Identity)>,
    /// Gateways that the last worker was taken from.
    idle: Vec<Identity>,
}

impl Table {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            now: 0,
            workers: BTreeMap::new(),
            descendants: BTreeMap::new(),
            families: BTreeMap::new(),
            groups: BTreeMap::new(),
            gateways: BTreeMap::new(),
            ends: Ends::default(),
            clientless: BTreeMap::new(),
            terminals: Terminals::default(),
            reaper_stopped: None,
            memory: None,
            dirty: BTreeSet::new(),
            retiring: BTreeSet::new(),
            idle: Vec::new(),
        }
    }

    /// Marks something to be judged again.
    pub(super) fn touch(&mut self, subject: Subject) {
        self.dirty.insert(subject);
    }

    /// Marks all that a worker's life bears on.
    pub(super) fn touch_around(&mut self, id: Identity) {
        self.touch(Subject::Worker(id));
        let Some(worker) = self.workers.get(&id) else { return };
        let gateway = worker.link.as_ref().map(|link| link.gateway.identity());
        if let Some(key) = worker.key() {
            self.touch(Subject::Group(key));
        }
        if let Some(gateway) = gateway {
            self.touch(Subject::Gateway(gateway));
        }
    }

    /// Marks the gateways that have a surplus.
    pub(super) fn touch_surplus(&mut self) {
        let surplus = self.gateways.iter().filter(|(_, gateway)| gateway.surplus > 0);
        self.dirty.extend(surplus.map(|(&id, _)| Subject::Gateway(id)));
    }

    /// The next subject to judge.
    pub(super) fn next_touched(&mut self) -> Option<Subject> {
        self.dirty.pop_first()
    }

    /// Makes sure that there is an entry for a gateway; one that is known to have ended already
    /// gets that end.
    pub(super) fn ensure_gateway(&mut self, id: Identity, gone: Option<Moment>) {
        let exit = self.ends.get(id).or(gone);
        let now = self.now;
        let gateway = self.gateways.entry(id).or_insert_with(|| Gateway {
            exit: None,
            workers: BTreeSet::new(),
            surplus: 0,
            growth: Growth::new(now),
        });
        gateway.exit = gateway.exit.or(exit);
    }

    /// A descendant and the processes above it that descend from the same worker, nearest first.
    pub(super) fn lineage(
        &self,
        id: Identity,
    ) -> impl Iterator<Item = (Identity, &Descendant)> + '_ {
        let find = |id: Identity| self.descendants.get(&id).map(|one| (id, one));
        std::iter::successors(find(id), move |(_, one)| one.parent.and_then(find)).take(LINEAGE_MAX)
    }

    /// How long a descendant may outlive its worker by the most patient helper that it is or that
    /// started it.
    pub(super) fn helper_grace_of(&self, id: Identity) -> Option<u64> {
        self.lineage(id)
            .filter_map(|(_, one)| {
                let helper = one.helper.as_deref().and_then(|name| self.rules.helper_grace(name));
                helper.max(one.grace)
            })
            .max()
    }

    /// Puts a worker into its group and below its gateway.
    pub(super) fn enlist(&mut self, id: Identity) {
        let Some(worker) = self.workers.get(&id) else { return };
        let Some(link) = worker.link.as_ref().filter(|_| !worker.launcher) else { return };
        let gateway = link.gateway.identity();
        let birth = worker.birth.at;
        let end = worker.end();
        let key = worker.key();
        self.ensure_gateway(gateway, None);
        if let Some(gateway) = self.gateways.get_mut(&gateway) {
            gateway.workers.insert(id);
        }
        if let Some(key) = key {
            let group = self.groups.entry(key).or_default();
            group.members.insert((birth, id));
            if let Some(end) = end {
                group.ended.insert((end.at, id));
            }
        }
        self.touch_around(id);
    }

    /// Notes the surplus of a group, and of its gateway with it.
    pub(super) fn set_surplus(&mut self, key: &GroupKey, surplus: u64) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let before = std::mem::replace(&mut group.surplus, surplus);
        if before == surplus {
            return;
        }
        if let Some(gateway) = self.gateways.get_mut(&key.gateway) {
            gateway.surplus = gateway.surplus.saturating_sub(before).saturating_add(surplus);
        }
        self.touch(Subject::Gateway(key.gateway));
    }

    /// The surplus of a gateway at a moment that is not long past.
    pub(super) fn surplus_at(&self, gateway: Identity, at: u64) -> u64 {
        let Some(gateway) = self.gateways.get(&gateway) else { return 0 };
        let mut sessions: BTreeMap<&str, u64> = BTreeMap::new();
        for worker in gateway.workers.iter().filter_map(|id| self.workers.get(id)) {
            let live = worker.end().is_none_or(|end| end.at > at);
            if let Some(session) = worker.session.as_deref()
                && live
                && worker.matures_at(&self.rules) <= at
            {
                *sessions.entry(session).or_default() += 1;
            }
        }
        sessions.values().map(|workers| workers - 1).sum()
    }

    /// Takes a worker out of its group and from its gateway.
    pub(super) fn dismiss(&mut self, id: Identity) {
        self.touch_around(id);
        let Some(worker) = self.workers.get(&id) else { return };
        let Some(gateway) = worker.link.as_ref().map(|link| link.gateway.identity()) else {
            return;
        };
        if let Some(key) = worker.key()
            && let Some(group) = self.groups.get_mut(&key)
        {
            group.members.remove(&(worker.birth.at, id));
            group.ended.retain(|&(_, ended)| ended != id);
            let surplus = group.surplus;
            if group.members.is_empty() {
                self.groups.remove(&key);
                if let Some(gateway) = self.gateways.get_mut(&gateway) {
                    gateway.surplus = gateway.surplus.saturating_sub(surplus);
                }
            }
        }
        if let Some(entry) = self.gateways.get_mut(&gateway) {
            entry.workers.remove(&id);
            if entry.workers.is_empty() {
                self.idle.push(gateway);
            }
        }
    }

    /// A worker's life as one ended (or came back): its group is told, and an ended one is kept
    /// for a while.
    pub(super) fn life_changed(&mut self, id: Identity) {
        self.touch_around(id);
        let kept_until = self.now.saturating_add(self.rules.churn.max(REMEMBERED));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let end = worker.end();
        let mut oldest = None;
        if let Some(key) = worker.key().filter(|_| !worker.launcher)
            && let Some(group) = self.groups.get_mut(&key)
        {
            group.ended.retain(|&(_, ended)| ended != id);
            if let Some(end) = end {
                group.ended.insert((end.at, id));
            }
            if group.ended.len() > ENDED_PER_GROUP {
                oldest = group.ended.first().map(|&(_, id)| id);
            }
        }
        if end.is_some() {
            worker.kept_until = kept_until;
            self.retiring.insert((kept_until, id));
        }
        if let Some(oldest) = oldest {
            self.forget(oldest);
        }
    }

    /// Forgets what has ended long enough ago, and gateways without workers.
    pub(super) fn retire(&mut self) {
        while let Some(&(at, id)) = self.retiring.first() {
            if at >= self.now {
                break;
            }
            self.retiring.pop_first();
            self.forget_if_due(id);
        }
        while let Some(id) = self.idle.pop() {
            if self.gateways.get(&id).is_some_and(|gateway| gateway.workers.is_empty()) {
                self.gateways.remove(&id);
            }
        }
    }

    /// Forgets a worker whose time is over.
    pub(super) fn forget_if_due(&mut self, id: Identity) {
        if self.workers.get(&id).is_some_and(|worker| worker.kept_until < self.now) {
            self.forget(id);
        }
    }

    /// Forgets a worker that has ended, unless something may yet be found about it: not reaped, or
    /// outlived by descendants. Those that outlive it ask again when they end.
    fn forget(&mut self, id: Identity) {
        let Some(worker) = self.workers.get(&id) else { return };
        let reaped = worker.zombie.is_none();
        let ended = worker.end().is_some();
        if !ended || !reaped || self.families.contains_key(&id) {
            return;
        }
        self.keep_witness(id);
        self.dismiss(id);
        self.workers.remove(&id);
    }

    /// How many entries of each sort there are.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> Vec<usize> {
        vec![
            self.workers.len(),
            self.descendants.len(),
            self.families.len(),
            self.groups.len(),
            self.gateways.len(),
            self.clientless.len(),
            self.ends.by_id.len(),
            self.ends.order.len(),
            self.retiring.len(),
            self.terminals.len(),
        ]
    }

    /// Notes a leaving sibling with those that it served beside.
    fn keep_witness(&mut self, id: Identity) {
        let Some(leaving) = self.workers.get(&id) else { return };
        let Some(members) = leaving.key().and_then(|key| self.groups.get(&key)) else { return };
        let mut found = Vec::new();
        for &(_, other) in &members.members {
            let Some(worker) = self.workers.get(&other) else { continue };
            if worker.is_live()
                && worker.witness.is_none()
                && let Some(rise) = leaving.activity.newest_rise()
                && let Some(witness) = witness(worker, leaving, rise, self.now, &self.rules)
            {
                found.push((other, witness));
            }
        }
        for (other, witness) in found {
            if let Some(worker) = self.workers.get_mut(&other) {
                worker.witness = Some(witness);
            }
        }
    }
}
